"""Augmentation: the same bits in every batch, and what each step does, worked out another way.

Shape letters: B samples, H rows, W columns.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from storage.augment_options import AugmentStep
from tasks.nn import augment as module
from tasks.nn.augment import augment
from tasks.nn.hashed import Draws, mix64, normal
from tests.storage import format_views

STEP = TypeAdapter(AugmentStep)
IMAGE_STEPS = [
    {"kind": "flip"},
    {"kind": "flip", "axis": "vertical", "p": 0.7},
    {"kind": "crop", "padding": 2},
    {"kind": "crop", "padding": 3, "fill": "reflect", "p": 0.8},
    {"kind": "shift", "by": [1, 3], "fill": "wrap"},
    {"kind": "shift", "by": [9]},
    {"kind": "rotate"},
    {"kind": "erase", "size": [2, 3], "value": 7},
    {"kind": "drop", "p": 0.3, "value": 1},
]
NUMBER_STEPS = [
    {"kind": "brightness", "amount": 0.4},
    {"kind": "contrast", "amount": 0.9, "p": 0.5},
    {"kind": "contrast", "amount": 0.5, "middle": 3, "clip": [1, 100]},
    {"kind": "gain", "decibels": 12},
    {"kind": "noise", "deviation": 20.0},
]
LIST_STEPS = [
    {"kind": "shift", "by": [3]},
    {"kind": "shift", "by": [40], "fill": "wrap", "p": 0.6},
    {"kind": "drop", "p": 0.5, "value": 2},
]
DTYPES = [torch.uint8, torch.int8, torch.int16, torch.float16, torch.float32]
SEEDS = st.integers(-(2**63), 2**63 - 1).filter(bool)


def parsed(options: dict) -> AugmentStep:
    return STEP.validate_python(options)


def images(count: int, dtype: torch.dtype = torch.uint8, shape=(3, 5, 5)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 120, (count, *shape), generator=generator).to(dtype)


def seeds_of(count: int) -> torch.Tensor:
    return mix64(torch.arange(1, count + 1))


def changed(values, step, seed_B=None, place=0, lengths_B=None):
    seed_B = seeds_of(len(values) if lengths_B is None else len(lengths_B))
    return augment(values, seed_B, [(place, parsed(step))], lengths_B)


@given(
    steps=st.lists(st.sampled_from(IMAGE_STEPS + NUMBER_STEPS), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    seeds=st.lists(SEEDS, min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=150)
def test_a_view_is_the_same_in_every_batch(steps, dtype, seeds, order):
    values = images(len(seeds), dtype)
    numbered = [(place, parsed(step)) for place, step in enumerate(steps)]
    seed_B = torch.tensor(seeds)
    whole = augment(values, seed_B, numbered)
    assert whole.dtype == dtype
    assert whole.shape == values.shape
    assert torch.equal(values, images(len(seeds), dtype))
    assert torch.equal(augment(values, seed_B, numbered), whole)
    chosen = order.sample(range(len(seeds)), order.randint(1, len(seeds)))
    assert torch.equal(augment(values[chosen], seed_B[chosen], numbered), whole[chosen])
    for place in range(len(seeds)):
        alone = augment(values[place : place + 1], seed_B[place : place + 1], numbered)
        assert torch.equal(alone[0], whole[place])


@given(
    steps=st.lists(st.sampled_from(LIST_STEPS + NUMBER_STEPS), min_size=1, max_size=3),
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6),
)
@settings(max_examples=100)
def test_a_view_of_a_list_is_that_of_a_sample_of_that_shape(steps, lengths):
    numbered = [(place, parsed(step)) for place, step in enumerate(steps)]
    values = images(1, torch.float32, (sum(lengths),))[0]
    seed_B = seeds_of(len(lengths))
    whole = augment(values, seed_B, numbered, torch.tensor(lengths))
    assert whole.shape == values.shape
    for place, (own, view) in enumerate(
        zip(values.split(lengths), whole.split(lengths), strict=True)
    ):
        alone = augment(own[None], seed_B[place : place + 1], numbered)[0]
        assert torch.equal(alone, view)


@pytest.mark.parametrize("step", IMAGE_STEPS + NUMBER_STEPS)
def test_pieces_do_not_show(monkeypatch, step):
    values = images(30, torch.float32)
    whole = changed(values, step)
    monkeypatch.setattr(module, "_PIECE", 200)
    assert torch.equal(changed(values, step), whole)


def test_pieces_of_lists_do_not_show(monkeypatch):
    lengths_B = torch.tensor([3, 0, 9, 1, 4, 4])
    values = images(1, torch.float32, (21,))[0]
    for step in LIST_STEPS + NUMBER_STEPS:
        whole = changed(values, step, lengths_B=lengths_B)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_PIECE", 10)
            assert torch.equal(changed(values, step, lengths_B=lengths_B), whole)


@pytest.mark.parametrize("step", IMAGE_STEPS + NUMBER_STEPS)
def test_a_seed_of_zero_is_the_sample_as_it_is(step):
    values = images(4, torch.float32)
    seed_B = torch.tensor([0, 5, 0, 9])
    found = augment(values, seed_B, [(0, parsed(step))])
    assert torch.equal(found[::2], values[::2])


@pytest.mark.parametrize("step", IMAGE_STEPS + NUMBER_STEPS)
def test_other_seeds_and_other_places_of_a_step_make_other_views(step):
    values = images(40, torch.float32)
    first = changed(values, step)
    assert not torch.equal(first, values)
    assert not torch.equal(changed(values, step, place=1), first)
    assert not torch.equal(augment(values, seeds_of(41)[1:], [(0, parsed(step))]), first)


@pytest.mark.parametrize("step", IMAGE_STEPS[:7])
def test_a_step_that_is_never_taken_changes_nothing(step):
    values = images(9)
    assert torch.equal(changed(values, step | {"p": 0.0}), values)


@pytest.mark.parametrize("step", NUMBER_STEPS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_whole_numbers_stay_within_their_type(step, dtype):
    values = torch.full((50, 8), torch.iinfo(dtype).max, dtype=dtype)
    values[::2] = torch.iinfo(dtype).min
    found = changed(values, step).double()
    limits = torch.iinfo(dtype)
    assert limits.min <= found.min()
    assert found.max() <= limits.max
    low, high = step.get("clip", (limits.min, limits.max))
    assert low <= found.min()
    assert found.max() <= high


@given(
    steps=st.lists(st.sampled_from(IMAGE_STEPS + NUMBER_STEPS), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    seed=SEEDS,
)
@settings(max_examples=300)
def test_another_implementation_of_the_document_makes_the_same_bits(steps, dtype, seed):
    values = images(1, dtype)
    parsed_steps = [parsed(step) for step in steps]
    found = augment(values, torch.tensor([seed]), list(enumerate(parsed_steps)))[0].numpy()
    said = [step.model_dump(mode="json") for step in parsed_steps]
    expected = format_views.view_of(values[0].numpy(), found.dtype, seed, said)
    assert found.tobytes() == expected.tobytes()


class TestSteps:
    """Each step on 200 samples against numpy, with the random numbers of the document."""

    count = 200

    @pytest.fixture
    def values(self):
        return images(self.count, torch.float32)

    def draws(self):
        return Draws.of(seeds_of(self.count), 3)

    def each(self, values, step):
        found = changed(values, step, place=3)
        return zip(values.numpy(), found.numpy(), strict=True)

    def test_flip(self, values):
        taken = self.draws().uniform_B(0) < 0.5
        assert 70 < int(taken.sum()) < 130
        for flip, (old, new) in zip(taken, self.each(values, {"kind": "flip"}), strict=True):
            assert np.array_equal(new, old[:, :, ::-1] if flip else old)
        step = {"kind": "flip", "axis": "vertical", "p": 1}
        for old, new in self.each(values, step):
            assert np.array_equal(new, old[:, ::-1])

    @pytest.mark.parametrize(
        ("fill", "mode"), [("zero", "constant"), ("reflect", "reflect"), ("wrap", "wrap")]
    )
    def test_crop_is_a_part_of_the_padded_image(self, values, fill, mode):
        rows, columns = (self.draws().below_B(counter, 5).tolist() for counter in (1, 2))
        assert {*rows} == {*columns} == {0, 1, 2, 3, 4}
        step = {"kind": "crop", "padding": 2, "fill": fill}
        for row, column, (old, new) in zip(rows, columns, self.each(values, step), strict=True):
            padded = np.pad(old, ((0, 0), (2, 2), (2, 2)), mode=mode)
            top, left = 4 - row, 4 - column
            assert np.array_equal(new, padded[:, top : top + 5, left : left + 5])

    def test_shift_beyond_the_end_leaves_nothing(self, values):
        offsets = self.draws().below_B(1, 19) - 9
        for offset, (old, new) in zip(
            offsets.tolist(), self.each(values, {"kind": "shift", "by": [9]}), strict=True
        ):
            expected = np.zeros_like(old)
            for place in range(5):
                if 0 <= place - offset < 5:
                    expected[:, :, place] = old[:, :, place - offset]
            assert np.array_equal(new, expected)

    def test_rotate(self, values):
        quarters = self.draws().below_B(1, 4).tolist()
        assert {*quarters} == {0, 1, 2, 3}
        for quarter, (old, new) in zip(
            quarters, self.each(values, {"kind": "rotate"}), strict=True
        ):
            assert np.array_equal(new, np.rot90(old, quarter, axes=(1, 2)))

    def test_erase(self, values):
        tops, lefts = self.draws().below_B(1, 4), self.draws().below_B(2, 3)
        step = {"kind": "erase", "size": [2, 3], "value": -1}
        for top, left, (old, new) in zip(tops, lefts, self.each(values, step), strict=True):
            expected = old.copy()
            expected[:, top : top + 2, left : left + 3] = -1
            assert np.array_equal(new, expected)

    def test_brightness_contrast_and_gain(self, values):
        number = self.draws().uniform_B(1).numpy()
        around = ((number * 2 - 1) * 0.25 + 1).astype(np.float32)
        for factor, (old, new) in zip(
            around, self.each(values, {"kind": "brightness", "amount": 0.25}), strict=True
        ):
            assert np.array_equal(new, old * factor)
        step = {"kind": "contrast", "amount": 0.25, "middle": 60}
        for factor, (old, new) in zip(around, self.each(values, step), strict=True):
            assert np.array_equal(new, (old - np.float32(60)) * factor + np.float32(60))
        for uniform, (old, new) in zip(
            number, self.each(values, {"kind": "gain", "decibels": 6}), strict=True
        ):
            factor = np.float32(10 ** ((uniform * 2 - 1) * 6 / 20))
            assert np.array_equal(new, old * factor)
            assert 0.5 <= factor <= 2

    def test_noise(self, values):
        place = torch.arange(75)
        for row, (old, new) in enumerate(self.each(values, {"kind": "noise", "deviation": 2.5})):
            words = mix64(self.draws().key_B[row] + 16 + place)
            noise = normal(words).numpy().reshape(3, 5, 5) * np.float32(2.5)
            assert np.array_equal(new, old + noise)

    def test_halves_become_the_even_number(self):
        values = torch.arange(256).to(torch.uint8).repeat(4, 1)
        step = {"kind": "brightness", "amount": 0.5}
        number = Draws.of(seeds_of(4), 0).uniform_B(1)
        factor = ((number * 2 - 1) * 0.5 + 1).float().numpy()[:, None]
        expected = np.clip(np.rint(values.numpy().astype(np.float32) * factor), 0, 255)
        assert np.array_equal(changed(values, step).numpy(), expected.astype(np.uint8))

    def test_drop_and_token_drop(self):
        tokens = torch.arange(5000).reshape(10, 500) + 10
        found = changed(tokens, {"kind": "token_drop", "p": 0.2, "id": 3})
        share = float((found == 3).double().mean())
        assert 0.17 < share < 0.23
        assert torch.equal(found[found != 3], tokens[found != 3])
        same = changed(tokens, {"kind": "drop", "p": 0.2, "value": 3})
        assert torch.equal(same, found)
        assert torch.equal(changed(tokens, {"kind": "drop", "p": 0.0}), tokens)
        assert not changed(tokens, {"kind": "drop", "p": 1.0}).any()


@pytest.mark.gpu
@pytest.mark.parametrize("step", IMAGE_STEPS + NUMBER_STEPS)
def test_cuda_makes_the_same_bits(step):
    values, seed_B = images(64, torch.float32), seeds_of(64)
    there = augment(values.cuda(), seed_B.cuda(), [(0, parsed(step))])
    assert torch.equal(there.cpu(), augment(values, seed_B, [(0, parsed(step))]))
