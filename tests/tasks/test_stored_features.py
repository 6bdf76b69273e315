"""Features that the label stage stores: through real shards, within the error of their type.

Shape letters: B samples, N positions, W width, S size, H heads.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from storage import layout as paths
from storage.corpus import MemoryCorpus
from storage.errors import ModelError, NotFiniteError, RecipeError
from storage.feature_options import StoredFeature
from storage.files import Folder
from storage.options import DataOptions, LabelOptions, Layout, Task
from storage.quarantine import read_quarantine
from storage.reader import LabelSet
from storage.records import write_record
from storage.rows import Ragged
from storage.spec import CorpusForm, InputSpec, spec_of
from storage.verify import verify
from storage.viewed_corpus import with_views
from tasks.estimate import estimate_by_probe
from tasks.label import LabelJob, finish_label_set, label_rows, label_shards
from tasks.mixed import MixedSource
from tasks.nn.observe import observe
from tasks.nn.pooling import pooled
from tasks.planning import estimate_feature_bytes, plan_labels
from tasks.sources import LabelSource
from tasks.stored_features import _rounded, projection
from tasks.stream import Stream
from tasks.teachers import TorchTeacher
from tests.storage.refusal import refused
from tests.tasks.nn.sequences import CLASSES, FILE, IDS, MASK, built, some_bytes, tokens
from tests.tasks.toy import FINGERPRINT, TableTeacher, label_set, numbered_corpus, random_table

CPU = torch.device("cpu")
GOLDEN = [0.80066675, 0.12418497, 1.02717829, -0.03268883, 0.32813033]
"""The first numbers of the projection of `hidden.-1` from 16 to 5, times the root of 5."""
LENGTHS = [5, 3, 1, 6, 2, 4, 5, 3, 6, 2, 7]
ERROR = {"float16": 2.0**-11, "float32": 1e-6}


def texts(task=Task.CLASSIFICATION, lengths=LENGTHS, seed=0):
    """Samples of tokens, each of its own length."""
    rng = np.random.default_rng(seed)
    lengths_B = np.array(lengths)
    ids = rng.integers(0, CLASSES, lengths_B.sum())
    rows = {
        "sample_id": np.array([f"text-{place}" for place in range(len(lengths))], dtype=object),
        "input.input_ids": Ragged(ids, lengths_B),
        "input.attention_mask": Ragged(np.ones_like(ids), lengths_B),
    }
    if task.has_many_positions:
        rows["mask"] = Ragged(np.ones(len(ids), np.bool_), lengths_B)
    ids_B = np.array([f"other-{place}" for place in range(len(lengths))], dtype=object)
    form = CorpusForm(task, (IDS, MASK), False, ("train", "test"))
    return MemoryCorpus(form, {"train": rows, "test": {**rows, "sample_id": ids_B}})


def text_teacher(task=Task.CLASSIFICATION):
    return TorchTeacher(built(tokens(), task), (IDS, MASK), CPU, "teacher")


def options(*features, **changes):
    values = {"k": 2, "batch_size": 3, "positions_per_shard": 9, "positions_per_row_group": 8}
    return LabelOptions(features=features, **values | changes)


def stored(name, **changes):
    return StoredFeature(feature=name, **changes)


def of_each(teacher, rows, name):
    """What is inside the teacher for each sample, run alone: [N, W], or [H, N, N]."""
    found = []
    ids, lengths_B = rows["input.input_ids"].values_NW, rows["input.input_ids"].lengths_B
    for end, length in zip(np.cumsum(lengths_B), lengths_B, strict=True):
        one = torch.from_numpy(ids[end - length : end])[None]
        with torch.no_grad():
            found.append(observe(teacher.module, (one, torch.ones_like(one)), [name])[1][name][0])
    return found


def batches(labels, *features, size=4, split="train"):
    source = LabelSource(labels, split, features)
    return list(Stream(source, batch_size=size, shuffle=False))


def assert_near(found, expected, dtype="float16"):
    torch.testing.assert_close(found, expected.float(), rtol=2 * ERROR[dtype], atol=2e-5)


# --- what is stored is what is inside -----------------------------------------------------------


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.TAGGING])
def test_positions_and_maps_of_samples_of_any_length(store, task, dtype, layout):
    corpus, teacher = texts(task), text_teacher(task)
    asked = [stored(name, dtype=dtype) for name in ("hidden.1", "attention.-1")]
    labels = label_set(store, corpus, teacher, options(*asked, layout=layout))
    rows = corpus.splits["train"]
    hidden, maps = (of_each(teacher, rows, name) for name in ("hidden.1", "attention.-1"))
    place = 0
    for batch in batches(labels, "hidden.1", "attention.-1"):
        assert set(batch.features) == {"hidden.1", "attention.-1"}
        length = batch.inputs[0].shape[1]
        assert batch.features["hidden.1"].shape == (batch.num_samples, length, 16)
        assert batch.features["attention.-1"].shape == (batch.num_samples, 2, length, length)
        for row in range(batch.num_samples):
            n = LENGTHS[place]
            found, found_map = batch.features["hidden.1"][row], batch.features["attention.-1"][row]
            assert_near(found[:n], hidden[place], dtype)
            assert_near(found_map[:, :n, :n], maps[place], dtype)
            assert not found[n:].any()
            assert not found_map[:, n:].any()
            assert not found_map[:, :, n:].any()
            place += 1
    assert place == len(LENGTHS)
    assert list(verify(labels.folder)) == []
    labels.close()


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
@pytest.mark.parametrize("size", [None, 5])
def test_what_is_pooled_and_projected(store, pool, size):
    corpus, teacher = texts(), text_teacher()
    feature = stored("hidden.-1", pool=pool, size=size, dtype="float32")
    labels = label_set(store, corpus, teacher, options(feature))
    (batch,) = batches(labels, "hidden.-1", size=len(LENGTHS))
    for row, x_NW in enumerate(of_each(teacher, corpus.splits["train"], "hidden.-1")):
        expected = pooled(x_NW[None], None, feature.pool)[0]
        if size is not None:
            expected = expected @ projection("hidden.-1", 16, size)
        assert_near(batch.features["hidden.-1"][row], expected, "float32")
    assert labels.feature_shapes() == {"hidden.-1": (size or 16,)}
    labels.close()


def test_patches_of_files_that_are_of_one_length(store):
    rng = np.random.default_rng(0)
    rows = {
        "sample_id": np.array([f"file-{place}" for place in range(7)], dtype=object),
        "input.bytes": rng.integers(0, 256, (7, 45)).astype(np.int16),
    }
    form = CorpusForm(Task.CLASSIFICATION, (FILE,), False, ("train",))
    model = built(some_bytes(patch=4), Task.CLASSIFICATION, (FILE,))
    teacher = TorchTeacher(model, (FILE,), CPU, "teacher")
    feature = stored("hidden.1", size=3)
    labels = label_set(store, MemoryCorpus(form, {"train": rows}), teacher, options(feature))
    assert labels.feature_shapes() == {"hidden.1": (12, 3)}
    with torch.no_grad():
        files = torch.from_numpy(rows["input.bytes"])
        expected = observe(model, (files,), ["hidden.1"])[1]["hidden.1"]
    (batch,) = batches(labels, "hidden.1", size=7)
    assert_near(batch.features["hidden.1"], expected @ projection("hidden.1", 16, 3))
    labels.close()


class Small(nn.Module):
    """Vectors through a module of any name, its output times a number."""

    def __init__(self, times=1.0):
        super().__init__()
        self.inner = nn.Linear(1, 4)
        self.head = nn.Linear(4, 5)
        self.times = times
        with torch.no_grad():
            for number, weight in enumerate(self.parameters()):
                weight.copy_(torch.linspace(-1, 1, weight.numel()).reshape(weight.shape) + number)

    def forward(self, x):
        return self.head(self.inner(x.float()) * self.times)


def vectors(times=1.0, train=21):
    """Numbered samples, and a teacher with a module called inner."""
    corpus = numbered_corpus({"train": train, "test": 6})
    return corpus, TorchTeacher(Small(times), corpus.form.inputs, CPU, "teacher")


def test_a_module_of_any_torch_model(store):
    corpus, teacher = vectors()
    labels = label_set(store, corpus, teacher, options(stored("module.inner")))
    (batch,) = batches(labels, "module.inner", size=21)
    with torch.no_grad():
        assert_near(batch.features["module.inner"], teacher.module.inner(batch.inputs[0].float()))
    assert labels.spec.features_of("test") == {}
    (other,) = batches(labels, size=6, split="test")
    assert other.features == {}
    labels.close()


@settings(max_examples=50)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_what_is_beyond_the_type_is_held_at_its_end(value):
    found = _rounded(torch.tensor([value]), torch.float16).item()
    assert found == np.float16(np.clip(value, -65504, 65504))


def test_each_view_has_its_own(store):
    corpus, _ = vectors(train=4)
    splits = {
        split: {name: column for name, column in rows.items() if name != "input.row"}
        | {"input.x": rows["input.row"].astype(np.float32)}
        for split, rows in corpus.splits.items()
    }
    x = InputSpec(name="x", dtype="float32", shape=(1,))
    form = CorpusForm(Task.CLASSIFICATION, (x,), True, tuple(splits))
    said = {"name": "a", "source": "a.csv", "inputs": "x", "splits": {"column": "split"}}
    steps = [{"kind": "noise", "deviation": 2}]
    viewed = with_views(MemoryCorpus(form, splits), DataOptions(**said, views=3, augment=steps))
    teacher = TorchTeacher(Small(), (x,), CPU, "teacher")
    labels = label_set(store, viewed, teacher, options(stored("module.inner", dtype="float32")))
    (batch,) = batches(labels, "module.inner", size=12)
    with torch.no_grad():
        expected = teacher.module.inner(batch.inputs[0])
    assert len(set(expected[:, 0].tolist())) == 12
    assert_near(batch.features["module.inner"], expected, "float32")
    assert list(verify(labels.folder)) == []
    labels.close()


# --- the projection -----------------------------------------------------------------------------


def test_the_projection_is_the_same_everywhere():
    """Golden numbers: students and label sets of other machines rely on them."""
    first = projection("hidden.-1", 16, 5)
    assert first.shape == (16, 5)
    assert torch.equal(first, projection("hidden.-1", 16, 5))
    assert not torch.equal(first, projection("hidden.2", 16, 5))
    assert (first[0] * 5**0.5).tolist() == pytest.approx(GOLDEN, rel=1e-6)


def test_the_projection_keeps_lengths_and_angles():
    torch.manual_seed(0)
    x_PW = torch.nn.functional.normalize(torch.randn(40, 768), dim=1)
    y_PS = x_PW @ projection("hidden.-1", 768, 512)
    assert y_PS.norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)
    assert (y_PS @ y_PS.T - x_PW @ x_PW.T).abs().max() < 0.25


class Exact(nn.Module):
    """Every number can be said exactly, in any type."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, numbers):
        return self.inner(numbers.float() * torch.tensor([0.5, -1.0, 2.0, 0.0, 4.0]))


