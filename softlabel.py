"""The public names of softlabel, for scripts of your own.

Three lines look at a label set: `labels = LabelSet.open(url)`, `labels.describe()`,
`for rows in labels.batches("train"): ...`. Three lines stream it: `labels = LabelSet.open(url)`,
`stream = Stream(LabelSource(labels, "train"), batch_size=64)`, `for batch in stream: ...`.
"""

from typing import TYPE_CHECKING, Any

from flows.project import open_labels
from flows.recipe import Recipe, load_recipe
from storage.errors import SoftlabelError
from storage.positions import Positions, positions_of
from storage.reader import LabelSet
from tasks.loss_options import LossOptions
from tasks.mixed import MixedSource
from tasks.nn.batch import Batch
from tasks.nn.kept_log_probs import kept_log_probs
from tasks.nn.losses import distillation_loss
from tasks.nn.reduction import capture
from tasks.nn.softlabels import entry_log_probs
from tasks.sources import LabelSource
from tasks.stream import Stream

if TYPE_CHECKING:
    from tasks.huggingface_trainer import DistillationTrainer

__all__ = [
    "Batch",
    "DistillationTrainer",
    "LabelSet",
    "LabelSource",
    "LossOptions",
    "MixedSource",
    "Positions",
    "Recipe",
    "SoftlabelError",
    "Stream",
    "capture",
    "distillation_loss",
    "entry_log_probs",
    "kept_log_probs",
    "load_recipe",
    "open_labels",
    "positions_of",
]


def __getattr__(name: str) -> Any:
    """What needs the extra `huggingface` is imported when it is asked for."""
    if name == "DistillationTrainer":
        from tasks.huggingface_trainer import DistillationTrainer

        return DistillationTrainer
    raise AttributeError(f"module 'softlabel' has no attribute {name!r}")
