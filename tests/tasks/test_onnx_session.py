"""Providers and their settings; what runs fail of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from storage.errors import ModelError
from storage.spec import InputSpec
from tasks.onnx_files import Content
from tasks.onnx_session import (
    CPU,
    CUDA,
    TENSORRT,
    Session,
    cuda_settings,
    providers_of,
    tensorrt_settings,
)
from tasks.onnx_teacher import OnnxTeacher
from tests.tasks.onnx_graphs import chain, graph, options
from tests.tasks.toy import VECTOR

HOST = torch.device("cpu")
SHAPES = {
    "x": {"min": [1, 3], "opt": [8, 3], "max": [64, 3]},
    "y": {"min": [1], "opt": [8], "max": [64]},
}
needs_no_device = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize("provider", ["auto", "cpu"])
def test_the_cpu_needs_nothing(provider):
    assert providers_of(options(provider=provider), HOST, Path(), "teacher") == [(CPU, {})]


@needs_no_device
@pytest.mark.parametrize(
    ("device", "said", "message"),
    [
        ("cuda", {}, r"teacher\.provider: auto needs .* came to cuda; .*execution\.device: cpu$"),
        ("cpu", {"provider": "cuda"}, r"teacher\.provider: cuda needs .* came to cpu; "),
        (
            "cpu",
            {"provider": "tensorrt", "tensorrt": {"cache": "engines", "shapes": SHAPES}},
            r"teacher\.provider: tensorrt needs .* came to cpu; ",
        ),
    ],
)
def test_without_a_device_it_is_not_even_tried(device, said, message, capfd):
    with pytest.raises(ModelError, match=message):
        OnnxTeacher(graph(), (VECTOR,), torch.device(device), options(**said))
    assert capfd.readouterr() == ("", "")


def test_what_the_recipe_says_reaches_the_providers(tmp_path):
    device = torch.device("cuda", 1)
    said = options(
        provider="tensorrt",
        cuda={"memory_limit_bytes": 5, "convolution_search": "exhaustive"},
        tensorrt={"cache": "engines", "shapes": SHAPES, "fp16": True},
    )
    assert cuda_settings(said, device) == {
        "device_id": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "gpu_mem_limit": "5",
    }
    settings = tensorrt_settings(said, device, tmp_path)
    assert settings["trt_engine_cache_path"] == str(tmp_path / "engines")
    assert settings["trt_fp16_enable"] == "True"
    assert settings["trt_profile_min_shapes"] == "x:1x3,y:1"
    assert settings["trt_profile_opt_shapes"] == "x:8x3,y:8"
    assert settings["trt_profile_max_shapes"] == "x:64x3,y:64"
    assert (tmp_path / "engines").is_dir()


@needs_no_device
@pytest.mark.parametrize("wanted", [CUDA, TENSORRT])
def test_a_provider_that_did_not_load_is_refused(wanted):
    """The runtime would compute on the CPU, and say so only in its log."""
    with pytest.raises(ModelError, match=rf"did not load {wanted}, it has .*; install onnxruntime"):
        Session(Content(graph()), [(wanted, {}), (CPU, {})], torch.device("cuda"), "teacher")


def test_a_run_that_fails_is_one_line_and_prints_nothing(capfd):
    wide = InputSpec(name="x", dtype="float32", shape=(5,))
    with pytest.raises(ModelError, match=r"^teacher: the ONNX teacher failed: .*x") as caught:
        OnnxTeacher(graph(), (wide,), HOST)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_too_little_memory_is_told_from_other_failures(capfd):
    """As many numbers as the square of the input says: 2^64 bytes where it is 2^31."""
    steps = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["whole"], to=7),
        helper.make_node("Unsqueeze", ["whole", "axes"], ["size"]),
        helper.make_node("Expand", ["one", "size"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=1),
        helper.make_node("Add", ["x", "sum"], ["out"]),
    ]
    axes = numpy_helper.from_array(np.array([0]), "axes")
    one = numpy_helper.from_array(np.array([1], np.float32), "one")
    teacher = OnnxTeacher(chain(*steps, initializers=(axes, one)), (VECTOR,), HOST)
    assert teacher.logits((torch.ones(2, 3),)).shape == (2, 3)
    with pytest.raises(MemoryError, match=r"^teacher: .*Failed to allocate memory"):
        teacher.logits((torch.full((2, 3), 2.0**45),))
    assert teacher.logits((torch.ones(2, 3),)).shape == (2, 3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_cuda_gives_the_logits_of_the_cpu():
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    expected = OnnxTeacher(graph(), (VECTOR,), HOST).logits((x,))
    for said in (
        {},
        {"provider": "cuda", "cuda": {"memory_limit_bytes": 1 << 30, "arena": "power_of_two"}},
    ):
        teacher = OnnxTeacher(graph(), (VECTOR,), torch.device("cuda"), options(**said))
        found = teacher.logits((x,))
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_tensorrt_gives_the_logits_of_the_cpu(tmp_path):
    """Skips where TensorRT's libraries are not installed beside CUDA's."""
    pytest.importorskip("tensorrt")
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    expected = OnnxTeacher(graph(), (VECTOR,), HOST).logits((x,))
    said = options(provider="tensorrt", tensorrt={"cache": "engines", "shapes": {"x": SHAPES["x"]}})
    teacher = OnnxTeacher(graph(), (VECTOR,), torch.device("cuda"), said, folder=tmp_path)
    torch.testing.assert_close(teacher.logits((x,)).cpu(), expected, rtol=1e-3, atol=1e-3)
    assert list((tmp_path / "engines").iterdir())
