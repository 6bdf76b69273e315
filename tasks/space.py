"""Whether there is room for what will be written. Imports no torch."""

from __future__ import annotations

from storage.errors import SpaceError
from storage.files import Folder


def require_space(folder: Folder, to_write: int, there: int, max_bytes: int | None) -> None:
    """Refuse to begin what does not fit.

    Args:
        folder: the label set.
        to_write: about how many bytes will be written.
        there: how many are there already.
        max_bytes: `labels.max_bytes`.

    Raises:
        SpaceError: with both numbers.
    """
    if max_bytes is not None and there + to_write > max_bytes:
        raise SpaceError(
            f"labels.max_bytes: the label set would take about {there + to_write:,} bytes, "
            f"{max_bytes:,} are allowed; raise it, or lower labels.k, or choose a smaller "
            "labels.codec or labels.layout"
        )
    free = folder.free_bytes()
    if free is not None and to_write > free:
        raise SpaceError(
            f"{folder.url}: about {to_write:,} bytes would be written, {free:,} are free; make "
            "room, choose another store, or lower labels.k"
        )
