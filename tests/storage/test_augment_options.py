"""What a recipe may say of augmentation, and which inputs it fits."""

import pytest
from pydantic import TypeAdapter, ValidationError

from storage.augment_options import AugmentStep, ViewOptions, require_fitting
from storage.errors import RecipeError
from storage.options import DataOptions, Task
from storage.spec import InputSpec
from tests.storage.refusal import refused

IMAGE = InputSpec(name="image", dtype="uint8", shape=(3, 8, 6))
SQUARE = InputSpec(name="square", dtype="float32", shape=(8, 8))
TABLE = InputSpec(name="x", dtype="float32", shape=(4,))
SOUND = InputSpec(name="waveform", dtype="float32", shape=None)
TOKENS = InputSpec(name="tokens", dtype="int64", shape=None)
DATA = {"name": "toy", "source": "toy.parquet", "inputs": "x", "splits": {"column": "split"}}
STEP = TypeAdapter(AugmentStep)


def step(kind: str, **options) -> AugmentStep:
    return STEP.validate_python({"kind": kind, **options})


def require(given: AugmentStep, spec: InputSpec, task: Task = Task.CLASSIFICATION) -> None:
    require_fitting([given], [spec], task)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "blur"}, "'kind'"),
        ({"kind": "flip", "p": 1.5}, "flip.p"),
        ({"kind": "flip", "axis": "diagonal"}, "horizontal"),
        ({"kind": "crop"}, "crop.padding"),
        ({"kind": "crop", "padding": 0}, "greater than 0"),
        ({"kind": "shift", "by": []}, "shift.by"),
        ({"kind": "shift", "by": [-1]}, "greater than or equal to 0"),
        ({"kind": "erase", "size": [0]}, "erase.size"),
        ({"kind": "brightness", "amount": 1.0}, "less than 1"),
        ({"kind": "noise", "deviation": 0}, "greater than 0"),
        ({"kind": "noise", "deviation": 1, "clip": [1, 0]}, "rising"),
        ({"kind": "noise", "deviation": 1, "sigma": 2}, "Extra inputs"),
        ({"kind": "token_drop", "p": 0.1}, "token_drop.id"),
    ],
)
def test_a_wrong_step_is_refused_with_its_field(options, words):
    with pytest.raises(ValidationError) as caught:
        STEP.validate_python(options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": 2}, "name augment steps"),
        ({"original_first": True}, "views of 2 or more"),
        ({"views": 0}, "greater than 0"),
    ],
)
def test_views_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValidationError, match=words):
        ViewOptions.model_validate(options)


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        (step("flip"), IMAGE),
        (step("flip", axis="vertical"), SQUARE),
        (step("crop", padding=5, fill="reflect"), IMAGE),
        (step("shift", by=[3, 40]), IMAGE),
        (step("shift", by=[9]), SOUND),
        (step("shift", by=[9], fill="wrap"), SOUND),
        (step("rotate"), SQUARE),
        (step("erase", size=[8, 6]), IMAGE),
        (step("brightness", amount=0.2), IMAGE),
        (step("contrast", amount=0.2), SQUARE),
        (step("gain", decibels=6), SOUND),
        (step("noise", deviation=0.1), TABLE),
        (step("noise", deviation=0.1), InputSpec(name="n", dtype="float32", shape=())),
        (step("drop", p=0.1, value=255), IMAGE),
        (step("token_drop", p=0.1, id=3), TOKENS),
        (step("noise", deviation=9), InputSpec(name="pcm", dtype="int16", shape=None)),
    ],
)
def test_a_step_fits_its_input(given, spec):
    require(given, spec)


@pytest.mark.parametrize(
    ("given", "spec", "words"),
    [
        (step("flip", axis="vertical"), TABLE, "its samples have 1 axes, expected at least 2"),
        (step("crop", padding=1), SOUND, "vary in length"),
        (step("crop", padding=6, fill="reflect"), IMAGE, "expected at least (7, 7)"),
        (step("shift", by=[9], fill="reflect"), SOUND, "vary in length"),
        (step("rotate"), IMAGE, "expected squares"),
        (step("erase", size=[9, 1]), IMAGE, "expected at least (9, 1)"),
        (step("erase", size=[1], value=0.5), IMAGE, "which has no 0.5"),
        (step("noise", deviation=1), TOKENS, "others may be ids"),
        (step("gain", decibels=1), InputSpec(name="n", dtype="int64", shape=(3,)), "may be ids"),
        (step("noise", deviation=1), InputSpec(name="b", dtype="uint8", shape=None), "may be ids"),
        (step("drop", p=0.1, value=256), IMAGE, "which has no 256"),
        (step("drop", p=0.1, value=2), InputSpec(name="b", dtype="bool", shape=(2,)), "has no 2"),
        (step("token_drop", p=0.1, id=3), TABLE, "expected the whole numbers of tokens"),
        (step("flip", input="pixels"), IMAGE, "flip.input: expected one of image, got 'pixels'"),
    ],
)
def test_a_step_that_does_not_fit_its_input_is_refused(given, spec, words):
    with refused(RecipeError, f"data.augment.0.{given.kind}", words):
        require(given, spec)


def test_labels_that_belong_to_tokens_stay_with_them():
    require(step("token_drop", p=0.1, id=0), TOKENS, Task.TAGGING)
    with refused(RecipeError, "each place of a tagging sample has a label"):
        require(step("shift", by=[1]), TOKENS, Task.TAGGING)
    for task in (Task.CAUSAL_LM, Task.MASKED_LM):
        with refused(RecipeError, "the labels of a language model are its own tokens"):
            require(step("token_drop", p=0.1, id=0), TOKENS, task)


def test_the_name_of_the_data_is_that_of_before_there_were_views():
    plain = DataOptions.model_validate(DATA)
    assert not set(ViewOptions.model_fields) & set(plain.identity())
    augmented = DataOptions.model_validate(DATA | {"augment": [{"kind": "flip"}]})
    for change in ({"augment_seed": 1}, {"views": 2}, {"augment": [{"kind": "flip", "p": 1}]}):
        other = DataOptions.model_validate(DATA | {"augment": [{"kind": "flip"}]} | change)
        assert other.identity() != augmented.identity() != plain.identity()
