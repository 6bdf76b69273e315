"""Padding: the share of real tokens among those that the teacher computes, on texts that vary.

The texts are the docstrings of Python's standard library, in the order of its files.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.writer import ranges
from tasks.batches import plan_batches, real_share
from tasks.huggingface_tokenizer import load_tokenizer
from tests.benchmarks.figures import Figure
from tests.benchmarks.smollm2 import FILE, PACKAGE

_MOST_TOKENS = 512
_BATCH_SIZES = (8, 32, 128)
_SHARDS = (65_536, 1_024)


def run() -> list[Figure]:
    lengths = np.array(list(_lengths()), np.int64)
    figures = []
    for batch_size in _BATCH_SIZES:
        naive = _naive(lengths, batch_size)
        for positions in _SHARDS:
            # One position a sample: a shard holds as many samples.
            share = _shares(lengths, positions, batch_size)
            figures.append(
                Figure(
                    f"real tokens, batches of {batch_size}, shards of {positions:,} texts",
                    f"{share:.3f}, {share / naive:.2f} times a naive loop's {naive:.3f}",
                    "at least 0.9",
                    f"{len(lengths):,} docstrings of {int(np.median(lengths))} tokens (median), "
                    f"{lengths.max()} at most",
                )
            )
    return figures


def _shares(lengths: NDArray[np.int64], positions: int, batch_size: int) -> float:
    computed = 0.0
    for start, stop in ranges(np.ones(len(lengths), np.int64), positions):
        part = lengths[start:stop]
        computed += part.sum() / real_share(plan_batches(len(part), part, batch_size), part)
    return float(lengths.sum() / computed)


def _naive(lengths: NDArray[np.int64], batch_size: int) -> float:
    """The share where each batch is padded to its longest, in the order of the data."""
    starts = range(0, len(lengths), batch_size)
    batches = [lengths[start : start + batch_size] for start in starts]
    return float(lengths.sum() / sum(len(batch) * batch.max() for batch in batches))


def _lengths() -> Iterator[int]:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    tokenizer = load_tokenizer(
        str(Path(spec.origin).parent), folder=Path(), gguf_file=FILE, revision=None
    )
    texts = list(_docstrings())
    for tokens in tokenizer(texts, truncation=True, max_length=_MOST_TOKENS)["input_ids"]:
        yield len(tokens)


def _docstrings() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(errors="ignore"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node)
                if text:
                    yield text
