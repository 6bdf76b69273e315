"""Failures of a store that another try may mend, and what is said about those that it cannot.

This is the one place that tries again: the clients underneath are set to one try each (see
`storage.files`). Failures are told by type, HTTP status and error code, so that no client library
has to be imported. An operation ends after `PATIENCE.tries`, or with the first failure later than
`PATIENCE.seconds`.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from storage.errors import StoreError, one_line

Result = TypeVar("Result")

_TRANSIENT_STATUSES: Final = {408, 429, 500, 502, 503, 504}
_TRANSIENT_CODES: Final = {
    "BadDigest",  # the body was changed on its way there
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
}
_TRANSIENT_TYPES: Final = {
    "ClientConnectionError",  # aiohttp
    "ClientPayloadError",
    "ConnectionError",  # Python's own, botocore's
    "HTTPClientError",  # botocore: closed connections, read timeouts, bodies cut short
    "IncompleteRead",
    "IncompleteReadError",
    "ResponseParserError",  # an answer of something between that is no S3
    "ServiceRequestError",  # azure
    "ServiceResponseError",
    "TimeoutError",
}
_PERMANENT_TYPES: Final = {
    "FileExistsError",
    "FileNotFoundError",
    "PermissionError",
    "ProxyConnectionError",
    "SSLError",
}
_SECRET_VARIABLE: Final = re.compile(r"(KEY|KEY_ID|SECRET|TOKEN|PASSWORD|CONNECTION_STRING)$")
_SECRET_PARAMETER: Final = re.compile(
    r"([?&;](?:[\w-]*(?:sig|signature|token|secret|password|credential|key))=)[^&;\s\"']+", re.I
)
_USER_PASSWORD: Final = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")
_SHORTEST_SECRET: Final = 6
_CHANCE: Final = random.SystemRandom()  # leaves a run's own seeded numbers alone


@dataclass(frozen=True)
class Patience:
    """How often, and for how long, something is tried.

    Attributes:
        tries: at most so many.
        seconds: no try starts later than this after the first.
        first_wait_seconds: between the first two tries; it doubles, with jitter, to the longest.
    """

    tries: int = 6
    seconds: float = 60.0
    first_wait_seconds: float = 0.25
    longest_wait_seconds: float = 8.0

    def wait_seconds(self, failures: int) -> float:
        """How long to wait after so many failures: half of it fixed, half of it by chance."""
        longest: float = min(
            self.first_wait_seconds * 2 ** (failures - 1), self.longest_wait_seconds
        )
        return longest * _CHANCE.uniform(0.5, 1.0)


PATIENCE = Patience()


def patiently(operation: Callable[[], Result]) -> Result:
    """What `operation` gives; it is tried again as long as its failures are transient."""
    start = time.monotonic()
    failures = 0
    while True:
        try:
            return operation()
        except Exception as error:
            failures += 1
            late = time.monotonic() - start > PATIENCE.seconds
            if failures >= PATIENCE.tries or late or not is_transient(error):
                raise
        time.sleep(PATIENCE.wait_seconds(failures))


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, StoreError):
        return False  # this one was tried already
    for each in _chain(error):
        code, status = _code(each), _status(each)
        if code in _TRANSIENT_CODES:
            return True
        if status is not None:
            return status in _TRANSIENT_STATUSES
        types = {base.__name__ for base in type(each).__mro__}
        if types & _PERMANENT_TYPES:
            return False
        if types & _TRANSIENT_TYPES:
            return True
    return False


def is_missing_bucket(error: BaseException) -> bool:
    """Whether not only the file but the whole bucket is not there."""
    return any(_code(each) == "NoSuchBucket" for each in _chain(error))


def is_taken(error: BaseException) -> bool:
    """Whether a file was not created because one of that name is there."""
    return any(
        isinstance(each, FileExistsError) or _code(each) == "PreconditionFailed"
        for each in _chain(error)
    )


def is_past_end(error: BaseException) -> bool:
    """Whether a part was asked for that begins where the file ends, or behind."""
    return any(_code(each) == "InvalidRange" or _status(each) == 416 for each in _chain(error))


def reason(error: BaseException, *secrets: str) -> str:
    """Why an operation failed, in one line without secrets, and what to do about it."""
    if is_missing_bucket(error):
        return "there is no such bucket; create it, or correct the URL"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = redacted(one_line(error), *secrets).rstrip(".")
    types = {base.__name__ for base in type(error).__mro__}
    if types & {"NoCredentialsError", "PartialCredentialsError"}:
        return f"{text}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if isinstance(error, PermissionError) and error.errno is None:
        return f"{text}; check the credentials in the environment and what they may do there"
    if is_transient(error):
        return f"{text}, also when tried again; check the network and the server"
    return text


def redacted(text: str, *secrets: str) -> str:
    """`text` without passwords, signatures, `secrets`, and what the environment holds of those."""
    variables = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    for secret in sorted({*variables, *secrets}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    text = _USER_PASSWORD.sub(r"\1:***@", text)
    return _SECRET_PARAMETER.sub(r"\1***", text)


def _chain(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__


def _code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    found = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(found) if found else None


def _status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return found if isinstance(found, int) else None
    for name in ("status", "status_code", "code"):
        found = getattr(error, name, None)
        if isinstance(found, int) and 400 <= found < 600:
            return found
    return None