@pytest.mark.parametrize(
    ("layout", "dtype", "digest"),
    [
        (Layout.PLAIN, "float16", "0ab51def1d8e039b"),
        (Layout.FAST, "float32", "e076e752c363fc2e"),
        (Layout.COMPACT, "float16", "95463a4ccc14453c"),
    ],
)
def test_the_bytes_are_the_same_as_ever(store, layout, dtype, digest):
    """Golden digests: they change only with a bump of a code or format version."""
    corpus = numbered_corpus({"train": 9, "test": 2})
    teacher = TorchTeacher(Exact(), corpus.form.inputs, CPU, "teacher")
    asked = options(stored("module.inner", dtype=dtype), keep="all", layout=layout)
    labels = label_set(store, corpus, teacher, asked)
    assert labels.digest[:16] == digest
    labels.close()


# --- how it was made does not matter ------------------------------------------------------------


class Work:
    """A label set of texts that is made step by step."""

    def __init__(self, store, features, batch_size=3):
        self.folder = store / paths.product(paths.LABELS, FINGERPRINT)
        self.corpus, self.teacher = texts(Task.TAGGING), text_teacher(Task.TAGGING)
        self.options = options(*features, batch_size=batch_size)
        self.spec = spec_of(self.corpus.form, self.options, CLASSES, None)
        write_record(self.folder, paths.SPEC, self.spec)

    def plan(self):
        index = self.corpus.index(self.options.positions_per_shard)
        return plan_labels(self.folder, FINGERPRINT, index)

    def make(self, plans, on_shard=lambda _: None):
        job = LabelJob(self.folder, self.spec, self.corpus, self.options.batch_size)
        return label_shards(job, plans, self.teacher, on_shard)

    def finish(self):
        return finish_label_set(self.folder, FINGERPRINT, self.spec, self.plan().records)


