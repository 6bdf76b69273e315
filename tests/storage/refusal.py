"""How a refusal looks: the right error, in one line, with what a person needs to know."""

import contextlib
from collections.abc import Iterator

import pytest

from storage.errors import SoftlabelError


@contextlib.contextmanager
def refused(error: type[SoftlabelError], *words: str) -> Iterator[None]:
    """The block raises `error`; its message is one line and holds all `words`."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
