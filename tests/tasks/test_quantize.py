"""The int8 variant: it loads, runs, is smaller, and mostly finds the same class the best."""

import numpy as np
import pytest
import torch

from storage.errors import ModelError
from storage.options import Task
from tasks.export import onnx_bytes, run_session, session_of
from tasks.model_options import CnnOptions, MlpOptions
from tasks.nn.models import build_model
from tasks.quantize import agreement, int8_bytes
from tasks.sequence_options import TokenTransformerOptions
from tests.tasks.toy import TOKENS, VECTOR, TextModel, batch_of

IMAGE = VECTOR.model_copy(update={"name": "image", "shape": (3, 8, 8)})
WIDE = VECTOR.model_copy(update={"shape": (40,)})
BLOCKS = TokenTransformerOptions(kind="token_transformer", layers=1, width=32, heads=2)
CASES = {
    "mlp": (MlpOptions(kind="mlp"), WIDE, Task.CLASSIFICATION, torch.randn(50, 40)),
    "cnn": (CnnOptions(kind="cnn"), IMAGE, Task.CLASSIFICATION, torch.randn(50, 3, 8, 8)),
    "blocks": (BLOCKS, TOKENS, Task.CAUSAL_LM, torch.randint(0, 64, (9, 7))),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_smaller_and_close(name, capfd):
    options, spec, task, inputs = CASES[name]
    torch.manual_seed(0)
    model = build_model(options, (spec,), 64, "here", task=task).eval()
    content = onnx_bytes(model, (spec,), "here")
    found = int8_bytes(content, "here")
    assert len(found) < 0.75 * len(content)
    with torch.no_grad():
        expected = model(inputs).numpy()
    logits = run_session(session_of(found), (inputs,))
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()
    assert capfd.readouterr() == ("", "")


def test_agreement_counts_the_positions_that_count():
    torch.manual_seed(0)
    first, second = (
        onnx_bytes(build_model(MlpOptions(kind="mlp"), (VECTOR,), 5, "here"), (VECTOR,), "here")
        for _ in range(2)
    )
    generator = torch.Generator().manual_seed(1)
    batches = []
    for place in range(3):
        mask_P = torch.arange(8) % 3 != place
        x = torch.randn(8, 3, generator=generator)
        teacher_PC = torch.randn(8, 5, generator=generator)
        batches.append(batch_of(teacher_PC, torch.zeros(8, dtype=torch.int64), 2, (1.0,), mask_P,
                                inputs=(x,)))  # fmt: skip
    best = [
        [run_session(session_of(content), batch.inputs).argmax(axis=1) for batch in batches]
        for content in (first, second)
    ]
    masks = [batch.mask_P.numpy() for batch in batches]
    same = [(a == b)[mask] for a, b, mask in zip(*best, masks, strict=True)]
    found = agreement(first, second, batches, "test")
    assert found.agreement == pytest.approx(np.concatenate(same).mean())
    assert 0 < found.agreement < 1
    assert (found.positions, found.split) == (16, "test")
    assert agreement(first, first, batches, "test").agreement == 1
    assert agreement(first, second, [], "test").agreement is None


def test_what_is_no_model_is_one_line():
    with pytest.raises(ModelError, match=r"^here: cannot be quantized to int8: "):
        int8_bytes(b"", "here")


def test_models_of_several_inputs_are_run_by_position():
    torch.manual_seed(0)
    model = TextModel().eval()
    attention = TOKENS.model_copy(update={"name": "attention_mask"})
    content = int8_bytes(onnx_bytes(model, (TOKENS, attention), "here"), "here")
    tokens, mask = torch.randint(0, 7, (4, 6)), torch.ones(4, 6, dtype=torch.int64)
    mask[:, 4:] = 0
    with torch.no_grad():
        expected = model(tokens, mask).numpy()
    found = run_session(session_of(content), (tokens, mask))
    np.testing.assert_allclose(found, expected, atol=0.05)
