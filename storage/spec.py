"""What a label set holds, in the words that its writer and its readers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from storage.errors import RecipeError
from storage.options import TRAIN, Codec, Keep, LabelOptions, Task

FORMAT_VERSION = 1
"""The format that this code writes. Readers refuse a newer one."""


class StoredModel(BaseModel):
    """Base of what is stored as JSON: frozen; keys of a later version are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


class InputSpec(StoredModel):
    """One tensor that the models get.

    Attributes:
        name: the column it came from.
        dtype: its numpy type on disk.
        shape: of one sample; None for a block of tokens, whose length varies.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None


class LabelSetSpec(StoredModel):
    """The form of a label set: what its rows hold and how a position is written.

    Attributes:
        num_classes: C, the length of the teacher's output.
        entries: K for each split.
        temperatures: where `rest` is stored; the first is T.
    """

    format_version: int = FORMAT_VERSION
    task: Task
    num_classes: PositiveInt
    class_names: tuple[str, ...] | None = None
    inputs: tuple[InputSpec, ...]
    has_label: bool
    entries: dict[str, PositiveInt]
    temperatures: Annotated[tuple[float, ...], Field(min_length=1)]
    codec: Codec
    statistics: bool = False
    positions_per_row_group: PositiveInt

    @property
    def temperature(self) -> float:
        """T: logits are stored as (z - m) / T."""
        return self.temperatures[0]

    @property
    def has_many_positions(self) -> bool:
        """Whether a row is a block of positions rather than one."""
        return self.task.has_many_positions

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are, the one to train on first."""
        return tuple(sorted(self.entries, key=lambda split: (split != TRAIN, split)))


@dataclass(frozen=True)
class CorpusForm:
    """What the data alone decide about a label set."""

    task: Task
    inputs: tuple[InputSpec, ...]
    has_label: bool
    splits: tuple[str, ...]


def spec_of(
    form: CorpusForm,
    options: LabelOptions,
    num_classes: int,
    class_names: tuple[str, ...] | None,
) -> LabelSetSpec:
    """The form of the label set that `options` make of data and a teacher of `num_classes`.

    Raises:
        RecipeError: more classes would be kept than there are.
    """
    if options.keep is Keep.TOP_K and options.k > num_classes:
        raise RecipeError(
            f"labels.k: expected at most the {num_classes} classes that the teacher knows, "
            f"got {options.k}; lower it, or say labels.keep: all"
        )
    return LabelSetSpec(
        task=form.task,
        num_classes=num_classes,
        class_names=class_names,
        inputs=form.inputs,
        has_label=form.has_label,
        entries={split: options.entries(split, num_classes) for split in form.splits},
        temperatures=options.temperatures,
        codec=options.codec,
        statistics=options.statistics,
        positions_per_row_group=options.positions_per_row_group,
    )
