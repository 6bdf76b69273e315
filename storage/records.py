"""Records: the small JSON files that say what is stored.

Readers trust records and the manifest, never a listing. Each carries the sha256 of its own content
as `checksum`, so that a damaged record is told from a true one.
"""

from __future__ import annotations

import json
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from storage.errors import IntegrityError
from storage.files import Folder
from storage.identity import Json, canonical_json, digest_of_bytes, digest_of_digests
from storage.spec import FORMAT_VERSION, LabelSetSpec, StoredModel

CHECKSUM = "checksum"
Model = TypeVar("Model", bound=BaseModel)


class ShardRecord(StoredModel):
    """What one shard is: written after its file, so that its being there means committed.

    Attributes:
        fingerprint: of the label set and the ids and content of the samples.
        content_digest: of the decoded columns and the row groups; the file's bytes may differ
            between versions of Parquet writers, this does not.
        fidelity: how close the stored labels are to the full ones (see `tasks.nn.softlabels`).
    """

    fingerprint: str
    split: str
    ordinal: int
    file: str
    rows: int
    positions: int
    row_groups: tuple[int, ...]
    size_bytes: int
    sha256: str
    content_digest: str
    first_id: str
    last_id: str
    fidelity: dict[str, Any]


class Manifest(StoredModel):
    """A finished state of a label set.

    Attributes:
        digest: the sha256 over the content digests of the shards in their order.
        shards: training shards first, then the other splits by name, each in order.
    """

    format_version: int = FORMAT_VERSION
    fingerprint: str
    digest: str
    spec: LabelSetSpec
    shards: tuple[ShardRecord, ...]
    fidelity: dict[str, Any]

    @classmethod
    def of(
        cls,
        fingerprint: str,
        spec: LabelSetSpec,
        shards: tuple[ShardRecord, ...],
        fidelity: dict[str, Any],
    ) -> Self:
        """The manifest of all `shards`, sorted as it must be."""
        order = {split: place for place, split in enumerate(spec.splits)}
        ordered = tuple(sorted(shards, key=lambda shard: (order[shard.split], shard.ordinal)))
        digest = digest_of_digests(shard.content_digest for shard in ordered)
        return cls(
            fingerprint=fingerprint, digest=digest, spec=spec, shards=ordered, fidelity=fidelity
        )

    def of_split(self, split: str) -> tuple[ShardRecord, ...]:
        """The shards of one split, in order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    @property
    def positions(self) -> int:
        """Positions of all splits."""
        return sum(shard.positions for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Bytes of all shard files."""
        return sum(shard.size_bytes for shard in self.shards)


def seal(content: Json) -> bytes:
    """JSON with a checksum of itself, readable by people."""
    plain = json.loads(canonical_json(content))
    sealed = {**plain, CHECKSUM: digest_of_bytes(canonical_json(plain))}
    return json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def unseal(content: bytes, url: str) -> dict[str, Any]:
    """The content of sealed JSON.

    Raises:
        IntegrityError: it is no JSON, or not what was written.
    """
    try:
        value = json.loads(content)
        checksum = value.pop(CHECKSUM)
        found = digest_of_bytes(canonical_json(value))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise IntegrityError(f"{url} is no record with a checksum: damaged or cut short") from error
    # Some changes, as of 1e-05 to 1E-05, leave the values as they were: the bytes must match too.
    if checksum != found or content != seal(value):
        raise IntegrityError(f"{url} does not match its own checksum: its content was changed")
    return dict(value)


def write_record(folder: Folder, name: str, record: BaseModel | dict[str, Any]) -> None:
    """Publish a sealed record."""
    content = record.model_dump(mode="json") if isinstance(record, BaseModel) else record
    folder.write_bytes(name, seal(content))


def read_record(folder: Folder, name: str) -> dict[str, Any]:
    """Read a sealed record.

    Raises:
        StoreError: it is not there.
        IntegrityError: it is damaged.
    """
    return unseal(folder.read_bytes(name), folder.url_of(name))


def parse(model: type[Model], content: dict[str, Any], url: str) -> Model:
    """The content of a record as its model.

    Raises:
        IntegrityError: it has another form, or a newer format version than this code reads.
    """
    version = content.get("format_version", FORMAT_VERSION)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise IntegrityError(
            f"{url} has format version {version}, this softlabel reads up to {FORMAT_VERSION}: "
            "use a newer softlabel"
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise IntegrityError(
            f"{url} is not of the form expected: {place}: {first['msg']}"
        ) from error
