"""Scoring from stored labels: against the dense softmax, and position by position."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from storage import layout
from storage.cards import read_file
from storage.errors import IntegrityError, NotFiniteError
from storage.ingest import open_corpus
from storage.options import (
    Codec,
    DataOptions,
    Keep,
    KeptSetOptions,
    LabelOptions,
    SplitOptions,
    Task,
)
from tasks.nn.batch import by_position
from tasks.nn.metrics import Bootstrap, figures
from tasks.score import find_predictions, read_results, run, score
from tasks.sources import LabelSource
from tasks.stream import Stream
from tasks.teachers import TorchTeacher
from tests.tasks import dense
from tests.tasks.toy import (
    TOKENS,
    TableModel,
    TableTeacher,
    block_corpus,
    counting_table,
    label_set,
    numbered_corpus,
    random_table,
)

CPU = torch.device("cpu")
ROWS, CLASSES = 30, 6
TEACHER = random_table(ROWS, CLASSES, seed=1)
STUDENT = random_table(ROWS, CLASSES, seed=2)
TEST = range(12, ROWS)


def options(k=2, **changes):
    values = {
        "k": k,
        "temperature": 2.0,
        "codec": Codec.FLOAT32,
        "batch_size": 5,
        "positions_per_shard": 7,
        "positions_per_row_group": 3,
        "evaluation": KeptSetOptions(k=k),
    }
    return LabelOptions(**{**values, **changes})


@pytest.fixture
def corpus():
    return numbered_corpus({"train": 12, "test": ROWS - 12}, CLASSES)


@pytest.fixture
def labels(store, corpus):
    opened = label_set(store, corpus, TableTeacher(TEACHER), options())
    yield opened
    opened.close()


class Untouchable(nn.Module):
    """A model that must not run."""

    def forward(self, *_):
        raise AssertionError("the model ran")


def test_a_student_is_scored_as_its_dense_softmax_says(labels):
    found = run(labels, "test", TableModel(STUDENT), 4, CPU, "score")
    assert found.sample.tolist() == list(range(len(TEST)))
    for place, row in enumerate(TEST):
        log_q_C = dense.log_softmax(STUDENT[row], 1.0)
        assert found.prediction[place] == STUDENT[row].argmax()
        assert found.label[place] == row % CLASSES
        assert found.confidence[place] == pytest.approx(np.exp(log_q_C.max()), rel=1e-5)
        assert found.nll[place] == pytest.approx(-log_q_C[row % CLASSES], rel=1e-5)
        assert found.agreement[place] == (STUDENT[row].argmax() == TEACHER[row].argmax())
        kept = np.argsort(-TEACHER[row])[:2]
        p, p_rest = dense.kept_and_rest(TEACHER[row], kept, 1.0)
        q, q_rest = dense.kept_and_rest(STUDENT[row], kept, 1.0)
        expected = dense.kl(np.array([*p, p_rest]), np.array([*q, q_rest]))
        assert found.kl[place] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 6])
def test_the_teacher_is_scored_exactly_however_little_is_kept(store, corpus, k):
    labels = label_set(store, corpus, TableTeacher(TEACHER), options(k))
    found = run(labels, "test", None, 4, CPU, "score")
    for place, row in enumerate(TEST):
        log_p_C = dense.log_softmax(TEACHER[row], 1.0)
        assert found.prediction[place] == TEACHER[row].argmax()
        assert found.confidence[place] == pytest.approx(np.exp(log_p_C.max()), rel=1e-5)
        assert found.nll[place] == pytest.approx(-log_p_C[row % CLASSES], rel=1e-5, abs=1e-6)
    assert found.agreement.all()
    assert (found.kl == 0).all()
    labels.close()


def test_the_divergence_is_a_lower_bound_that_all_classes_reach(tmp_path, store, corpus):
    true = [
        dense.kl(dense.log_softmax(TEACHER[row], 1.0), dense.log_softmax(STUDENT[row], 1.0))
        for row in TEST
    ]
    before = np.zeros(len(true))
    for k in range(1, CLASSES + 1):
        labels = label_set(
            store, corpus, TableTeacher(TEACHER), options(k), fingerprint=f"{k:016x}"
        )
        found = run(labels, "test", TableModel(STUDENT), 4, CPU, "score").kl
        labels.close()
        assert (found >= before - 1e-5).all()
        assert (found <= np.array(true) + 1e-5).all()
        before = found
    np.testing.assert_allclose(before, true, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_results_do_not_depend_on_the_batch(labels, batch_size):
    one = run(labels, "test", TableModel(STUDENT), 7, CPU, "score")
    other = run(labels, "test", TableModel(STUDENT), batch_size, CPU, "score")
    assert np.array_equal(one.sample, other.sample)
    np.testing.assert_allclose(one.nll, other.nll, rtol=1e-6)


def test_a_student_is_evaluated_not_trained(labels):
    model = nn.Sequential(TableModel(STUDENT), nn.Dropout(0.5)).train()
    found = run(labels, "test", model, 4, CPU, "score")
    assert found.prediction.tolist() == [STUDENT[row].argmax() for row in TEST]


def test_results_are_kept_and_come_back(store, labels):
    model = TableModel(STUDENT)
    assert find_predictions(store, "abcd", labels.digest) is None
    card = score(store, labels, "small", "abcd", model, ["test"], 4, CPU)
    assert find_predictions(store, "abcd", labels.digest) == card
    found, direct = read_results(store, card, "test"), run(labels, "test", model, 4, CPU, "score")
    for name in ("sample", "prediction", "label", "nll", "confidence", "agreement", "kl"):
        assert np.array_equal(getattr(found, name), getattr(direct, name))
    file = layout.prediction_file("test")
    table = pq.read_table(pa.BufferReader(read_file(store, card, file)))
    assert table.column("sample_id").to_pylist() == [f"test-{row}" for row in TEST]


def test_what_is_kept_is_not_scored_again(store, labels):
    card = score(store, labels, "small", "abcd", TableModel(STUDENT), ["test"], 4, CPU)
    again = score(store, labels, "small", "abcd", Untouchable(), ["test"], 4, CPU)
    assert again == card
    both = score(store, labels, "small", "abcd", TableModel(STUDENT), ["train"], 4, CPU)
    assert set(both.files) == {layout.prediction_file(split) for split in ("train", "test")}
    assert both.files[layout.prediction_file("test")] == card.files[layout.prediction_file("test")]
    final = score(store, labels, "small", "abcd", Untouchable(), ["train", "test"], 4, CPU)
    assert final == both


def test_another_state_of_the_labels_is_scored_anew(store, labels):
    score(store, labels, "small", "abcd", TableModel(STUDENT), ["test"], 4, CPU)
    assert find_predictions(store, "abcd", "0" * 64) is None
    assert find_predictions(store, "teacher", labels.digest) is None


def test_kept_results_that_are_damaged_are_found(store, labels):
    card = score(store, labels, "small", "abcd", TableModel(STUDENT), ["test"], 4, CPU)
    folder = store / layout.product(layout.PREDICTIONS, card.fingerprint)
    content = bytearray(folder.read_bytes("test.parquet"))
    content[50] ^= 1
    folder.write_bytes("test.parquet", bytes(content))
    for use in (
        lambda: read_results(store, card, "test"),
        lambda: score(store, labels, "small", "abcd", Untouchable(), ["test"], 4, CPU),
    ):
        with pytest.raises(IntegrityError, match=r"test\.parquet is damaged"):
            use()


def test_a_student_that_gives_nan_is_refused(labels):
    table = STUDENT.copy()
    table[20] = np.nan
    with pytest.raises(NotFiniteError, match="NaN or infinite among samples test-20, test-21"):
        run(labels, "test", TableModel(table), 4, CPU, "score")


def test_without_hard_labels_there_is_agreement_and_divergence(store):
    corpus = numbered_corpus({"train": 4, "test": 5}, CLASSES, label=False)
    labels = label_set(store, corpus, TableTeacher(TEACHER), options())
    for model in (None, TableModel(STUDENT)):
        found = run(labels, "test", model, 4, CPU, "score")
        assert not found.has_labels
        assert np.isnan(found.nll).all()
        assert np.isfinite(found.kl).all()
    labels.close()


# --- blocks of tokens ---------------------------------------------------------------------------


def test_only_positions_that_count_are_scored(store):
    blocks = [[1, 2, 3], [4], [5, 6, 0, 1], [2, 3]]
    mask = [[True, False, True], [True], [True, True, True, True], [False, False]]
    corpus = block_corpus(blocks, mask)
    labels = label_set(store, corpus, TableTeacher(random_table(7, 3)), options())
    found = run(
        labels, "train", TableModel(random_table(7, 3, seed=5), blocks=True), 3, CPU, "score"
    )
    assert found.sample.tolist() == [0, 0, 1, 2, 2, 2, 2]
    tokens = [1, 3, 4, 5, 6, 0, 1]
    assert found.label.tolist() == [token % 3 for token in tokens]
    assert found.prediction.tolist() == random_table(7, 3, seed=5)[tokens].argmax(axis=1).tolist()
    labels.close()


@pytest.mark.parametrize("keep", [Keep.TOP_K, Keep.ALL])
def test_label_logit_and_hard_label_of_a_position_are_those_of_the_next_token(store, keep):
    """A model that knows the next token is right everywhere, from labelling through scoring."""
    data = DataOptions(
        name="counting",
        source="tests.tasks.toy:counting_blocks",
        task=Task.CAUSAL_LM,
        inputs=("tokens",),
        classes=7,
        splits=SplitOptions(column="split"),
    )
    corpus = open_corpus(data, Path())
    knowing = TableModel(counting_table(), blocks=True)
    teacher = TorchTeacher(knowing, (TOKENS,), CPU, "teacher")
    how = options(keep=keep, evaluation=KeptSetOptions(keep=keep, k=2))
    labels = label_set(store, corpus, teacher, how)
    counted = 0
    for batch in Stream(LabelSource(labels, "train"), 3, seed=4):
        (tokens,) = batch.inputs
        lengths = batch.real_P.reshape(tokens.shape).sum(dim=1)
        with torch.no_grad():
            student_P = by_position(knowing(tokens)).argmax(dim=1).reshape(tokens.shape)
        stored_P = batch.teacher_best_P.reshape(tokens.shape)
        label_P = batch.label_P.reshape(tokens.shape)
        mask_P = batch.mask_P.reshape(tokens.shape)
        label_logit_P = batch.label_logit_P.reshape(tokens.shape)
        for sample, length in enumerate(lengths.tolist()):
            for place in range(length - 1):
                following = tokens[sample, place + 1]
                assert stored_P[sample, place] == following
                assert student_P[sample, place] == following
                assert label_P[sample, place] == following
                assert label_logit_P[sample, place] == 0
                counted += 1
            assert mask_P[sample].sum() == length - 1
            assert not mask_P[sample, length - 1 :].any()
    assert counted == 4 + 2 + 0 + 5 + 1
    expected_nll = np.log1p(6 * np.exp(-20.0))
    bootstrap = Bootstrap(resamples=100, confidence=0.95, seed=0)
    teacher_results = run(labels, "test", None, 2, CPU, "score")
    for model in (None, knowing):
        found = run(labels, "test", model, 2, CPU, "score")
        assert len(found.label) == 3 + 4 + 2
        told = figures(found, teacher_results, bootstrap, language_model=True)
        assert told["accuracy"]["value"] == told["agreement"]["value"] == 1.0
        assert told["nll"]["value"] == pytest.approx(expected_nll, abs=1e-6)
        assert told["perplexity"]["value"] == pytest.approx(1.0, abs=1e-6)
    unknowing = run(labels, "test", TableModel(np.eye(7) * 20, blocks=True), 2, CPU, "score")
    assert not unknowing.correct.any()
    labels.close()


@pytest.mark.gpu
def test_cuda_scores_what_the_cpu_does(labels):
    cpu, cuda = (
        run(labels, "test", TableModel(STUDENT), 4, torch.device(device), "score")
        for device in ("cpu", "cuda")
    )
    assert np.array_equal(cpu.prediction, cuda.prediction)
    np.testing.assert_allclose(cpu.nll, cuda.nll, rtol=1e-4)
    np.testing.assert_allclose(cpu.kl, cuda.kl, rtol=1e-3, atol=1e-5)
