"""The public names of softlabel, for scripts of your own.

Three lines look at a label set: `labels = LabelSet.open(url)`, `labels.describe()`,
`for rows in labels.batches("train"): ...`. Three lines stream it: `labels = LabelSet.open(url)`,
`stream = Stream(LabelSource(labels, "train"), batch_size=64)`, `for batch in stream: ...`.
"""

from flows.project import open_labels
from flows.recipe import Recipe, load_recipe
from storage.errors import SoftlabelError
from storage.positions import Positions, positions_of
from storage.reader import LabelSet
from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch
from tasks.nn.kept_log_probs import kept_log_probs
from tasks.nn.losses import distillation_loss
from tasks.nn.reduction import capture
from tasks.nn.softlabels import entry_log_probs
from tasks.sources import LabelSource
from tasks.stream import Stream

__all__ = [
    "Batch",
    "LabelSet",
    "LabelSource",
    "LossOptions",
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
