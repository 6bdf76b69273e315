"""A label set whose numbers can be worked out by hand.

The teacher gives sample n at position p the logits 0, -1, -2, ... for the classes s, s + 1, s + 2,
... (modulo C), with s = n + p. So a kept logit is -j / T, and the rest is the log of a sum of a few
powers of e. The hard label is class s + 1. The input of sample n is [n, -n], or tokens n + p.

Shape letters: P positions, K kept, T temperatures.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from storage import layout
from storage.augment_options import DropStep, FlipStep
from storage.files import Folder
from storage.identity import fingerprint
from storage.options import STD, AnyTemperature, Codec, Keep, Selection, Task
from storage.quarantine import BadSample
from storage.reader import LabelSet
from storage.records import Manifest, ShardRecord, write_record
from storage.rows import Ragged, Rows
from storage.spec import VIEWS_FORMAT_VERSION, InputSpec, LabelSetSpec
from storage.writer import ShardPlan, write_shard

SET_FINGERPRINT = "0123456789abcdef"
VECTOR = InputSpec(name="x", dtype="float32", shape=(2,))
TOKENS = InputSpec(name="tokens", dtype="int64", shape=None)


def toy_spec(**changes: Any) -> LabelSetSpec:
    """One position a sample, 5 classes, 3 of them kept for training."""
    spec = LabelSetSpec(
        task=Task.CLASSIFICATION,
        num_classes=5,
        inputs=(VECTOR,),
        has_label=True,
        teacher_classes=5,
        selections=kept(train=3, test=5),
        temperatures=(2.0, 1.0),
        codec=Codec.FLOAT16,
        positions_per_row_group=4,
    )
    return spec.model_copy(update=changes)


def kept(**entries: int) -> dict[str, Selection]:
    """So many entries of each position, for each split."""
    return {split: Selection(keep=Keep.TOP_K, k=k) for split, k in entries.items()}


def views_spec(**changes: Any) -> LabelSetSpec:
    """Two views of each training sample."""
    steps = (DropStep(kind="drop", p=0.5), FlipStep(kind="flip"))
    return toy_spec(format_version=VIEWS_FORMAT_VERSION, views=2, augment=steps, **changes)


def token_spec(**changes: Any) -> LabelSetSpec:
    """The same for blocks of tokens."""
    return toy_spec(task=Task.TAGGING, inputs=(TOKENS,), **changes)


def toy_rows(spec: LabelSetSpec, split: str, numbers: Sequence[int]) -> Rows:
    """The samples `numbers`; a block of sample n has 1 + n % 3 positions."""
    ids = np.array([f"{split}-{number}" for number in numbers], dtype=object)
    if spec.has_views(split):
        ids = np.array([f"{split}-{number // spec.views}" for number in numbers], dtype=object)
        view_B = np.array([number % spec.views for number in numbers], np.int32)
        inputs = np.array([[number, -number] for number in np.array(numbers) // spec.views])
        return {
            "sample_id": ids,
            "view": view_B,
            "view_seed": -7 * np.array(numbers, np.int64),
            "input.x": inputs.astype(np.float32),
            **_labels(spec, split, np.array(numbers)),
        }
    if not spec.has_many_positions:
        inputs = np.array([[number, -number] for number in numbers], np.float32)
        return {"sample_id": ids, "input.x": inputs, **_labels(spec, split, np.array(numbers))}
    lengths = np.array([1 + number % 3 for number in numbers], np.int64)
    within = [np.arange(length) for length in lengths]
    places = np.repeat(numbers, lengths) + np.concatenate(within)
    labels = _labels(spec, split, places) | {"mask": places % 2 == 0}
    columns = {"input.tokens": places.astype(np.int64), **labels}
    return {"sample_id": ids, **{name: Ragged(c, lengths) for name, c in columns.items()}}


def _labels(spec: LabelSetSpec, split: str, first_P: np.ndarray) -> dict[str, np.ndarray]:
    count = len(first_P)
    kept_K = np.arange(spec.entries[split])
    columns = {
        "index": (first_P[:, None] + kept_K) % spec.num_classes,
        "logit": np.tile(-kept_K / spec.temperature, (count, 1)),
        "rest": np.tile([rest(spec, split, t) for t in spec.temperatures], (count, 1)),
    }
    if spec.has_std:
        columns["std"] = np.full(count, deviation(spec))
    if spec.has_label:
        columns["label"] = (first_P + 1) % spec.num_classes
        columns["label_logit"] = np.full(count, -1 / spec.temperature)
    if spec.statistics:
        statistics = {"max_logit": 0.0, "logit_mean": -2.0, "logit_std": 2**0.5, "squares": 0.5}
        columns |= {name: np.full(count, value) for name, value in statistics.items()}
    return columns


def rest(spec: LabelSetSpec, split: str, temperature: AnyTemperature) -> float:
    """The log of the mass of what is not kept, relative to the best class."""
    left = np.arange(spec.entries[split], spec.num_classes)
    at = deviation(spec) if temperature == STD else temperature
    return float(np.log(np.exp(-left / at).sum())) if len(left) else -np.inf


def deviation(spec: LabelSetSpec) -> float:
    """That of the logits of any position."""
    return float(np.arange(spec.num_classes).std())


def toy_plan(split: str, ordinal: int, start: int, rows: int, content: str = "") -> ShardPlan:
    """The plan of a shard; other content of its samples gives another fingerprint."""
    name = fingerprint([SET_FINGERPRINT, split, ordinal, start, rows, content])
    return ShardPlan(name, split, ordinal, start, rows, rows)


def write_toy_shard(
    folder: Folder,
    spec: LabelSetSpec,
    split: str,
    ordinal: int,
    numbers: Sequence[int],
    bad: Collection[int] = (),
) -> ShardRecord:
    """Commit the rows `numbers` as one shard; those that are in `bad` too are set aside."""
    plan = toy_plan(split, ordinal, numbers[0], len(numbers))
    good = [number for number in numbers if number not in bad]
    rows = toy_rows(spec, split, good) if good else {}
    aside = [
        BadSample(number, f"{split}-{number}", f"reason {number % 2}")
        for number in numbers
        if number in bad
    ]
    return write_shard(folder, plan, spec, rows, {"mass": 0.5} if good else {}, aside)


def write_toy_set(
    store: Folder,
    spec: LabelSetSpec | None = None,
    train: int = 10,
    test: int = 4,
    rows_per_shard: int = 6,
    fingerprint: str = SET_FINGERPRINT,
    bad: Collection[int] = (),
) -> LabelSet:
    """A finished label set: shards, records, then the manifest under both of its names.

    The training samples `bad` are set aside.
    """
    spec = spec or toy_spec()
    folder = store / layout.product(layout.LABELS, fingerprint)
    write_record(folder, layout.SPEC, spec)
    shards = [
        write_toy_shard(folder, spec, split, ordinal, range(start, min(start + size, count)), out)
        for split, count, size, out in (
            ("train", train, rows_per_shard, bad),
            ("test", test, test, ()),
        )
        for ordinal, start in enumerate(range(0, count, size))
    ]
    fidelity = {split: {"mass": 0.5} for split in spec.splits}
    manifest = Manifest.of(fingerprint, spec, tuple(shards), fidelity)
    write_record(folder, f"{layout.MANIFESTS}/{manifest.digest}.json", manifest)
    write_record(folder, layout.MANIFEST, manifest)
    return LabelSet.open(folder)
