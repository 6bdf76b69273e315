"""What is inside a student against what is inside its teacher: plain float64 loops say how much.

Shape letters: B samples, N positions, W width, H heads.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.feature_options import MatchOptions, matches_of
from tasks.nn.counts import Counts
from tasks.nn.match_losses import match_loss
from tasks.nn.places import Places
from tests.tasks.toy import batch_of

NUMBER = st.floats(-3, 3) | st.integers(-1, 1).map(float)


def the_match(kind="hidden", **said):
    if said.pop("pair", False):
        said["teacher"] = ["hidden.1", "hidden.2"]
    options = MatchOptions(**{"teacher": f"{kind}.1", **said})
    return matches_of([options], 3, None, "match")[0]


def batch_of_lengths(lengths, count, *, labelled):
    """Samples of so many real positions among `count`; labels are per position or per sample."""
    real_BN = torch.arange(count) < torch.tensor(lengths)[:, None]
    there_B = real_BN.any(dim=1)
    real_P = real_BN.reshape(-1) if labelled else there_B
    rows = len(real_P)
    batch = batch_of(torch.zeros(rows, 2), torch.zeros(rows, dtype=torch.int64), 1, (1.0,))
    ids = [f"sample-{place}" for place in range(len(lengths))]
    return dataclasses.replace(batch, real_P=real_P, sample_ids=ids), real_BN


@st.composite
def cases(draw, maps=False):
    """Features of both models, lengths (0 for a sample that is not there), and what is labelled."""
    lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    count = max(2, *lengths)
    width = draw(st.integers(1, 3))
    shape = (len(lengths), width, count, count) if maps else (len(lengths), count, width)

    def block():
        size = torch.Size(shape).numel()
        values = draw(st.lists(NUMBER, min_size=size, max_size=size))
        return torch.tensor(values, dtype=torch.float64).reshape(shape)

    return lengths, count, draw(st.booleans()), tuple(block() for _ in range(4))


def found(match, case, student):
    """The loss as the code gives it, and its gradient."""
    lengths, count, labelled, features = case
    batch, real_BN = batch_of_lengths(lengths, count, labelled=labelled)
    student = tuple(entry.detach().clone().requires_grad_() for entry in student)
    teacher = features[2 : 2 + len(student)]
    inside = None if labelled else real_BN
    places = Places.of(batch, Counts.of(batch), count, inside, torch.float64)
    value = match_loss(match, student, teacher, places)
    value.backward()
    return value.detach(), [entry.grad for entry in student], (batch, inside)


def averaged(case, of_position):
    """The mean of what each real position gives: over all of them, or sample by sample."""
    lengths, _, labelled, _ = case
    per_sample = [[of_position(b, n) for n in range(length)] for b, length in enumerate(lengths)]
    there = [values for values in per_sample if values]
    if not there:
        return 0.0
    if labelled:
        every = [value for values in there for value in values]
        return sum(every) / len(every)
    return sum(sum(values) / len(values) for values in there) / len(there)


def require_same(match, case, reference):
    """Value and gradient are those of a reference of the student's features."""
    student = case[3][: len(match.student)]
    value, gradients, _ = found(match, case, student)
    copies = tuple(entry.detach().clone().requires_grad_() for entry in student)
    wanted = reference(*copies) + sum(0.0 * entry.sum() for entry in copies)
    wanted.backward()
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-9, atol=1e-9)
    for gradient, entry in zip(gradients, copies, strict=True):
        torch.testing.assert_close(gradient, entry.grad, rtol=1e-9, atol=1e-9)


@given(cases())
@settings(max_examples=50)
def test_mse(case):
    teacher = case[3][2]
    require_same(
        the_match(),
        case,
        lambda ours: averaged(case, lambda b, n: ((ours[b, n] - teacher[b, n]) ** 2).mean()),
    )


