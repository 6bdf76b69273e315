"""Labelling: one digest however it was made, and only what is missing is made again."""

import math

import numpy as np
import pytest
import torch

from storage import layout
from storage.errors import DataError, ModelError, NotFiniteError, RecipeError
from storage.files import Folder
from storage.options import Codec, Keep, KeptSetOptions, LabelOptions, Layout
from storage.quarantine import read_quarantine
from storage.reader import LabelSet
from storage.records import write_record
from storage.row_digest import digest_of_rows
from storage.rows import num_rows, take
from storage.spec import spec_of
from storage.verify import verify
from tasks.effort import Effort
from tasks.label import LabelJob, finish_label_set, label_rows, label_shards
from tasks.nn.softlabels import entry_log_probs
from tasks.planning import plan_labels
from tasks.sources import LabelSource
from tasks.stream import Stream
from tests.tasks import dense
from tests.tasks.toy import (
    FINGERPRINT,
    TableTeacher,
    block_corpus,
    label_set,
    numbered_corpus,
    random_table,
    text_corpus,
)

OPTIONS = LabelOptions(
    k=2,
    temperature=2.0,
    batch_size=3,
    positions_per_shard=8,
    positions_per_row_group=4,
    evaluation=KeptSetOptions(k=3),
)
PLAIN, FAST, COMPACT = Layout
F32, F16, U8 = Codec
TABLE = random_table(40)


@pytest.fixture
def corpus():
    return numbered_corpus({"train": 21, "test": 10})


class Work:
    """A label set that is made step by step."""

    def __init__(self, store, corpus, teacher=None, options=OPTIONS, fingerprint=FINGERPRINT):
        self.folder = store / layout.product(layout.LABELS, fingerprint)
        self.corpus = corpus
        self.teacher = teacher or TableTeacher(TABLE)
        self.options = options
        self.fingerprint = fingerprint
        self.spec = spec_of(corpus.form, options, self.teacher.num_classes, None)
        write_record(self.folder, layout.SPEC, self.spec)

    def plan(self):
        index = self.corpus.index(self.options.positions_per_shard)
        return plan_labels(self.folder, self.fingerprint, index)

    def make(self, plans, on_shard=lambda _: None):
        self.effort = Effort()
        job = LabelJob(self.folder, self.spec, self.corpus, self.options.batch_size)
        return label_shards(job, plans, self.teacher, on_shard, self.effort)

    def finish(self):
        return finish_label_set(self.folder, self.fingerprint, self.spec, self.plan().records)


def places(plans):
    return [(plan.split, plan.ordinal) for plan in plans]


# --- planning and finishing ---------------------------------------------------------------------


def test_all_is_missing_at_first_and_nothing_at_last(store, corpus):
    work = Work(store, corpus)
    plan = work.plan()
    expected = [("train", 0), ("train", 1), ("train", 2), ("test", 0), ("test", 1)]
    assert places(plan.wanted) == places(plan.missing) == expected
    assert [shard.rows for shard in plan.wanted] == [8, 8, 5, 8, 2]
    told = []
    made = work.make(plan.missing, told.append)
    assert told == list(made)
    assert work.effort.positions == 31
    # Batches of 3 do not run on over the ends of shards.
    assert work.effort.batches == 3 + 3 + 2 + 3 + 1
    assert work.teacher.batch_sizes == [3, 3, 2, 3, 3, 2, 3, 2, 3, 3, 2, 2]
    assert work.plan().missing == ()
    work.finish()
    assert list(verify(work.folder)) == []


def test_the_digest_does_not_depend_on_how_it_was_made(tmp_path, corpus):
    def made(name, orders):
        work = Work(Folder.open(tmp_path / name), corpus)
        wanted = work.plan().wanted
        for order in orders:
            work.make([wanted[place] for place in order])
        return work.finish()

    whole = made("whole", [range(5)])
    assert made("backwards", [reversed(range(5))]) == whole
    assert made("groups", [[3, 1], [0], [4, 2]]) == whole
    assert made("twice", [[0, 1], [1, 0, 2], range(5)]) == whole


def test_what_was_stopped_goes_on(tmp_path, corpus):
    whole = Work(Folder.open(tmp_path / "whole"), corpus)
    whole.make(whole.plan().missing)
    expected = whole.finish()

    def stop(_):
        raise KeyboardInterrupt

    work = Work(Folder.open(tmp_path / "stopped"), corpus)
    left = len(work.plan().missing)
    while left:
        # What is under way when the first shard is committed is committed too.
        with pytest.raises(KeyboardInterrupt):
            work.make(work.plan().missing[:3], stop)
        assert left - 3 <= len(work.plan().missing) < left
        left = len(work.plan().missing)
    assert work.finish() == expected


