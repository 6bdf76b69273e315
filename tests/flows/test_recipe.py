import subprocess
import sys
from pathlib import Path

import fsspec
import jsonschema
import pydantic
import pytest
import yaml

from flows.recipe import Recipe, load_recipe, parse_recipe, recipe_schema
from storage.errors import RecipeError
from tasks.model_options import MlpOptions
from tests.flows.blobs import blobs_recipe
from tests.storage.refusal import refused

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "deployments" / "recipes" / "digits.yaml"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a folder of its own; the import path is put back afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = tmp_path / "mine" / "recipe.yaml"
    written.parent.mkdir()
    written.write_text(yaml.safe_dump(blobs_recipe()))
    return written


def load(path, *overrides, store=None):
    return load_recipe(str(path), overrides, store)


# Loading


def test_the_recipe_of_the_repository_is_read():
    loaded = load(DIGITS)
    assert loaded.recipe.name == "digits"
    assert list(loaded.recipe.students) == ["distilled", "hard-labels"]
    assert loaded.recipe.labels.temperatures == (2.0, 1.0, 4.0)
    assert loaded.store == str(ROOT / "store")


def test_what_is_not_said_has_a_default(path):
    recipe = load(path).recipe
    assert recipe.store == "./store"
    assert recipe.execution.runner == "local"
    assert recipe.execution.retries == 2
    assert recipe.schedule is None
    assert recipe.evaluation.splits == ("test",)


def test_a_recipe_cannot_be_changed(path):
    recipe = load(path).recipe
    for holder in (recipe, recipe.labels, recipe.students["small"].training):
        field = next(iter(type(holder).model_fields))
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(holder, field, getattr(holder, field))


