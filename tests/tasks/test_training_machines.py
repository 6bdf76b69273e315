"""Several machines, which are processes here: they meet, go on together, and end together."""

import json
import multiprocessing
import socket

import pytest
import torch

from storage.errors import ModelError
from tasks.rendezvous_options import RendezvousOptions
from tasks.training_group import Group, train_together
from tests.tasks.trainings import Adding, Misbehaving

pytestmark = pytest.mark.slow


def machine(connection, training, count, port, tries):
    """One of two machines, in a process of its own."""
    group = Group(
        "toy",
        "students.toy",
        [torch.device("cpu")] * count,
        RendezvousOptions(machines=2, endpoint=f"localhost:{port}"),
        wait_seconds=30,
        tries=tries,
    )
    told, failed = [], None
    try:
        train_together(training, group, told.append)
    except ModelError as error:
        failed = str(error)
    connection.send((told, failed))


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class Machine:
    def __init__(self, training, count, port, tries=1):
        context = multiprocessing.get_context("spawn")
        self.ours, theirs = context.Pipe()
        arguments = (theirs, training, count, port, tries)
        self.process = context.Process(target=machine, args=arguments)
        self.process.start()
        theirs.close()

    def told(self):
        told, failed = self.ours.recv()
        self.process.join()
        assert failed is None, told
        return told


def test_machines_meet(tmp_path, port):
    both = [Machine(Adding(tmp_path), count, port) for count in (1, 2)]
    assert [one.told() for one in both] == [[], []]
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [one["rank"] for one in found] == [0, 1, 2]
    assert {tuple(one["sum"]) for one in found} == {(3, 30)}


def test_a_rank_that_dies_on_one_machine_is_tried_again_on_both(tmp_path, port):
    training = Misbehaving("die", tmp_path / "once")
    both = [Machine(training, 1, port, tries=2) for _ in range(2)]
    said = sorted(one.told() for one in both)
    assert len(said[0]) == len(said[1]) == 1
    assert "a rank on another machine gave no sign or has ended" in said[0][0]
    assert "the process of rank 1 was ended by SIGKILL" in said[1][0]


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("early", [False, True])
def test_a_machine_that_was_killed_is_started_again(tmp_path, port, early, killed):
    """Early: while the others still train, so that there is no room for it yet."""
    training = Misbehaving("hang", tmp_path / "once")
    both = [Machine(training, 1, port, tries=3) for _ in range(2)]
    while not (tmp_path / "once").exists():
        both[0].process.join(0.1)
    again = Machine(training, 1, port, tries=3) if early else None
    if again:
        again.process.join(8)  # long enough to have come to the meeting
    lost = both.pop(killed)
    lost.process.kill()
    lost.process.join()
    again = again or Machine(training, 1, port, tries=3)
    assert "gave no sign or has ended" in both[0].told()[0]
    again.told()


def test_who_comes_alone_waits_and_says_so(tmp_path, port):
    alone = Group(
        "toy",
        "students.toy",
        [torch.device("cpu")],
        RendezvousOptions(machines=2, endpoint=f"localhost:{port}"),
        wait_seconds=2,
    )
    with pytest.raises(ModelError, match=rf"expected 2 machines at localhost:{port} within 2 s"):
        train_together(Adding(tmp_path), alone, print)
