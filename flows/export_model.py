"""`softlabel export --format model`: what serving a model needs, out of the store."""

from __future__ import annotations

import json

from flows import console
from storage import layout
from storage.cards import read_card, read_file
from storage.errors import MissingProductError, RecipeError
from storage.files import Folder
from storage.records import write_record

_LEFT_BEHIND = (layout.HISTORY,)


def export_model(where: str, to: str, *, as_json: bool) -> int:
    """Copy the files of the model at a URL, each checked against its card; returns the exit code.

    Of a Hugging Face model the new folder is one that `from_pretrained` loads. The card goes along,
    and is written last.

    Args:
        where: a student's URL, or a fitted teacher's.
        to: a folder that holds nothing yet.
        as_json: end with the files and their sha256.

    Raises:
        MissingProductError: there is no model at that URL, or its files lie elsewhere.
        RecipeError: the folder holds files.
        IntegrityError: a file is damaged.
    """
    folder = Folder.open(where)
    if not folder.exists(layout.CARD):
        raise MissingProductError(f"there is no model at {folder.url}; expected {layout.CARD}")
    card = read_card(folder)
    if layout.WEIGHTS not in card.files:
        raise MissingProductError(
            f"{folder.url} holds no {layout.WEIGHTS}: expected a student or a fitted teacher"
        )
    destination = Folder.open(to)
    if destination.sizes():
        raise RecipeError(f"--to: {destination.url} holds files; name a new folder")
    store = Folder.open(folder.url.rsplit("/", 2)[0])
    files = {name: sha256 for name, sha256 in card.files.items() if name not in _LEFT_BEHIND}
    for name in files:
        destination.write_bytes(name, read_file(store, card, name))
    write_record(destination, layout.CARD, card.model_copy(update={"files": files}))
    content = {"url": destination.url, "name": card.name, "files": files}
    if as_json:
        print(json.dumps(content))
        return 0
    console.print_places([("export", destination.url), ("files", ", ".join(sorted(files)))])
    return 0