@given(cases())
@settings(max_examples=50)
def test_cosine_is_that_of_torch(case):
    teacher = case[3][2]

    def of_position(ours, b, n):
        one = torch.ones(1)
        return F.cosine_embedding_loss(ours[b, n][None], teacher[b, n][None], one)

    require_same(
        the_match(loss="cosine"),
        case,
        lambda ours: averaged(case, lambda b, n: of_position(ours, b, n)),
    )


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("loss", ["gram", "mmd"])
@given(case=cases())
@settings(max_examples=30)
def test_products_are_compared_sample_by_sample(loss, pair, case):
    lengths, _, _, features = case
    match = the_match(loss=loss, pair=pair)

    def products(first, second):
        if loss == "gram":
            return first.T @ second / len(first)
        return first @ second.T / first.shape[1]

    def reference(*ours):
        total = torch.zeros((), dtype=torch.float64)
        for b, length in enumerate(lengths):
            if length:
                a, z = (entry[b, :length] for entry in (ours[0], ours[-1]))
                s, t = (entry[b, :length] for entry in (features[2], features[1 + len(ours)]))
                total = total + ((products(a, z) - products(s, t)) ** 2).mean()
        return total / max(sum(length > 0 for length in lengths), 1)

    require_same(match, case, reference)


def as_map(scores):
    return scores.softmax(dim=3)


@pytest.mark.parametrize("heads", ["each", "mean"])
@pytest.mark.parametrize("loss", ["mse", "ce"])
@given(case=cases(maps=True))
@settings(max_examples=30)
def test_rows_of_attention(loss, heads, case):
    lengths, count, labelled, features = case
    maps = (as_map(features[0]), features[1], as_map(features[2]), features[3])
    case = (lengths, count, labelled, maps)
    teacher = maps[2]

    def of_row(ours, b, n):
        keys = lengths[b]
        mine, theirs = (entry[b, :, n, :keys] for entry in (ours, teacher))
        if heads == "mean":
            mine, theirs = mine.mean(dim=0, keepdim=True), theirs.mean(dim=0, keepdim=True)
        if loss == "ce":
            return -(theirs * mine.log()).sum(dim=1).mean()
        return ((mine - theirs) ** 2).mean()

    require_same(
        the_match("attention", loss=loss, heads=heads),
        case,
        lambda ours: averaged(case, lambda b, n: of_row(ours, b, n)),
    )


@pytest.mark.parametrize(("labelled", "loss"), [(True, "mse"), (False, "mse"), (True, "mmd")])
def test_padding_may_hold_anything(labelled, loss):
    """Even what is not finite, on both sides: neither value nor gradient sees it."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 4, 3, generator=generator, dtype=torch.float64)
    case = ((2, 3), 4, labelled, (student, student, teacher, teacher))
    value, gradients, _ = found(the_match(loss=loss), case, (student,))
    student, teacher = student.clone(), teacher.clone()
    student[0, 2:], teacher[1, 3:] = torch.inf, torch.nan
    case = ((2, 3), 4, labelled, (student, student, teacher, teacher))
    again, same, _ = found(the_match(loss=loss), case, (student,))
    assert torch.equal(value, again)
    assert torch.equal(gradients[0], same[0])


def test_what_the_teacher_does_not_see_costs_nothing():
    triangle = torch.tensor([[1.0, 0.0], [0.25, 0.75]]).double().expand(1, 1, 2, 2)
    case = ((2,), 2, True, (triangle,) * 4)
    value, gradients, _ = found(the_match("attention", loss="ce"), case, (triangle,))
    entropy = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log()) / 2
    assert value.item() == pytest.approx(entropy.item(), rel=1e-6)
    assert torch.isfinite(gradients[0]).all()


@given(cases(), st.sampled_from(["mse", "cosine", "gram", "mmd"]), st.integers(0, 3))
@settings(max_examples=30)
def test_parts_of_a_batch_add_up(case, loss, cut):
    lengths, count, _, features = case
    match = the_match(loss=loss)
    whole, (gradient,), (batch, inside) = found(match, case, features[:1])
    cut = min(cut, len(lengths))
    total, gradients = 0.0, []
    for start, stop in ((0, cut), (cut, len(lengths))):
        if start == stop:
            continue
        part = batch.part(start, stop)
        mine = features[0][start:stop].detach().clone().requires_grad_()
        real = None if inside is None else inside[start:stop]
        places = Places.of(part, Counts.of(batch), count, real, torch.float64)
        value = match_loss(match, (mine,), (features[2][start:stop],), places)
        value.backward()
        total = total + value.detach()
        gradients.append(mine.grad)
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat(gradients), gradient, rtol=1e-12, atol=1e-12)
