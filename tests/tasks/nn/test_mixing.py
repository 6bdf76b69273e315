"""Mixtures of teachers against float64, with masked classes, peaks and blocks of rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.nn import mixing
from tasks.nn.mixing import Mixture
from tasks.teacher_options import Mix

INF = float("inf")


def mixture(members, shares, mix):
    made = Mixture(mix)
    for logits, share in zip(members, shares, strict=True):
        made.add(logits, share)
    return made.logit_PC


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def reference(members, shares, mix):
    """float64, and for probabilities by the plain definition around the largest member."""
    with np.errstate(divide="ignore"):
        if mix is Mix.LOGITS:
            return sum(share * z for z, share in zip(members, shares, strict=True))
        parts = np.stack(
            [log_softmax(z) + np.log(share) for z, share in zip(members, shares, strict=True)]
        )
        top = parts.max(axis=0)
        safe = np.where(np.isneginf(top), 0.0, top)
        return safe + np.log(np.exp(parts - safe).sum(axis=0))


@st.composite
def teams(draw):
    count, rows, classes = (draw(st.integers(low, 5)) for low in (2, 1, 2))
    scale = draw(st.sampled_from([0.1, 5.0, 300.0]))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    members = generator.normal(0, scale, (count, rows, classes)).astype(np.float32)
    members[:, :, 1:][
        generator.random((count, rows, classes - 1)) < draw(st.sampled_from([0, 0.4]))
    ] = -INF
    weights = generator.random(count) + 0.01
    return list(members), list(weights / weights.sum())


@given(teams(), st.sampled_from(list(Mix)))
def test_it_is_the_mean_in_float64(team, mix):
    members, shares = team
    found = mixture([torch.from_numpy(z) for z in members], shares, mix)
    assert found.dtype == torch.float32
    expected = reference([z.astype(np.float64) for z in members], shares, mix)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6, atol=1e-5)


@given(teams())
def test_probabilities_sum_to_one(team):
    members, shares = team
    found = mixture([torch.from_numpy(z) for z in members], shares, Mix.PROBABILITIES)
    np.testing.assert_allclose(found.double().exp().sum(dim=1).numpy(), 1.0, rtol=1e-5)


def test_a_tail_far_below_the_smallest_float32_is_exact():
    """-150 and -200 nats: the probabilities themselves would be 0 in float32."""
    members = [torch.tensor([[0.0, -150.0]]), torch.tensor([[0.0, -200.0]])]
    found = mixture(members, [0.25, 0.75], Mix.PROBABILITIES)
    torch.testing.assert_close(found, torch.tensor([[0.0, -150.0 + math.log(0.25)]]))


@pytest.mark.parametrize("mix", list(Mix))
def test_what_becomes_of_a_masked_class(mix):
    """Masked by both members, by one, by none; in logit space one is enough."""
    members = [torch.tensor([[-INF, -INF, 0.0]]), torch.tensor([[-INF, 2.0, 1.0]])]
    found = mixture(members, [0.5, 0.5], mix)[0]
    assert found[0] == -INF
    assert torch.isfinite(found[2])
    assert torch.isneginf(found[1]) == (mix is Mix.LOGITS)


@pytest.mark.parametrize("mix", list(Mix))
@pytest.mark.parametrize("bad", [[float("nan"), 0.0], [INF, 0.0], [INF, -INF]])
def test_a_bad_row_stays_bad_and_alone(mix, bad):
    good = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    broken = good.clone()
    broken[1] = torch.tensor(bad)
    found = mixture([good, broken], [0.5, 0.5], mix)
    assert torch.isfinite(found[0]).all()
    assert not torch.isfinite(found[1].amax())


@pytest.mark.parametrize("mix", list(Mix))
def test_blocks_of_rows_change_nothing(mix, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    members = [torch.randn(13, 7, generator=generator) for _ in range(3)]
    shares = [0.5, 0.25, 0.25]
    whole = mixture(members, shares, mix)
    monkeypatch.setattr(mixing, "_BLOCK_ELEMENTS", 20)
    torch.testing.assert_close(mixture(members, shares, mix), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mix", list(Mix))
def test_members_are_left_as_they_are_and_may_be_of_any_float(mix):
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    half = torch.randn(4, 5, generator=generator).to(torch.bfloat16)
    before = [wide.clone(), half.clone()]
    found = mixture([wide, half], [0.5, 0.5], mix)
    assert torch.equal(wide, before[0])
    assert torch.equal(half, before[1])
    expected = reference([wide.numpy(), half.double().numpy()], [0.5, 0.5], mix)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_nothing_mixed_is_an_error():
    with pytest.raises(ValueError, match="nothing is mixed"):
        _ = Mixture(Mix.LOGITS).logit_PC
