"""A student that learns from shards is, step by step, one that learns from the teacher's logits.

Shape letters: P positions, C classes.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from storage.options import LabelOptions
from tasks.loss_options import LossOptions
from tasks.nn.batch import by_position
from tasks.nn.learner import Learner
from tasks.nn.trainer import Trainer, learning_rate
from tasks.sources import LabelSource
from tasks.stream import Stream
from tasks.training_options import TrainingOptions
from tests.tasks.toy import TableTeacher, TokenModel, block_corpus, label_set, random_table

CPU = torch.device("cpu")
TABLE = random_table(7, num_classes=7)
TRAINING = TrainingOptions(epochs=4, batch_size=3, learning_rate=0.02)
BLOCKS = [[1, 2, 3, 4], [5, 6], [0, 1, 2], [3, 4], [4, 5, 6, 0, 1], [6, 2], [2, 0, 4]]
MASK = [[n % 5 != 3 for n in block] for block in BLOCKS]


@pytest.fixture
def labels(store):
    options = LabelOptions(
        keep="all", codec="float32", temperature=2.0, temperatures=(4.0, "std"), batch_size=4,
        positions_per_shard=12, positions_per_row_group=6,
    )  # fmt: skip
    made = label_set(store, block_corpus(BLOCKS, MASK), TableTeacher(TABLE), options)
    yield made
    made.close()


def kl(of_PC, against_PC):
    return F.kl_div(against_PC, of_PC, reduction="batchmean", log_target=True)


def forward_kl(student_PC, teacher_PC, done):
    p, q = torch.log_softmax(teacher_PC / 2, dim=1), torch.log_softmax(student_PC / 2, dim=1)
    return 4 * kl(p, q), 0.5


def reverse_kl_that_fades(student_PC, teacher_PC, done):
    at = 4.0 if done < 0.5 else 2.0
    p, q = torch.log_softmax(teacher_PC / at, dim=1), torch.log_softmax(student_PC / at, dim=1)
    return at**2 * kl(q, p), 0.9 - 0.8 * done


def jsd_at_std(student_PC, teacher_PC, done):
    def standard(logit_PC):
        return torch.log_softmax(logit_PC / logit_PC.std(dim=1, keepdim=True, correction=0), dim=1)

    p, q = standard(teacher_PC), standard(student_PC)
    m = (0.3 * p.exp() + 0.7 * q.exp()).log()
    return 0.3 * kl(p, m) + 0.7 * kl(q, m), 0.5


def mse(student_PC, teacher_PC, done):
    def centred(logit_PC):
        return logit_PC - logit_PC.mean(dim=1, keepdim=True)

    return F.mse_loss(centred(student_PC), centred(teacher_PC)), 0.5


FADING = {"schedule": "linear", "start": 0.9, "end": 0.1}


@pytest.mark.parametrize(
    ("said", "dense"),
    [
        ({}, forward_kl),
        (
            {"soft": "reverse_kl", "soft_weight": FADING, "temperature": [4.0, 2.0]},
            reverse_kl_that_fades,
        ),
        ({"soft": "jsd", "beta": 0.3, "temperature": "std"}, jsd_at_std),
        ({"soft": "mse", "temperature": 4.0}, mse),
    ],
)
def test_from_shards_as_from_the_teacher_s_logits(labels, said, dense):
    torch.manual_seed(0)
    model = TokenModel()
    other = copy.deepcopy(model)
    stream = Stream(LabelSource(labels, "train"), TRAINING.batch_size)
    total = TRAINING.epochs * stream.batches_per_epoch
    trainer = Trainer(Learner(model, LossOptions(**said)), TRAINING, total, CPU)
    optimizer = torch.optim.AdamW(other.parameters(), weight_decay=TRAINING.weight_decay)
    while stream.epoch < TRAINING.epochs:
        for batch in stream:
            done = trainer.done
            optimizer.param_groups[0]["lr"] = learning_rate(TRAINING, trainer.step_number, total)
            (tokens,) = batch.inputs
            student_PC = by_position(other(tokens))[batch.mask_P]
            teacher_PC = torch.as_tensor(TABLE)[tokens.reshape(-1)][batch.mask_P]
            soft, weight = dense(student_PC, teacher_PC, done)
            hard = F.cross_entropy(student_PC, batch.label_P[batch.mask_P])
            optimizer.zero_grad()
            (weight * soft + (1 - weight) * hard).backward()
            nn.utils.clip_grad_norm_(other.parameters(), TRAINING.clip_norm)
            optimizer.step()
            result = trainer.step(batch)
            assert result.soft_loss == pytest.approx(soft.item(), rel=1e-4, abs=1e-6)
            assert result.hard_loss == pytest.approx(hard.item(), rel=1e-4)
            for found, wanted in zip(model.parameters(), other.parameters(), strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert trainer.step_number == total
