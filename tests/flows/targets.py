"""Python targets as people bring them: data, teachers and students, good ones and bad ones."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.model_options import MlpOptions
from tasks.nn.models import Mlp
from tests.flows.blobs import NUM_CLASSES, NUM_FEATURES, blobs
from tests.tasks.toy import counting_blocks


def tagged_blocks() -> dict[str, Any]:
    """Blocks of tokens in which each is tagged by itself modulo 3; the first does not count."""
    columns = counting_blocks()
    tokens = columns["tokens"]
    columns["tag"] = [[token % 3 for token in block] for block in tokens]
    columns["counts"] = [
        [place > 0 or len(block) == 1 for place in range(len(block))] for block in tokens
    ]
    return columns


def texts() -> dict[str, Any]:
    """Texts of 1 to 9 tokens: those of class c are c or c + 3."""
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    tokens = [(c + 3 * rng.integers(0, 2, rng.integers(1, 10))).tolist() for c in label]
    return {"tokens": tokens, "label": label, "split": ["train"] * 40 + ["test"] * 20}


def counting() -> dict[str, Any]:
    """Blocks of 4 to 7 tokens that count up modulo 7, tagged modulo 3; 7 in validation."""
    lengths = [4 + n % 4 for n in range(28)] + [7] * 5 + [5 + n % 3 for n in range(7)]
    blocks = [[(first + place) % 7 for place in range(n)] for first, n in enumerate(lengths)]
    return {
        "tokens": blocks,
        "tag": [[token % 3 for token in block] for block in blocks],
        "split": ["train"] * 28 + ["validation"] * 5 + ["test"] * 7,
    }


def small_files() -> dict[str, Any]:
    """The first 24 bytes of files whose kind their first 4 bytes say; 256 fills short ones up."""
    rng = np.random.default_rng(0)
    kind = np.arange(120) % 3
    content = rng.integers(0, 4, (120, 24)).astype(np.int16)
    content[:, :4] = np.array([[37, 80, 68, 70], [80, 75, 3, 4], [127, 69, 76, 70]])[kind]
    content[np.arange(24) >= rng.integers(8, 25, 120)[:, None]] = 256
    split = ["train"] * 90 + ["validation"] * 15 + ["test"] * 15
    return {"bytes": list(content), "kind": kind, "split": split}


def broken_data() -> dict[str, Any]:
    raise OSError("the archive\nis gone")


def blob_model(hidden: int = 8, num_classes: int = NUM_CLASSES) -> nn.Module:
    """The architecture of the fitted teacher."""
    return Mlp(NUM_FEATURES, num_classes, MlpOptions(kind="mlp", hidden=(hidden,)))


class EndsInSoftmax(nn.Module):
    """Gives probabilities, where logits are wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.layer(x), dim=1)


class WantsImages(nn.Module):
    """Does not run on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, NUM_CLASSES, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image).mean(dim=(2, 3))


def broken_model() -> nn.Module:
    raise ValueError("no such\nmodel")


blob_columns = blobs


class Choosy(nn.Module):
    """Gives NaN for points whose first value is beyond 100."""

    def __init__(self) -> None:
        super().__init__()
        self.model = blob_model()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return torch.where(x[:, :1] > 100, torch.nan, logits)


class ByteCounter(nn.Module):
    """Logits of how many bytes are even, odd, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, numbers: Tensor) -> Tensor:
        none = numbers == 256
        kinds = ((numbers % 2 == 0) & ~none, numbers % 2 == 1, none)
        return torch.stack([kind.float().mean(dim=1) for kind in kinds], dim=1) * self.weight


def byte_counter() -> nn.Module:
    """A teacher for any files."""
    return ByteCounter()
