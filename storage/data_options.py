"""What a recipe may say about the data: where they are, what they hold, how they are divided."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from storage.augment_options import ViewOptions
from storage.identity import Json
from storage.input_options import ATTENTION_MASK, FOLDER, Format, InputOptions
from storage.options_base import ColumnName, ColumnNames, Name, Options, SplitName, Task

Source = str | tuple[str, ...]


class SplitOptions(Options):
    """How samples are divided. Exactly one of `column`, `fractions`, `file` and `folder`."""

    column: ColumnName | None = None
    """A column that holds the name of each sample's split."""
    fractions: dict[SplitName, Annotated[float, Field(gt=0, le=1)]] | None = None
    """Shares of the samples, chosen by a hash of the id: a sample never changes its split."""
    file: bool = False
    """`data.source` maps each split to a file of its own."""
    folder: bool = False
    """The first folder below the source names the split: `train/`, `test/`."""
    salt: str = ""
    """Another salt makes another division by hash."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = (self.column is not None) + (self.fractions is not None) + self.file + self.folder
        if ways != 1:
            raise ValueError("expected exactly one of column, fractions, file and folder")
        if self.fractions is not None and abs(sum(self.fractions.values()) - 1) > 1e-9:
            raise ValueError(f"fractions must sum to 1, got {sum(self.fractions.values()):g}")
        return self


class DataOptions(ViewOptions, InputOptions):
    """The user's data."""

    name: Name
    source: Source | dict[SplitName, Source]
    """A Parquet, CSV, JSON lines or Arrow file at a path or URL; a pattern of such (`*.parquet`,
    `**/*.jsonl`); a `package.module:name` target that returns a table or a mapping of columns, or
    gives such piece by piece; with another `format` a folder, file or pattern (`lib/**/*.py`); a
    list of these; or any of these for each split."""
    version: str | None = None
    """What changes when a target's data change. Without it a target is called at every run."""
    task: Task = Task.CLASSIFICATION
    inputs: tuple[ColumnName, ...] = ()
    """Columns that the models get, by position. Several plain numbers become one vector. With
    `tokens`, `image`, `audio` or `bytes`, the columns that these make numbers of."""
    shapes: dict[ColumnName, tuple[PositiveInt, ...]] = Field(default_factory=dict)
    """The shape of one sample of an input whose file can only keep a flat list."""
    label: ColumnName | None = None
    """The column of the hard label: a class id, or a name out of `classes`. For files `folder`:
    the name of the folder that a file lies in."""
    attention_mask: bool = False
    """The lists of `inputs` vary in length, and models get one input more: ones for each sample,
    so that the zeros which pad a batch can be told."""
    mask: ColumnName | None = None
    """For token blocks: the column that says which positions count."""
    id: ColumnName | None = None
    """A column of unique ids. Without it the number of the row is the id."""
    classes: PositiveInt | tuple[str, ...] | None = None
    """How many classes there are, or their names in their order. Names in the data that are not
    said here are taken in alphabetical order."""
    padded: bool = False
    """Models may have more outputs than `classes`: those beyond are padding, and no real ids."""
    splits: SplitOptions

    @field_validator("inputs", mode="before", json_schema_input_type=ColumnName | ColumnNames)
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.splits.file != isinstance(self.source, dict) and self.format is not Format.IDX:
            raise ValueError("splits.file: true goes with a source for each split, and only then")
        if not self.source or not all(source and all(source) for source in self.sources.values()):
            raise ValueError("source names no file")
        if fault := self._format_fault():
            raise ValueError(fault)
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError("inputs holds a column twice")
        if self.attention_mask and ATTENTION_MASK in self.inputs:
            raise ValueError("attention_mask: true adds an input that inputs already names")
        if isinstance(self.classes, tuple) and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes holds a name twice")
        if self.padded and self.classes is None:
            raise ValueError("padded: true goes with classes, the number of real ids")
        if self.classes == ():
            raise ValueError("classes holds no name")
        unknown = sorted(set(self.shapes) - set(self.inputs))
        if unknown:
            raise ValueError(f"shapes names {unknown[0]!r}, which is not among inputs")
        return self

    def _format_fault(self) -> str | None:
        """What does not go with the format."""
        if self.format is Format.AUTO:
            return self._table_fault()
        if self.inputs:
            return f"inputs: format: {self.format} says what they are; leave it out"
        table = {"id": self.id, "mask": self.mask, "splits.column": self.splits.column}
        for name, column in table.items():
            if column is not None:
                return f"{name}: format: {self.format} has no columns"
        if self.splits.folder and not self.format.is_listed:
            return "splits.folder: true goes with the formats text, images, audio and files"
        if (self.format is Format.TEXT) != self.task.is_language_model:
            return f"format: {self.format} goes with task: " + (
                "causal_lm or masked_lm" if self.format is Format.TEXT else "classification"
            )
        wanted = {Format.TEXT: None, Format.IDX: "label"}.get(self.format, FOLDER)
        if self.label not in (None, wanted):
            there_is = f"{wanted!r}, or none" if wanted else "none: the tokens are the labels"
            return f"label: expected {there_is}, with format: {self.format}; got {self.label!r}"
        return None

    def _table_fault(self) -> str | None:
        """What does not go with a table."""
        if not self.inputs:
            return "inputs: expected the columns that the models get"
        if self.splits.folder:
            return "splits.folder: true goes with the formats text, images, audio and files"
        most = 2 if self.tokens and self.task is Task.CLASSIFICATION else 1
        if self.maker and len(self.inputs) > most:
            return f"inputs: expected {'one or two columns' if most > 1 else 'one column'}"
        if self.maker and (self.attention_mask or self.shapes):
            return "attention_mask and shapes go with inputs that are numbers already"
        if self.tokens and self.task.is_language_model and (self.label or self.mask):
            return f"label, mask: the tokens themselves are the labels, with task: {self.task}"
        if self.maker and not self.tokens and self.task is not Task.CLASSIFICATION:
            return "task: expected classification with image, audio and bytes"
        return None

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """What `source` names: for each split, or, under the name "", for all of them."""
        named = self.source if isinstance(self.source, dict) else {"": self.source}
        return {
            split: (source,) if isinstance(source, str) else source
            for split, source in named.items()
        }

    @property
    def num_classes(self) -> int | None:
        """How many classes the recipe says there are."""
        return len(self.classes) if isinstance(self.classes, tuple) else self.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where the recipe gives them."""
        return self.classes if isinstance(self.classes, tuple) else None

    def identity(self) -> Json:
        """The name and the preprocessing; neither the content nor where it lies."""
        left_out = {"source", "version"} | self.unsaid()
        if not self.attention_mask:  # came later: what was made without it keeps its name
            left_out.add("attention_mask")
        if not self.augment:
            left_out |= set(ViewOptions.model_fields)
        said: dict[str, Json] = self.model_dump(mode="json", exclude=left_out)
        if self.tokens is not None:
            said["tokens"] = self.tokens.identity()
        if not self.splits.folder:
            del said["splits"]["folder"]
        return said
