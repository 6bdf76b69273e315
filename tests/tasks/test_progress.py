"""Progress: told to whoever listens, from begin to end, whatever happens."""

import pytest

from tasks.progress import Progress, listening, relaying, track


def test_each_step_is_told():
    told = []
    with listening(told.append), track("label", 10, "rows") as work:
        work.advance(3)
        work.advance(4, "loss 0.5")
        work.advance(3)
    assert [progress.done for progress in told] == [0, 3, 7, 10, 10]
    assert [progress.note for progress in told] == ["", "", "loss 0.5", "loss 0.5", "loss 0.5"]
    assert [progress.ended for progress in told] == [False] * 4 + [True]
    assert {(progress.title, progress.total, progress.unit) for progress in told} == {
        ("label", 10, "rows")
    }
    assert told[-1].seconds >= told[0].seconds >= 0


def test_the_end_is_told_when_work_fails():
    told = []
    with listening(told.append), pytest.raises(ZeroDivisionError), track("label", 1, "rows"):
        raise ZeroDivisionError
    assert told[-1].ended
    assert told[-1].done == 0


def test_pieces_of_work_are_told_apart():
    told = []
    with listening(told.append), track("a", 1, "rows") as outer, track("b", 1, "rows") as inner:
        inner.advance(1)
        outer.advance(1)
    assert len({progress.number for progress in told}) == 2
    assert {progress.title: progress.done for progress in told} == {"a": 1, "b": 1}


def test_all_who_listen_are_told_and_only_while_they_do():
    one, two = [], []
    with track("label", 2, "rows") as work:
        with listening(one.append):
            with listening(two.append):
                work.advance(1)
            work.advance(1)
        work.advance(1)
    assert [progress.done for progress in one] == [1, 2]
    assert [progress.done for progress in two] == [1]


def test_a_listener_that_raises_is_forgotten():
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listening(stop), track("label", 1, "rows"):
        pass
    with track("label", 1, "rows") as work:
        work.advance(1)


def test_the_rate():
    assert Progress(0, "label", "rows", 10, done=6, seconds=2.0).per_second == 3.0
    assert Progress(0, "label", "rows", 10).per_second == 0.0


def test_what_was_done_before_is_no_work_of_now():
    told = []
    with listening(told.append), track("fit", 10, "steps", done=6) as work:
        work.advance(1)
    assert [progress.done for progress in told] == [6, 7, 7]
    assert Progress(0, "fit", "steps", 10, done=7, seconds=2.0, before=6).per_second == 0.5


def test_a_rate_may_be_told_in_something_finer():
    told = []
    with listening(told.append), track("fit", 10, "steps", finer="samples") as work:
        work.advance(1, "", 64)
        work.advance(1, "", 30)
    assert told[-1].finer_done == 94
    said = Progress(0, "fit", "steps", 10, done=2, seconds=2.0, finer="samples", finer_done=3000)
    assert said.rate == "1,500 samples/s"
    assert Progress(0, "label", "rows", 10, done=6, seconds=2.0).rate == "3/s"


def test_what_another_process_says_is_told_here_under_a_number_of_its_own():
    told = []
    with listening(told.append), track("here", 1, "steps") as here, relaying() as tell:
        tell(Progress(here.progress.number, "there", "steps", 4, done=1))
        tell(Progress(here.progress.number, "there", "steps", 4, done=2))
    there = [progress for progress in told if progress.title == "there"]
    assert [(progress.done, progress.ended) for progress in there] == [
        (1, False),
        (2, False),
        (2, True),
    ]
    assert len({progress.number for progress in there} | {here.progress.number}) == 2
