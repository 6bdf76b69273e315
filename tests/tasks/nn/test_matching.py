"""A student's inside held against its teacher's: projections, sources, and what does not fit."""

import dataclasses

import pytest
import torch
from torch import nn

from storage.errors import ModelError, RecipeError
from storage.options import Task
from storage.spec import InputSpec
from tasks.feature_options import MatchOptions, matches_of
from tasks.loss_options import LossOptions
from tasks.nn.batch import by_position
from tasks.nn.counts import Counts
from tasks.nn.learner import Learner
from tasks.nn.matching import Matching, watched
from tasks.nn.models import probe_inputs
from tasks.nn.observe import feature_shapes, num_layers, observe, real_positions
from tasks.training_options import LogitsForm
from tests.tasks.nn.sequences import CLASSES, IDS, MASK, built, ones, random_ids, tokens
from tests.tasks.toy import batch_of

LOSS = LossOptions()
ALL = (
    {"teacher": "hidden.-1", "loss": "cosine", "weight": 2.0},
    {"kind": "hidden", "layers": {0: 0, 1: 3}, "loss": "mse"},
    {"kind": "attention", "layers": {1: 2, 2: 4}, "loss": "ce", "heads": "mean", "weight": 0.5},
    {"teacher": ["hidden.2", "hidden.4"], "student": ["hidden.1", "hidden.2"], "loss": "gram"},
    {"teacher": "hidden.4", "student": "hidden.2", "loss": "mmd"},
    {"teacher": "hidden.4", "student": "hidden.2", "loss": "mse", "pool": "mean"},
)


class Live:
    """A live teacher, which counts its passes."""

    def __init__(self, module):
        self.module = module
        self.passes = 0

    def features(self, inputs, names):
        self.passes += 1
        with torch.no_grad():
            return observe(self.module, inputs, names)[1]


def models(task=Task.TAGGING):
    """A student of 2 layers and width 16, and a teacher of 4 layers and width 24."""
    teacher = built(tokens(layers=4, width=24, heads=3), task, seed=1)
    return built(tokens(), task, seed=2), teacher


def matching_of(said, student, teacher, guide):
    matches = matches_of([MatchOptions(**entry) for entry in said], 2, num_layers(teacher), "match")
    ours = feature_shapes(student, (IDS, MASK), watched(matches), "student")
    names = [name for match in matches for name in match.teacher]
    theirs = feature_shapes(teacher, (IDS, MASK), names, "teacher")
    torch.manual_seed(7)
    return Matching(matches, ours, theirs, "match", guide), matches


def some_batch(task=Task.TAGGING, lengths=(5, 3, 4)):
    count, length = len(lengths), max(lengths)
    real = torch.arange(length) < torch.tensor(lengths)[:, None]
    ids, mask = random_ids(count, length, CLASSES) * real, ones(real) * real
    real_P = real.reshape(-1) if task.has_many_positions else torch.ones(count, dtype=torch.bool)
    rows = len(real_P)
    generator = torch.Generator().manual_seed(3)
    batch = batch_of(
        torch.randn(rows, CLASSES, generator=generator),
        torch.randint(0, CLASSES, (rows,), generator=generator),
        2,
        (1.0,),
        real_P,
        inputs=(ids, mask),
    )
    ids = [f"sample-{place}" for place in range(count)]
    return dataclasses.replace(batch, real_P=real_P, sample_ids=ids)


def learnt(learner, *parts):
    """The losses of a batch in parts, and the gradients that they leave."""
    learner.zero_grad(set_to_none=True)
    counts = Counts(
        sum(part.num_positions for part in parts),
        sum(int(part.real_P.sum()) for part in parts),
        sum(part.num_samples for part in parts),
    )
    found = [learner(part, counts, 0.0) for part in parts]
    sum(entry.total for entry in found).backward()
    values = {
        name: sum(entry.matched[name].detach() for entry in found) for name in found[0].matched
    }
    gradients = {name: entry.grad for name, entry in learner.named_parameters()}
    return values, gradients


