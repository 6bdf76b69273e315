"""What it costs to look into models: a teacher's pass, and a student's step, watched or not."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from storage.options import Task
from storage.spec import InputSpec
from tasks.feature_options import MatchOptions, matches_of
from tasks.live_teacher import LiveTeacher
from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch
from tasks.nn.counts import Counts
from tasks.nn.learner import Learner
from tasks.nn.matching import Matching, watched
from tasks.nn.observe import feature_shapes, observe
from tasks.nn.reduction import capture
from tasks.nn.sequence_models import build_sequence_model
from tasks.sequence_options import TokenTransformerOptions
from tasks.teachers import TorchTeacher
from tests.benchmarks.figures import Figure, one_thread

_BLOCKS, _LENGTH, _VOCABULARY, _KEPT = 4, 128, 4096, 64
_INPUTS = (InputSpec(name="input_ids", dtype="int64", shape=None),)
_REPEATS = 7
_CPU = torch.device("cpu")
_HIDDEN = ({"teacher": "hidden.-1", "loss": "cosine"},)
_LAYERS = ({"kind": "hidden", "layers": "uniform"},)
_MAPS = ({"kind": "attention", "layers": "uniform", "heads": "mean"},)


def run() -> list[Figure]:
    """A teacher of 6 layers and width 256, a student of 2 and 128."""
    with one_thread():
        return _run()


def _run() -> list[Figure]:
    torch.manual_seed(0)
    teacher = _model(6, 256).eval()
    batch = _batch()
    return [*_teacher_passes(teacher, batch), *_without_logits(), *_student_steps(teacher, batch)]


def _teacher_passes(teacher: nn.Module, batch: Batch) -> list[Figure]:
    hidden = [f"hidden.{layer}" for layer in range(7)]
    maps = [f"attention.{layer}" for layer in range(1, 7)]

    def passing(names: Sequence[str]) -> Callable[[], Any]:
        def work() -> None:
            with torch.inference_mode():
                observe(teacher, batch.inputs, names)

        return work

    seconds = _in_turn([passing(()), passing(hidden), passing(maps)])
    how = f"{_BLOCKS} blocks of {_LENGTH} tokens, {_how()}"
    names = ("all 7 hidden states", "all 6 attention maps")
    return [
        Figure(f"a teacher's pass with {name}, over one without", _ratio(one, seconds[0]), "-", how)
        for name, one in zip(names, seconds[1:], strict=True)
    ]


def _without_logits() -> list[Figure]:
    """A teacher of MiniLM's sizes, with as many classes as BERT has words."""
    model = _model(6, 384, 30_522).eval()
    teacher = TorchTeacher(model, _INPUTS, _CPU, "teacher")
    live = LiveTeacher(teacher)
    inputs = (torch.randint(0, 30_522, (_BLOCKS, _LENGTH)),)
    names = ["hidden.-1"]
    live.features(inputs, names)
    with_it, without = _in_turn(
        [lambda: teacher.observed(inputs, names), lambda: live.features(inputs, names)]
    )
    how = f"6 layers of width 384, 30,522 classes, 512 tokens; {_how()}"
    name = "a live teacher's pass without its output layer, over one with it"
    return [Figure(name, _ratio(without, with_it), "-", how)]


def _student_steps(teacher: nn.Module, batch: Batch) -> list[Figure]:
    with torch.no_grad():
        stored = observe(teacher, batch.inputs, ["hidden.-1"])[1]
    held = dataclasses.replace(batch, features=stored)
    kinds: dict[str, tuple[tuple[dict[str, Any], ...], bool]] = {
        "predictions alone": ((), False),
        "cosine of the last hidden state, stored": (_HIDDEN, False),
        "cosine of the last hidden state, live": (_HIDDEN, True),
        "all hidden states (TinyBERT's map), live": (_LAYERS, True),
        "all hidden states and maps, live": (_LAYERS + _MAPS, True),
    }
    steps = [_step(said, teacher, held, live=live) for said, live in kinds.values()]
    first, *others = _in_turn(steps)
    how = f"2 layers of width 128, {_VOCABULARY} classes, k={_KEPT}; {_how()}"
    return [
        Figure(
            f"a student's step with {name}, over predictions alone", _ratio(one, first), "-", how
        )
        for name, one in zip(list(kinds)[1:], others, strict=True)
    ]


def _step(
    said: tuple[dict[str, Any], ...], teacher: nn.Module, batch: Batch, *, live: bool
) -> Callable[[], Any]:
    student, loss = _model(2, 128), LossOptions(soft_weight=1.0)
    learner = Learner(student, loss)
    if said:
        options = [MatchOptions(**entry) for entry in said]
        matches = matches_of(options, 2, 6, "match")
        ours = feature_shapes(student, _INPUTS, watched(matches), "student")
        names = [name for match in matches for name in match.teacher]
        theirs = feature_shapes(teacher, _INPUTS, names, "teacher")
        guide = LiveTeacher(TorchTeacher(teacher, _INPUTS, _CPU, "teacher")) if live else None
        matching = Matching(matches, ours, theirs, "match", guide)
        learner = Learner(student, loss, matching, matches)
    optimizer = torch.optim.AdamW(learner.parameters())

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        learner(batch, Counts.of(batch), 0.0).total.backward()
        optimizer.step()

    return work


def _model(layers: int, width: int, classes: int = _VOCABULARY) -> nn.Module:
    options = TokenTransformerOptions(
        kind="token_transformer", layers=layers, width=width, heads=width // 32
    )
    return build_sequence_model(options, _INPUTS, classes, Task.MASKED_LM, "model")


def _batch() -> Batch:
    count = _BLOCKS * _LENGTH
    kept = capture(torch.randn(count, _VOCABULARY), torch.zeros(count).long(), _KEPT, (1.0,))
    return Batch(
        inputs=(torch.randint(0, _VOCABULARY, (_BLOCKS, _LENGTH)),),
        index_PK=kept.index_PK,
        logit_PK=kept.logit_PK,
        rest_PT=kept.rest_PT,
        weight_PK=None,
        label_P=torch.zeros(count).long(),
        label_logit_P=kept.label_logit_P,
        mask_P=torch.ones(count, dtype=torch.bool),
        real_P=torch.ones(count, dtype=torch.bool),
        temperatures=(1.0,),
        sample_ids=[str(place) for place in range(_BLOCKS)],
    )


def _in_turn(works: Sequence[Callable[[], Any]]) -> list[float]:
    """The medians of timings taken in turn, after one of each that does not count."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(_REPEATS + 1):
        for work, taken in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken[1:]) for taken in times]


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.2f} times ({one * 1e3:.0f} over {other * 1e3:.0f} ms)"


def _how() -> str:
    return f"{torch.get_num_threads()} thread, in turn, median of {_REPEATS}"
