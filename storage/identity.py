"""Identity: fingerprints of what was asked for, digests of what is there.

A fingerprint is the first 16 hex digits of the sha256 of canonical JSON; a digest is a whole
sha256. Neither depends on the process, the platform or the order of keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np

FINGERPRINT_DIGITS: Final = 16
DIGEST_DIGITS: Final = 64
FINGERPRINT_PATTERN: Final = rf"^[0-9a-f]{{{FINGERPRINT_DIGITS}}}$"
DIGEST_PATTERN: Final = rf"^[0-9a-f]{{{DIGEST_DIGITS}}}$"
Json = Any
"""A value that JSON can say: dict, list, str, int, float, bool or None."""


def canonical_json(value: Json) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes."""
    return _CANONICAL.encode(value).encode()


def fingerprint(value: Json) -> str:
    """16 hex digits that name an intent."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:FINGERPRINT_DIGITS]


def digest_of_bytes(content: bytes) -> str:
    """The sha256 of some bytes, as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def digest_of_digests(digests: Iterable[str]) -> str:
    """The sha256 over digests in their order: the digest of a whole from its parts."""
    return digest_of_bytes("\n".join(digests).encode())


def plain(value: object) -> Json:
    """What JSON says for a value of the program that it does not know by itself.

    Raises:
        TypeError: it has no equal in JSON, or is no part of an identity.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | frozenset):
        return sorted(value) if isinstance(value, frozenset) else list(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        raise TypeError("a path is no part of an identity")
    raise TypeError(f"canonical JSON cannot say {type(value).__name__}")


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=plain
)