def test_paths_are_relative_to_the_recipe(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load("mine/recipe.yaml")
    assert loaded.folder == path.parent
    assert loaded.store == str(path.parent / "store")
    assert load("mine/recipe.yaml", "store=../other").store == str(tmp_path / "other")
    assert load("mine/recipe.yaml", "store=/elsewhere").store == "/elsewhere"


def test_a_store_on_the_command_line_is_relative_to_where_one_is(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(path, store="here").store == str(tmp_path / "here")
    assert load(path, store="memory://bucket/store").store == "memory://bucket/store"
    assert load(path, "store=s3://bucket/store").store == "s3://bucket/store"


def test_a_recipe_at_a_url_is_read(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fsspec.open("memory://recipes/blobs.yaml", "wb") as file:
        file.write(path.read_bytes())
    loaded = load("memory://recipes/blobs.yaml")
    assert loaded.recipe == load(path).recipe
    assert loaded.folder == tmp_path
    assert loaded.store == str(tmp_path / "store")


def test_the_users_folder_comes_last_on_the_import_path(path):
    before = list(sys.path)
    load(path)
    load(path)
    assert sys.path == [*before, str(path.parent)]


def test_loading_a_recipe_imports_nothing_heavy():
    code = (
        "import sys, flows.recipe; flows.recipe.load_recipe(sys.argv[1]);"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'transformers', 'prefect', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(DIGITS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("labels.k=1", 1),
        ("labels.temperature=4", 4.0),
        ("labels.temperatures=[8, 1]", (2.0, 8.0, 1.0)),
        ("labels.keep=all", "all"),
        ("labels.statistics=true", True),
        ("evaluation.splits=[train, test]", ("train", "test")),
        ("evaluation.gates={small.test.accuracy: '>= 0.5'}", {"small.test.accuracy": ">= 0.5"}),
        ("teacher.model.hidden=[3, 5]", (3, 5)),
        ("students.small.training.clip_norm=null", None),
        ("data.version= a = b ", "a = b"),
        ("execution.device=cpu", "cpu"),
    ],
)
def test_an_override_is_a_path_and_a_yaml_value(path, override, expected):
    value = load(path, override).recipe
    for key in override.partition("=")[0].split("."):
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    assert value == expected


def test_an_override_makes_what_is_above_it(path):
    loaded = load(
        path,
        "students.other.model.kind=mlp",
        "students.other.model.hidden=[2]",
        "schedule.cron=0 3 * * *",
    )
    assert loaded.recipe.students["other"].model == MlpOptions(kind="mlp", hidden=(2,))
    assert loaded.recipe.schedule.cron == "0 3 * * *"
    assert loaded.raw["students"]["other"]["model"] == {"kind": "mlp", "hidden": [2]}


def test_the_last_override_wins(path):
    assert load(path, "labels.k=1", "labels.k=3").recipe.labels.k == 3


def test_an_override_changes_one_use_of_a_yaml_alias(path):
    raw = blobs_recipe()
    small = raw["students"]["small"]
    raw["students"]["other"] = {"model": {"kind": "mlp"}, "training": small["training"]}
    path.write_text(yaml.safe_dump(raw))
    assert "*id001" in path.read_text()
    students = load(path, "students.other.training.epochs=1").recipe.students
    assert students["other"].training.epochs == 1
    assert students["small"].training.epochs == small["training"]["epochs"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("labels.k", ["--set labels.k", "path.of.field=value"]),
        ("=3", ["--set =3", "path.of.field=value"]),
        ("labels..k=3", ["labels..k", "path.of.field=value"]),
        ("name.first=x", ["'name'", "holds a value"]),
        ("labels.k=[1", ["labels.k=[1", "no YAML"]),
        ("labels.kk=3", ["labels.kk", "no such field", "'k'"]),
        ("labels.k=three", ["labels.k", "valid integer", "'three'"]),
    ],
)
def test_a_wrong_override_is_refused(path, override, words):
    with refused(RecipeError, *words):
        load(path, override)


# What is wrong with a recipe, in one line: the field, what was expected, what came


@pytest.mark.parametrize(
    ("override", "words"),
    [
        # Unknown fields, with what was meant
        ("label=x", ["label: no such field", "did you mean 'labels'"]),
        ("labels.temprature=2", ["labels.temprature: no such field", "'temperature'"]),
        (
            "teacher.training.epoch=2",
            ["teacher.training.epoch: no such field", "did you mean 'epochs'"],
        ),
        ("students.small.model.width=2", ["students.small.model.width: no such field"]),
        ("zzzz=1", ["zzzz: no such field", "softlabel schema"]),
        # Types
        ("name=null", ["name: expected", "string", "got None"]),
        ("labels.k=2.5", ["labels.k: expected", "integer", "got 2.5"]),
        ("labels=3", ["labels: expected", "got 3"]),
        ("students=[1]", ["students: expected a mapping", "got [1]"]),
        ("students.small=none", ["students.small: expected", "got 'none'"]),
        ("teacher=fit", ["teacher: expected", "got 'fit'"]),
        ("data.source=3", ["data.source: expected", "string or a list or a mapping", "got 3"]),
        ("data.source={train: 3}", ["data.source.train: expected", "string", "got 3"]),
        ("data.classes=0", ["data.classes: expected greater than 0 or a list", "got 0"]),
        ("data.inputs=[]", ["data: inputs: expected the columns that the models get"]),
        ("teacher.model.hidden=8", ["teacher.model.hidden: expected a list", "got 8"]),
        ("labels.temperature=.nan", ["labels.temperature: expected", "finite", "got nan"]),
        # Ranges
        ("labels.k=0", ["labels.k: expected", "greater than 0", "got 0"]),
        ("labels.k=4", ["labels.k: expected at most", "3", "got 4"]),
        ("labels.temperature=0", ["labels.temperature: expected", "greater than 0", "got 0"]),
        ("labels.temperature=-1.5", ["labels.temperature: expected", "greater than 0", "got -1.5"]),
        ("labels.temperatures=[2, 0]", ["labels.temperatures.1: expected", "got 0"]),
        ("labels.batch_size=-1", ["labels.batch_size: expected", "greater than 0", "got -1"]),
        ("labels.positions_per_shard=0", ["labels.positions_per_shard: expected", "got 0"]),
        ("students.small.loss.soft_weight=2", ["students.small.loss.soft_weight: expected", "1"]),
        (
            "students.small.training.epochs=0",
            ["students.small.training.epochs: expected", "greater than 0", "got 0"],
        ),
        ("evaluation.resamples=1", ["evaluation.resamples: expected", "100", "got 1"]),
        ("execution.retries=-1", ["execution.retries: expected", "got -1"]),
        ("execution.device=gpu", ["execution.device: expected", "cuda", "got 'gpu'"]),
        ("labels.codec=int4", ["labels.codec: expected", "'float16'", "got 'int4'"]),
        ("labels.keep=most", ["labels.keep: expected", "'top_k'", "got 'most'"]),
        ("name=My Recipe", ["name: expected", "a-z0-9-", "got 'My Recipe'"]),
        (
            "students.My_Student.model.kind=mlp",
            ["students: expected", "a-z0-9-", "got 'My_Student'"],
        ),
        ("schedule.cron=daily", ["schedule.cron: expected", "0 3 * * *", "got 'daily'"]),
        # Missing
        ("data.splits=null", ["data.splits: expected"]),
        ("students.other={}", ["students.other.model: expected a value, it is missing"]),
        ("teacher={}", ["teacher.kind: expected a value, it is missing"]),
        ("teacher.kind=tensorflow", ["teacher.kind: expected one of", "'onnx'", "'tensorflow'"]),
        ("teacher={kind: onnx}", ["teacher.path: expected a value, it is missing"]),
        (
            "students.small.model.kind=rnn",
            ["students.small.model.kind: expected one of", "'mlp'", "got 'rnn'"],
        ),
        # Planned and not built yet
        ("labels.evaluation.keep=top_p", ["labels.evaluation.keep: expected", "top_k", "'top_p'"]),
        ("labels.keep=sample", ["loss.soft: expected sampled", "biased", "got forward_kl"]),
        ("students.small.loss.soft=sampled", ["loss.soft: sampled needs draws", "got sampled"]),
        ("labels.batch_size=many", ["labels.batch_size: expected", "'auto'", "got 'many'"]),
        ("labels.inputs=reference", ["labels.inputs: 'reference' is not built yet", "copy"]),
        ("labels.on_bad_sample=skip", ["labels.on_bad_sample", "'fail' or 'quarantine'"]),
        ("labels.max_bad=2", ["labels.max_bad", "less than or equal to 1"]),
        ("teacher={kind: huggingface}", ["teacher.model: expected a value, it is missing"]),
        (
            "teacher={kind: ensemble, members: [{teacher: {kind: onnx, path: a.onnx}}]}",
            ["teacher.members: expected at least 2 items"],
        ),
        (
            "teacher={kind: ensemble, members: [{teacher: {kind: onnx, path: a}}, "
            "{teacher: {kind: ensemble}}]}",
            ["teacher.members.1.teacher.kind: expected one of", "'onnx'", "got 'ensemble'"],
        ),
        ("execution.runner=process", ["execution.runner: 'process' is not built yet", "local"]),
        ("execution.runner=dask", ["execution.runner: 'dask' is not built yet"]),
        ("execution.runner=ray", ["execution.runner: 'ray' is not built yet"]),
        # Losses that the labels cannot serve
        ("students.small.loss.soft=kl", ["loss.soft: expected 'forward_kl', 'reverse_kl'", "'kl'"]),
        ("students.small.loss.soft_weight={start: 1}", ["soft_weight.end: expected a value"]),
        ("students.small.loss.temperature=soft", ["loss.temperature: expected", "got 'soft'"]),
        (
            "students.small.loss.temperature=[2, 3]",
            ["loss.temperature: expected one of the stored temperatures 2, 1", "got 3; add it"],
        ),
        ("students.small.loss.temperature=[2, no]", ["loss.temperature.1: expected", "got False"]),
        ("students.small.loss.temperature=[]", ["loss.temperature: expected at least 1 item"]),
        (
            "students.small.loss.temperature=std",
            ["loss.temperature: expected one of the stored temperatures 2, 1", "got std; add it"],
        ),
        (
            "students.small.loss.temperature={kind: flsw, base: 4}",
            ["loss.temperature: flsw takes any temperature", "labels.keep: all"],
        ),
        (
            "students.small.loss.temperature={kind: warm, base: 4}",
            ["loss.temperature.kind: expected one of 'steps', 'flsw', 'cwsm'", "got 'warm'"],
        ),
        (
            "students.small.training.phases=[{epochs: 6, loss: {temperature: 3}}]",
            ["training.phases.0.loss.temperature: expected one of the stored temperatures"],
        ),
        # What is inside a teacher
        (
            "students.small.match=[{teacher: hidden.1}]",
            ["students.small.match: hidden.1 is not stored", "or say teacher: live"],
        ),
        (
            "students.small.match=[{teacher: layer.1}]",
            ["students.small.match.0.teacher: expected text that matches the pattern"],
        ),
        ("students.small.match=[{kind: hidden}]", ["expected teacher: <feature>, or kind: and"]),
        ("students.small.teacher=live", ["students.small: teacher: live needs a match"]),
        ("students.small.initialise={layers: [0]}", ["students.small.initialise.layers"]),
        # Features
        ("labels.features=[{feature: hidden}]", ["labels.features.0.feature: expected", "hidden"]),
        (
            "labels.features=[{feature: hidden.1}, {feature: hidden.1, pool: mean}]",
            ["labels: features: hidden.1 is there twice"],
        ),
        (
            "labels.features=[{feature: attention.1, size: 4}]",
            ["labels.features.0: an attention map is kept as it is"],
        ),
        # Parts that do not fit together
        ("students.teacher={model: {kind: mlp}}", ["students: 'teacher' is the teacher's name"]),
        ("students.small.loss={soft_weight: 0, hard_weight: 0}", ["loss: ", "nothing to learn"]),
        (
            "data.splits={}",
            ["data.splits: expected exactly one of column, fractions, file and folder"],
        ),
        ("data.splits={fractions: {train: 0.5, test: 0.4}}", ["data.splits: ", "1, got 0.9"]),
        ("data.splits={file: true}", ["data: splits.file", "source for each split"]),
        (
            "data.splits={fractions: {train: 0.5, check: 0.5}}",
            ["expected the split 'test'", "check"],
        ),
        ("data.splits={fractions: {test: 1.0}}", ["expected the split 'train'", "test"]),
        ("data.classes=[a, a]", ["data: classes holds a name twice"]),
        ("evaluation.gates={small.test.accuracy: high}", ["evaluation.gates.small.test.accuracy"]),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(path, override, words):
    with refused(RecipeError, str(path), *words):
        load(path, override)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ("{match: [{teacher: hidden.1}], teacher: live, model: {kind: mlp}}", "teacher: live"),
        ("{initialise: {from: teacher}, model: {kind: mlp}}", "initialise"),
    ],
)
def test_some_teachers_cannot_be_looked_into(path, student, said):
    with refused(RecipeError, f"students.other: {said} needs a teacher that can be", "got onnx"):
        load(path, "teacher={kind: onnx, path: teacher.onnx}", f"students.other={student}")


def test_features_have_to_be_of_a_teacher_that_can_be_looked_into_and_pooled_alike(path):
    one = "labels.features=[{feature: hidden.1, pool: mean}]"
    with refused(RecipeError, "labels.features: expected a teacher", "got onnx"):
        load(path, one, "teacher={kind: onnx, path: a.onnx}")
    with refused(RecipeError, "students.small.match: hidden.1", "pool"):
        load(path, one, "students.small.match=[{teacher: hidden.1}]")
    load(path, one, "students.small.match=[{teacher: hidden.1, pool: mean}]")


def test_several_faults_are_several_lines(path):
    with pytest.raises(RecipeError) as caught:
        load(path, "labels.k=0", "labels.codec=uint4", "nme=x", "students.small.loss.tail=off")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for field in ("labels.k: ", "labels.codec: ", "nme: ", "students.small.loss.tail: "):
        assert sum(line.startswith(f"{path}: {field}") for line in lines) == 1


def test_everything_that_is_missing_is_said(path):
    with pytest.raises(RecipeError) as caught:
        load(path, "data={}")
    fields = [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]
    assert fields == [
        f"data.{field}: expected a value, it is missing" for field in ("name", "source", "splits")
    ]


def test_a_missing_recipe_is_said(tmp_path):
    with refused(RecipeError, "there is no recipe at", "gone.yaml"):
        load(tmp_path / "gone.yaml")
    with refused(RecipeError, "there is no recipe at memory://none.yaml"):
        load("memory://none.yaml")


def test_a_folder_is_no_recipe(tmp_path):
    with refused(RecipeError, str(tmp_path), "cannot be read", "directory"):
        load(tmp_path)


def test_an_unknown_protocol_is_said():
    with refused(RecipeError, "nowhere://recipe.yaml", "cannot be read", "nowhere"):
        load("nowhere://recipe.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: [x\n", ["is no YAML"]),
        (b"name: !!python/object:os.system {}\n", ["is no YAML"]),
        (b"\xff\xfe\x00", ["cannot be read"]),
        (b"", ["expected a recipe with name, data, teacher"]),
        (b"- name\n", ["expected a recipe with name, data, teacher"]),
        (b"a: &a {b: *a}\n", ["an alias holds itself"]),
        (b"name\n", ["expected a recipe with name, data, teacher"]),
    ],
)
def test_what_is_no_recipe_is_refused(path, content, words):
    path.write_bytes(content)
    with refused(RecipeError, str(path), *words):
        load(path)


