"""What a teacher saw when it labelled is what a student gets, to the bit.

Shape letters: B samples, H rows, W columns.
"""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from storage.corpus import MemoryCorpus
from storage.options import DataOptions, LabelOptions, Task
from storage.reader import LabelSet
from storage.rows import Ragged
from storage.spec import CorpusForm, InputSpec
from storage.verify import verify
from storage.viewed_corpus import with_views
from tasks.collate import collate
from tasks.fit import FitJob, fit
from tasks.loss_options import LossOptions
from tasks.model_options import TargetOptions
from tasks.sources import CorpusSource, LabelSource
from tasks.stream import Stream
from tasks.teachers import TorchTeacher
from tasks.training_options import TrainingOptions
from tasks.views import augmented
from tests.tasks.toy import label_set

STEPS = [
    {"kind": "flip"},
    {"kind": "crop", "padding": 1, "fill": "reflect"},
    {"kind": "brightness", "amount": 0.3},
    {"kind": "noise", "deviation": 4},
    {"kind": "erase", "size": [2, 2], "p": 0.5},
]
TOKEN_STEPS = [{"kind": "token_drop", "p": 0.4, "id": 99}]
COUNTS = {"train": 7, "test": 4}
IMAGE = InputSpec(name="image", dtype="uint8", shape=(1, 4, 4))
TOKENS = InputSpec(name="tokens", dtype="int64", shape=None)
LABELS = LabelOptions(keep="all", codec="float32", batch_size=4, positions_per_shard=9)


class Rememberer:
    """Gives each sample logits by which it is known again, and remembers what it saw."""

    num_classes = 3

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, ...]] = []

    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        self.seen.append(tuple(entry.clone() for entry in inputs))
        total_B = inputs[0].reshape(len(inputs[0]), -1).double().sum(dim=1)
        number = total_B % 101
        return torch.stack([number * 0, -number / 7, -number / 13], dim=1).float()


def images(views: int = 3, **changes) -> MemoryCorpus:
    rng = np.random.default_rng(0)
    splits = {
        split: {
            "sample_id": np.array([f"{split}-{place}" for place in range(count)], object),
            "input.image": rng.integers(0, 256, (count, 1, 4, 4)).astype(np.uint8),
            "label": np.arange(count) % 3,
        }
        for split, count in COUNTS.items()
    }
    form = CorpusForm(Task.CLASSIFICATION, (IMAGE,), True, tuple(COUNTS))
    return with_views(MemoryCorpus(form, splits), options("image", STEPS, views, **changes))


def texts(views: int = 2) -> MemoryCorpus:
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in COUNTS.items():
        lengths_B = rng.integers(1, 9, count)
        splits[split] = {
            "sample_id": np.array([f"{split}-{place}" for place in range(count)], object),
            "input.tokens": Ragged(rng.integers(0, 90, lengths_B.sum()), lengths_B),
            "label": np.arange(count) % 3,
        }
    form = CorpusForm(Task.CLASSIFICATION, (TOKENS,), True, tuple(COUNTS))
    return with_views(MemoryCorpus(form, splits), options("tokens", TOKEN_STEPS, views))


def options(name, steps, views, **changes) -> DataOptions:
    data = {"name": "toy", "source": "t.csv", "inputs": name, "splits": {"column": "split"}}
    return DataOptions.model_validate(data | {"views": views, "augment": steps} | changes)


def unpadded(batch: Tensor) -> list[bytes]:
    """The samples of a batch without zeros at the end, as they can be compared in any order."""
    return [np.trim_zeros(row.reshape(-1).numpy(), "b").tobytes() for row in batch]


def streamed(labels: LabelSet, split: str, **asked) -> list[tuple[str, bytes, list[float]]]:
    """(id, input, logits) of each row, as a student gets them."""
    found = []
    for batch in Stream(LabelSource(labels, split), batch_size=5, **asked):
        order_PK = batch.index_PK.argsort(dim=1)
        logit_PK = batch.logit_PK.gather(1, order_PK)
        rows = zip(batch.sample_ids, unpadded(batch.inputs[0]), logit_PK.tolist(), strict=True)
        found += rows
    return found


@pytest.mark.parametrize("make", [images, texts])
def test_the_student_gets_what_the_teacher_saw(store, make):
    corpus, teacher = make(), Rememberer()
    labels = label_set(store, corpus, teacher, LABELS)
    seen = [sample for inputs in teacher.seen for sample in unpadded(inputs[0])]
    got = [row for split in labels.splits for row in streamed(labels, split, seed=3)]
    assert sorted(seen) == sorted(content for _, content, _ in got)
    assert len(got) == sum(corpus.samples.values())
    # And with the very labels that the teacher gave for it.
    for _, content, logits in got:
        teacher_logits = Rememberer().logits(
            (torch.tensor(np.frombuffer(content, np.int64))[None],)
        )
        expected = (teacher_logits - teacher_logits.max())[0].tolist()
        assert logits == pytest.approx(expected, abs=1e-6)
    labels.close()


class RememberingModel(nn.Module):
    """A linear layer that remembers the images it saw, but for the empty ones of a probe."""

    seen: ClassVar[list[bytes]] = []

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(16, outputs)

    def forward(self, image: Tensor) -> Tensor:
        self.seen.extend(row.numpy().tobytes() for row in image if row.any())
        logits: Tensor = self.linear(image.flatten(1).float() / 255)
        return logits


