"""Opening and planning label sets of many shards: time on disk, requests on an object store.

The shards are a few bytes each: neither opening nor planning reads one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem

from storage import layout
from storage.compaction import RecordGroups, clear_groups
from storage.corpus import CorpusIndex, ShardSamples
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.options import TRAIN
from storage.reader import LabelSet
from storage.records import Manifest, ShardRecord, parse, read_record, seal, write_record
from tasks import intents
from tasks.planning import plan_labels
from tests.benchmarks.figures import ROOT, Figure
from tests.storage.toy import toy_spec

_FEW, _MANY = 1_000, 10_000
_COUNTS = (_FEW, _MANY, 2 * _MANY)
_PARTS = {
    "open": "opening a label set",
    "plan": "planning a label set, its corpus index read",
    "process": "both, the whole process",
}
_KILLED = 15
_REPEATS = 5
_ROWS = 4
_CONTENT = b"shard"
_FINGERPRINT = "0" * 16
_INDEX = "index.json"
_LISTED_AT_ONCE = 1_000
_SPEC = toy_spec(temperatures=(2.0, 1.0, 4.0))


def run() -> list[Figure]:
    """Time three sizes in new processes, in turn; count the requests for one of them."""
    with tempfile.TemporaryDirectory() as folder:
        for count in _COUNTS:
            labels = Folder.open(f"{folder}/{count}")
            finish(labels, commit(labels, count))
        rounds = [{count: timed(f"{folder}/{count}") for count in _COUNTS} for _ in range(_REPEATS)]
    figures = []
    for part, name in _PARTS.items():
        few, many, twice = (
            statistics.median(times[count][part] for times in rounds) for count in _COUNTS
        )
        figures.append(
            Figure(
                f"{name}, {_MANY:,} shards",
                f"{many:.2f} s; {_FEW:,} shards {few:.3f} s, {2 * _MANY:,} shards {twice:.2f} s, "
                f"{twice / many:.1f} times",
                "together under 3 s, and linear",
                f"local disk, finished, a new process each, median of {_REPEATS}",
            )
        )
    return [*figures, *count_requests()]


def commit(folder: Folder, count: int) -> list[ShardRecord]:
    """Make a label set of `count` shards that are records only, and the index of their samples."""
    samples = [
        ShardSamples(
            start=place * _ROWS, rows=_ROWS, positions=_ROWS, digest=digest_of_bytes(b"%d" % place)
        )
        for place in range(count)
    ]
    index = CorpusIndex(
        task=_SPEC.task,
        inputs=_SPEC.inputs,
        has_label=True,
        shards={TRAIN: tuple(samples)},
        digests={TRAIN: "0" * 64},
        samples={TRAIN: count * _ROWS},
        num_labels=_SPEC.num_classes,
    )
    write_record(folder, _INDEX, index)
    records = [_record(place, one.digest) for place, one in enumerate(samples)]
    for name in (layout.RECORDS, layout.SHARDS):
        folder.filesystem.makedirs(f"{folder.path}/{name}", exist_ok=True)
    for record in records:
        contents = {
            f"{layout.SHARDS}/{record.file}": _CONTENT,
            f"{layout.RECORDS}/{record.record_file}": seal(record.model_dump(mode="json")),
        }
        for name, content in contents.items():
            folder.filesystem.pipe_file(f"{folder.path}/{name}", content)  # without fsync
    return records


def finish(folder: Folder, records: Sequence[ShardRecord]) -> None:
    """Write the manifest; it makes groups needless."""
    manifest = Manifest.of(_FINGERPRINT, _SPEC, tuple(records), {})
    write_record(folder, layout.MANIFEST, manifest)
    clear_groups(folder)


def look(url: str) -> dict[str, float]:
    """Open and plan a finished set; seconds of each."""
    folder = Folder.open(url)
    started = time.perf_counter()
    labels = LabelSet.open(folder)
    opened = time.perf_counter()
    index = parse(CorpusIndex, read_record(folder, _INDEX), url)
    plan = plan_labels(folder, _FINGERPRINT, index)
    planned = time.perf_counter()
    assert plan.records == labels.manifest.shards
    assert not plan.missing
    return {"open": opened - started, "plan": planned - opened}


def timed(url: str) -> dict[str, float]:
    """`look` in a new process, and that process as a whole."""
    command = [sys.executable, "-m", "tests.benchmarks.planning", url]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)
    seconds: dict[str, float] = json.loads(done.stdout)
    return {**seconds, "process": time.perf_counter() - started}


def count_requests() -> list[Figure]:
    """Requests of planning the larger set while it is not finished, and once it is."""
    filesystem = CountingFileSystem()
    folder = Folder(filesystem, "/labels", "counting://labels")
    records = commit(folder, _MANY)
    with RecordGroups(folder) as groups:
        for record in records[:-_KILLED]:
            groups.add(record)
    index = parse(CorpusIndex, read_record(folder, _INDEX), "index")
    states = {}
    for state, compact in (("killed", True), ("the next look", False)):
        filesystem.requests.clear()
        plan = plan_labels(folder, _FINGERPRINT, index, compact=compact)
        assert len(plan.records) == _MANY
        states[state] = filesystem.requests.copy()
    finish(folder, records)
    filesystem.requests.clear()
    plan_labels(folder, _FINGERPRINT, index)
    states["finished"] = filesystem.requests.copy()
    return [
        Figure(
            f"requests of planning {_MANY:,} shards, {state}",
            f"{sum(counted.values()) - counted['list']} beyond {counted['list']} listings "
            f"({', '.join(f'{number} {kind}' for kind, number in sorted(counted.items()))})",
            f"at most {_MANY // 100} beyond the listings",
            f"file system in memory that counts; {_KILLED} shards were in no group at first; "
            f"a listing holds {_LISTED_AT_ONCE:,} names",
        )
        for state, counted in states.items()
    ]


class CountingFileSystem(MemoryFileSystem):
    """Counts what would be a request of an object store."""

    protocol = "counting"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    def cat_file(self, *arguments: Any, **options: Any) -> Any:
        self.requests["read"] += 1
        return super().cat_file(*arguments, **options)

    def ls(self, *arguments: Any, **options: Any) -> Any:
        found = super().ls(*arguments, **options)
        self.requests["list"] += 1 + len(found) // _LISTED_AT_ONCE
        return found

    def exists(self, *arguments: Any, **options: Any) -> Any:
        self.requests["look"] += 1
        return super().exists(*arguments, **options)

    def pipe_file(self, *arguments: Any, **options: Any) -> Any:
        self.requests["write"] += 1
        return super().pipe_file(*arguments, **options)

    def rm_file(self, *arguments: Any, **options: Any) -> Any:
        self.requests["delete"] += 1
        return super().rm_file(*arguments, **options)


def _record(place: int, samples_digest: str) -> ShardRecord:
    content_digest = digest_of_bytes(b"content %d" % place)
    kept = {"mean": 0.98765432101234567, "p01": 0.76543210123456789}
    numbers = {"retained_mass": kept, "codec_kl": 1.23456789e-7, "truncation_kl": 0.0123456789}
    return ShardRecord(
        fingerprint=intents.shard(_FINGERPRINT, samples_digest),
        split=TRAIN,
        ordinal=place,
        file=layout.shard_file(TRAIN, place, content_digest),
        rows=_ROWS,
        positions=_ROWS,
        row_groups=(_ROWS,),
        size_bytes=len(_CONTENT),
        sha256=digest_of_bytes(_CONTENT),
        content_digest=content_digest,
        first_id=f"train-{place * _ROWS}",
        last_id=f"train-{place * _ROWS + _ROWS - 1}",
        fidelity={
            "temperatures": {f"{t:g}": numbers for t in _SPEC.temperatures},
            "agreement": 1.0,
            "positions": _ROWS,
        },
    )


if __name__ == "__main__":
    print(json.dumps(look(sys.argv[1])))
