"""What a recipe may say about an ONNX teacher."""

import pytest
from pydantic import ValidationError

from tasks.onnx_options import TensorRtOptions
from tests.tasks.onnx_graphs import options

SHAPES = {"x": {"min": [1, 3], "opt": [8, 3], "max": [64, 3]}}
TENSORRT = {"provider": "tensorrt", "tensorrt": {"cache": "engines", "shapes": SHAPES}}


def test_where_it_runs_is_no_part_of_what_it_gives():
    plain = options().identity()
    assert plain == {"kind": "onnx", "output": None, "input_names": None}
    for said in (
        {"path": "elsewhere.onnx"},
        {"provider": "cuda", "cuda": {"arena": "power_of_two"}},
        {"reduce": "graph"},
        TENSORRT,
    ):
        assert options(**said).identity() == plain
    assert options(output="z").identity() != plain
    assert options(input_names=["x"]).identity() != plain


def test_half_precision_gives_other_logits():
    half = {**TENSORRT, "tensorrt": {**TENSORRT["tensorrt"], "fp16": True}}
    assert options(**half).identity() != options().identity()
    assert options(**half).on_cpu().identity() == options().identity()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"provider": "tensorrt"}, "provider: tensorrt and tensorrt: {shapes, cache} go together"),
        ({"tensorrt": TENSORRT["tensorrt"]}, "go together; got provider: auto"),
        ({**TENSORRT, "reduce": "graph"}, "reduce: graph is not for TensorRT"),
        ({"provider": "openvino"}, "'auto', 'cpu', 'cuda' or 'tensorrt'"),
        ({"arena": "x"}, "arena"),
    ],
)
def test_what_does_not_fit_together_is_refused(said, message):
    with pytest.raises(ValidationError, match=message):
        options(**said)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"min": [1], "opt": [8, 3], "max": [64, 3]}, "one rank, got 1, 2 and 2 dimensions"),
        ({"min": [9, 3], "opt": [8, 3], "max": [64, 3]}, "min <= opt <= max, got 9, 8 and 64"),
        ({"min": [], "opt": [], "max": []}, "at least 1 item"),
        ({"min": [0, 3], "opt": [8, 3], "max": [64, 3]}, "greater than 0"),
    ],
)
def test_shapes_are_ordered(shape, message):
    with pytest.raises(ValidationError, match=message):
        TensorRtOptions(cache="engines", shapes={"x": shape})
