"""A store in a new folder, and models that were exported once for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from storage.files import Folder
from tasks.export import onnx_bytes
from tasks.model_options import MlpOptions
from tasks.nn.models import Mlp
from tests.tasks.toy import TOKENS, VECTOR, TokenModel


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The tensors are tiny: further threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder.open(tmp_path / "store")


@pytest.fixture(scope="session")
def mlp() -> nn.Module:
    torch.manual_seed(0)
    return Mlp(3, 4, MlpOptions(kind="mlp", hidden=(5,), dropout=0.2)).eval()


@pytest.fixture(scope="session")
def mlp_onnx(mlp: nn.Module) -> bytes:
    return onnx_bytes(mlp, (VECTOR,), "toy")


@pytest.fixture(scope="session")
def token_model() -> nn.Module:
    torch.manual_seed(1)
    return TokenModel().eval()


@pytest.fixture(scope="session")
def token_onnx(token_model: nn.Module) -> bytes:
    return onnx_bytes(token_model, (TOKENS,), "toy")
