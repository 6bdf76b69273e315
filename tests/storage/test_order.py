import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import storage.order
from storage.order import Order, permutation

ROOT = Path(storage.order.__file__).parents[1]
SIZES = st.lists(st.integers(0, 9), max_size=8).map(tuple)
WINDOWS = st.integers(1, 10)
GOLDEN = [1, 7, 6, 5, 0, 2, 3, 4]


def order(group_sizes=(3, 2, 3), seed=0, window=2, digest="d", shuffle=True):
    return Order(digest, tuple(group_sizes), seed, window, shuffle)


def places(an_order: Order, epoch: int = 0, skip: int = 0) -> list[int]:
    """The stored places of an epoch's samples, in their order."""
    starts = np.cumsum((0, *an_order.group_sizes))
    found: list[int] = []
    for window in an_order.windows(epoch, skip):
        joined = [
            place for group in window.groups for place in range(starts[group], starts[group + 1])
        ]
        found += [joined[row] for row in window.rows]
    return found


@given(SIZES, WINDOWS, st.integers(), st.integers(0, 99))
def test_every_sample_comes_once(sizes, window, seed, epoch):
    an_order = order(sizes, seed, window)
    assert sorted(places(an_order, epoch)) == list(range(an_order.num_samples))


@given(SIZES, WINDOWS)
def test_the_windows_cover_every_row_group_once(sizes, window):
    groups = [window.groups for window in order([size + 1 for size in sizes], 0, window).windows(0)]
    assert sorted(sum(groups, ())) == list(range(len(sizes)))
    assert all(len(chosen) <= window for chosen in groups)


@given(SIZES, WINDOWS, st.integers(0, 3))
def test_skipping_n_is_dropping_the_first_n(sizes, window, epoch):
    an_order = order(sizes, window=window)
    whole = places(an_order, epoch)
    for skip in range(len(whole) + 2):
        assert places(an_order, epoch, skip) == whole[skip:]


def test_what_is_skipped_is_not_read():
    an_order = order((4,) * 6, window=2)
    assert len(list(an_order.windows(0, skip=8))) == 2
    assert len(list(an_order.windows(0, skip=9))) == 2
    assert list(an_order.windows(0, skip=24)) == []


@given(SIZES, WINDOWS, st.integers(0, 3))
def test_without_shuffling_it_is_the_stored_order(sizes, window, epoch):
    an_order = order(sizes, window=window, shuffle=False)
    assert places(an_order, epoch) == list(range(an_order.num_samples))


def test_it_is_pure():
    assert places(order(), 3) == places(order(), 3)


@pytest.mark.parametrize("other", [{"seed": 1}, {"digest": "e"}])
def test_another_seed_or_digest_gives_another_order(other):
    sizes = (10,) * 5
    assert places(order(sizes)) != places(order(sizes, **other))


def test_another_epoch_gives_another_order():
    an_order = order((10,) * 5)
    orders = {tuple(places(an_order, epoch)) for epoch in range(20)}
    assert len(orders) == 20


def test_row_groups_and_rows_are_both_shuffled():
    found = places(order((10,) * 10, window=1))
    groups = [place // 10 for place in found[::10]]
    assert groups != sorted(groups)
    assert found[:10] != sorted(found[:10])


def test_rows_are_mixed_within_a_window():
    found = places(order((100, 100), window=2))
    first_half = [place // 100 for place in found[:100]]
    assert 30 < sum(first_half) < 70


def test_no_place_is_favoured():
    first = [places(order((5,) * 4, seed, window=4))[0] for seed in range(2000)]
    assert np.bincount(first, minlength=20).min() > 60
    assert np.bincount(first, minlength=20).max() < 145


def test_it_stays_the_same_over_versions():
    assert places(order((3, 2, 3), seed=7, window=2, digest="golden"), epoch=1) == GOLDEN


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_another_process_finds_the_same(hash_seed):
    script = (
        "import json; from storage.order import Order, permutation;"
        "order = Order('d', (30, 20, 30), 5, 2);"
        "print(json.dumps([window.rows.tolist() for window in order.windows(4)]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
        timeout=60,
    )
    here = [window.rows.tolist() for window in order((30, 20, 30), 5).windows(4)]
    assert json.loads(process.stdout) == here


@given(st.integers(0, 1000), st.text(max_size=5))
def test_a_permutation_holds_every_number_once(length, key):
    found = permutation(length, key)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(length))


def test_an_empty_set_has_no_windows():
    assert list(order(()).windows(0)) == []
    assert order(()).num_samples == 0
