"""A folder on the local disk that lasts as long as the process which made it.

It is removed when its object goes, at the latest when the process ends. What a killed process
left is removed by the next one that makes a folder here: each says whose it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from storage.errors import StoreError, one_line
from storage.processes import Process, is_gone, this

SCRATCH: Final = "SOFTLABEL_SCRATCH"
"""The environment variable that names the folder for scratch folders."""
_OWNER: Final = "owner.json"
_NEW: Final = "new-"
_NAMED: Final = "spool-"


class Scratch:
    """A folder of this process.

    Attributes:
        path: where it is.
    """

    def __init__(self) -> None:
        base = scratch_base()
        try:
            base.mkdir(parents=True, exist_ok=True)
            remove_abandoned(base)
            new = Path(tempfile.mkdtemp(prefix=_NEW, dir=base))
            owner = this()
            if owner is not None:
                (new / _OWNER).write_text(owner.model_dump_json())
            # Under its name there is never a folder that does not say whose it is.
            self.path = new.rename(base / new.name.replace(_NEW, _NAMED, 1))
        except OSError as error:
            raise scratch_error(base, error) from error
        self._remove = weakref.finalize(self, _remove, self.path, os.getpid())

    def remove(self) -> None:
        """Remove it now."""
        self._remove()


def scratch_base() -> Path:
    """Where scratch folders are made: as the environment says, or among the temporary files."""
    said = os.environ.get(SCRATCH)
    return Path(said) if said else Path(tempfile.gettempdir()) / f"softlabel-{os.getuid()}"


def remove_abandoned(base: Path) -> None:
    """Remove the folders of processes that are gone."""
    for folder in base.glob(f"{_NAMED}*"):
        try:
            owner = Process.model_validate_json((folder / _OWNER).read_bytes())
        except (OSError, ValidationError):
            continue
        if is_gone(owner):
            shutil.rmtree(folder, ignore_errors=True)


def scratch_error(where: Path, error: BaseException) -> StoreError:
    """What to say when the scratch folder cannot be written."""
    return StoreError(
        f"the scratch folder {where} cannot be written: {one_line(error)}; make room there, or "
        f"name another folder in the environment variable {SCRATCH}"
    )


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner
        return
    with contextlib.suppress(OSError):
        shutil.rmtree(folder, ignore_errors=True)
