"""Records: the small JSON files that say what is stored.

Readers trust records and the manifest, never a listing. Each carries, first, a `checksum`: the
sha256 of the whole file, with zeros for the digits themselves. So any changed byte is found, and
looking costs no writing of it again. What a record says is checked before it is used: names lead
nowhere else, counts are whole and fit into 64 bits, digests have their length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from storage import layout
from storage.errors import IntegrityError, one_line
from storage.files import Folder
from storage.identity import (
    DIGEST_DIGITS,
    DIGEST_PATTERN,
    FINGERPRINT_PATTERN,
    Json,
    digest_of_digests,
    plain,
)
from storage.options import SplitName
from storage.spec import FORMAT_VERSION, NEWEST_FORMAT_VERSION, LabelSetSpec, StoredModel

CHECKSUM: Final = "checksum"
Model = TypeVar("Model", bound=BaseModel)

_HEAD: Final = f'{{\n "{CHECKSUM}": "'.encode()
_REST: Final = len(_HEAD) + DIGEST_DIGITS
_DEEPEST: Final = 2
_RARE: Final = ("quarantined", "quarantine_file", "quarantine_sha256", "halved_batches")
_ENCODER: Final = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, allow_nan=False, default=plain
)

Count = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
Fingerprint = Annotated[str, Field(pattern=FINGERPRINT_PATTERN)]


class ShardRecord(StoredModel):
    """What one shard is: written after its file, so that its being there means committed.

    Attributes:
        fingerprint: of the label set and the ids and content of the samples.
        content_digest: of the decoded columns and the row groups; the file's bytes may differ
            between versions of Parquet writers, this does not.
        first_id: the id of the first row; empty without rows, as is `last_id`.
        fidelity: how close the stored labels are to the full ones (see `tasks.nn.softlabels`).
        quarantined: the samples that were set aside and have no row.
        quarantine_file: where they are listed (see `storage.quarantine`); None without any.
        quarantine_sha256: of that file.
        halved_batches: how many batches had to be computed in halves, for want of memory.
    """

    fingerprint: Fingerprint
    split: SplitName
    ordinal: Count
    file: Annotated[str, Field(pattern=layout.SHARD_FILE_PATTERN)]
    rows: Count
    positions: Count
    row_groups: tuple[Count, ...]
    size_bytes: Count
    sha256: Digest
    content_digest: Digest
    first_id: str
    last_id: str
    fidelity: dict[str, Any]
    quarantined: Count = 0
    quarantine_file: Annotated[str, Field(pattern=layout.SHARD_FILE_PATTERN)] | None = None
    quarantine_sha256: Digest | None = None
    halved_batches: Count = 0

    @model_serializer(mode="wrap")
    def _without_what_did_not_happen(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Where nothing was set aside or halved nothing is said of it."""
        content: dict[str, Any] = dump(self)
        return {key: value for key, value in content.items() if value or key not in _RARE}

    @model_validator(mode="after")
    def _require_quarantine(self) -> Self:
        for value in (self.quarantine_file, self.quarantine_sha256):
            if (value is not None) != (self.quarantined > 0):
                raise ValueError("quarantined: expected a file and its sha256 exactly where it is")
        return self

    @model_validator(mode="after")
    def _require_all_rows(self) -> Self:
        if sum(self.row_groups) != self.rows:
            raise ValueError(
                f"row_groups: expected the {self.rows} rows of the shard, got "
                f"{sum(self.row_groups)}"
            )
        return self

    @property
    def record_file(self) -> str:
        """The name of this record in the folder of records."""
        return layout.record_file(self.split, self.ordinal, self.fingerprint)


class Manifest(StoredModel):
    """A finished state of a label set.

    Attributes:
        digest: the sha256 over the content digests of the shards in their order.
        shards: training shards first, then the other splits by name, each in order.
    """

    format_version: int = FORMAT_VERSION
    fingerprint: Fingerprint
    digest: Digest
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
            format_version=spec.format_version,
            fingerprint=fingerprint,
            digest=digest,
            spec=spec,
            shards=ordered,
            fidelity=fidelity,
        )

    def of_split(self, split: str) -> tuple[ShardRecord, ...]:
        """The shards of one split, in order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    @property
    def positions(self) -> int:
        """Positions of all splits."""
        return sum(shard.positions for shard in self.shards)

    @property
    def quarantined(self) -> int:
        """Samples of all splits that were set aside."""
        return sum(shard.quarantined for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Bytes of all shard files."""
        return sum(shard.size_bytes for shard in self.shards)


def seal(content: Mapping[str, Json]) -> bytes:
    """JSON with a checksum of all its bytes; equal content gives equal bytes.

    People can read it: a line for each key, and for each object of a list.
    """
    if CHECKSUM in content:
        raise ValueError(f"the key {CHECKSUM!r} of a record is its own")
    lines = "".join(f",\n {_key(key)}: {_text(content[key], 1)}" for key in sorted(content))
    rest = f'"{lines}\n}}\n'.encode()
    return _HEAD + _checksum(rest) + rest


def unseal(content: bytes, url: str) -> dict[str, Any]:
    """The content of sealed JSON.

    Raises:
        IntegrityError: it is no JSON, or not what was written.
    """
    if not content.startswith(_HEAD) or content[_REST : _REST + 1] != b'"':
        raise IntegrityError(
            f"{url} is no record with a checksum: damaged, cut short or of an earlier softlabel"
        )
    if content[len(_HEAD) : _REST] != _checksum(memoryview(content)[_REST:]):
        raise IntegrityError(f"{url} does not match its own checksum: its content was changed")
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
        del value[CHECKSUM]
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{url} is no record: {one_line(error)}") from error
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
    if not isinstance(version, int) or version > NEWEST_FORMAT_VERSION:
        raise IntegrityError(
            f"{url} has format version {version}, this softlabel reads up to "
            f"{NEWEST_FORMAT_VERSION}: use a newer softlabel"
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        said = ": ".join([".".join(map(str, first["loc"])), message]).removeprefix(": ")
        raise IntegrityError(f"{url} is not of the form expected: {said}") from error


def _checksum(rest: bytes | memoryview) -> bytes:
    """The sha256 of a whole record whose own digits are zeros; `rest` is what follows them."""
    state = hashlib.sha256(_HEAD + b"0" * DIGEST_DIGITS)
    state.update(rest)
    return state.hexdigest().encode()


def _text(value: Json, depth: int) -> str:
    """A value as JSON: lists of objects, and objects near the top, over lines; the rest in one."""
    line = f"\n{' ' * depth}"
    if isinstance(value, dict) and depth <= _DEEPEST and any(map(_is_nested, value.values())):
        lines = [f"{line} {_key(key)}: {_text(value[key], depth + 1)}" for key in sorted(value)]
        return f"{{{','.join(lines)}{line}}}"
    if isinstance(value, list | tuple) and any(isinstance(entry, dict) for entry in value):
        return f"[{','.join(f'{line} {_ENCODER.encode(entry)}' for entry in value)}{line}]"
    return _ENCODER.encode(value)


def _is_nested(value: Json) -> bool:
    return isinstance(value, dict | list | tuple)


def _key(key: object) -> str:
    return _ENCODER.encode(key if isinstance(key, str) else str(key))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
