"""What a recipe may say about the data and the labels; and the base of all such options.

Options are values: frozen, and an unknown key is refused. They import nothing heavy, so that
loading a recipe stays light.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    model_validator,
)

from storage.data_options import DataOptions as DataOptions
from storage.data_options import SplitOptions as SplitOptions
from storage.feature_options import StoredFeature as StoredFeature
from storage.identity import Json
from storage.input_options import ATTENTION_MASK as ATTENTION_MASK
from storage.options_base import SPLIT_NAME_PATTERN as SPLIT_NAME_PATTERN
from storage.options_base import STD as STD
from storage.options_base import AnyTemperature as AnyTemperature
from storage.options_base import ColumnName as ColumnName
from storage.options_base import ColumnNames as ColumnNames
from storage.options_base import Name as Name
from storage.options_base import Options as Options
from storage.options_base import SplitName as SplitName
from storage.options_base import Task as Task
from storage.options_base import Temperature as Temperature
from storage.options_base import built as built
from storage.options_base import numbers_among as numbers_among
from storage.options_base import temperature_names as temperature_names

TRAIN: Final = "train"
"""The split that students learn from; all others are for evaluation."""
VALIDATION: Final = "validation"
"""The split that is looked at during training, where there is one."""


class Keep(StrEnum):
    """Which classes of a position are kept."""

    TOP_K = "top_k"
    TOP_P = "top_p"
    SAMPLE = "sample"
    ALL = "all"

    @property
    def varies(self) -> bool:
        """Whether the number of entries varies from position to position."""
        return self in (Keep.TOP_P, Keep.SAMPLE)


class Codec(StrEnum):
    """How a kept logit is written."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    UINT8 = "uint8"


class Layout(StrEnum):
    """How the entries of a position lie in a shard: see storage/FORMAT.md."""

    PLAIN = "plain"
    """Lists of ids and of logits, which any Parquet reader understands."""
    FAST = "fast"
    """The same numbers as bytes, not compressed: the fastest to read."""
    COMPACT = "compact"
    """Renumbered ids in planes of bytes: the smallest."""


class Selection(BaseModel):
    """Which entries a position keeps, as it is stored and as it is computed.

    Attributes:
        keep: how they are chosen.
        k: K, the most entries of a position; exactly as many with `top_k` and `all`.
        p: for `top_p`, the mass to reach.
        draws: for `sample`, n.
        temperature: where mass is measured and draws are made.
        seed: for `sample`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    keep: Keep
    k: PositiveInt
    p: float | None = None
    draws: PositiveInt | None = None
    temperature: float = 1.0
    seed: int = 0

    @property
    def varies(self) -> bool:
        """Whether the number of entries varies from position to position."""
        return self.keep.varies


class KeptSetOptions(Options):
    """Which classes are kept of the splits that models are compared on: a true kept set."""

    keep: Literal["top_k", "all"] = "top_k"
    k: PositiveInt = 64

    def selection(self, num_classes: int) -> Selection:
        """What a position keeps, of `num_classes`."""
        keep = Keep(self.keep)
        k = num_classes if keep is Keep.ALL else min(self.k, num_classes)
        return Selection(keep=keep, k=k)


class LabelOptions(Options):
    """What is kept of the teacher's output, and how it is cut into shards."""

    keep: Keep = Keep.TOP_K
    k: PositiveInt = 64
    """For `top_k` how many classes are kept, for `top_p` at most how many."""
    p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """For `top_p`: the smallest set of classes whose mass reaches p is kept."""
    draws: Annotated[int, Field(ge=1, le=65535)] = 64
    """For `sample`: how often a class is drawn at each position, with replacement."""
    select_temperature: Temperature = 1.0
    """Where `top_p` measures mass and `sample` draws."""
    seed: Annotated[int, Field(ge=0)] = 0
    """For `sample`: another seed makes other draws."""
    temperature: Temperature = 1.0
    """T: logits are stored as (z - m) / T."""
    temperatures: tuple[Temperature | Literal["std"], ...] = ()
    """Where `rest` is stored, so that students can train there. T and 1.0 are always among them.
    `std` is the deviation of each position's own logits, which is stored too."""
    codec: Codec = Codec.FLOAT16
    layout: Layout = Layout.PLAIN
    """`plain` for any Parquet reader, `fast` for speed, `compact` for size."""
    features: tuple[StoredFeature, ...] = ()
    """What is kept of the teacher's inside, of the training samples, for students to match."""
    statistics: bool = False
    """Keep the largest logit, mean and deviation of the logits, and the sum of p squared."""
    evaluation: KeptSetOptions = KeptSetOptions()
    """What is kept of the splits that models are compared on."""
    batch_size: PositiveInt | Literal["auto"] = 256
    """Samples that the teacher sees at once. `auto` is found before the first shard, and kept in
    the label set's spec.json."""
    positions_per_shard: PositiveInt = 65536
    positions_per_row_group: PositiveInt = 4096
    max_bytes: PositiveInt | None = None
    """Labelling does not start if the set would be larger; None allows what the disk holds."""
    inputs: Annotated[Literal["copy"], BeforeValidator(built("copy", planned=("reference",)))] = (
        "copy"
    )
    on_bad_sample: Literal["fail", "quarantine"] = "fail"
    """A sample that cannot be made or labelled stops the stage, or is set aside with its reason."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """With `quarantine`: the largest share of all samples that may be set aside."""

    @model_validator(mode="after")
    def _stored_temperatures(self) -> Self:
        wanted = (self.temperature, *self.temperatures, 1.0)
        if self.keep is Keep.SAMPLE:  # an entry weighs p there: it has to be known exactly
            wanted = (*wanted, self.select_temperature)
        object.__setattr__(self, "temperatures", tuple(dict.fromkeys(wanted)))
        return self

    @model_validator(mode="after")
    def _each_feature_once(self) -> Self:
        names = [stored.feature for stored in self.features]
        twice = [name for place, name in enumerate(names) if name in names[:place]]
        if twice:
            raise ValueError(f"features: {twice[0]} is there twice; leave one out")
        return self

    def selection(self, split: str, num_classes: int) -> Selection:
        """What a position of a split keeps, of `num_classes`."""
        if split != TRAIN:
            return self.evaluation.selection(num_classes)
        if self.keep is Keep.ALL:
            return Selection(keep=self.keep, k=num_classes)
        if self.keep is Keep.TOP_K:
            return Selection(keep=self.keep, k=self.k)
        at = self.select_temperature
        if self.keep is Keep.TOP_P:
            k = min(self.k, num_classes)
            return Selection(keep=self.keep, k=k, p=self.p, temperature=at)
        k = min(self.draws, num_classes)
        return Selection(keep=self.keep, k=k, draws=self.draws, temperature=at, seed=self.seed)

    def identity(self) -> Json:
        """What decides the bytes; not what becomes of bad samples, nor options without effect."""
        unused = {"on_bad_sample", "max_bad", "max_bytes"}
        unused |= set() if self.features else {"features"}
        unused |= {"p", "draws", "seed", "k", "select_temperature"} - _USED[self.keep]
        return self.model_dump(mode="json", exclude=unused)


_USED: Final[dict[Keep, set[str]]] = {
    Keep.TOP_K: {"k"},
    Keep.TOP_P: {"k", "p", "select_temperature"},
    Keep.SAMPLE: {"draws", "seed", "select_temperature"},
    Keep.ALL: set(),
}
"""The options that have an effect with each way of keeping."""
