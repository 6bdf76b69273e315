"""A recipe and its store together: what each stage is asked for, and what of it is there.

The flows and `softlabel status` ask the same questions here, so they cannot disagree. Nothing here
computes; a look costs a few records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from flows.recipe import LoadedRecipe, Recipe, load_recipe
from flows.user_data import UserData
from storage import identity, layout
from storage.cards import Card, find_card
from storage.corpus import Corpus, CorpusIndex
from storage.errors import (
    IntegrityError,
    MissingProductError,
    RecipeError,
    StoreError,
)
from storage.files import Folder
from storage.options import TRAIN
from storage.reader import LabelSet
from storage.records import read_record, write_record
from storage.sources import digest_of_source, resolve
from storage.spec import LabelSetSpec, spec_of
from storage.summary import describe_origin
from tasks import intents
from tasks.huggingface_identity import model_files, teacher_digest
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.intents import Intent
from tasks.lineage import Origin
from tasks.mixed import Mixed
from tasks.onnx_digest import onnx_digest
from tasks.onnx_options import OnnxTeacherOptions
from tasks.options import TEACHER
from tasks.planning import LabelPlan, plan_labels
from tasks.teacher_facts import agreed_class_names, member_cards, require_sampling_rate
from tasks.teacher_options import (
    EnsembleTeacherOptions,
    FitTeacherOptions,
    ImportedTeacherOptions,
    TeacherOptions,
    member_place,
    plain_teachers,
)

_shared: list[Project] = []


@dataclass(frozen=True)
class Labels:
    """The label set that a recipe asks for.

    Attributes:
        intent: what was asked for.
        folder: where it lies.
        spec: the form of its rows.
        plan: which shards have to be there, and which are.
        batch_size: samples that the teacher sees at once; None where that is not found yet.
    """

    intent: Intent
    folder: Folder
    spec: LabelSetSpec
    plan: LabelPlan
    batch_size: int | None

    @property
    def quarantined(self) -> int:
        """The samples that the shards which are there leave out."""
        return sum(record.quarantined for record in self.plan.records)

    def finished(self) -> LabelSet | None:
        """The label set, where it is finished in the state that is asked for."""
        if self.plan.missing or not self.folder.exists(layout.SPEC):
            return None
        try:
            labels = LabelSet.open(self.folder)
        except (MissingProductError, IntegrityError):
            return None
        wanted = [record.content_digest for record in self.plan.records]
        found = [shard.content_digest for shard in labels.manifest.shards]
        kept = self.folder.exists(f"{layout.MANIFESTS}/{labels.digest}.json")
        return labels if kept and sorted(wanted) == sorted(found) else None


Asked = tuple[str, tuple[str, ...], str | None]
"""A recipe, its overrides and another store, as they were asked for."""


class Project:
    """One recipe with its store."""

    def __init__(self, loaded: LoadedRecipe, key: Asked | None = None) -> None:
        self.loaded = loaded
        self.key = key
        self.store = Folder.open(loaded.store)
        self.data = UserData(self.store, loaded)
        self._mixed: dict[str, tuple[Mixed, ...]] = {}

    @classmethod
    def open(
        cls, recipe: str, overrides: Sequence[str] | None = None, store: str | None = None
    ) -> Project:
        """The project of a recipe; inside `shared`, the one that is shared.

        Raises:
            RecipeError: the recipe is wrong.
        """
        key = (recipe, tuple(overrides or ()), store)
        for project in _shared:
            if project.key == key:
                return project
        return cls(load_recipe(recipe, overrides or (), store), key)

    @property
    def recipe(self) -> Recipe:
        """What was asked for."""
        return self.loaded.recipe

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @cached_property
    def index(self) -> CorpusIndex:
        """What the user's data hold.

        Raises:
            DataError: they are not as the recipe says.
            RecipeError: the recipe asks for a split or for classes that they do not hold.
        """
        index = self.data.index
        self._require_parts(index)
        return index

    def open_corpus(self) -> Corpus:
        """The user's data, to be read; to be closed.

        Raises:
            DataError: they are not as the recipe says, or not those of the index.
        """
        return self.data.open()

    @cached_property
    def num_classes(self) -> int:
        """C of a fitted teacher."""
        return self.data.num_classes or self.index.num_labels

    @cached_property
    def teacher_intent(self) -> Intent:
        """What the teacher stage is asked for."""
        return self.intent_of(self.recipe.teacher)

    def intent_of(self, options: TeacherOptions, where: str = TEACHER) -> Intent:
        """What is asked for of a teacher, or of a member of several, which `where` names."""
        if isinstance(options, EnsembleTeacherOptions):
            members = [
                self.intent_of(member.teacher, member_place(place))
                for place, member in enumerate(options.members)
            ]
            return intents.ensemble(options, members)
        if isinstance(options, FitTeacherOptions):
            files = model_files(self.store, options.model, self.loaded.folder, f"{where}.model")
            data = self.recipe.data
            return intents.fitted_teacher(options, data, self.index, self.data.identity, files)
        digest = self._digest_of(options, where)
        return intents.imported_teacher(options, digest, self.recipe.data.task)

    def _digest_of(self, options: ImportedTeacherOptions, where: str) -> str:
        if isinstance(options, HuggingFaceTeacherOptions):
            return teacher_digest(self.store, options, self.loaded.folder, where)
        url = intents.teacher_source(options, self.loaded.folder)
        if isinstance(options, OnnxTeacherOptions):
            return onnx_digest(self.store, url, where)
        return digest_of_source(self.store, url)

    def teacher_card(self) -> Card | None:
        """The teacher, where it is there; of several, where all its members are as they were."""
        card = find_card(self.store, layout.TEACHERS, self.teacher_intent.fingerprint)
        return None if card is None or None in member_cards(self.store, card) else card

    def require_teacher(self) -> Card:
        """The teacher.

        Raises:
            MissingProductError: the teacher stage has not run.
        """
        card = self.teacher_card()
        if card is None:
            raise MissingProductError(
                f"there is no teacher {self.teacher_intent.fingerprint} in {self.store.url}; "
                f"run: softlabel run {self.loaded.source} --stage teacher"
            )
        return card

    def labels(self, teacher: Card, *, compact: bool = False) -> Labels:
        """The label set that this teacher is to make.

        Args:
            teacher: its card.
            compact: put loose records into groups, so that the next look is cheap: writes.

        Raises:
            RecipeError: it cannot be: more classes would be kept than there are, or the teacher's
                classes or sounds are not those of the data.
        """
        recipe = self.recipe
        num_classes = int(teacher.details["num_classes"])
        said = self.data.num_classes
        if said is not None:
            _require_classes(said, num_classes, padded=recipe.data.padded)
        require_sampling_rate(recipe.data, teacher.details)
        intent = intents.label_set(
            recipe.data,
            recipe.labels,
            intents.teacher_architecture(recipe.teacher),
            teacher.details["weights_digest"],
            self.data.identity,
        )
        spec = spec_of(
            self.index.form,
            recipe.labels,
            num_classes if said is None else said,
            agreed_class_names(self.data.class_names, teacher.details),
            teacher_classes=num_classes,
            padded=recipe.data.padded,
        )
        folder = self.store / layout.product(layout.LABELS, intent.fingerprint)
        plan = plan_labels(folder, intent.fingerprint, self.index, compact=compact)
        return Labels(intent, folder, spec, plan, _batch_size(recipe.labels.batch_size, folder))

    def set_current(self, labels: LabelSet, teacher: Card) -> None:
        """Remember the label set that this recipe asks for, for stages that run alone."""
        content = {
            "label_set": labels.manifest.fingerprint,
            "digest": labels.digest,
            "teacher": teacher.fingerprint,
            "teacher_weights": teacher.details["weights_digest"],
        }
        name = layout.current(self._asked)
        try:
            if read_record(self.store, name) == content:
                return
        except (StoreError, IntegrityError):
            pass
        write_record(self.store, name, content)

    def require_labels(self) -> tuple[LabelSet, Card | None]:
        """The newest finished label set of this recipe and its teacher's card, if still there.

        The data are not looked at: students need neither them nor the teacher.

        Raises:
            MissingProductError: the label stage has not run.
        """
        name = layout.current(self._asked)
        if not self.store.exists(name):
            raise MissingProductError(
                f"there is no finished label set for this recipe in {self.store.url}; "
                f"run: softlabel run {self.loaded.source} --stage teacher --stage label"
            )
        found = read_record(self.store, name)
        folder = self.store / layout.product(layout.LABELS, found["label_set"])
        try:
            labels = LabelSet.open(folder, found["digest"])
        except IntegrityError as error:
            raise IntegrityError(f"{error}; run: softlabel verify {folder.url} --repair") from error
        return labels, find_card(self.store, layout.TEACHERS, found["teacher"])

    def student_intent(self, name: str, labels: LabelSet) -> Intent:
        """What the train stage is asked for, of one student."""
        options = self.recipe.students[name]
        where = f"students.{name}.model"
        files = model_files(self.store, options.model, self.loaded.folder, where)
        weights = self._teacher_weights() if options.needs_teacher else None
        mixed = [one.identity() for one in self.mixed_labels(name)]
        return intents.student(
            options, labels.manifest.fingerprint, labels.digest, files, weights, mixed
        )

    def mixed_labels(self, student: str) -> tuple[Mixed, ...]:
        """The label sets that a student learns from beside its own, as they are now.

        Raises:
            MissingProductError: one of them is not there.
        """
        if student not in self._mixed:
            said = self.recipe.students[student].mix
            self._mixed[student] = tuple(
                Mixed(self._named_labels(entry.labels, f"students.{student}.mix"), entry.weight)
                for entry in said
            )
        return self._mixed[student]

    def _named_labels(self, said: str, where: str) -> LabelSet:
        """The label set at a URL, or the newest one of another recipe."""
        source = resolve(said, self.loaded.folder)
        try:
            if source.endswith((".yaml", ".yml")):
                return open_labels(source)
            return LabelSet.open(source)
        except MissingProductError as error:
            raise MissingProductError(f"{where}: {error}") from error

    def require_card_of(self, student: str, teacher: Card | None) -> Card:
        """The card of the teacher that made the label set, for a student that needs it itself.

        Raises:
            MissingProductError: it is not there any more.
        """
        if teacher is None:
            raise MissingProductError(
                f"students.{student}: it needs the teacher itself, which is not in "
                f"{self.store.url} any more; run: softlabel run {self.loaded.source} "
                "--stage teacher"
            )
        return teacher

    def _teacher_weights(self) -> str:
        """The digest of the weights of the teacher that made the label set."""
        name = layout.current(self._asked)
        if not self.store.exists(name):  # another recipe's label set, which this one will find
            return str(self.require_teacher().details["weights_digest"])
        current = read_record(self.store, name)
        known: str | None = current.get("teacher_weights")
        if known is not None:
            return known
        card = find_card(self.store, layout.TEACHERS, current["teacher"])
        return str(current["teacher"] if card is None else card.details["weights_digest"])

    def origin(self, teacher: str | None = None, labels: LabelSet | None = None) -> Origin:
        """Who asks, for a product's card.

        Args:
            teacher: the teacher's fingerprint, where it is known.
            labels: the label set that a student learns from: another tokenizer than the one that
                it was made with does not go along with the student.
        """
        return Origin(
            self.loaded.raw,
            self.loaded.source,
            self.loaded.overrides,
            teacher,
            self.data.tokenizer_of(None if labels is None else describe_origin(labels)),
        )

    def student_card(self, name: str, labels: LabelSet) -> Card | None:
        """A student, where it is there."""
        fingerprint = self.student_intent(name, labels).fingerprint
        return find_card(self.store, layout.STUDENTS, fingerprint)

    def is_exported(self, name: str, card: Card) -> bool:
        """Whether a student has all the files that are asked for."""
        return not self.recipe.students[name].export.int8 or layout.INT8_MODEL in card.files

    def chosen_students(self, names: Sequence[str] | None) -> list[str]:
        """The students to work on: those named, or all.

        Raises:
            RecipeError: a name is not in the recipe.
        """
        known = list(self.recipe.students)
        for name in names or ():
            if name not in known:
                raise RecipeError(
                    f"students: the recipe has no student {name!r}; it has: "
                    f"{', '.join(known) or 'none'}"
                )
        return list(names) if names else known

    def report_intent(self, labels: LabelSet, teacher: str, names: Sequence[str]) -> Intent:
        """What the evaluate stage is asked for."""
        students = {name: self.student_intent(name, labels).fingerprint for name in names}
        return intents.report(self.name, self.recipe.evaluation, labels.digest, teacher, students)

    def _require_parts(self, index: CorpusIndex) -> None:
        """Refuse, before any work, what a later stage would not find."""
        recipe = self.recipe
        wanted = dict.fromkeys(recipe.evaluation.splits, "evaluation.splits")
        if recipe.students:
            wanted[TRAIN] = "students"
        for split, field in wanted.items():
            if split == TRAIN and index.augment and split in recipe.evaluation.splits:
                raise RecipeError(
                    "evaluation.splits: the split 'train' has augmented views, which are no "
                    "samples to compare models on; name other splits"
                )
            if split not in index.samples:
                raise RecipeError(
                    f"{field}: expected a split of the data, got {split!r}; there is: "
                    f"{', '.join(index.samples)}"
                )
        if any(isinstance(one, FitTeacherOptions) for one in plain_teachers(recipe.teacher)):
            num_classes = self.data.num_classes or index.num_labels
            spec_of(index.form, recipe.labels, num_classes, self.data.class_names)

    @property
    def _asked(self) -> str:
        recipe = self.recipe
        asked = {
            "name": recipe.name,
            "data": recipe.data.identity(),
            "teacher": intents.asked_teacher(recipe.teacher),
            "labels": recipe.labels.identity(),
        }
        if recipe.data.tokens is not None:
            asked["tokens"] = recipe.data.tokens.model_dump(mode="json")
        return identity.fingerprint(asked)


def _batch_size(said: int | str, folder: Folder) -> int | None:
    """What the recipe says, or what was found before the first shard of the label set."""
    if isinstance(said, int):
        return said
    if not folder.exists(layout.SPEC):
        return None
    try:
        found: int | None = read_record(folder, layout.SPEC).get("batch_size")
    except IntegrityError:
        return None
    return found


def _require_classes(said: int, given: int, *, padded: bool) -> None:
    """The teacher's outputs are the classes of the data, or these and padding.

    Raises:
        RecipeError: they are not.
    """
    if said == given or (padded and given > said):
        return
    more = f"; if the ids {said} to {given - 1} are padding, say data.padded: true"
    raise RecipeError(
        f"data.classes: expected the {given} classes that the teacher gives, got {said}"
        + (more if given > said else "")
    )


def open_labels(recipe: str, store: str | None = None) -> LabelSet:
    """The newest finished label set of a recipe.

    Raises:
        MissingProductError: the label stage has not run.
    """
    return Project.open(recipe, None, store).require_labels()[0]


@contextlib.contextmanager
def shared(project: Project) -> Iterator[None]:
    """Let flows that open the same recipe meanwhile use this project and what it has read."""
    _shared.append(project)
    try:
        yield
    finally:
        _shared.remove(project)
