"""The public names of softlabel, for scripts of your own.

    from softlabel import LabelSet, LabelSource, Stream

    labels = LabelSet.open("store/labels/<fingerprint>")
    for batch in Stream(LabelSource(labels, "train"), batch_size=64):
        ...
"""

from flows.recipe import Recipe, load_recipe
from storage.errors import SoftlabelError
from storage.reader import LabelSet
from tasks.nn.batch import Batch
from tasks.nn.losses import distillation_loss, kept_log_probs
from tasks.nn.softlabels import capture, entry_log_probs
from tasks.options import LossOptions
from tasks.stream import LabelSource, Stream

__all__ = [
    "Batch",
    "LabelSet",
    "LabelSource",
    "LossOptions",
    "Recipe",
    "SoftlabelError",
    "Stream",
    "capture",
    "distillation_loss",
    "entry_log_probs",
    "kept_log_probs",
    "load_recipe",
]
