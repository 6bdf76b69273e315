"""`labels.batch_size: auto`: the smallest batch with which the teacher is about as fast as it gets.

Found on the longest of the first samples, before the first shard; it costs a few seconds. It is
part of what a label set is, so it is written down and not looked for again.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from storage.corpus import Corpus
from storage.rows import lengths_of, num_rows, take
from storage.spec import LabelSetSpec
from tasks.collate import collate
from tasks.effort import Effort
from tasks.forward import Forward
from tasks.teachers import Teacher

_LARGEST: Final = 1024
_SAMPLES: Final = 1024
_ENOUGH_SECONDS: Final = 1.0
"""A batch that takes longer is large enough: nothing is gained by larger ones."""
_NEAR: Final = 0.95
"""The share of the best rate that is good enough."""


def find_batch_size(teacher: Teacher, spec: LabelSetSpec, corpus: Corpus) -> int:
    """A batch size for this teacher, these samples and this device, a power of two.

    Doubles it as long as the rate grows and memory suffices, then takes the smallest one that is
    near the best.
    """
    split = spec.splits[0]
    rows = corpus.read(split, 0, min(_SAMPLES, corpus.samples[split]))
    lengths_B = lengths_of(rows)
    if lengths_B is not None:
        rows = take(rows, np.argsort(-lengths_B, kind="stable"))
    forward = Forward(teacher, spec, Effort())
    rates: dict[int, float] = {}
    size = 1
    while size <= min(_LARGEST, num_rows(rows)):
        batch = collate(take(rows, np.arange(size)), (), augment=spec.augment_of(split))
        seconds = []
        for _ in range(2):  # the first one may prepare what the second one uses
            started = time.perf_counter()
            forward.run(batch, split).result()
            seconds.append(time.perf_counter() - started)
            if seconds[0] > _ENOUGH_SECONDS:
                break
        if forward.halved:
            break
        rates[size] = size / min(seconds)
        if min(seconds) > _ENOUGH_SECONDS or rates[size] < _NEAR * max(rates.values()):
            break
        size *= 2
    best = max(rates.values(), default=1.0)
    return min((size for size, rate in rates.items() if rate >= _NEAR * best), default=1)
