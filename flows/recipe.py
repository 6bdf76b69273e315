"""The recipe: one YAML file that says everything, composed of the options of the parts.

Loading one imports neither torch nor a model runtime. A wrong recipe ends before any work, with one
line for each fault: the path of the field, what was expected, what came.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import fsspec
import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from storage.errors import RecipeError, one_line
from storage.options import TRAIN, DataOptions, LabelOptions, Name, Options, Task, built
from storage.targets import append_import_path
from tasks.loss_needs import misfit
from tasks.options import TEACHER, EvaluationOptions, StudentOptions, stored_misfit
from tasks.rendezvous_options import RendezvousOptions
from tasks.teacher_options import TeacherChoice


def _cron(value: str) -> str:
    if len(value.split()) not in (5, 6) and not value.startswith("@"):
        raise ValueError("expected five fields such as '0 3 * * *'")
    return value


class ExecutionOptions(Options):
    """Where and how the stages run; no product depends on it."""

    runner: Annotated[
        Literal["local"],
        BeforeValidator(built("local", planned=("process", "dask", "ray"))),
    ] = "local"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto` is CUDA where there is a device, else the CPU."""
    shards_per_task: PositiveInt | None = None
    """Shards of one task run; None chooses so that a flow has a hundred task runs at most."""
    processes: PositiveInt | None = None
    """Processes that label; None means one for each device. On CUDA, with several, or with a
    deadline, the teacher runs in processes of its own."""
    deadline_seconds: Annotated[float, Field(gt=0)] | None = None
    """The longest time for one batch of the teacher: then its process is killed, and the shard is
    tried again. None sets no limit."""
    retries: NonNegativeInt = 2
    """How often a task is tried again after a failure of input or output, and a shard or a training
    after its process died or hung."""
    rendezvous: RendezvousOptions | None = None
    """Where several machines meet that train together; each runs the same command on one store."""
    wait_seconds: Annotated[float, Field(ge=1)] = 1800.0
    """How long processes that train together wait for each other, while they meet and at each step:
    longer than validation or a checkpoint takes. One that hangs ends training after that."""


class ScheduleOptions(Options):
    """When `softlabel serve` runs the pipeline by itself."""

    cron: Annotated[str, AfterValidator(_cron)]
    timezone: str = "UTC"
    active: bool = False


_SEALED_TEACHERS: Final = ("onnx", "ensemble")
"""Kinds of teachers whose inside cannot be seen."""


class Recipe(Options):
    """Data, teacher, labels, students, evaluation, execution and schedule."""

    name: Name
    store: str = "./store"
    """The folder of all products: a path relative to the recipe, or any fsspec URL."""
    data: DataOptions
    teacher: TeacherChoice
    labels: LabelOptions = LabelOptions()
    students: dict[Name, StudentOptions] = Field(default_factory=dict)
    evaluation: EvaluationOptions = EvaluationOptions()
    execution: ExecutionOptions = ExecutionOptions()
    schedule: ScheduleOptions | None = None

    @field_validator("students")
    @classmethod
    def _no_student_is_the_teacher(cls, value: dict[str, Any]) -> dict[str, Any]:
        if TEACHER in value:
            raise ValueError(f"{TEACHER!r} is the teacher's name; call the student something else")
        return value

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        classes = self.data.num_classes
        if classes is not None and self.labels.keep == "top_k" and self.labels.k > classes:
            raise ValueError(
                f"labels.k: expected at most data.classes ({classes}), got {self.labels.k}"
            )
        if self.labels.features and self.teacher.kind in _SEALED_TEACHERS:
            raise ValueError(
                "labels.features: expected a teacher that can be looked into (fit, torch or "
                f"huggingface), got {self.teacher.kind}; leave them out"
            )
        for name, student in self.students.items():
            self._require_learnable(f"students.{name}", student)
            self._require_visible_teacher(f"students.{name}", student)
        known = self._named_splits()
        for split in (*self.evaluation.splits, TRAIN) if known else ():
            if split not in known:
                raise ValueError(
                    f"data.splits: expected the split {split!r}, there is {', '.join(known)}"
                )
        return self

    def _require_learnable(self, where: str, student: StudentOptions) -> None:
        """The labels that a student learns from are among those that will be stored."""
        packed = self.data.task is Task.MASKED_LM and self.data.tokens is not None
        has_label = self.data.label is not None or self.data.task is Task.CAUSAL_LM or packed
        for field, loss in student.losses.items():
            fault = misfit(
                loss,
                self.labels.keep,
                self.labels.temperatures,
                padded=self.data.padded,
                has_label=has_label,
            )
            if fault is not None:
                raise ValueError(f"{where}.{field}.{fault}")

    def _require_visible_teacher(self, where: str, student: StudentOptions) -> None:
        """What a student takes from inside its teacher is stored, or its teacher shows it."""
        lacking = stored_misfit(student, self.labels.features)
        if lacking is not None:
            raise ValueError(f"{where}.{lacking}")
        kind = self.teacher.kind
        if student.needs_teacher and kind in _SEALED_TEACHERS:
            said = "teacher: live" if student.teacher == "live" else "initialise"
            raise ValueError(
                f"{where}: {said} needs a teacher that can be looked into (fit, torch or "
                f"huggingface), got {kind}"
            )

    def _named_splits(self) -> list[str]:
        """The splits, where the recipe itself names them."""
        if isinstance(self.data.source, dict):
            return list(self.data.source)
        return list(self.data.splits.fractions or ())


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from.

    Attributes:
        recipe: what it says, overrides included.
        source: its path or URL.
        folder: what its relative paths are relative to.
        store: the URL of the store.
        raw: the recipe as plain values, overrides included.
        overrides: what was changed of it, as `path.of.field=value`.
    """

    recipe: Recipe
    source: str
    folder: Path
    store: str
    raw: dict[str, Any]
    overrides: tuple[str, ...] = ()


def load_recipe(
    source: str, overrides: Sequence[str] = (), store: str | None = None
) -> LoadedRecipe:
    """Read and check a recipe, and let its targets be found.

    Args:
        source: a path or URL.
        overrides: `path.of.field=value`, the value as YAML.
        store: another store than the recipe's.

    Raises:
        RecipeError: it cannot be read, is no YAML, or says something wrong.
    """
    raw = _parse(_read(source), source)
    for override in overrides:
        _override(raw, override)
    recipe = parse_recipe(raw, source)
    folder = Path.cwd() if "://" in source else Path(source).resolve().parent
    append_import_path(folder)
    url = _store_url(store, recipe.store, folder)
    return LoadedRecipe(recipe, source, folder, url, raw, tuple(overrides))


def parse_recipe(raw: dict[str, Any], source: str) -> Recipe:
    """Check plain values as a recipe.

    Raises:
        RecipeError: with one line for each fault.
    """
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        lines = [f"{source}: {fault}" for fault in _faults(error.errors(), raw)]
        raise RecipeError("\n".join(lines)) from error


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _read(source: str) -> str:
    try:
        with fsspec.open(source, "rb") as file:
            return bytes(file.read()).decode()
    except FileNotFoundError as error:
        raise RecipeError(f"there is no recipe at {source}") from error
    except Exception as error:
        raise RecipeError(f"the recipe {source} cannot be read: {one_line(error)}") from error


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is no YAML: {one_line(error)}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{source}: expected a recipe with name, data, teacher and so on")
    try:
        unshared: dict[str, Any] = _unshared(raw)
    except RecursionError as error:
        raise RecipeError(f"{source}: an alias holds itself, expected an end") from error
    return unshared


def _unshared(value: Any) -> Any:
    """A copy in which each YAML alias is a value of its own, so that an override changes one."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unshared(inner) for inner in value]
    return value