@pytest.mark.parametrize("damage", ["deleted", "longer", "empty"])
def test_a_shard_whose_file_is_not_as_recorded_is_made_again_and_no_other(store, corpus, damage):
    work = Work(store, corpus)
    work.make(work.plan().missing)
    before = work.finish()
    victim = work.plan().records[1].file
    shards = work.folder / layout.SHARDS
    if damage == "deleted":
        shards.delete(victim)
    else:
        content = shards.read_bytes(victim)
        shards.write_bytes(victim, content + b"x" if damage == "longer" else b"")
    assert places(work.plan().missing) == [("train", 1)]
    work.make(work.plan().missing)
    assert work.finish() == before
    assert list(verify(work.folder)) == []


@pytest.mark.parametrize("damage", [b"", b"{}", b"nonsense"])
def test_a_shard_whose_record_is_damaged_is_made_again(store, corpus, damage):
    work = Work(store, corpus)
    work.make(work.plan().missing)
    name = work.plan().wanted[3].record_name
    work.folder.write_bytes(name, damage)
    assert places(work.plan().missing) == [("test", 0)]


def test_a_changed_sample_remakes_its_shard(store, corpus):
    work = Work(store, corpus)
    work.make(work.plan().missing)
    before = work.finish()
    corpus.splits["train"]["input.row"][9] = 30
    assert places(work.plan().missing) == [("train", 1)]
    work.make(work.plan().missing)
    assert work.finish().digest != before.digest
    # Both states can be opened.
    for digest in (None, before.digest):
        LabelSet.open(work.folder, digest).close()


def test_a_corpus_that_grows_makes_new_shards_and_the_last_one_again(store):
    work = Work(store, numbered_corpus({"train": 21}))
    work.make(work.plan().missing)
    grown = Work(store, numbered_corpus({"train": 30}))
    assert places(grown.plan().missing) == [("train", 2), ("train", 3)]


# --- what is in the rows ------------------------------------------------------------------------


def test_rows_hold_the_samples_and_their_labels(store, corpus):
    labels = label_set(store, corpus, TableTeacher(TABLE), OPTIONS)
    for split, first, k in (("train", 0, 2), ("test", 21, 3)):
        for rows in labels.batches(split):
            numbers = rows["input.row"][:, 0]
            assert rows["sample_id"].tolist() == [f"{split}-{number}" for number in numbers]
            assert rows["label"].tolist() == [number % 5 for number in numbers]
            assert numbers[0] >= first
            logits = TABLE[numbers]
            best = np.argsort(-logits, axis=1)[:, :k]
            assert np.array_equal(rows["index"], best)
            scaled = (logits - logits.max(axis=1, keepdims=True)) / 2.0
            np.testing.assert_allclose(
                rows["logit"], np.take_along_axis(scaled, best, 1), rtol=2**-11
            )
            chosen = np.take_along_axis(scaled, rows["label"][:, None], 1)[:, 0]
            np.testing.assert_allclose(rows["label_logit"], chosen, rtol=1e-6)
    labels.close()


