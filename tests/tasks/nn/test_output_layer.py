"""A student without its last layer learns what the whole one learns.

Shape letters: P positions, C classes, W the width of the last layer's input.
"""

import copy

import pytest
import torch
from torch import nn

from storage.errors import ModelError
from storage.options import Task
from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch
from tasks.nn.counts import Counts
from tasks.nn.learner import Learner
from tasks.nn.output_layer import StudentLogits, last_layer
from tasks.nn.projected import Projected
from tasks.nn.token_models import TiedLinear
from tasks.training_options import LogitsForm
from tests.tasks.nn.sequences import CLASSES, built, tokens
from tests.tasks.toy import batch_of

BATCH, LENGTH = 3, 5
FORMS = (LogitsForm.WHOLE, LogitsForm.BLOCKS)


def ids(samples: int = BATCH) -> torch.Tensor:
    return torch.arange(samples * LENGTH).reshape(samples, LENGTH) % CLASSES


IDS_BL = ids()


def batch(share: float = 0.4, samples: int = BATCH) -> Batch:
    """Token blocks in which a share of the positions count."""
    torch.manual_seed(0)
    positions = samples * LENGTH
    mask_P = torch.rand(positions) < share
    labels = batch_of(
        torch.randn(positions, CLASSES), torch.randint(0, CLASSES, (positions,)), 3, (2.0, 1.0),
        mask_P,
    )  # fmt: skip
    ids_BL = ids(samples)
    return _with(labels, inputs=(ids_BL, torch.ones_like(ids_BL)))


def _with(made: Batch, **changes) -> Batch:
    names = [str(number) for number in range(len(changes["inputs"][0]))]
    return Batch(**{**vars(made), "sample_ids": names, **changes})


def model(*, tied: bool = True) -> nn.Module:
    return built(tokens(vocabulary=CLASSES, tie_embeddings=tied), Task.MASKED_LM)


def losses_and_gradients(learner: Learner, given: Batch):
    parts = learner(given, Counts.of(given), 0.0)
    parts.total.backward()
    named = dict(learner.named_parameters())
    return parts.total.detach(), {name: entry.grad for name, entry in named.items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_losses_and_gradients_are_those_of_the_whole_model(tied, form, share, monkeypatch):
    monkeypatch.setattr("tasks.nn.projected._BLOCK_ELEMENTS", 2 * CLASSES)
    given, student = batch(share), model(tied=tied)
    plain = Learner(copy.deepcopy(student), LossOptions())
    apart = Learner(student, LossOptions())
    apart.make_logits(form)
    logits, counting = apart._logits.of(given)
    assert isinstance(logits, Projected)
    assert len(logits) == len(counting.label_P) == given.num_positions
    found, wanted = losses_and_gradients(apart, given), losses_and_gradients(plain, given)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_few_classes_are_left_to_the_model_unless_asked_for():
    given = batch()
    assert isinstance(StudentLogits(model()).of(given)[0], torch.Tensor)
    assert isinstance(StudentLogits(model(), LogitsForm.WHOLE).of(given)[0], Projected)


def test_many_classes_are_made_in_blocks_where_all_would_be_large(monkeypatch):
    monkeypatch.setattr("tasks.nn.output_layer._MANY_CLASSES", CLASSES)
    given = batch()
    size = given.num_positions * CLASSES * 4
    for limit, whole in ((size, True), (size - 1, False)):
        monkeypatch.setattr("tasks.nn.output_layer._WHOLE_BYTES", limit)
        logits, _ = StudentLogits(model()).of(given)
        assert (logits.room is not None) is whole


class Scaled(nn.Module):
    """Divides what its last layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) / 2


class Twice(nn.Module):
    """Uses its last layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


class Early(nn.Module):
    """Has its last layer made first, and a model that learns by batches before it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4))

    def forward(self, x):
        return self.head(self.body(x))


def test_only_a_layer_whose_output_is_the_model_s_is_found():
    x_BW = torch.randn(2, 4)
    assert last_layer(Scaled(), (x_BW,)) is None
    assert last_layer(Twice(), (x_BW,)) is None
    assert last_layer(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), (x_BW,)) is None
    assert last_layer(nn.Identity(), (x_BW,)) is None
    alone = nn.Linear(4, 3)
    assert last_layer(alone, (x_BW,)) is alone
    assert last_layer(alone, (x_BW,), least=4) is None


def test_looking_for_the_layer_leaves_model_and_random_state_as_they_were():
    student = Early()
    student.body[2].eval()
    before, random = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    assert (
        last_layer(student, (torch.randn(1, 4),) if False else (torch.ones(1, 4),)) is student.head
    )
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(student.state_dict(), before, rtol=0, atol=0)
    assert student.training
    assert student.body[1].training
    assert not student.body[2].training
    assert not student.head._forward_hooks


def test_a_layer_that_is_watched_stays_where_it_is():
    student = model(tied=False)
    logits = StudentLogits(student, LogitsForm.WHOLE)
    hook = student.head.register_forward_hook(lambda *given: None)
    assert isinstance(logits.of(batch())[0], torch.Tensor)
    hook.remove()
    assert isinstance(logits.of(batch())[0], Projected)
    assert "forward" not in vars(student.head)


def test_an_error_of_the_model_leaves_its_layer_as_it_was():
    student = model(tied=False)
    logits = StudentLogits(student, LogitsForm.WHOLE)
    logits.of(batch())
    with pytest.raises(IndexError):
        logits.of(_with(batch(), inputs=(IDS_BL + 100, torch.ones_like(IDS_BL))))
    assert "forward" not in vars(student.head)


@pytest.mark.parametrize("form", LogitsForm)
def test_logits_for_other_positions_than_have_labels_are_refused(form):
    wrong = _with(batch(), inputs=(IDS_BL[:, :4], torch.ones(BATCH, 4)))
    with pytest.raises(
        ModelError, match=r"logits for 12 positions of 3 samples, the labels have 15"
    ):
        StudentLogits(model(), form).of(wrong)


def test_a_tied_layer_has_no_parameter_of_its_own_and_follows_its_embedding():
    student = model()
    assert isinstance(student.head, TiedLinear)
    assert not [name for name in student.state_dict() if name.startswith("head")]
    other = copy.deepcopy(student)
    assert other.head.weight is other.embedding.weight
    assert other.head.weight is not student.head.weight
    student.double()
    assert student.head.weight.dtype == torch.float64


@pytest.mark.parametrize(
    "kind", ["BertForMaskedLM", "DistilBertForMaskedLM", "GPT2LMHeadModel", "LlamaForCausalLM"]
)
def test_models_of_transformers_have_their_last_layer_found(kind):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "BertForMaskedLM": {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8},
        "DistilBertForMaskedLM": {"n_layers": 1, "dim": 8, "hidden_dim": 8, "n_heads": 2},
        "GPT2LMHeadModel": {"n_layer": 1, "n_embd": 8, "n_head": 2},
        "LlamaForCausalLM": {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8},
    }[kind]
    heads = {"num_attention_heads": 2} if "num_hidden_layers" in sizes else {}
    cls = getattr(transformers, kind)
    config = cls.config_class(vocab_size=20, **sizes, **heads)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = cls(config)

        def forward(self, ids):
            return self.inner(ids).logits.float()

    student = Wrapped()
    assert last_layer(student, (IDS_BL[:1],)) is student.inner.get_output_embeddings()
