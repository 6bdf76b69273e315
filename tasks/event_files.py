"""Event files for TensorBoard: the rows of the history, as they come.

They lie beside the model on a local store, or in a folder that the recipe names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from storage.errors import RecipeError
from storage.files import Folder
from tasks.history import figures_of

FOLDER: Final = "tensorboard"
Write = Callable[[Mapping[str, Any]], None]


def events_folder(
    said: bool | str, product: Folder, recipe_folder: Path, where: str
) -> Path | None:
    """The folder that event files are written to; None where none are.

    Raises:
        RecipeError: they shall lie beside a model that is not on this machine.
    """
    if isinstance(said, str):
        return recipe_folder / said / where.partition(".training")[0]
    if not said:
        return None
    if not product.is_local:
        raise RecipeError(
            f"{where}.tensorboard: event files are written to this machine, the store is "
            f"{product.url}; name a folder instead of true"
        )
    return Path(product.path) / FOLDER


@contextlib.contextmanager
def event_files(folder: Path | None, done: int, where: str) -> Iterator[Write]:
    """What writes rows of a history to event files, or nothing where there is no folder.

    Args:
        folder: where they lie.
        done: the steps after which training goes on: TensorBoard forgets what was shown beyond.
        where: the field of the recipe, for messages.

    Raises:
        RecipeError: the package is not installed.
    """
    if folder is None:
        yield lambda _: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RecipeError(
            f"{where}.tensorboard: the package tensorboard is not there; "
            "pip install 'softlabel[tensorboard]'"
        ) from error
    writer: Any = SummaryWriter(str(folder), purge_step=done + 1)

    def write(row: Mapping[str, Any]) -> None:
        for name, value in figures_of(row).items():
            writer.add_scalar(name, value, row["step"])

    with contextlib.closing(writer):
        yield write