def test_a_torch_teacher_and_a_student_that_is_fitted_see_the_same_tensors(store):
    corpus = images()
    RememberingModel.seen.clear()
    teacher = TorchTeacher(RememberingModel(), (IMAGE,), torch.device("cpu"), "teacher")
    options = LABELS.model_copy(update={"batch_size": 3, "positions_per_shard": 9})
    labels = label_set(store, corpus, teacher, options)
    by_teacher = sorted(RememberingModel.seen)
    assert len(by_teacher) == sum(corpus.samples.values())
    RememberingModel.seen.clear()
    job = FitJob(
        title="student",
        where="students.toy",
        model=TargetOptions(kind="torch", target="tests.tasks.test_views:RememberingModel"),
        loss=LossOptions(),
        training=TrainingOptions(epochs=2, batch_size=7),
        inputs=(IMAGE,),
        num_classes=3,
    )
    fit(job, LabelSource(labels, "train"), None, store / "student", torch.device("cpu"))
    by_student = sorted(RememberingModel.seen)
    assert len(by_student) == 2 * corpus.samples["train"]
    assert by_student[::2] == by_student[1::2]
    assert set(by_student) <= set(by_teacher)
    labels.close()


@pytest.mark.parametrize("make", [images, texts])
def test_a_fitted_teacher_sees_what_it_will_label(store, make):
    corpus = make()
    teacher = Rememberer()
    labels = label_set(store, corpus, teacher, LABELS)
    source = CorpusSource(corpus, "train")
    fitted = [
        row
        for batch in Stream(source, batch_size=6)
        for row in zip(batch.sample_ids, unpadded(batch.inputs[0]), strict=True)
    ]
    labelled = [(name, content) for name, content, _ in streamed(labels, "train")]
    assert sorted(fitted) == sorted(labelled)
    labels.close()


def test_batches_do_not_decide_what_a_view_is(store):
    found = []
    for size, folder in ((1, "one"), (5, "five"), (64, "many")):
        options = LABELS.model_copy(update={"batch_size": size})
        labels = label_set(store / folder, images(), Rememberer(), options)
        found.append(sorted(streamed(labels, "train")))
        labels.close()
    assert found[0] == found[1] == found[2]


def test_rows_keep_the_inputs_as_they_are(store):
    labels = label_set(store, images(), Rememberer(), LABELS)
    assert (labels.spec.format_version, labels.manifest.format_version) == (3, 3)
    seen = {}
    for rows in labels.batches("train"):
        for place, name in enumerate(rows["sample_id"]):
            image = rows["input.image"][place]
            assert image.dtype == np.uint8
            assert np.array_equal(image, seen.setdefault(name, image))
        assert rows["view"].dtype == np.int32
    assert len(seen) == COUNTS["train"]
    assert "view" not in labels.columns("test")
    assert list(verify(labels.folder)) == []
    labels.close()


def test_splits_to_compare_on_are_left_as_they_are(store):
    plain = {name: content for name, content, _ in streamed(
        label_set(store, images(), Rememberer(), LABELS), "test"
    )}  # fmt: skip
    corpus = images()
    rows = corpus.read("test", 0, COUNTS["test"])
    expected = torch.from_numpy(rows["input.image"]).long()
    assert plain == dict(zip(rows["sample_id"], unpadded(expected), strict=True))


def test_the_first_view_may_be_the_original():
    corpus = images(original_first=True)
    rows = corpus.read("train", 0, corpus.samples["train"])
    batch = collate(rows, (), augment=corpus.form.augment)
    original = torch.from_numpy(rows["input.image"]).long()
    assert torch.equal(batch.inputs[0][::3], original[::3])
    assert not torch.equal(batch.inputs[0][1::3], original[1::3])


def test_rows_with_views_need_the_steps_of_their_specification():
    corpus = images()
    rows = corpus.read("train", 0, 2)
    with pytest.raises(ValueError, match="expected the augment steps"):
        collate(rows, ())
    plain = corpus.read("test", 0, 2)
    assert augmented(plain, corpus.form.augment) is plain


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "bool", "float32", "int64"])
def test_every_type_of_number_can_be_moved(dtype):
    steps = options("image", [{"kind": "flip", "p": 1}], 1).augment
    values = np.array([[[1, 0, 3]]]).astype(dtype)
    rows = {"sample_id": np.array(["a"]), "input.x": values, "view_seed": np.array([5])}
    found = augmented(rows, steps)["input.x"]
    assert found.dtype == values.dtype
    assert np.array_equal(found, values[:, :, ::-1])


def test_a_step_changes_the_input_that_it_names():
    steps = options("x", [{"kind": "drop", "p": 1, "value": 9, "input": "y"}], 1).augment
    rows = {
        "sample_id": np.array(["a"]),
        "view_seed": np.array([5]),
        "input.x": np.zeros((1, 2), np.float32),
        "input.y": np.zeros((1, 2), np.float32),
    }
    found = augmented(rows, steps)
    assert not found["input.x"].any()
    assert found["input.y"].tolist() == [[9, 9]]
