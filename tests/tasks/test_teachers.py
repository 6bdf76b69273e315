"""Teachers: a PyTorch model evaluates, and its weights fit."""

import pytest
import torch
from safetensors.torch import save
from torch import nn

from storage.errors import ModelError
from tasks.teachers import TorchTeacher
from tasks.weights import load_weights
from tests.tasks.toy import VECTOR, TableModel

CPU = torch.device("cpu")
X = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]])


def test_a_torch_teacher_evaluates():
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 4)).train()
    teacher = TorchTeacher(model, (VECTOR,), CPU, "teacher")
    assert torch.equal(teacher.logits((X,)), teacher.logits((X,)))
    assert not teacher.logits((X,)).requires_grad


def test_weights_fill_the_model():
    model = TableModel(torch.zeros(2, 3))
    load_weights(model, save({"table_NC": torch.ones(2, 3)}), "model.safetensors")
    assert (model.table_NC == 1).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (save({"table_NC": torch.ones(3, 3)}), "size mismatch for table_NC"),
        (save({"other": torch.ones(2, 3)}), 'Missing key.* "table_NC"'),
        (save({"table_NC": torch.ones(2, 3)})[:-4], "the weights model.safetensors do not fit"),
        (b"nonsense", "the weights model.safetensors do not fit"),
        (b"", "the weights model.safetensors do not fit"),
    ],
)
def test_weights_that_do_not_fit_are_refused(content, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(TableModel(torch.zeros(2, 3)), content, "model.safetensors")
    assert "\n" not in str(caught.value)
