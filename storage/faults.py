"""What is wrong: one line for each thing that is not as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from storage.errors import SoftlabelError
from storage.files import Folder
from storage.records import ShardRecord, read_record


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        url: the damaged file.
        problem: what was expected and what came.
        shard: the shard that it concerns, where it does.
        earlier: the digest of the earlier state that it concerns, where it does; then the newest
            state is not concerned.
    """

    url: str
    problem: str
    shard: ShardRecord | None = None
    earlier: str | None = None

    def __str__(self) -> str:
        return f"{self.url}: {self.problem}"


def problem_of(error: SoftlabelError, url: str) -> str:
    """What a reader said, without what the line of a fault says anyway."""
    text = str(error).removeprefix(url).lstrip(": ")
    return text.partition("; run: softlabel verify")[0]


def unsealed(folder: Folder, name: str) -> Iterator[Fault]:
    """The fault of a sealed file that is not as it was written."""
    try:
        read_record(folder, name)
    except SoftlabelError as error:
        yield Fault(folder.url_of(name), problem_of(error, folder.url_of(name)))
