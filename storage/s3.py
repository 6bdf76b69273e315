"""What S3's client has to be told: fresh listings, one try at a time, bounded waiting.

s3fs and botocore each try again by themselves, and the two multiply; `storage.retry` is the one
that does. What a person configures goes first: fsspec's own configuration (`FSSPEC_S3`, as
`{"config_kwargs": {"read_timeout": 60}}`) and `AWS_MAX_ATTEMPTS`.
"""

from __future__ import annotations

import os
import secrets
from typing import Any, Final

import fsspec

PROTOCOLS: Final = ("s3", "s3a")
WHOLE_FILE: Final = {"max_concurrency": 1}
"""Read by one GET; otherwise s3fs asks for the size first, to read large files in parts."""

_MARK: Final = "writer"
_CONNECTIONS: Final = 32
_CONNECT_SECONDS: Final = 5
_SILENCE_SECONDS: Final = 15  # without a byte


def is_s3(filesystem: Any) -> bool:
    """Whether it is s3fs."""
    protocol = filesystem.protocol
    return PROTOCOLS[0] in ((protocol,) if isinstance(protocol, str) else protocol)


def client_options(url: str) -> dict[str, Any]:
    """The options with which to open a URL; none if it is not S3."""
    if "::" in url or fsspec.core.split_protocol(url)[0] not in PROTOCOLS:
        return {}
    config: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _SILENCE_SECONDS,
        "max_pool_connections": _CONNECTIONS,
    }
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        config["retries"] = {"total_max_attempts": 1}
    for protocol in PROTOCOLS:
        config |= fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
    return {"use_listings_cache": False, "config_kwargs": config}


def try_once(filesystem: Any) -> None:
    """Leave trying again to `storage.retry`."""
    filesystem.retries = 1


def new_mark() -> str:
    """A text by which a writer knows its own file again."""
    return secrets.token_hex(8)


def marked(mark: str) -> dict[str, Any]:
    """The option of writing that puts a mark on a file."""
    return {"Metadata": {_MARK: mark}}


def has_mark(filesystem: Any, path: str, mark: str) -> bool:
    """Whether the file there carries this mark.

    A connection that breaks after a PUT hides who wrote: aiohttp sends it again by itself, and the
    second one finds the file of the first.
    """
    return bool(filesystem.metadata(path).get(_MARK) == mark)
