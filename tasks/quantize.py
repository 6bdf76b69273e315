"""An ONNX model with weights of 8 bits: smaller, and often faster on CPUs; not the same numbers.

Weights become int8 with a scale for each output channel; what flows between the layers is quantized
as it comes (dynamic quantization), so no data are needed to make it. How well it still agrees with
the model that it was made of is measured on stored samples.

Shape letters: P positions, C classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor

from storage.errors import ModelError, one_line
from tasks.export import quiet_export, run_session, session_of
from tasks.nn.batch import Batch, by_position

_MOST_BATCHES = 32


@dataclass(frozen=True)
class Agreement:
    """How often two models find the same class the best.

    Attributes:
        agreement: the share of the positions; None where none was compared.
        positions: how many were compared.
        split: which split they are of.
    """

    agreement: float | None
    positions: int
    split: str

    def as_json(self) -> dict[str, Any]:
        """As it stands in a card."""
        return asdict(self)


def int8_bytes(content: bytes, where: str) -> bytes:
    """An ONNX model with int8 weights, which loads.

    Raises:
        ModelError: it cannot be quantized so, or does not load then.
    """
    model = onnx.load_model_from_string(content)
    # The exporter's shapes are those of before: linear layers are turned round on the way.
    del model.graph.value_info[:]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        try:
            with quiet_export():
                quantize_dynamic(model, made, weight_type=QuantType.QInt8, per_channel=True)
                found = made.read_bytes()
                session_of(found)
        except Exception as error:
            raise ModelError(f"{where}: cannot be quantized to int8: {one_line(error)}") from error
    return found


def agreement(first: bytes, second: bytes, batches: Iterable[Batch], split: str) -> Agreement:
    """How often two ONNX models find the same class the best, on some batches of stored samples.

    Args:
        first: a model.
        second: another one, of the same inputs.
        batches: their samples; a few dozen of them are enough.
        split: what they are of.
    """
    sessions = [session_of(content) for content in (first, second)]
    same = positions = 0
    for batch in islice(batches, _MOST_BATCHES):
        best = [_best(session, batch) for session in sessions]
        same += int((best[0] == best[1]).sum())
        positions += len(best[0])
    return Agreement(same / positions if positions else None, positions, split)


def _best(session: Any, batch: Batch) -> Tensor:
    """The best class of each position that counts."""
    logit_PC = by_position(torch.from_numpy(run_session(session, batch.inputs)))
    return logit_PC.argmax(dim=1)[batch.mask_P]