FEATURES = (stored("hidden.-1", size=4), stored("hidden.0", pool="mean"), stored("attention.1"))


def test_an_interrupted_run_gives_the_same_digest(tmp_path):
    whole = Work(Folder.open(tmp_path / "whole"), FEATURES)
    whole.make(whole.plan().missing)
    expected = whole.finish()

    def stop(_):
        raise KeyboardInterrupt

    work = Work(Folder.open(tmp_path / "stopped"), FEATURES)
    while work.plan().missing:
        with pytest.raises(KeyboardInterrupt):
            work.make(work.plan().missing[:3], stop)
    assert work.finish().digest == expected.digest
    assert list(verify(work.folder)) == []


def test_features_do_not_change_the_labels(tmp_path):
    read = []
    for name, features in (("with", FEATURES), ("without", ())):
        work = Work(Folder.open(tmp_path / name), features)
        work.make(work.plan().missing)
        work.finish()
        labels = LabelSet.open(work.folder)
        parts = [rows["rest"].values_NW for rows in labels.batches("train", ["rest"])]
        read.append(np.concatenate(parts))
        labels.close()
    assert np.array_equal(*read)


def test_batches_that_do_not_fit_are_halved():
    corpus, teacher = texts(), text_teacher()
    spec = spec_of(corpus.form, options(*FEATURES), CLASSES, None)

    class Small(TorchTeacher):
        def observed(self, inputs, names):
            if len(inputs[0]) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().observed(inputs, names)

    small = Small(teacher.module, (IDS, MASK), CPU, "teacher")
    rows = corpus.splits["train"]
    whole, _ = label_rows(rows, spec, "train", teacher, 5)
    halves, _ = label_rows(rows, spec, "train", small, 5)
    for name in spec.features_of("train"):
        a, b = (made[name] for made in (whole, halves))
        a, b = (getattr(entry, "values_NW", entry).astype(np.float32) for entry in (a, b))
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)


