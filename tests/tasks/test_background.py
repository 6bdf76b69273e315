"""Steps that overlap: order, bounds, errors, and no thread left."""

import threading

import pytest

from tasks.background import Ahead, Behind


def threads(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_items_come_in_order():
    with Ahead(range(100), 3, "ahead") as ahead:
        assert list(ahead) == list(range(100))
    assert threads("ahead") == []


def test_it_runs_ahead_by_no_more_than_it_may():
    taken = []
    reached = threading.Event()

    def items():
        for number in range(50):
            taken.append(number)
            if number == 4:
                reached.set()
            yield number

    with Ahead(items(), 3, "ahead") as ahead:
        iterator = iter(ahead)
        assert next(iterator) == 0
        assert reached.wait(5)  # the one that was given, three that wait, one that cannot be put
        assert len(taken) == 5
    assert threads("ahead") == []
    assert len(taken) <= 6


def test_what_the_iterable_raises_comes_after_what_it_gave():
    def items():
        yield 1
        raise KeyError("gone")

    with Ahead(items(), 2, "ahead") as ahead:
        iterator = iter(ahead)
        assert next(iterator) == 1
        with pytest.raises(KeyError):
            next(iterator)


def test_an_iterable_stands_where_it_was_left():
    source = iter(range(100))
    with Ahead(source, 1, "ahead") as ahead:
        next(iter(ahead))
    left = next(source)
    assert 1 <= left <= 4


def test_work_is_done_in_order_while_the_caller_goes_on():
    with Behind(lambda number: number * 2, 2, "behind") as behind:
        for number in range(20):
            behind.put(number)
        behind.finish()
        assert list(behind.results()) == [number * 2 for number in range(20)]
    assert threads("behind") == []


def test_all_that_was_given_is_done_even_when_the_caller_fails():
    done = []

    def fail():
        with Behind(done.append, 5, "behind") as behind:
            for number in range(5):
                behind.put(number)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert done == list(range(5))
    assert threads("behind") == []


def test_a_flush_waits_and_more_may_follow():
    done = []
    with Behind(done.append, 5, "behind") as behind:
        behind.put(1)
        behind.flush()
        assert done == [1]
        behind.put(2)
        behind.finish()
    assert done == [1, 2]


def test_after_an_error_nothing_more_is_done():
    done = []

    def work(number):
        if number == 1:
            raise OSError("disk")
        done.append(number)

    with Behind(work, 10, "behind") as behind:
        for number in range(2):
            behind.put(number)
        with pytest.raises(OSError, match="disk"):
            behind.flush()
        with pytest.raises(OSError, match="disk"):
            behind.put(2)
        with pytest.raises(OSError, match="disk"):
            behind.finish()
    assert done == [0]