def _override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {override}: expected path.of.field=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is no YAML: {one_line(error)}") from error
    place = raw
    for key in keys[:-1]:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise RecipeError(f"--set {override}: {key!r} holds a value, nothing can be below it")
    place[keys[-1]] = value


def _store_url(given: str | None, said: str, folder: Path) -> str:
    if given is not None:
        return given if "://" in given else str(Path(given).expanduser().resolve())
    return said if "://" in said else str((folder / Path(said).expanduser()).resolve())


def _faults(errors: Sequence[Any], raw: dict[str, Any]) -> list[str]:
    """One line for each field: its path, what was expected, what came.

    Of a value that may have several forms, pydantic says a fault for each form: those of one field
    are joined, and a form that goes deeper is the one that was meant.
    """
    found: dict[tuple[str, ...], tuple[list[str], str]] = {}
    for error in errors:
        path, given = _path(error, raw)
        message, got = _message(error, path, given)
        messages, _ = found.setdefault(tuple(path), ([], got))
        if message not in messages:
            messages.append(message)
    deeper = {path[:depth] for path in found for depth in range(1, len(path))}
    return [
        f"{'.'.join(path)}: ".removeprefix(": ")
        + " or ".join(messages).replace(" or expected ", " or ")
        + got
        for path, (messages, got) in found.items()
        if path not in deeper
    ]


def _message(error: Any, path: list[str], given: Any) -> tuple[str, str]:
    """What was expected, and what came."""
    kind, message = error["type"], str(error["msg"])
    if kind == "extra_forbidden":
        return f"no such field{_suggestion(path)}", ""
    if kind in _ABSENT:
        return "expected a value, it is missing", ""
    if kind == "union_tag_invalid":
        return f"expected one of {error['ctx']['expected_tags']}", f", got {error['ctx']['tag']!r}"
    message = message.removeprefix("Value error, ")
    for theirs, ours in _PHRASES.items():
        message = re.sub(theirs, ours, message)
    return message, "" if isinstance(given, dict) or not path else f", got {given!r}"


_ABSENT = ("missing", "union_tag_not_found")
_PHRASES = {
    r"^Input should be": "expected",
    r"^String should match": "expected text that matches the",
    r"^(String|Tuple|List) should have": "expected",
    r" after validation, not \d+$": "",
    r"a valid tuple": "a list",
    r"a valid dictionary( or instance of \w+)?$": "a mapping",
}


def _path(error: Any, raw: Any) -> tuple[list[str], Any]:
    """A fault's place in the recipe as it was written, the names of union members left out."""
    path: list[str] = []
    place = raw
    location = error["loc"]
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        location = (*location, "kind")
    for position, part in enumerate(location):
        if part == "[key]":
            return path[:-1], path[-1]
        if part in place if isinstance(place, dict) else _is_place(place, part):
            place = place[part]
        elif position + 1 < len(location) or error["type"] not in _ABSENT:
            continue
        path.append(str(part))
    return path, place


def _is_place(place: Any, part: int | str) -> bool:
    return isinstance(place, list) and isinstance(part, int)


def _suggestion(path: Sequence[str]) -> str:
    known = sorted(_field_names(recipe_schema()) - {path[-1]})
    close = difflib.get_close_matches(path[-1], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; softlabel schema lists all fields"


def _field_names(schema: Any) -> set[str]:
    names: set[str] = set()
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            names |= set(properties)
        for value in schema.values():
            names |= _field_names(value)
    elif isinstance(schema, list):
        for value in schema:
            names |= _field_names(value)
    return names
