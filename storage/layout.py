"""Every path inside a store, spelled once."""

from __future__ import annotations

from typing import Final

TEACHERS: Final = "teachers"
LABELS: Final = "labels"
STUDENTS: Final = "students"
PREDICTIONS: Final = "predictions"
REPORTS: Final = "reports"
CORPORA: Final = "corpora"
DIGESTS: Final = "digests"
CURRENT: Final = "current"
RUNS: Final = "runs"

CARD: Final = "card.json"
WEIGHTS: Final = "model.safetensors"
MODEL_CONFIG: Final = "config.json"
MODEL_FORM: Final = "softlabel.json"
ONNX_MODEL: Final = "model.onnx"
INT8_MODEL: Final = "model.int8.onnx"
HISTORY: Final = "history.parquet"
CHECKPOINTS: Final = "checkpoints"

SPEC: Final = "spec.json"
MANIFEST: Final = "manifest.json"
MANIFESTS: Final = "manifests"
SHARDS: Final = "shards"
RECORDS: Final = "records"
COMPACTED: Final = "compacted"
LEASES: Final = "leases"
QUARANTINE: Final = "quarantine"

REPORT_JSON: Final = "report.json"
REPORT_HTML: Final = "report.html"
REPORT_MARKDOWN: Final = "report.md"

_NAME_DIGITS: Final = 8
SHARD_FILE_PATTERN: Final = (
    rf"^[a-z0-9_]{{1,40}}-[0-9]{{7,19}}-[0-9a-f]{{{_NAME_DIGITS}}}\.parquet$"
)
"""What `shard_file` and `quarantine_file` give: a plain name, which leads nowhere else."""


def product(kind: str, fingerprint: str) -> str:
    """The folder of a product, such as `labels/<fingerprint>`."""
    return f"{kind}/{fingerprint}"


def shard_file(split: str, ordinal: int, content_digest: str) -> str:
    """A shard's file name: it holds its content, so two writers cannot spoil each other."""
    return f"{split}-{ordinal:07d}-{content_digest[:_NAME_DIGITS]}.parquet"


def record_file(split: str, ordinal: int, shard_fingerprint: str) -> str:
    """A record's file name: it holds what was asked for, so a planner finds it unopened."""
    return f"{split}-{ordinal:07d}-{shard_fingerprint[:_NAME_DIGITS]}.json"


def quarantine_file(split: str, ordinal: int, digest: str) -> str:
    """The file name of a shard's samples that were set aside: it holds its content."""
    return shard_file(split, ordinal, digest)


def record_group(split: str, ordinal: int, count: int, digest: str) -> str:
    """The file name of the records of many shards: the first of them, how many, their content."""
    return f"{split}-{ordinal:07d}-{count}-{digest[:_NAME_DIGITS]}.json"


def lease(name: str) -> str:
    """Where it stands who is making something just now."""
    return f"{LEASES}/{name}.json"


def corpus_index(fingerprint: str) -> str:
    """Where the digests of a corpus are kept."""
    return f"{CORPORA}/{fingerprint}.json"


def file_digests(fingerprint: str) -> str:
    """Where the digests of the files of a corpus are kept."""
    return f"{CORPORA}/files-{fingerprint}.json"


def current(fingerprint: str) -> str:
    """Which label set is the newest of what a recipe asks for."""
    return f"{CURRENT}/{fingerprint}.json"


def file_digest(fingerprint: str) -> str:
    """Where the digest of an outside file is kept."""
    return f"{DIGESTS}/{fingerprint}.json"


def checkpoint_file(step: int, digest: str) -> str:
    """A checkpoint's file name: it holds its content, so that a damaged one is told."""
    return f"step-{step:09d}-{digest[:_NAME_DIGITS]}.pt"


def run_record(run_id: str) -> str:
    """Where it is kept what a run did."""
    return f"{RUNS}/{run_id}.json"


def prediction_file(split: str) -> str:
    """A model's per-sample results on one split."""
    return f"{split}.parquet"
