"""Processes that train together: what they share, how they end, and what is said of it."""

import json

import psutil
import pytest
import torch
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousConnectionError

from storage.errors import ModelError, NotFiniteError
from tasks import training_group
from tasks.progress import listening
from tasks.training_group import Group, train_together
from tests.tasks.interruption import Interruption
from tests.tasks.trainings import Adding, Misbehaving

CPU = torch.device("cpu")


def group(count=2, **changes):
    return Group("toy", "students.toy", [CPU] * count, **changes)


@pytest.fixture
def told():
    return []


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    left = psutil.Process().children(recursive=True)
    assert not [child for child in left if "resource_tracker" not in str(child.cmdline())]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_know_each_other_and_share_sums_and_gradients(tmp_path, told, count, capfd):
    seen = []
    with listening(seen.append):
        train_together(Adding(tmp_path), group(count), told.append)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(count)]
    assert [one["rank"] for one in found] == list(range(count))
    for one in found:
        assert one["world"] == count
        assert one["threads"] == max(1, torch.get_num_threads() // count)
        assert one["sum"] == [sum(range(count)), 10 * count]
        assert one["gather"] == [f"rank {rank}" for rank in range(count) for _ in range(rank)]
        assert one["any"] == [True, False]
        assert one["weight"] == found[0]["weight"]
        assert one["gradient"] == [[(count - 1) / 2] * 2]
        assert one["unused"]
    assert [(step.title, step.done, step.ended) for step in seen][-1] == ("adding", 3, True)
    assert told == []
    assert capfd.readouterr() == ("", "")


def test_an_error_of_ours_is_raised_as_it_was_and_not_tried_again(told, capfd):
    with pytest.raises(NotFiniteError, match=r"^students\.toy: step 3: the loss is nan$"):
        train_together(Misbehaving("raise"), group(tries=3), told.append)
    assert told == []
    assert capfd.readouterr() == ("", "")


def test_a_rank_that_dies_is_named_and_the_group_tried_again(tmp_path, told, capfd):
    train_together(Misbehaving("die", tmp_path / "once"), group(tries=2), told.append)
    assert told == [
        "students.toy: the process of rank 1 was ended by SIGKILL (out of memory?); look at what "
        "it printed; trying again from the newest checkpoint"
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_what_else_fails_is_said_in_one_line(told):
    with pytest.raises(
        ModelError, match=r"^the process of rank 1 failed: RuntimeError: out of luck$"
    ):
        train_together(Misbehaving("crash"), group(), told.append)


@pytest.mark.slow
@pytest.mark.parametrize("misdeed", ["hang", "stop"])
def test_a_rank_that_hangs_ends_the_group(told, misdeed):
    with pytest.raises(ModelError, match=r"^students\.toy: rank 1 gave no sign .*Timed out"):
        train_together(Misbehaving(misdeed), group(wait_seconds=4), told.append)


def test_what_a_listener_raises_ends_the_ranks(tmp_path, told):
    def stop(progress):
        raise Interruption

    with listening(stop), pytest.raises(Interruption):
        train_together(Adding(tmp_path), group(), told.append)


@pytest.mark.gpu
def test_ranks_on_cuda_use_nccl(tmp_path, told):
    devices = [torch.device("cuda", place) for place in range(torch.cuda.device_count())]
    train_together(Adding(tmp_path), Group("toy", "students.toy", devices), told.append)
    assert len(list(tmp_path.glob("*.json"))) == len(devices)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["closed", "host is gone", "no result"])
def test_a_meeting_that_others_are_about_to_leave_is_tried_again(
    tmp_path, told, monkeypatch, words
):
    errors = {
        "closed": RendezvousClosedError(),
        "host is gone": RendezvousConnectionError(),
        "no result": AttributeError(name="is_failed", obj=None),
    }
    left = [errors[words]]
    launch = training_group.elastic_launch

    def stumbling(*given):
        if left:
            raise left.pop()
        return launch(*given)

    monkeypatch.setattr(training_group, "elastic_launch", stumbling)
    train_together(Adding(tmp_path), group(1), told.append)
    assert (tmp_path / "0.json").exists()
    assert told == []


def test_what_cannot_be_sent_to_a_process_fails_at_once(told):
    with pytest.raises(AttributeError, match="local object"):
        train_together(lambda **given: None, group(1, wait_seconds=100_000), told.append)
    assert told == []
