"""What a recipe may say about models over tokens and bytes."""

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.model_options import ModelOptions
from tasks.sequence_options import ByteTransformerOptions, TokenTransformerOptions, patch_of

MODEL = TypeAdapter(ModelOptions)


def test_the_smallest_that_can_be_said():
    model = MODEL.validate_python({"kind": "token_transformer"})
    assert isinstance(model, TokenTransformerOptions)
    assert model.vocabulary is None
    assert model.feed_forward_width == 512


@pytest.mark.parametrize(
    ("patch", "many", "expected"), [(None, False, 8), (None, True, 1), (4, False, 4)]
)
def test_the_patch_of_a_task(patch, many, expected):
    options = ByteTransformerOptions(kind="byte_transformer", patch=patch)
    assert patch_of(options, many_positions=many) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "token_transformer", "width": 100, "heads": 3}, r"multiple of 2 x heads \(6\)"),
        ({"kind": "byte_transformer", "width": 12, "heads": 4}, r"multiple of 2 x heads \(8\)"),
        ({"kind": "token_transformer", "patch": 4}, "Extra inputs"),
        ({"kind": "byte_mlp", "hidden": []}, "at least 1 item"),
        ({"kind": "byte_mlp", "dropout": 1.0}, "less than 1"),
        ({"kind": "byte_transformer", "layers": 0}, "greater than 0"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        MODEL.validate_python(changes)
