"""Which epoch is the best so far, and whether it is worth to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from tasks.checkpoints import copied
from tasks.training_options import EarlyStopping, TrainingOptions


class Watch:
    """Compares the epochs of one phase by a figure of the validation split.

    Attributes:
        stopped: whether training is to end.
        best: the best epoch's `step`, `epoch`, `value` and, where they are kept, `weights`; empty
            before the first.
    """

    def __init__(self, training: TrainingOptions) -> None:
        self.stopped = False
        self.best: dict[str, Any] = {}
        self._stopping: EarlyStopping | None = training.early_stopping
        self._metric = training.metric
        self._keeps = training.keep == "best"
        self._sign = -1.0 if self._metric.endswith("loss") else 1.0
        self._reference = -math.inf
        self._waited = 0

    def see(self, figures: Mapping[str, float], model: nn.Module, step: int, epoch: int) -> None:
        """An epoch is over; of equal ones the first is best."""
        value = figures[self._metric]
        if not self.best or self._sign * (value - self.best["value"]) > 0:
            self.best = {"step": step, "epoch": epoch, "value": value}
            if self._keeps:
                self.best["weights"] = copied(model.state_dict())
        if self._stopping is None:
            return
        if self._sign * value - self._reference > self._stopping.min_delta:
            self._reference = self._sign * value
            self._waited = 0
        else:
            self._waited += 1
        self.stopped = self._waited >= self._stopping.patience

    def put_best(self, model: nn.Module) -> None:
        """Give a model the best weights, where these are kept."""
        if "weights" in self.best:
            model.load_state_dict(self.best["weights"])

    def state(self) -> dict[str, Any]:
        """All that it goes on from."""
        return {
            "stopped": self.stopped,
            "best": dict(self.best),
            "reference": self._reference,
            "waited": self._waited,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.stopped = state["stopped"]
        self.best = dict(state["best"])
        self._reference, self._waited = state["reference"], state["waited"]
