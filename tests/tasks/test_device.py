"""Which device computes."""

import pytest
import torch

from storage.errors import ModelError
from tasks.device import pick_device


@pytest.fixture
def cuda(monkeypatch, request):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)


@pytest.mark.parametrize("cuda", [False], indirect=True)
def test_without_cuda(cuda):
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    for wanted in ("cuda", "cuda:1"):
        with pytest.raises(ModelError, match=f"{wanted} is asked for, .*; say auto or cpu"):
            pick_device(wanted)


@pytest.mark.parametrize("cuda", [True], indirect=True)
def test_with_cuda(cuda):
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")
