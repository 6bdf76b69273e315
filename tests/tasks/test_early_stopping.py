"""Epochs compared: which is the best, and when to stop."""

import pytest
import torch
from torch import nn

from tasks.early_stopping import Watch
from tasks.training_options import EarlyStopping, TrainingOptions


def watch_of(**changes):
    return TrainingOptions(**changes)


def seen(training, figures, metric="validation_loss"):
    """Where a watch stops, and which epoch it finds the best."""
    watch, model = Watch(training), nn.Linear(1, 1, bias=False)
    for epoch, value in enumerate(figures):
        nn.init.constant_(model.weight, epoch)
        watch.see({metric: value, "other": 0.0}, model, 10 * (epoch + 1), epoch)
        if watch.stopped:
            return epoch, watch
    return None, watch


@pytest.mark.parametrize(
    ("stopping", "figures", "end", "best"),
    [
        ({"patience": 1}, [3, 2, 2, 1], 2, 1),
        ({"patience": 2}, [3, 2, 2, 1, 1.5, 1.2, 0], 5, 3),
        ({"patience": 2}, [3, 2, 1, 0], None, 3),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.7, 1], 1, 1),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.7, 2.4, 2.3, 2.2], 4, 4),
        ({"patience": 1, "min_delta": 1.0}, [3, 2], 1, 1),
    ],
)
def test_it_stops_after_epochs_without_an_improvement(stopping, figures, end, best):
    training = TrainingOptions(early_stopping=EarlyStopping(**stopping))
    stopped, watch = seen(training, figures)
    assert stopped == end
    assert watch.best == {"step": 10 * (best + 1), "epoch": best, "value": figures[best]}


def test_of_accuracies_the_largest_is_best():
    stopping = EarlyStopping(patience=2, metric="validation_accuracy")
    training = TrainingOptions(early_stopping=stopping)
    stopped, watch = seen(training, [0.1, 0.5, 0.5, 0.4], "validation_accuracy")
    assert (stopped, watch.best["epoch"]) == (3, 1)


def test_the_best_weights_are_kept_and_put_back():
    _, watch = seen(TrainingOptions(keep="best"), [3, 1, 2])
    model = nn.Linear(1, 1, bias=False)
    watch.put_best(model)
    assert model.weight.item() == 1.0
    _, last = seen(TrainingOptions(), [3, 1, 2])
    nn.init.constant_(model.weight, 7.0)
    last.put_best(model)
    assert model.weight.item() == 7.0


def test_state_and_restore_go_on():
    training = TrainingOptions(keep="best", early_stopping=EarlyStopping(patience=2))
    _, first = seen(training, [3, 1, 2])
    second = Watch(training)
    second.restore(first.state())
    second.see({"validation_loss": 1.5}, nn.Linear(1, 1, bias=False), 40, 3)
    assert second.stopped
    assert second.best["epoch"] == 1
    assert torch.equal(second.best["weights"]["weight"], first.best["weights"]["weight"])
