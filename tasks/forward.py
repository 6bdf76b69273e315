"""One batch through the teacher: its forward pass, and what is kept of it.

Where memory does not suffice the batch is computed in halves, and later ones that are as large are
halved at once. On CUDA nothing waits here: results are copied into pinned memory on a stream of
their own, and whoever wants them waits.

Shape letters: B samples, P positions of a batch, R those of them that are there, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.errors import ModelError, one_line
from storage.options import Keep
from storage.order import position_keys
from storage.spec import LabelSetSpec
from tasks.effort import Effort, Step
from tasks.nn.batch import Batch
from tasks.nn.memory import give_back_memory, is_out_of_memory
from tasks.nn.positions import each_tensor, join
from tasks.nn.reduction import Reduced, Reduction, reduce_logits
from tasks.stored_features import Kept, kept_features
from tasks.teachers import ObservableTeacher, ReducingTeacher, Teacher


def reduction_of(spec: LabelSetSpec, split: str) -> Reduction:
    """What a label set keeps of the positions of a split."""
    return Reduction(
        spec.selections[split], spec.temperatures, spec.num_classes, statistics=spec.statistics
    )


@dataclass(frozen=True)
class Passed:
    """What is kept of a batch.

    Attributes:
        reduced: of its positions that are there.
        features: of its samples, by column.
    """

    reduced: Reduced
    features: dict[str, Kept] = field(default_factory=dict)


@dataclass(frozen=True)
class Pending:
    """A batch's results, which may still be on their way to the CPU."""

    passed: Passed
    arrived: torch.cuda.Event | None = None

    def result(self) -> Passed:
        """The results, all on the CPU."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.passed


class Forward:
    """Runs batches through one teacher.

    Attributes:
        halved: how many batches had to be computed in halves.
    """

    def __init__(self, teacher: Teacher, spec: LabelSetSpec, effort: Effort) -> None:
        self.halved = 0
        self._teacher = teacher
        self._spec = spec
        self._effort = effort
        self._too_many: int | None = None
        self._copies: torch.cuda.Stream | None = None

    def run(self, batch: Batch, split: str) -> Pending:
        """What is to be kept of a batch's positions.

        Raises:
            ModelError: the teacher fails, gives logits for other positions, or needs more memory
                for a single sample than there is.
        """
        passed = self._within_memory(batch, split)
        with self._effort.timed(Step.COPY):
            return self._to_cpu(passed)

    def _within_memory(self, batch: Batch, split: str) -> Passed:
        if self._too_many is None or len(batch.mask_P) < self._too_many or batch.num_samples == 1:
            try:
                return self._pass(batch, split)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if batch.num_samples == 1:
                    raise ModelError(
                        f"teacher: out of memory for the sample {batch.sample_ids[0]} alone: "
                        f"{one_line(error)}; use shorter samples, a smaller teacher, or a device "
                        "with more memory"
                    ) from error
            # Outside the handler: the error holds on to the tensors of the failed pass.
            self._too_many = min(len(batch.mask_P), self._too_many or len(batch.mask_P))
            give_back_memory()
        self.halved += 1
        middle = -(-batch.num_samples // 2)
        halves = (batch.part(0, middle), batch.part(middle, batch.num_samples))
        return join([self._within_memory(half, split) for half in halves])

    def _pass(self, batch: Batch, split: str) -> Passed:
        reduction = reduction_of(self._spec, split)
        label_P = batch.label_P if self._spec.has_label else None
        teacher = self._teacher
        if isinstance(teacher, ReducingTeacher):
            with self._effort.timed(Step.FORWARD):
                reduced = teacher.reduced(batch.inputs, batch.real_P, label_P, reduction)
            if reduced is not None:
                return Passed(reduced)
        with self._effort.timed(Step.FORWARD):
            logit_PC, features = self._observed(batch, split)
        return Passed(self._reduce(logit_PC, batch, label_P, reduction), features)

    @torch.inference_mode()
    def _observed(self, batch: Batch, split: str) -> tuple[Tensor, dict[str, Kept]]:
        """The teacher's logits, and what is kept of its inside."""
        wanted = self._spec.features_of(split)
        teacher = self._teacher
        if not wanted:
            return teacher.logits(batch.inputs), {}
        assert isinstance(teacher, ObservableTeacher)
        names = [feature.feature for feature in wanted.values()]
        logit_PC, found = teacher.observed(batch.inputs, names)
        inputs = self._spec.inputs
        return logit_PC, kept_features(teacher.module, batch, found, wanted, inputs)

    def _reduce(
        self, logit_PC: Tensor, batch: Batch, label_P: Tensor | None, reduction: Reduction
    ) -> Reduced:
        if len(logit_PC) != len(batch.mask_P):
            raise ModelError(
                f"teacher: expected logits for {len(batch.mask_P)} positions, got {len(logit_PC)}"
            )
        drawn = reduction.selection.keep is Keep.SAMPLE
        keys_R = _keys(batch, reduction.selection.seed) if drawn else None
        with self._effort.timed(Step.TOP_K), torch.inference_mode():
            return reduce_logits(logit_PC, batch.real_P, label_P, reduction, keys_R)

    def _to_cpu(self, passed: Passed) -> Pending:
        device = passed.reduced.bad_R.device
        if device.type != "cuda":
            return Pending(passed)
        if self._copies is None:
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copies.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._copies):
            copied = each_tensor(passed, self._copy)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._copies)
        return Pending(copied, arrived)

    def _copy(self, tensor: Tensor) -> Tensor:
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        pinned.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._copies)  # type: ignore[arg-type]
        return pinned


def _keys(batch: Batch, seed: int) -> NDArray[np.uint64]:
    """The key of each position that is there."""
    return position_keys(batch.sample_ids, batch.lengths_B.numpy(), seed)