def test_statistics_are_stored_when_asked_for(store, corpus):
    options = OPTIONS.model_copy(update={"statistics": True})
    labels = label_set(store, corpus, TableTeacher(TABLE), options)
    rows = next(labels.batches("train"))
    logits = TABLE[rows["input.row"][:, 0]].astype(np.float64)
    np.testing.assert_allclose(rows["max_logit"], logits.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(rows["logit_mean"], logits.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(rows["logit_std"], logits.std(axis=1), rtol=1e-5)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(rows["squares"], (p**2).sum(axis=1), rtol=1e-5)
    labels.close()


def test_each_positions_own_deviation_is_a_temperature(store, corpus):
    options = LabelOptions(k=2, temperature=2.0, temperatures=("std",), batch_size=3)
    labels = label_set(store, corpus, TableTeacher(TABLE), options)
    assert labels.spec.temperatures == (2.0, "std", 1.0)
    assert (labels.spec.format_version, labels.manifest.format_version) == (4, 4)
    assert labels.manifest.fidelity["train"]["temperatures"]["std"]["retained_mass"]["mean"] > 0.1
    stream = Stream(LabelSource(labels, "train"), batch_size=21, shuffle=False)
    (batch,) = stream
    logits = TABLE[batch.inputs[0][:, 0]].astype(np.float64)
    np.testing.assert_allclose(batch.std_P, logits.std(axis=1), rtol=1e-6)
    assert batch.at("std") is batch.std_P
    log_p_PK, log_rest_P = entry_log_probs(
        batch.logit_PK, batch.rest_at("std"), batch.temperature, batch.at("std")
    )
    for place, logit_C in enumerate(logits):
        index_K = batch.index_PK[place].tolist()
        expected_K, rest = dense.kept_and_rest(logit_C, index_K, float(batch.std_P[place]))
        np.testing.assert_allclose(log_p_PK[place], expected_K, atol=2e-3)
        np.testing.assert_allclose(log_rest_P[place], rest, atol=2e-3)
    assert list(verify(labels.folder)) == []
    labels.close()


def test_the_manifest_tells_the_fidelity_of_each_split(store, corpus):
    labels = label_set(store, corpus, TableTeacher(TABLE), OPTIONS)
    fidelity = labels.manifest.fidelity
    assert {split: fidelity[split]["positions"] for split in fidelity} == {"train": 21, "test": 10}
    p = np.exp(TABLE[:21].astype(np.float64) / 2.0)
    p = np.sort(p / p.sum(axis=1, keepdims=True), axis=1)
    found = fidelity["train"]["temperatures"]["2"]
    assert found["retained_mass"]["mean"] == pytest.approx(p[:, -2:].sum(axis=1).mean(), rel=1e-5)
    assert found["codec_kl"] < 1e-6
    assert fidelity["train"]["agreement"] == 1.0
    labels.close()


def test_the_batch_size_does_not_change_a_labels_numbers(tmp_path, corpus):
    digests = set()
    for batch_size in (1, 2, 3, 100):
        options = OPTIONS.model_copy(update={"batch_size": batch_size})
        store = Folder.open(tmp_path / str(batch_size))
        labels = label_set(store, corpus, TableTeacher(TABLE), options)
        digests.add(labels.digest)
        labels.close()
    assert len(digests) == 1


def test_a_corpus_without_hard_labels(store):
    corpus = numbered_corpus({"train": 5}, label=False)
    labels = label_set(store, corpus, TableTeacher(TABLE), OPTIONS)
    (shard,) = labels.shards("train")
    assert shard.rows == 5
    assert not {"label", "label_logit"} & set(labels.columns("train"))
    labels.close()


# --- blocks of tokens ---------------------------------------------------------------------------


def test_padding_inside_a_batch_changes_no_label():
    blocks = [[1, 2, 3, 4, 5], [6], [0, 2, 4], [3, 3], [5, 6, 0, 1, 2, 3, 4]]
    mask = [[place % 3 != 1 for place, _ in enumerate(block)] for block in blocks]
    corpus = block_corpus(blocks, mask)
    spec = spec_of(corpus.form, OPTIONS, 3, None)
    teacher = TableTeacher(random_table(7, 3))
    rows = corpus.splits["train"]

    def labelled(part, batch_size):
        return label_rows(part, spec, "train", teacher, batch_size)[0]

    whole = labelled(rows, 5)
    assert num_rows(whole) == 5
    for place, block in enumerate(blocks):
        one = np.array([place])
        alone = labelled(take(rows, one), 1)
        assert digest_of_rows(take(whole, one)) == digest_of_rows(alone)
        assert len(alone["index"].values_NW) == len(block)
    for size in (1, 2, 3):
        assert digest_of_rows(labelled(rows, size)) == digest_of_rows(whole)


def test_fidelity_counts_the_positions_that_count():
    blocks = [[1, 2, 3], [4]]
    mask = [[True, False, False], [True]]
    corpus = block_corpus(blocks, mask)
    spec = spec_of(corpus.form, OPTIONS, 3, None)
    _, fidelity = label_rows(
        corpus.splits["train"], spec, "train", TableTeacher(random_table(7, 3)), 2
    )
    assert fidelity["positions"] == 2


def test_what_a_teacher_makes_of_padding_does_not_matter():
    class Fragile(TableTeacher):
        def logits(self, inputs):
            logits = super().logits(inputs).clone()
            logits[inputs[0].reshape(-1) == 0] = math.nan
            return logits

    corpus = block_corpus([[1, 2, 3], [4]], [[True] * 3, [True]])
    spec = spec_of(corpus.form, OPTIONS, 3, None)
    rows, _ = label_rows(
        corpus.splits["train"], spec, "train", Fragile(random_table(7, 3)), batch_size=2
    )
    assert np.isfinite(rows["logit"].values_NW).all()


# --- what is refused ----------------------------------------------------------------------------


def test_nan_names_the_samples_and_leaves_the_shard_unmade(store, corpus):
    table = TABLE.copy()
    table[[10, 12]] = np.nan
    work = Work(store, corpus, TableTeacher(table))
    with pytest.raises(NotFiniteError, match=r"in 1 samples: train-10;"):
        work.make(work.plan().missing)
    assert places(work.plan().missing) == places(work.plan().wanted[1:])
    assert len((work.folder / layout.SHARDS).sizes()) == 1
    assert len((work.folder / layout.RECORDS).sizes()) == 1
    assert not work.folder.exists(layout.MANIFEST)


def test_a_masked_class_is_legal(store, corpus):
    table = TABLE.copy()
    table[:, 3] = -np.inf
    labels = label_set(store, corpus, TableTeacher(table), OPTIONS)
    assert list(verify(labels.folder)) == []
    rows = next(labels.batches("train"))
    assert rows["label_logit"][3] == -np.inf
    labels.close()


def test_more_classes_than_there_are_cannot_be_kept(store, corpus):
    with pytest.raises(RecipeError, match=r"labels\.k: expected at most the 5 classes .* got 6;"):
        Work(store, corpus, options=OPTIONS.model_copy(update={"k": 6}))
    # Of the splits for evaluation k is only the most that is kept.
    many = OPTIONS.model_copy(update={"evaluation": KeptSetOptions(k=64)})
    assert Work(store, corpus, options=many).spec.entries == {"train": 2, "test": 5}


def test_a_teacher_of_other_classes_is_refused(store, corpus):
    work = Work(store, corpus)
    work.teacher = TableTeacher(random_table(40, 7))
    with pytest.raises(ModelError, match="gives 7 classes, 5 were expected"):
        work.make(work.plan().missing)


def test_a_hard_label_that_the_teacher_does_not_know_is_refused(store):
    corpus = numbered_corpus({"train": 9}, num_classes=8)
    work = Work(store, corpus)
    with pytest.raises(DataError, match="hard label 7, the teacher knows the classes 0 to 4"):
        work.make(work.plan().missing)
    assert len(work.plan().missing) == 2


def test_logits_for_other_positions_are_refused(store, corpus):
    class Pooling(TableTeacher):
        def logits(self, inputs):
            return super().logits(inputs)[:1]

    work = Work(store, corpus, Pooling(TABLE))
    with pytest.raises(ModelError, match="expected logits for 3 positions, got 1"):
        work.make(work.plan().missing)


# --- samples that are set aside -----------------------------------------------------------------


def quarantining(work, plans):
    job = LabelJob(work.folder, work.spec, work.corpus, work.options.batch_size, quarantine=True)
    return label_shards(job, plans, work.teacher, lambda _: None)


def test_samples_without_finite_logits_are_set_aside_with_the_reason(store, corpus):
    table = TABLE.copy()
    table[[10, 12]] = np.nan
    table[30] = -np.inf
    work = Work(store, corpus, TableTeacher(table))
    quarantining(work, work.plan().missing)
    manifest = work.finish()
    assert manifest.quarantined == 3
    found = [
        sample for record in manifest.shards for sample in read_quarantine(work.folder, record)
    ]
    assert [(bad.place, bad.sample_id) for bad in found] == [
        (10, "train-10"), (12, "train-12"), (9, "test-30"),
    ]  # fmt: skip
    assert {bad.reason for bad in found} == {"the teacher's logits are NaN or infinite"}
    assert [shard.rows for shard in manifest.shards] == [8, 6, 5, 8, 1]
    assert list(verify(work.folder)) == []
    assert work.plan().missing == ()


def test_samples_that_could_not_be_made_never_see_the_teacher(store):
    corpus = numbered_corpus({"train": 9, "test": 2})
    reasons = np.array([""] * 9, object)
    reasons[[2, 8]] = ["cannot be decoded: truncated", "too long: 99 tokens"]
    corpus.splits["train"]["bad"] = reasons
    work = Work(store, corpus)
    with pytest.raises(DataError, match=r"1 samples cannot be used: train-2: cannot be decoded"):
        work.make(work.plan().missing)
    quarantining(work, work.plan().missing)
    manifest = work.finish()
    # The second shard has no sample left.
    assert [shard.rows for shard in manifest.shards] == [7, 0, 2]
    assert sum(work.teacher.batch_sizes) == 7 + 2
    assert list(verify(work.folder)) == []
    stream = Stream(LabelSource(LabelSet.open(work.folder), "train"), batch_size=4, shuffle=False)
    ids = [name for batch in stream for name in batch.sample_ids]
    assert ids == [f"train-{number}" for number in range(8) if number != 2]


def test_halved_batches_are_noted_in_the_record(store, corpus):
    class Small(TableTeacher):
        def logits(self, inputs):
            if len(inputs[0]) > 2:
                raise MemoryError
            return super().logits(inputs)

    whole = Work(store, corpus, fingerprint="0" * 16)
    whole.make(whole.plan().missing)
    work = Work(store, corpus, Small(TABLE))
    work.make(work.plan().missing)
    assert [record.halved_batches for record in work.plan().records] == [2, 2, 1, 2, 0]
    assert work.finish().digest == whole.finish().digest


# --- every way of keeping, in every layout ------------------------------------------------------


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("keep", Keep)
def test_streams_hold_the_teachers_probabilities(store, keep, codec, layout):
    """The same batch whatever is kept and however it lies: index, logit, rest and weight."""
    table = random_table(40, 300, scale=2.0)
    corpus = numbered_corpus({"train": 30, "test": 10}, 300)
    options = LabelOptions(
        keep=keep, k=20, p=0.7, draws=25, temperature=2.0, codec=codec, layout=layout, batch_size=7,
        positions_per_shard=16, positions_per_row_group=6,
    )  # fmt: skip
    labels = label_set(store, corpus, TableTeacher(table), options)
    seen = 0
    for batch in Stream(LabelSource(labels, "train"), batch_size=8):
        for place, sample in enumerate(batch.sample_ids):
            log_p_C = dense.log_softmax(table[int(sample.split("-")[1])].astype(np.float64), 1.0)
            log_p_PK, _ = entry_log_probs(
                batch.logit_PK[place : place + 1], batch.rest_PT[place : place + 1, 1], 2.0, 1.0
            )
            present_K = batch.present_PK[place]
            index_K = batch.index_PK[place][present_K]
            found_K, true_K = log_p_PK[0][present_K].numpy(), log_p_C[index_K.numpy()]
            step_K = 0.06 * np.exp((log_p_C.max() - true_K) / 4)
            tolerance_K = step_K if codec is Codec.UINT8 else 5e-3
            assert (np.abs(found_K - true_K) < tolerance_K).all()
            if keep is not Keep.SAMPLE:
                assert batch.teacher_best_P[place] == log_p_C.argmax()
                assert batch.weight_PK is None
            else:
                assert batch.weight_PK[place].sum() == pytest.approx(1.0)
                assert (batch.weight_PK[place][present_K] > 0).all()
            seen += 1
    assert seen == 30
    labels.close()


@pytest.mark.parametrize("keep", Keep)
def test_one_worker_or_many_the_same_digest(tmp_path, keep):
    """Draws and nuclei depend on the sample alone, not on its batch or shard."""
    table = random_table(30, 50)
    corpus = numbered_corpus({"train": 30}, 50)
    digests = set()
    for size in (1, 7, 30):
        options = LabelOptions(
            keep=keep, k=9, draws=12, codec=Codec.FLOAT32, batch_size=size, positions_per_shard=11,
        )  # fmt: skip
        store = Folder.open(tmp_path / str(size))
        digests.add(label_set(store, corpus, TableTeacher(table), options).digest)
    assert len(digests) == 1


def test_outputs_beyond_the_classes_are_padding_if_the_teacher_never_prefers_them(store):
    corpus = numbered_corpus({"train": 6}, 3)
    table = random_table(6, 5, scale=1.0)
    table[:, 3:] = -2.0
    spec = spec_of(corpus.form, LabelOptions(k=2), 3, None, teacher_classes=5, padded=True)
    rows, _ = label_rows(corpus.splits["train"], spec, "train", TableTeacher(table), 4)
    assert rows["index"].max() < 3
    z = table - table.max(axis=1, keepdims=True)
    left = np.ones_like(z, bool)
    np.put_along_axis(left, rows["index"], False, axis=1)
    expected = np.log(np.where(left, np.exp(z), 0).sum(axis=1))
    assert np.allclose(rows["rest"][:, 0], expected, atol=1e-5)
    table[2, 4] = 99.0
    with pytest.raises(ModelError, match=r"data\.padded: .* one of the ids 4 at"):
        label_rows(corpus.splits["train"], spec, "train", TableTeacher(table), 4)


# --- identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "layout", "digest"),
    [
        (
            F32,
            PLAIN,
            "c75ea93b2c3ab030aa8deacac6e1e27a5989096a0d3f98719bdf4ef97affbbcd",
        ),
        (
            F16,
            PLAIN,
            "709a25c344fbea04119e0d17e724973386388c6d9347e736a1c10b15ac08d48c",
        ),
        (
            U8,
            PLAIN,
            "a5522a048e0b5295db8ea3fc1da536f93d1e178132461262e7806ca78465d8cf",
        ),
        (
            F16,
            FAST,
            "6f599104d4ccebb6502b292d03692740a4f7633aa9469b2fafa5e01cd1763f76",
        ),
        (
            F16,
            COMPACT,
            "f1e5430fb9a64abeb5b4cd77ae58c723d5a03979fd6146b45f91d81068efeb94",
        ),
        (
            U8,
            COMPACT,
            "a86ad5580b3e49b593be5b959d816402215e3208bac411676a70167e6a4059ed",
        ),
    ],
)
def test_the_bytes_of_a_label_set_are_what_they_were(store, codec, layout, digest):
    """Golden digests: they change only with a bump of a code or format version.

    All numbers can be said exactly: halves, and a rest that is a single class or nothing.
    """
    table = np.array([[0.0, -1.0, -2.5, 3.0, 1.5], [4.0, 0.5, -np.inf, 1.5, 2.0]])
    corpus = numbered_corpus({"train": 5, "test": 2})
    for rows in corpus.splits.values():
        rows["input.row"] %= 2
    options = LabelOptions(
        k=4,
        temperature=2.0,
        codec=codec,
        layout=layout,
        batch_size=2,
        positions_per_shard=3,
        positions_per_row_group=2,
    )
    labels = label_set(store, corpus, TableTeacher(table), options)
    rests = np.concatenate([rows["rest"] for rows in labels.batches("train")])
    assert rests[:2].tolist() == [[-2.75, -5.5], [-np.inf, -np.inf]]
    assert labels.digest == digest
    labels.close()


@pytest.mark.gpu
def test_a_teacher_on_cuda_gives_the_labels_of_the_cpu(tmp_path, corpus):
    class OnCuda(TableTeacher):
        def logits(self, inputs):
            return super().logits(inputs).cuda()

    found = []
    for name, kind in (("cpu", TableTeacher), ("cuda", OnCuda)):
        labels = label_set(Folder.open(tmp_path / name), corpus, kind(TABLE), OPTIONS)
        found.append(next(labels.batches("train")))
        labels.close()
    cpu, cuda = found
    assert np.array_equal(cpu["index"], cuda["index"])
    for name in ("logit", "rest", "label_logit"):
        np.testing.assert_allclose(cpu[name], cuda[name], rtol=2**-10)
    assert torch.cuda.is_available()


# Texts: of varying length, one position each


def test_a_text_has_one_position_however_long_it_is(store):
    class FirstToken(TableTeacher):
        def logits(self, inputs):
            tokens, attention_mask = inputs
            assert not tokens[attention_mask == 0].any()
            return super().logits((tokens[:, :1],))

    texts = [[1, 2, 3], [4], [5, 6, 0, 1], [2, 3], [6]]
    table = random_table(7, 3)
    labels = label_set(store, text_corpus(texts), FirstToken(table), OPTIONS)
    assert labels.manifest.positions == 5
    rows = next(iter(labels.batches("train")))
    assert rows["input.attention_mask"].lengths_B.tolist() == [3, 1, 4, 2]
    (batch, *_) = Stream(LabelSource(labels, "train"), 5, shuffle=False)
    first = [text[0] for text in texts]
    assert batch.teacher_best_P.tolist() == table[first].argmax(axis=1).tolist()
    assert batch.label_P.tolist() == [token % 3 for token in first]
    assert batch.inputs[0].shape == (5, 4)
    assert not list(verify(store))
    labels.close()
