import json
import shutil

import pytest

from flows.project import Project, shared
from flows.recipe import load_recipe
from flows.status import plan_stages
from storage.errors import DataError, IntegrityError, MissingProductError, RecipeError
from tests.flows.blobs import Workspace, blobs
from tests.storage.refusal import refused


@pytest.fixture
def plain(tmp_path):
    """A project that has not run, and needs no server."""
    return Workspace.make(tmp_path / "plain")


def project_of(workspace, *overrides):
    return Project.open(workspace.recipe, list(overrides))


# What decides what a stage is asked for


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "execution.device=cpu",
        "execution.retries=0",
        "execution.shards_per_task=1",
        "evaluation.resamples=200",
        "teacher.training.checkpoint_seconds=1",
        "data.version=two",
        "schedule.cron=0 3 * * *",
        "students.small.training.epochs=1",
        "labels.k=1",
    ],
)
def test_what_does_not_make_another_teacher(plain, override):
    expected = project_of(plain).teacher_intent.fingerprint
    assert project_of(plain, override).teacher_intent.fingerprint == expected


@pytest.mark.parametrize(
    "override",
    ["teacher.training.epochs=1", "teacher.model.hidden=[9]", "data.name=other", "data.classes=4"],
)
def test_what_makes_another_teacher(plain, override):
    before = project_of(plain).teacher_intent.fingerprint
    assert project_of(plain, override).teacher_intent.fingerprint != before


def test_data_that_moved_are_the_same_data(plain):
    before = project_of(plain).teacher_intent.fingerprint
    plain.data.rename(plain.folder / "moved.parquet")
    moved = project_of(plain, "data.source=moved.parquet")
    assert moved.teacher_intent.fingerprint == before


def test_data_that_grew_make_another_teacher_unless_it_is_never_fitted_again(plain):
    overrides = ("teacher.refit=never",)
    before = project_of(plain).teacher_intent.fingerprint
    kept = project_of(plain, *overrides).teacher_intent.fingerprint
    plain.write_data(blobs(extra=3))
    assert project_of(plain).teacher_intent.fingerprint != before
    assert project_of(plain, *overrides).teacher_intent.fingerprint == kept


def test_the_label_set_is_named_by_what_makes_its_bytes(finished):
    def fingerprint(*overrides):
        project = project_of(finished, *overrides)
        return project.labels(project.require_teacher()).intent.fingerprint

    before = fingerprint()
    assert before == finished.only("labels").name
    for same in ("execution.retries=0", "students.small.training.epochs=1", "name=other"):
        assert fingerprint(same) == before
    for other in ("labels.k=1", "labels.batch_size=8", "labels.codec=float16"):
        assert fingerprint(other) != before


def test_a_student_is_named_by_its_options_and_the_state_of_its_labels(finished):
    project = project_of(finished)
    labels, card = project.require_labels()
    assert card.fingerprint == finished.only("teachers").name
    intent = project.student_intent("small", labels)
    assert intent.fingerprint == finished.only("students").name
    assert intent.content["label_set"]["digest"] == finished.first["label"]["digest"]
    changed = project_of(finished, "students.small.training.seed=1")
    assert changed.student_intent("small", labels).fingerprint != intent.fingerprint


def test_a_student_is_named_by_the_sets_that_are_mixed_with_its_own(finished, copied):
    project = project_of(finished)
    labels, _ = project.require_labels()
    before = project.student_intent("small", labels)
    for other in (copied.recipe, labels.folder.url):
        mix = f"students.small.mix=[{{labels: '{other}', weight: 0.25}}]"
        mixed = project_of(finished, mix).student_intent("small", labels)
        assert mixed.content["mixed"] == [{**before.content["label_set"], "share": 0.25}]
        assert mixed.content["student"] == before.content["student"]
        assert mixed.fingerprint != before.fingerprint
    absent = project_of(finished, "students.small.mix=[{labels: nowhere, weight: 0.25}]")
    with refused(MissingProductError, "students.small.mix: ", "nowhere", "run the label stage"):
        absent.student_intent("small", labels)


# What is there


def test_a_finished_project_has_nothing_to_do(finished):
    assert [plan.done for plan in plan_stages(project_of(finished), ["small"])] == [True] * 4


@pytest.mark.parametrize("file", ["model.safetensors", "card.json"])
def test_a_teacher_without_a_file_is_not_there(copied, file):
    (copied.only("teachers") / file).unlink()
    assert project_of(copied).teacher_card() is None
    with refused(MissingProductError, "there is no teacher", "--stage teacher"):
        project_of(copied).require_teacher()


def test_labels_are_found_without_the_data_and_the_teacher(copied):
    copied.data.unlink()
    shutil.rmtree(copied.store / "teachers")
    labels, teacher = project_of(copied).require_labels()
    assert teacher is None
    assert labels.manifest.positions == 120


def test_labels_of_another_recipe_are_not_found(copied):
    with refused(MissingProductError, "no finished label set", "--stage teacher --stage label"):
        project_of(copied, "labels.k=1").require_labels()


def test_damage_is_not_taken_for_absence(copied):
    (path,) = (copied.store / "current").iterdir()
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"label_set": "0" * 16}))
    with refused(IntegrityError, str(path), "checksum"):
        project_of(copied).require_labels()


def test_a_teacher_of_other_classes_than_the_data_is_refused(finished):
    project = project_of(finished)
    teacher = project.require_teacher()
    other = project_of(finished, "data.classes=5")
    with refused(RecipeError, "data.classes: expected the 3 classes", "got 5"):
        other.labels(teacher)


# What is asked


def test_students_are_chosen_by_name(plain):
    project = project_of(plain, "students.big={model: {kind: mlp}}")
    assert project.chosen_students(None) == ["small", "big"]
    assert project.chosen_students(["big"]) == ["big"]
    with refused(RecipeError, "no student 'huge'", "small, big"):
        project.chosen_students(["big", "huge"])


def test_a_shared_project_is_the_same_for_the_same_question(plain):
    project = Project.open(plain.recipe, ["labels.k=1"])
    with shared(project):
        assert Project.open(plain.recipe, ["labels.k=1"]) is project
        assert Project.open(plain.recipe) is not project
        assert Project.open(plain.recipe, ["labels.k=1"], "memory://other") is not project
    assert Project.open(plain.recipe, ["labels.k=1"]) is not project


def test_a_project_is_not_shared_after_an_error(plain):
    project = Project(load_recipe(plain.recipe), (plain.recipe, (), None))
    with pytest.raises(DataError), shared(project):
        raise DataError("something")
    assert Project.open(plain.recipe) is not project


# The data themselves


def test_the_data_are_read_once_for_the_index_and_for_work(plain):
    project = project_of(plain)
    index = project.index
    plain.data.unlink()
    corpus = project.open_corpus()
    assert corpus.samples == index.samples
    assert project.open_corpus() is corpus
    corpus.close()
    with refused(DataError, "no such file"):
        project.open_corpus()


def test_data_that_are_not_those_of_the_index_are_refused(plain):
    index = project_of(plain).index
    project = project_of(plain)
    assert project.index == index
    plain.write_data(blobs(extra=1))
    with refused(DataError, "the data changed", "run it again"):
        project.open_corpus()
