"""A step of distillation from stored labels over a plain cross-entropy step of the same student.

Both sides use the same trainer, optimizer and batch, and are timed in turn; only what is made of
the model's output differs. The peak is that of two steps in a process of its own, over
what is resident before (weights and labels).
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from storage.options import Task
from storage.spec import InputSpec
from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch, by_position
from tasks.nn.counts import Counts
from tasks.nn.learner import Learner
from tasks.nn.losses import LossParts
from tasks.nn.sequence_models import build_sequence_model
from tasks.nn.trainer import Trainer
from tasks.sequence_options import TokenTransformerOptions
from tasks.training_options import LogitsForm, TrainingOptions
from tests.benchmarks.figures import Figure
from tests.benchmarks.resident import number_from, rise_bytes

CLASSES, K, WIDTH, LAYERS = 49_152, 64, 256, 4
SAMPLES, LENGTH = 4, 512
REPEATS = 5
MASKED_SHARE = 0.15

PLAIN, SOFT, BOTH = "cross-entropy", "soft loss", "soft and hard loss"
BLOCKS = "soft and hard loss, logits in blocks"
FEW, FEW_PLAIN = "soft and hard loss, 15 %", "cross-entropy, 15 %"
_ASKED = {SOFT: "at most 1.02", BOTH: "at most 1.10"}
_LOSSES = {SOFT: LossOptions(soft_weight=1.0)}


def run() -> list[Figure]:
    """Times and peaks of a step, as ratios to those of cross-entropy."""
    names = (PLAIN, SOFT, BOTH, BLOCKS, FEW_PLAIN, FEW)
    steps = {name: Step(name) for name in names}
    for step in steps.values():
        step.seconds()
    times = {name: list[tuple[float, float]]() for name in names}
    for _ in range(REPEATS):
        for name, step in steps.items():
            times[name].append(step.seconds())
    peaks = {name: number_from(__name__, f"peak_bytes({name!r})") for name in names}
    figures = []
    for name in (SOFT, BOTH, BLOCKS, FEW):
        plain = FEW_PLAIN if name == FEW else PLAIN
        figures += [_time(name, times[name], times[plain]), _peak(name, peaks[name], peaks[plain])]
    return figures


def peak_bytes(name: str) -> int:
    """What two steps have resident at the most, over what is before; the optimizer's state too."""
    step = Step(name)

    def twice() -> None:
        step.seconds()
        step.seconds()

    return rise_bytes(twice)


class Step:
    """Steps of one kind."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        options = TokenTransformerOptions(kind="token_transformer", layers=LAYERS, width=WIDTH)
        inputs = [InputSpec(name="input_ids", dtype="int64", shape=(LENGTH,))]
        task = Task.MASKED_LM if "15 %" in name else Task.CAUSAL_LM
        model = build_sequence_model(options, inputs, CLASSES, task, "student")
        loss = _LOSSES.get(name, LossOptions(soft_weight=0.5))
        learner = CrossEntropy(model, loss) if PLAIN in name else Learner(model, loss)
        form = LogitsForm.BLOCKS if name == BLOCKS else LogitsForm.AUTO
        training = TrainingOptions(logits=form)
        self._trainer = Trainer(learner, training, 100, torch.device("cpu"))
        self._batch = labels(share=MASKED_SHARE if "15 %" in name else 1.0)

    def seconds(self) -> tuple[float, float]:
        """Of one step: on the wall's clock, and of all cores together."""
        wall, cores = time.perf_counter(), time.process_time()
        self._trainer.step(self._batch)
        return time.perf_counter() - wall, time.process_time() - cores


class CrossEntropy(Learner):
    """What people write: the model, and torch's cross-entropy."""

    def forward(self, batch: Batch, counts: Counts, done: float) -> LossParts:
        """The loss."""
        logit_PC = by_position(self.model(*batch.inputs))
        label_P = batch.label_P.masked_fill(~batch.mask_P, -100)
        loss = F.cross_entropy(logit_PC, label_P, reduction="sum") / counts.positions
        return LossParts(loss, None, loss)


def labels(share: float = 1.0) -> Batch:
    """Random labels of a stream's form, without a teacher's logits; a share of them counts."""
    positions = SAMPLES * LENGTH
    index_PK = torch.randint(CLASSES // K, (positions, K)) + torch.arange(K) * (CLASSES // K)
    logit_PK = -torch.rand(positions, K).cumsum(dim=1)
    logit_PK[:, 0] = 0.0
    batch = Batch(
        inputs=(torch.randint(0, CLASSES, (SAMPLES, LENGTH)),),
        index_PK=index_PK,
        logit_PK=logit_PK,
        rest_PT=torch.tensor([[1.0, -2.0]]).expand(positions, 2).contiguous(),
        weight_PK=None,
        label_P=index_PK[:, 0],
        label_logit_P=logit_PK[:, 0],
        mask_P=torch.ones(positions, dtype=torch.bool),
        real_P=torch.ones(positions, dtype=torch.bool),
        temperatures=(2.0, 1.0),
        sample_ids=[str(number) for number in range(SAMPLES)],
    )
    return batch if share == 1.0 else replace(batch, mask_P=torch.rand(positions) < share)


def _time(name: str, own: list[tuple[float, float]], plain: list[tuple[float, float]]) -> Figure:
    wall, cores = (
        [statistics.median(entry[clock] for entry in times) for times in (own, plain)]
        for clock in (0, 1)
    )
    return Figure(
        f"step, {name}: time over cross-entropy's",
        f"{wall[0] / wall[1]:.3f} ({wall[0]:.2f} s of {wall[1]:.2f} s); of core time "
        f"{cores[0] / cores[1]:.3f}",
        _ASKED.get(name, "-"),
        f"{LAYERS} layers, width {WIDTH}, {CLASSES:,} classes, k={K}, {SAMPLES * LENGTH:,} "
        f"positions; taken in turn, medians of {REPEATS}",
    )


def _peak(name: str, own: float, plain: float) -> Figure:
    return Figure(
        f"step, {name}: peak memory over cross-entropy's",
        f"{own / plain:.3f} ({own / 2**20:.0f} of {plain / 2**20:.0f} MiB)",
        "at most 1.05" if name in _ASKED else "-",
        "resident, beyond what is before two steps, in a process of its own each",
    )