@pytest.mark.parametrize("task", [Task.TAGGING, Task.CLASSIFICATION])
def test_micro_batches_add_up(task):
    student, teacher = models(task)
    matching, matches = matching_of(ALL, student, teacher, Live(teacher))
    learner = Learner(student, LOSS, matching, matches)
    batch = some_batch(task)
    values, gradients = learnt(learner, batch)
    assert set(values) == {match.name for match in matches}
    for parts in ([batch.part(0, 1), batch.part(1, 3)], [batch.part(n, n + 1) for n in range(3)]):
        again, same = learnt(learner, *parts)
        for name, value in values.items():
            torch.testing.assert_close(again[name], value, rtol=1e-5, atol=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(same[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_total_holds_each_loss_by_its_weight():
    student, teacher = models()
    matching, matches = matching_of(ALL, student, teacher, Live(teacher))
    batch = some_batch()
    counts = Counts.of(batch)
    plain = Learner(student, LOSS)(batch, counts, 0.0)
    parts = Learner(student, LOSS, matching, matches)(batch, counts, 0.0)
    extra = sum(match.options.weight * parts.matched[match.name] for match in matches)
    torch.testing.assert_close(parts.total, plain.total + extra)


@pytest.mark.parametrize("form", LogitsForm)
def test_however_logits_are_made_the_inside_is_the_same(form):
    student, teacher = models()
    matching, matches = matching_of(ALL, student, teacher, Live(teacher))
    learner = Learner(student, LOSS, matching, matches)
    batch = some_batch()
    values, gradients = learnt(learner, batch)
    learner.make_logits(form)
    again, same = learnt(learner, batch)
    assert again == values
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=1e-4, atol=1e-6)


def test_padding_of_a_batch_changes_nothing():
    student, teacher = models()
    matching, matches = matching_of(ALL, student, teacher, Live(teacher))
    learner = Learner(student, LOSS, matching, matches)
    batch = some_batch(lengths=(3, 2))
    ids, mask = (nn.functional.pad(entry, (0, 4)) for entry in batch.inputs)
    wide = some_batch(lengths=(7, 2))
    real_P = (mask != 0).reshape(-1)
    wide = dataclasses.replace(wide, inputs=(ids, mask), real_P=real_P, mask_P=real_P)
    counts = Counts.of(batch)
    for name, value in learner(batch, counts, 0.0).matched.items():
        found = learner(wide, counts, 0.0).matched[name]
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6, msg=name)


def test_stored_features_give_what_a_live_teacher_gives():
    student, teacher = models()
    said = [entry for entry in ALL if "pool" not in entry]
    matching, matches = matching_of(said, student, teacher, Live(teacher))
    stored, _ = matching_of(said, student, teacher, None)
    batch = some_batch()
    names = [name for match in matches for name in match.teacher]
    features = {
        name: entry.detach() for name, entry in observe(teacher, batch.inputs, names)[1].items()
    }
    live = learnt(Learner(student, LOSS, matching, matches), batch)
    held = learnt(
        Learner(student, LOSS, stored, matches), dataclasses.replace(batch, features=features)
    )
    assert live[0] == held[0]
    for name, gradient in live[1].items():
        assert torch.equal(gradient, held[1][name])


def test_stored_means_are_compared_with_means():
    student, teacher = models()
    said = ({"teacher": "hidden.4", "student": "hidden.2", "pool": "mean"},)
    matching, matches = matching_of(said, student, teacher, Live(teacher))
    stored, _ = matching_of(said, student, teacher, None)
    batch = some_batch()
    hidden = observe(teacher, batch.inputs, ["hidden.4"])[1]["hidden.4"].detach()
    real = real_positions(teacher, batch.inputs, 5)[:, :, None]
    means = {"hidden.4": (hidden * real).sum(dim=1) / real.sum(dim=1)}
    live = learnt(Learner(student, LOSS, matching, matches), batch)
    held = learnt(
        Learner(student, LOSS, stored, matches), dataclasses.replace(batch, features=means)
    )
    torch.testing.assert_close(live[0], held[0])


def test_projections_learn_and_are_no_part_of_the_student():
    student, teacher = models()
    matching, matches = matching_of(ALL, student, teacher, Live(teacher))
    learner = Learner(student, LOSS, matching, matches)
    projected = {name for name, _ in matching.named_parameters()}
    assert projected == {
        f"projections.{key}.{kind}"
        for key in (
            "cosine_hidden_-1",
            "mse_hidden_0",
            "mse_hidden_1_hidden_3",
            "gram_hidden_1_hidden_2_hidden_2_hidden_4",
            "mse_hidden_2_hidden_4_mean",
        )
        for kind in ("weight", "bias")
    }
    _, gradients = learnt(learner, some_batch())
    for name in projected:
        assert gradients[f"matching.{name}"].abs().sum() > 0
    assert not any("projection" in name for name in student.state_dict())
    assert not any(name.startswith("matching") and "embedding" in name for name in gradients)


def test_the_teacher_learns_nothing_and_is_asked_once_a_pass():
    student, teacher = models()
    live = Live(teacher)
    matching, matches = matching_of(ALL, student, teacher, live)
    learner = Learner(student, LOSS, matching, matches).train()
    learnt(learner, some_batch())
    assert live.passes == 1
    assert not teacher.training
    assert all(weight.grad is None for weight in teacher.parameters())


def test_another_phase_compares_other_things():
    student, teacher = models()
    live = Live(teacher)
    matching, matches = matching_of(ALL, student, teacher, live)
    learner = Learner(student, LOSS, matching, matches[:1])
    batch = some_batch()
    assert set(learner(batch, Counts.of(batch), 0.0).matched) == {matches[0].name}
    learner.turn_to(LossOptions(soft_weight=1.0), ())
    parts = learner(batch, Counts.of(batch), 0.0)
    assert (parts.matched, parts.hard, live.passes) == ({}, None, 1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"teacher": "hidden.1", "projection": "none"},
            "match: mse.hidden.1: the student's is 16 wide, the teacher's 24; say projection: "
            "linear",
        ),
        (
            {"teacher": "attention.1"},
            "match: mse.attention.1: the student has 2 heads, the teacher 3; say heads: mean",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(said, expected):
    student, teacher = models()
    with pytest.raises(RecipeError) as error:
        matching_of([said], student, teacher, Live(teacher))
    assert str(error.value) == expected


def test_equal_widths_need_no_projection_and_one_may_be_asked_for():
    student, _ = models()
    twin = built(tokens(), Task.TAGGING, seed=5)
    for said, expected in (("auto", 0), ("none", 0), ("linear", 2)):
        entry = {"teacher": "hidden.1", "projection": said}
        matching, _ = matching_of([entry], student, twin, Live(twin))
        assert len(list(matching.parameters())) == expected


def test_other_positions_are_refused():
    student, teacher = models()
    said = [{"teacher": "hidden.1"}]
    matching, matches = matching_of(said, student, teacher, None)
    learner = Learner(student, LOSS, matching, matches)
    batch = dataclasses.replace(some_batch(), features={"hidden.1": torch.zeros(3, 9, 24)})
    with pytest.raises(ModelError, match=r"^mse\.hidden\.1: the student's has 5 positions, the"):
        learner(batch, Counts.of(batch), 0.0)


class Convolution(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Conv2d(1, channels, 3)

    def forward(self, image):
        return self.body(image[:, None].float()).amax(dim=(2, 3))[:, :2]


def test_images_inside_a_model_are_positions_of_channels():
    spec = (InputSpec(name="image", dtype="float32", shape=(6, 6)),)
    torch.manual_seed(0)
    student, teacher = Convolution(3), Convolution(5)
    matches = matches_of([MatchOptions(teacher="module.body")], 0, 0, "match")
    shapes = [feature_shapes(model, spec, ["module.body"], "m") for model in (student, teacher)]
    assert shapes == [{"module.body": (3, 4, 4)}, {"module.body": (5, 4, 4)}]
    matching = Matching(matches, *shapes, "match", Live(teacher))
    (image,) = probe_inputs(spec)
    image = image + torch.randn_like(image)
    batch = batch_of(torch.zeros(2, 2), torch.zeros(2).long(), 1, (1.0,), inputs=(image,))
    parts = Learner(student, LOSS, matching, matches)(batch, Counts.of(batch), 0.0)
    projection = matching.projections["mse_module_body"]
    ours, theirs = (model.body(image[:, None]).permute(0, 2, 3, 1) for model in (student, teacher))
    expected = (projection(ours) - theirs).square().mean()
    torch.testing.assert_close(parts.matched["mse.module.body"], expected)
    assert by_position(student(image)).shape == (2, 2)