# The JSON Schema


def test_the_schema_takes_the_recipe_of_the_repository():
    schema = recipe_schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(yaml.safe_load(DIGITS.read_text()))


@pytest.mark.parametrize(
    "loss",
    [
        {"soft": "jsd", "beta": 0.3, "temperature": "std", "tail": "renormalize"},
        {"soft": "skew_kl", "alpha": 0.2, "temperature": [4.0, "std"]},
        {"temperature": {"kind": "steps", "values": [4.0, 1.0], "starts": [0.0, 0.8]}},
        {"soft": "mse", "temperature": {"kind": "flsw", "base": 4.0, "gamma": 1.0}},
        {"soft": "reverse_kl", "temperature": {"kind": "cwsm", "base": 4.0}},
        {"soft_weight": {"schedule": "cosine", "start": 1.0, "end": 0.2}, "hard_weight": None},
    ],
)
def test_the_schema_takes_the_words_of_losses(loss):
    raw = yaml.safe_load(DIGITS.read_text())
    raw["students"]["distilled"]["loss"] = loss
    raw["labels"] |= {"keep": "all", "temperatures": [2.0, 1.0, 4.0, "std"]}
    jsonschema.Draft202012Validator(recipe_schema()).validate(raw)
    parse_recipe(raw, "digits.yaml")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"k": 0}},
        {"labels": {"kk": 3}},
        {"labels": {"codec": "uint4"}},
        {"teacher": {"kind": "huggingface"}},
        {"execution": {"runner": "dask"}},
        {"students": {"a": {"model": {"kind": "rnn"}}}},
        {"students": {"a": {"model": {"kind": "mlp"}, "loss": {"temperature": []}}}},
        {"students": {"a": {"model": {"kind": "mlp"}, "loss": {"soft_weight": {"start": 1}}}}},
        {"name": "Not A Name"},
    ],
)
def test_the_schema_refuses_what_the_recipe_refuses(change):
    raw = yaml.safe_load(DIGITS.read_text()) | change
    with pytest.raises(RecipeError):
        parse_recipe(raw, "digits.yaml")
    assert not jsonschema.Draft202012Validator(recipe_schema()).is_valid(raw)


def test_every_field_of_the_schema_is_a_field_of_the_recipe():
    assert set(recipe_schema()["properties"]) == set(Recipe.model_fields)
