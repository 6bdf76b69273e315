"""What the data decide about the built-in models over sequences of ids: tokens or bytes.

Their inputs are ids [B, L] and, where the data have it, `attention_mask` [B, L]: ones, and zeros
where a block was padded. Without it every position is real, but for the id 256 in the bytes of
classified samples. Blocks of unequal length need `attention_mask` unless the model is causal: what
is padding cannot be told from ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.errors import ModelError
from storage.options import ATTENTION_MASK, Task
from storage.spec import InputSpec

_MASKED: tuple[list[str], ...] = ([], [ATTENTION_MASK])


@dataclass(frozen=True)
class SequenceForm:
    """What the data decide about a model over sequences.

    Attributes:
        task: what is predicted.
        length: of every sample, where it is fixed; None where it varies.
    """

    task: Task
    length: int | None

    @property
    def causal(self) -> bool:
        """Whether a position may see only itself and those before it."""
        return self.task is Task.CAUSAL_LM

    @property
    def pooled(self) -> bool:
        """Whether a sample has one prediction."""
        return not self.task.has_many_positions

    @classmethod
    def of(cls, inputs: Sequence[InputSpec], task: Task, where: str) -> SequenceForm:
        """The form of such inputs.

        Raises:
            ModelError: they are not one sequence of ids, with or without its mask after it.
        """
        names = [entry.name for entry in inputs]
        shape = inputs[0].shape
        whole = all(not entry.dtype.startswith("float") for entry in inputs)
        alike = all(entry.shape == shape for entry in inputs)
        flat = shape is None or len(shape) == 1
        if not (whole and alike and flat) or names[0] == ATTENTION_MASK or names[1:] not in _MASKED:
            raise ModelError(
                f"{where}: a model over tokens or bytes needs one input of whole numbers, and "
                f"perhaps {ATTENTION_MASK!r} of the same length after it; got "
                f"{ {entry.name: (entry.dtype, entry.shape) for entry in inputs} }"
            )
        return cls(task, None if shape is None else shape[0])
