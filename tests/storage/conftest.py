"""A store in a new folder, and a small finished label set in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.files import Folder
from storage.reader import LabelSet
from tests.storage.toy import write_toy_set


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder.open(tmp_path / "store")


@pytest.fixture
def labels(store: Folder) -> Iterator[LabelSet]:
    opened = write_toy_set(store)
    yield opened
    opened.close()
