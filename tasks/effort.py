"""What making labels cost: batches, positions, and the seconds that each step took.

Steps overlap, so their seconds do not sum to the time on the clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum


class Step(StrEnum):
    """A step of the way from samples to committed shards."""

    READ = "read"
    """Reading samples and building batches."""
    WAIT = "wait"
    """The teacher waiting for batches, or for shards to be written."""
    FORWARD = "forward"
    """The teacher's own forward pass."""
    TOP_K = "top-k"
    """From logits to what is kept of them."""
    COPY = "copy"
    """Moving inputs to the device and results back."""
    ENCODE = "encode"
    """Measuring the codec, and encoding."""
    WRITE = "write"
    """Committing shards."""


class Effort:
    """What was spent so far. Several threads may add to it."""

    def __init__(self) -> None:
        self.seconds: dict[Step, float] = dict.fromkeys(Step, 0.0)
        self.batches = 0
        self.positions = 0
        self.tokens_real = 0
        self.tokens_computed = 0
        self.load_seconds = 0.0
        """What loading the teacher took; of several processes, the slowest."""
        self.first_commit: float | None = None
        """When the first shard was committed, by this machine's steady clock."""
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, step: Step) -> Iterator[None]:
        """Count the time of a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spend(step, time.perf_counter() - began)

    def spend(self, step: Step, seconds: float) -> None:
        """Another so many seconds went into a step."""
        with self._lock:
            self.seconds[step] += seconds

    def committed(self) -> None:
        """A shard was committed."""
        with self._lock:
            if self.first_commit is None:
                self.first_commit = time.monotonic()

    def count(self, positions: int, real: int, computed: int) -> None:
        """Another batch went through the teacher.

        Args:
            positions: that are there.
            real: tokens, or samples where inputs have one shape, that are there.
            computed: the same with padding.
        """
        with self._lock:
            self.batches += 1
            self.positions += positions
            self.tokens_real += real
            self.tokens_computed += computed

    def merge(self, other: Effort) -> None:
        """Add what another process spent."""
        with self._lock:
            for step, seconds in other.seconds.items():
                self.seconds[step] += seconds
            self.batches += other.batches
            self.positions += other.positions
            self.tokens_real += other.tokens_real
            self.tokens_computed += other.tokens_computed
            self.load_seconds = max(self.load_seconds, other.load_seconds)
            known = [at for at in (self.first_commit, other.first_commit) if at is not None]
            self.first_commit = min(known, default=None)

    def take(self) -> Effort:
        """What was spent since the last time this was asked."""
        taken = Effort()
        with self._lock:
            taken.__dict__.update(
                seconds=self.seconds,
                batches=self.batches,
                positions=self.positions,
                tokens_real=self.tokens_real,
                tokens_computed=self.tokens_computed,
                load_seconds=self.load_seconds,
                first_commit=self.first_commit,
            )
            self.seconds = dict.fromkeys(Step, 0.0)
            self.batches = self.positions = self.tokens_real = self.tokens_computed = 0
        return taken

    def shares(self) -> dict[str, float]:
        """The share of each step in the time of all of them."""
        total = sum(self.seconds.values())
        return {
            step.value: seconds / total if total else 0.0 for step, seconds in self.seconds.items()
        }

    @property
    def slowest(self) -> Step:
        """The step that took longest."""
        return max(self.seconds, key=lambda step: self.seconds[step])

    @property
    def real_share(self) -> float:
        """The share of real tokens among those that the teacher computed."""
        return self.tokens_real / self.tokens_computed if self.tokens_computed else 1.0

    def said(self) -> str:
        """The shares in words, the largest first; what is below a half percent is left out."""
        shares = sorted(self.shares().items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__.copy()
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