# --- what is refused, and set aside -------------------------------------------------------------


class Odd(TorchTeacher):
    """What is inside it is infinite for the sample 2, and NaN for 5."""

    def observed(self, inputs, names):
        logits, found = super().observed(inputs, names)
        row = inputs[0][:, 0]
        for value in found.values():
            value[row == 2] = torch.inf
            value[row == 5, 1] = torch.nan
        return logits, found


def test_samples_whose_features_are_not_finite_stop_the_run_or_are_set_aside(store):
    corpus, _ = vectors()
    teacher = Odd(Small(), corpus.form.inputs, CPU, "teacher")
    asked = options(stored("module.inner"))
    with refused(NotFiniteError, "features are NaN or infinite", "train-2"):
        label_set(store, corpus, teacher, asked)
    spec = spec_of(corpus.form, asked, 5, None)
    folder = store / "aside"
    write_record(folder, paths.SPEC, spec)
    plan = plan_labels(folder, FINGERPRINT, corpus.index(9))
    job = LabelJob(folder, spec, corpus, 3, quarantine=True)
    records = label_shards(job, plan.missing, teacher, lambda _: None)
    (bad_of_first,) = (read_quarantine(folder, record) for record in records if record.quarantined)
    reasons = [(sample.sample_id, sample.reason) for sample in bad_of_first]
    assert [name for name, _ in reasons] == ["train-2", "train-5"]
    assert all("features" in reason for _, reason in reasons)
    assert records[0].rows == 7


def test_what_pads_a_sample_may_hold_anything(store):
    class Untidy(TorchTeacher):
        def observed(self, inputs, names):
            logits, found = super().observed(inputs, names)
            for value in found.values():
                value[inputs[1] == 0] = torch.nan
            return logits, found

    teacher = Untidy(text_teacher().module, (IDS, MASK), CPU, "teacher")
    labels = label_set(store, texts(), teacher, options(stored("hidden.1")))
    assert sum(batch.num_samples for batch in batches(labels, "hidden.1")) == len(LENGTHS)
    labels.close()


def test_a_teacher_that_cannot_be_looked_into_is_refused(store):
    corpus = numbered_corpus({"train": 4})
    with refused(ModelError, "labels.features", "kind fit, torch or huggingface"):
        label_set(store, corpus, TableTeacher(random_table(4)), options(stored("hidden.1")))


