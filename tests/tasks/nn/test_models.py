"""The built-in models and the ones that people bring: shapes, sizes, and one clear error."""

import pytest
import torch
from torch import nn

from storage.errors import ModelError, RecipeError
from storage.spec import InputSpec
from tasks.model_options import CnnOptions, MlpOptions, TargetOptions
from tasks.nn.models import (
    build_model,
    count_classes,
    load_module,
    num_parameters,
    probe_inputs,
    require_classes,
)
from tests.tasks.toy import ATTENTION, TOKENS, VECTOR, TextModel, TokenModel, tuple_model

WHERE = "students.small.model"
IMAGE = InputSpec(name="image", dtype="uint8", shape=(3, 9, 7))
GREY = InputSpec(name="grey", dtype="float32", shape=(8, 8))
NUMBER = InputSpec(name="age", dtype="float32", shape=())
MLP = MlpOptions(kind="mlp", hidden=(6, 5))
CNN = CnnOptions(kind="cnn", channels=(4, 8))


def target(name, **arguments):
    return TargetOptions(kind="torch", target=f"tests.tasks.toy:{name}", arguments=arguments)


@pytest.mark.parametrize(
    ("options", "inputs", "parameters"),
    [
        (MLP, (VECTOR,), 3 * 6 + 6 + 6 * 5 + 5 + 5 * 4 + 4),
        (MLP, (IMAGE,), 189 * 6 + 6 + 6 * 5 + 5 + 5 * 4 + 4),
        (MLP, (VECTOR, NUMBER, GREY), 68 * 6 + 6 + 6 * 5 + 5 + 5 * 4 + 4),
        (MlpOptions(kind="mlp", hidden=()), (VECTOR,), 3 * 4 + 4),
        (CNN, (IMAGE,), 3 * 4 * 9 + 4 + 4 * 8 * 9 + 8 + 8 * 4 + 4),
        (CNN, (GREY,), 1 * 4 * 9 + 4 + 4 * 8 * 9 + 8 + 8 * 4 + 4),
    ],
)
def test_logits_and_parameters(options, inputs, parameters):
    model = build_model(options, inputs, 4, WHERE)
    assert num_parameters(model) == parameters
    assert model(*probe_inputs(inputs, batch=5)).shape == (5, 4)


def test_inputs_are_scaled_first():
    torch.manual_seed(0)
    plain = build_model(MLP, (VECTOR,), 4, WHERE)
    torch.manual_seed(0)
    scaled = build_model(MLP.model_copy(update={"input_scale": 0.5}), (VECTOR,), 4, WHERE)
    x = torch.randn(2, 3)
    assert torch.equal(plain(x), scaled(2 * x))


def test_a_model_of_ones_own():
    model = build_model(target("linear", inputs=3, outputs=4), (VECTOR,), 4, WHERE)
    assert isinstance(model, nn.Linear)
    assert model(torch.zeros(2, 3)).shape == (2, 4)


def test_a_model_over_blocks_gives_logits_for_each_token():
    assert count_classes(TokenModel(num_classes=9), (TOKENS,), WHERE) == 9


def test_a_model_over_texts_gives_logits_for_each():
    assert count_classes(TextModel(num_classes=9), (TOKENS, ATTENTION), WHERE) == 9


def test_texts_are_probed_without_padding():
    tokens, attention_mask = probe_inputs((TOKENS, ATTENTION), batch=3, length=5)
    assert not tokens.any()
    assert attention_mask.all()
    assert tokens.shape == attention_mask.shape == (3, 5)


def test_counting_classes_leaves_the_model_as_it_was():
    model = build_model(MLP, (VECTOR,), 4, WHERE)
    assert model.training
    state = torch.get_rng_state()
    count_classes(model, (VECTOR,), WHERE)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        (MLP, (TOKENS,), "an mlp needs inputs of a fixed shape"),
        (CNN, (VECTOR,), r"a cnn needs one input .* got \[\(3,\)\]; data\.shapes can give it one"),
        (CNN, (GREY, GREY), "a cnn needs one input"),
        (CNN, (TOKENS,), r"a cnn needs one input .* got \[None\]"),
        (target("linear", inputs=3, outputs=7), (VECTOR,), "gives 7 classes, the labels have 4"),
        (
            target("linear", inputs=2, outputs=4),
            (VECTOR,),
            r"not run on inputs x \(2, 3\): Runtime",
        ),
        (target("tuple_model"), (VECTOR,), r"expected logits \[B, C\] for \(2,\), got tuple"),
        (target("linear", inputs=9, outputs=4), (IMAGE,), "does not run on inputs image"),
        (target("linear", inputs=8, outputs=4), (GREY,), r"\[B, C\] for \(2,\), got \(2, 8, 4\)"),
        (target("failing"), (VECTOR,), "failed: OSError: there is no such model"),
        (target("linear", size=1), (VECTOR,), "failed: KeyError"),
        (target("not_a_model"), (VECTOR,), r"returned str, expected a torch\.nn\.Module"),
    ],
)
def test_what_cannot_work_is_one_clear_error(options, inputs, message):
    with pytest.raises(ModelError, match=message) as caught:
        build_model(options, inputs, 4, WHERE)
    assert str(caught.value).startswith(f"{WHERE}: ")
    assert "\n" not in str(caught.value)


def test_a_target_that_is_not_there_is_the_recipes_fault():
    with pytest.raises(RecipeError, match="'missing' is not there"):
        load_module("tests.tasks.toy:missing", {}, WHERE)


def test_a_model_without_a_tensor_is_refused():
    with pytest.raises(ModelError, match="got tuple"):
        require_classes(tuple_model(), (VECTOR,), 4, WHERE)
