"""What a label set holds, in the words that its writer and its readers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from storage.augment_options import AugmentStep, require_fitting
from storage.errors import RecipeError
from storage.feature_options import StoredFeature
from storage.options import STD, TRAIN, Codec, Keep, LabelOptions, Layout, Selection, Task

STATISTICS: Final = ("max_logit", "logit_mean", "logit_std", "squares")
"""What `labels.statistics` keeps of all logits of a position, by the names of the columns."""

FORMAT_VERSION = 2
"""The format of what is written, unless it has more than every set has."""
VIEWS_FORMAT_VERSION = 3
"""The format of sets with views, whose inputs mean nothing to readers that do not augment them."""
STD_FORMAT_VERSION = 4
"""The format of sets with a rest at `std`, where older readers expect numbers, or with features."""
NEWEST_FORMAT_VERSION = STD_FORMAT_VERSION
"""What this code reads. Readers refuse a newer one."""


_VIEWS: Final = ("views", "augment")
_FEATURES: Final = "features"


class StoredModel(BaseModel):
    """Base of what is stored as JSON: frozen; keys of a later version are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


class InputSpec(StoredModel):
    """One tensor that the models get.

    Attributes:
        name: the column it came from.
        dtype: its numpy type on disk.
        shape: of one sample; None for a list whose length varies, such as a text's tokens.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None


class LabelSetSpec(StoredModel):
    """The form of a label set: what its rows hold and how a position is written.

    Attributes:
        num_classes: C, the classes that an entry can be.
        teacher_classes: the length of the teacher's output; beyond C it is padding, whose mass is
            part of `rest`.
        padded: whether models may have outputs beyond C.
        selections: which entries a position keeps, for each split.
        temperatures: where `rest` is stored; the first is T, a number.
        views: rows of each training sample.
        augment: the steps that make the inputs of a training row from those that are stored, by
            its seed; empty where the models get them as they are.
        features: what is kept of the teacher's inside, of each training row.
    """

    format_version: int = FORMAT_VERSION
    task: Task
    num_classes: PositiveInt
    class_names: tuple[str, ...] | None = None
    inputs: tuple[InputSpec, ...]
    has_label: bool
    teacher_classes: PositiveInt
    padded: bool = False
    selections: dict[str, Selection]
    temperatures: Annotated[tuple[float | Literal["std"], ...], Field(min_length=1)]
    codec: Codec
    layout: Layout = Layout.PLAIN
    statistics: bool = False
    positions_per_row_group: PositiveInt
    views: PositiveInt = 1
    augment: tuple[AugmentStep, ...] = ()
    features: tuple[StoredFeature, ...] = ()

    @model_serializer(mode="wrap")
    def _without_what_is_rare(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Of views and features nothing is said where there are none, as before there were any."""
        left_out = (*(() if self.augment else _VIEWS), *(() if self.features else (_FEATURES,)))
        content: dict[str, Any] = dump(self)
        return {key: value for key, value in content.items() if key not in left_out}

    def has_views(self, split: str) -> bool:
        """Whether the rows of a split hold views, by their seeds."""
        return split == TRAIN and bool(self.augment)

    def augment_of(self, split: str) -> tuple[AugmentStep, ...]:
        """The steps that make the inputs of a split's rows from those that are stored."""
        return self.augment if self.has_views(split) else ()

    def features_of(self, split: str) -> dict[str, StoredFeature]:
        """What is kept of the teacher's inside, by the names of the columns; of training rows."""
        stored = self.features if split == TRAIN else ()
        return {entry.column: entry for entry in stored}

    @property
    def temperature(self) -> float:
        """T: logits are stored as (z - m) / T."""
        first = self.temperatures[0]
        assert first != STD
        return first

    @property
    def has_std(self) -> bool:
        """Whether each position's own deviation is among the temperatures, and stored."""
        return STD in self.temperatures

    @property
    def has_many_positions(self) -> bool:
        """Whether a row is a block of positions rather than one."""
        return self.task.has_many_positions

    @property
    def entries(self) -> dict[str, int]:
        """K for each split: the most entries of a position."""
        return {split: selection.k for split, selection in self.selections.items()}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are, the one to train on first."""
        return tuple(sorted(self.selections, key=lambda split: (split != TRAIN, split)))


@dataclass(frozen=True)
class CorpusForm:
    """What the data alone decide about a label set.

    Attributes:
        task: what one prediction is about.
        inputs: the tensors that the models get.
        has_label: whether there are hard labels.
        splits: their names.
        views: rows of each training sample.
        augment: the steps that make the inputs of a training row; none where there are no views.
    """

    task: Task
    inputs: tuple[InputSpec, ...]
    has_label: bool
    splits: tuple[str, ...]
    views: int = 1
    augment: tuple[AugmentStep, ...] = ()

    def augment_of(self, split: str) -> tuple[AugmentStep, ...]:
        """The steps that make the inputs of a split's rows from those that are held."""
        return self.augment if split == TRAIN else ()


def spec_of(
    form: CorpusForm,
    options: LabelOptions,
    num_classes: int,
    class_names: tuple[str, ...] | None,
    teacher_classes: int | None = None,
    *,
    padded: bool = False,
) -> LabelSetSpec:
    """The form of the label set that `options` make of data and a teacher of `num_classes`.

    Args:
        form: what the data decide.
        options: the label options.
        num_classes: C.
        class_names: their names, where there are any.
        teacher_classes: how many outputs the teacher has; None means C.
        padded: whether models may have outputs beyond C.

    Raises:
        RecipeError: more classes would be kept than there are, or the inputs cannot be augmented.
    """
    require_fitting(form.augment, form.inputs, form.task)
    if options.keep is Keep.TOP_K and options.k > num_classes:
        raise RecipeError(
            f"labels.k: expected at most the {num_classes} classes that the teacher knows, "
            f"got {options.k}; lower it, or say labels.keep: all"
        )
    return LabelSetSpec(
        format_version=_format_version(form, options),
        task=form.task,
        num_classes=num_classes,
        class_names=class_names,
        inputs=form.inputs,
        has_label=form.has_label,
        teacher_classes=teacher_classes or num_classes,
        padded=padded,
        selections={split: options.selection(split, num_classes) for split in form.splits},
        temperatures=options.temperatures,
        codec=options.codec,
        layout=options.layout,
        statistics=options.statistics,
        positions_per_row_group=options.positions_per_row_group,
        views=form.views,
        augment=form.augment,
        features=options.features,
    )


def _format_version(form: CorpusForm, options: LabelOptions) -> int:
    """The oldest one that has all that is asked for."""
    if STD in options.temperatures or options.features:
        return STD_FORMAT_VERSION
    return VIEWS_FORMAT_VERSION if form.augment else FORMAT_VERSION