def test_a_layer_that_is_not_there_is_refused(store):
    with refused(ModelError, "hidden.9", "hidden.0 to hidden.2"):
        label_set(store, texts(), text_teacher(), options(stored("hidden.9")))


def test_features_that_are_not_stored_are_refused(store):
    corpus, teacher = vectors()
    labels = label_set(store, corpus, teacher, options(stored("module.inner")))
    with refused(RecipeError, "holds no 'hidden.1'", "it holds: module.inner"):
        LabelSource(labels, "train", ["hidden.1"])
    with refused(RecipeError, "the split 'test' holds no 'module.inner'", "none"):
        LabelSource(labels, "test", ["module.inner"])
    labels.close()


def test_positions_that_cannot_be_told_apart_are_refused(store):
    class Halved(nn.Module):
        """It joins two tokens to one position, and does not say so."""

        def __init__(self):
            super().__init__()
            self.joined = nn.AvgPool1d(2, ceil_mode=True)

        def forward(self, ids, mask):
            one = torch.nn.functional.one_hot(ids, CLASSES).float() * mask[..., None]
            return self.joined(one.transpose(1, 2)).transpose(1, 2).sum(dim=1)

    teacher = TorchTeacher(Halved(), (IDS, MASK), CPU, "teacher")
    with refused(ModelError, "module.joined", "of length", "pool: mean"):
        label_set(store, texts(), teacher, options(stored("module.joined")))


def test_sets_are_mixed_where_the_same_was_made_of_their_features(tmp_path):
    corpus, teacher = vectors()

    def source(name, feature):
        labels = label_set(Folder.open(tmp_path / name), corpus, teacher, options(feature))
        return LabelSource(labels, "train", ["module.inner"])

    own = source("own", stored("module.inner", size=3))
    alike = source("alike", stored("module.inner", size=3, dtype="float32"))
    batch = next(iter(Stream(MixedSource([own, alike], [1, 1]), batch_size=8)))
    assert batch.features["module.inner"].shape == (8, 3)
    other = source("other", stored("module.inner", size=2))
    with refused(RecipeError, "expected the features", "size: 3", "got", "size: 2"):
        MixedSource([own, other], [1, 1])


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("feature", [stored("hidden.1"), stored("hidden.1", pool="mean")])
def test_the_estimate_is_within_a_few_percent(store, layout, feature):
    lengths = np.random.default_rng(0).integers(1, 40, 400).tolist()
    corpus = texts(lengths=lengths)
    teacher = text_teacher()
    asked = options(
        feature, layout=layout, batch_size=400, positions_per_shard=150, positions_per_row_group=400
    )
    spec = spec_of(corpus.form, asked, CLASSES, None)
    plan = plan_labels(store, FINGERPRINT, corpus.index(150))
    expected = estimate_by_probe(plan.missing, spec, corpus, teacher, 400)
    labels = label_set(store, corpus, teacher, asked)
    assert expected == pytest.approx(labels.manifest.size_bytes, rel=0.05)
    labels.close()


def test_what_a_look_before_the_teacher_runs_can_tell():
    def planned(*features):
        corpus = texts(Task.TAGGING)
        spec = spec_of(corpus.form, options(*features), CLASSES, None)
        plans = plan_labels(Folder.open("memory://looked-at"), FINGERPRINT, corpus.index(9)).wanted
        return plans, spec

    tokens, rows = sum(LENGTHS), len(LENGTHS)
    for feature, width, expected in (
        (stored("hidden.1"), 16, tokens * 16 * 2),
        (stored("hidden.1", size=5, dtype="float32"), None, tokens * 5 * 4),
        (stored("hidden.1", pool="mean"), 16, rows * 16 * 2),
        (stored("module.inner", size=3, pool="mean"), 16, rows * 3 * 2),
        (stored("hidden.1"), None, None),
        (stored("module.inner"), 16, None),
        (stored("attention.1"), 16, None),
    ):
        assert estimate_feature_bytes(*planned(feature), width) == expected


def test_a_label_set_says_what_it_holds(store):
    corpus, teacher = vectors()
    features = (stored("module.inner", size=3), stored("module.head", dtype="float32"))
    labels = label_set(store, corpus, teacher, options(*features))
    found = labels.describe()["features"]
    assert found == ["module.inner, 3 of float16", "module.head, float32"]
    labels.close()
