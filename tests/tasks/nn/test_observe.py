"""What is inside the built-in models and any torch module: the same passes, looked into."""

import math

import pytest
import torch
from torch import nn

from storage.errors import ModelError
from storage.options import Task
from tasks.nn.observe import feature_shapes, num_layers, observe, real_positions
from tests.tasks.nn.sequences import (
    CLASSES,
    FILE,
    IDS,
    KINDS,
    MASK,
    built,
    byte_mlp,
    ones,
    random_ids,
    some_bytes,
    tokens,
)
from tests.tasks.toy import VECTOR

NAMES = ("hidden.0", "hidden.1", "hidden.-1", "attention.1", "attention.-1")
TRANSFORMERS = [kind for kind in KINDS if kind[0].kind != "byte_mlp"]


def padded(length=9, count=3):
    ids = random_ids(count, length, CLASSES)
    mask = ones(ids)
    mask[1, 5:] = 0
    return ids, mask


def seen_by(module):
    """The input x and the output y of a module's last pass."""
    seen = {}
    module.register_forward_hook(lambda _, given, output: seen.update(x=given[0], y=output))
    return seen


@pytest.mark.parametrize(("options", "task"), TRANSFORMERS)
def test_the_logits_are_those_of_the_model_bit_by_bit(options, task):
    model = built(options, task)
    inputs = padded()
    logits, found = observe(model, inputs, NAMES)
    assert torch.equal(logits, model(*inputs))
    assert set(found) == set(NAMES)


@pytest.mark.parametrize(("options", "task"), TRANSFORMERS)
def test_the_head_sees_the_last_hidden_state_and_the_first_layer_the_first(options, task):
    model = built(options, task)
    seen = {}
    model.body.register_forward_hook(
        lambda module, given, output: seen.update(x=given[0], y=output)
    )
    _, found = observe(model, padded(), NAMES)
    assert torch.equal(found["hidden.0"], seen["x"])
    assert torch.equal(found["hidden.-1"], seen["y"])


@pytest.mark.parametrize("task", [Task.TAGGING, Task.CAUSAL_LM])
def test_a_map_sums_to_one_over_what_is_seen_and_makes_what_the_layer_gives(task):
    model = built(tokens(vocabulary=11), task if task is Task.TAGGING else Task.CLASSIFICATION)
    if task is Task.CAUSAL_LM:
        model.body.causal = True
    ids, mask = padded()
    attention = model.body.layers[0].attention
    gave = seen_by(attention)
    _, found = observe(model, (ids, mask), ["attention.1"])
    map_BHLL = found["attention.1"]
    assert map_BHLL.shape == (3, 2, 9, 9)
    torch.testing.assert_close(map_BHLL.sum(dim=3), torch.ones(3, 2, 9))
    assert (map_BHLL[1, :, :5, 5:] == 0).all()
    if task is Task.CAUSAL_LM:
        assert (map_BHLL[0].triu(1) == 0).all()
    value = attention.split(gave["x"]).chunk(3, dim=2)[2].unflatten(2, (2, -1)).transpose(1, 2)
    again = attention.merge((map_BHLL @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(again, gave["y"])


def test_gradients_flow_through_what_was_found():
    model = built(tokens(), Task.TAGGING)
    _, found = observe(model, padded(), ["attention.2", "hidden.1"])
    (found["attention.2"].square().sum() + found["hidden.1"].sum()).backward()
    assert model.body.layers[1].attention.split.weight.grad.abs().sum() > 0
    assert model.embedding.weight.grad.abs().sum() > 0


def test_nothing_watches_afterwards():
    model = built(tokens(), Task.TAGGING)
    observe(model, padded(), NAMES)
    hooks = [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks, *module._forward_pre_hooks)
    ]
    assert hooks == []


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.both = nn.Identity()
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        hidden = self.first(x)
        return self.both((hidden, hidden.sum()))[0]


def test_any_module_is_found_by_its_path():
    model, x = Pair(), torch.randn(2, 3)
    logits, found = observe(model, (x,), ["module.first", "module.both"])
    assert torch.equal(found["module.first"], model.first(x))
    assert torch.equal(found["module.both"], logits)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("module.frist", "module.frist: the model has no module 'frist'; did you mean 'first'?"),
        ("module.zzz", "module.zzz: the model has no module 'zzz'; it has first, both, unused"),
        ("module.unused", "module.unused: the model did not run it"),
        (
            "hidden.1",
            "hidden.1: the layers of this model are not known by number; say module.<path>, the "
            "name of a module in it",
        ),
    ],
)
def test_what_is_not_there_is_refused(name, said):
    with pytest.raises(ModelError) as error:
        observe(Pair(), (torch.randn(2, 3),), [name])
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hidden.3", "hidden.3: the model has hidden.0 to hidden.2"),
        ("hidden.-4", "hidden.-4: the model has hidden.0 to hidden.2"),
        ("attention.-3", "attention.-3: the model has attention.1 to attention.2"),
    ],
)
def test_a_layer_that_is_not_there_is_refused(name, said):
    model = built(tokens(), Task.TAGGING)
    with pytest.raises(ModelError) as error:
        observe(model, padded(), [name])
    assert str(error.value) == said


def test_shapes_without_data():
    model = built(tokens(), Task.TAGGING)
    shapes = feature_shapes(model, (IDS, MASK), ["hidden.-1", "attention.1"], "teacher")
    assert shapes == {"hidden.-1": (None, 16), "attention.1": (2, None, None)}
    assert feature_shapes(Pair(), (VECTOR,), ["module.first"], "teacher") == {"module.first": (5,)}
    patches = built(some_bytes(patch=4), Task.CLASSIFICATION, (FILE,))
    assert feature_shapes(patches, (FILE,), ["hidden.1"], "teacher") == {
        "hidden.1": (math.ceil(45 / 4), 16)
    }
    with pytest.raises(ModelError, match=r"^teacher: hidden.9: the model has hidden.0 to"):
        feature_shapes(model, (IDS, MASK), ["hidden.9"], "teacher")


def test_layers_are_counted_where_they_are_known():
    assert num_layers(built(tokens(), Task.TAGGING)) == 2
    assert num_layers(built(byte_mlp(), Task.CLASSIFICATION)) == 0
    assert num_layers(Pair()) == 0


def test_which_positions_are_real():
    ids, mask = padded()
    model = built(tokens(), Task.CLASSIFICATION)
    assert torch.equal(real_positions(model, (ids, mask), 9), mask != 0)
    assert real_positions(model, (ids,), 9) is None
    patches = built(some_bytes(patch=4), Task.CLASSIFICATION)
    expected = torch.tensor([[True] * 3, [True, True, False], [True] * 3])
    assert torch.equal(real_positions(patches, (ids, mask), 3), expected)
    assert real_positions(Pair(), (torch.randn(2, 3),), 1) is None
