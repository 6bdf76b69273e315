"""Where the time went: steps, shares and words."""

import pickle

from tasks.effort import Effort, Step


def spent() -> Effort:
    effort = Effort()
    effort.spend(Step.FORWARD, 9.0)
    effort.spend(Step.TOP_K, 0.75)
    effort.spend(Step.WRITE, 0.25)
    effort.count(10, 30, 40)
    return effort


def test_shares_sum_to_one_and_the_slowest_is_named():
    effort = spent()
    assert effort.shares() == {
        "read": 0, "wait": 0, "forward": 0.9, "top-k": 0.075, "copy": 0, "encode": 0,
        "write": 0.025,
    }  # fmt: skip
    assert effort.slowest is Step.FORWARD
    assert effort.said() == "forward 90%, top-k 8%, write 2%"
    assert effort.real_share == 0.75


def test_nothing_spent():
    assert set(Effort().shares().values()) == {0.0}
    assert Effort().real_share == 1.0
    assert Effort().said() == ""


def test_what_is_taken_is_gone_and_can_be_sent():
    effort = spent()
    taken = pickle.loads(pickle.dumps(effort.take()))
    assert (effort.batches, effort.positions, sum(effort.seconds.values())) == (0, 0, 0.0)
    effort.merge(taken)
    effort.merge(taken)
    assert (effort.batches, effort.positions) == (2, 20)
    assert effort.seconds[Step.FORWARD] == 18.0


def test_time_is_counted_even_when_the_work_fails():
    effort = Effort()
    try:
        with effort.timed(Step.READ):
            raise KeyError
    except KeyError:
        pass
    assert effort.seconds[Step.READ] > 0
