"""Export: the ONNX file gives PyTorch's logits, for any batch and length, without a word."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from storage.errors import ModelError
from tasks import export
from tasks.export import onnx_bytes
from tests.tasks.toy import ATTENTION, TOKENS, VECTOR, TextModel


class Branching(nn.Module):
    """What it computes depends on its input's values: no graph can say that."""

    def forward(self, x):
        return x if x.sum() > 0 else x + 1


def run(content, tensor):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    (logits,) = session.run(["logits"], {entry.name: tensor.numpy()})
    return logits


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_any_batch_gives_the_logits_of_torch(mlp, mlp_onnx, batch):
    x = torch.randn(batch, 3, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        expected = mlp(x).numpy()
    np.testing.assert_allclose(run(mlp_onnx, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 4), (3, 9), (5, 2)])
def test_any_length_too(token_model, token_onnx, batch, length):
    tokens = torch.randint(0, 7, (batch, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = token_model(tokens).numpy()
    np.testing.assert_allclose(run(token_onnx, tokens), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 9)])
def test_padding_of_texts_changes_nothing(batch, length):
    torch.manual_seed(0)
    model = TextModel().eval()
    content = onnx_bytes(model, (TOKENS, ATTENTION), "toy")
    tokens = torch.randint(0, 7, (batch, length))
    attention_mask = torch.ones(batch, length, dtype=torch.int64)
    with torch.no_grad():
        expected = model(tokens, attention_mask).numpy()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for more in (0, 3):
        feeds = {
            "tokens": np.pad(tokens.numpy(), ((0, 0), (0, more))),
            "attention_mask": np.pad(attention_mask.numpy(), ((0, 0), (0, more))),
        }
        (found,) = session.run(["logits"], feeds)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_inputs_and_output_have_their_names(mlp_onnx, token_onnx):
    graphs = [onnx.load_model_from_string(content).graph for content in (mlp_onnx, token_onnx)]
    assert [[entry.name for entry in graph.input] for graph in graphs] == [["x"], ["tokens"]]
    assert [[entry.name for entry in graph.output] for graph in graphs] == [["logits"]] * 2


def test_a_model_that_cannot_be_exported_is_one_short_error(capfd):
    with pytest.raises(ModelError) as caught:
        onnx_bytes(Branching(), (VECTOR,), "students.toy.model")
    message = str(caught.value)
    assert message.startswith("students.toy.model: cannot be exported to ONNX: ")
    assert "data-dependent" in message
    assert "\n" not in message
    assert len(message) < 300
    assert capfd.readouterr() == ("", "")


def test_other_logits_are_refused(mlp, mlp_onnx, monkeypatch, capfd):
    graph = onnx.load_model_from_string(mlp_onnx)
    for tensor in graph.graph.initializer:
        if "bias" in tensor.name:
            shifted = onnx.numpy_helper.to_array(tensor) + 0.5
            tensor.CopyFrom(onnx.numpy_helper.from_array(shifted, tensor.name))
    monkeypatch.setattr(export, "_export", lambda *_: graph.SerializeToString())
    with pytest.raises(ModelError, match="the exported ONNX model's logits differ by 0"):
        onnx_bytes(mlp, (VECTOR,), "toy")
    assert capfd.readouterr() == ("", "")
