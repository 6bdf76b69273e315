"""`softlabel verify`: every file against its record; and making damaged shards again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from flows import console
from flows.run import run
from storage import layout
from storage.errors import IntegrityError, RecipeError
from storage.files import Folder
from storage.records import read_record
from storage.verify import Fault
from storage.verify import verify as find_faults


def verify(url: str, repair: str | None) -> int:
    """Print one line for each fault; returns the exit code.

    Args:
        url: a label set, a model, a report or a store.
        repair: a recipe to make damaged shards from; empty for the set's own; None repairs nothing.
    """
    folder = Folder.open(url)
    faults = list(find_faults(folder))
    for fault in faults:
        console.output.print(str(fault), markup=False)
    if not faults:
        console.output.print(f"{folder.url}: all files are as they were written", markup=False)
        return 0
    if repair is None:
        console.errors.print(f"softlabel: {len(faults)} faults", markup=False)
        return 1
    return _repair(folder, faults, repair)


def _repair(folder: Folder, faults: list[Fault], recipe: str) -> int:
    """Forget what is damaged of a label set, label again, and look again."""
    if not folder.exists(layout.SPEC):
        raise RecipeError(f"--repair: {folder.url} is no label set; run the stage that made it")
    said = _own_recipe(folder) if not recipe else None
    for fault in faults:
        if fault.shard is not None:
            shard = fault.shard
            record = layout.record_file(shard.split, shard.ordinal, shard.fingerprint)
            folder.delete(f"{layout.RECORDS}/{record}")
            folder.delete(f"{layout.SHARDS}/{shard.file}")
        elif f"/{layout.MANIFESTS}/" in fault.url:
            # An earlier state whose list is lost cannot be made again; this one is written anew.
            folder.delete(f"{layout.MANIFESTS}/{fault.url.rpartition('/')[2]}")
    if said is None:
        return _label_again(folder, recipe)
    content, recipe_folder = said
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=recipe_folder) as file:
        yaml.safe_dump(content, file)
        file.flush()
        return _label_again(folder, file.name)


def _own_recipe(folder: Folder) -> tuple[dict[str, object], Path]:
    try:
        spec = read_record(folder, layout.SPEC)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; name the recipe: --repair RECIPE") from error
    recipe_folder = Path(spec["recipe_folder"])
    if not recipe_folder.is_dir():
        raise RecipeError(
            f"the recipe's folder {recipe_folder} is gone; name the recipe: --repair RECIPE"
        )
    return spec["recipe"], recipe_folder


def _label_again(folder: Folder, recipe: str) -> int:
    store = folder.url.rsplit("/", 2)[0]
    code = run(recipe, [], store=store, stages=["label"], students=None, force=False, as_json=False)
    left = list(find_faults(folder))
    for fault in left:
        console.output.print(str(fault), markup=False)
    return code or (1 if left else 0)
