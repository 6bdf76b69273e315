"""`softlabel verify`: every file against its record; and making damaged shards again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows import console
from flows.project import Project, shared
from flows.recipe import LoadedRecipe, parse_recipe
from flows.run import run
from storage import layout
from storage.compaction import clear_groups
from storage.errors import IntegrityError, RecipeError
from storage.faults import Fault
from storage.files import Folder
from storage.records import read_record, write_record
from storage.targets import append_import_path
from storage.verify import verify as find_faults

_ROUNDS = 2
"""Shards below a damaged manifest are found once it is written anew."""


def verify(url: str, repair: str | None) -> int:
    """Print one line for each fault; returns the exit code.

    Args:
        url: a label set, a model, a report or a store.
        repair: a recipe to make damaged shards from; empty for the set's own; None repairs nothing.
    """
    folder = Folder.open(url)
    faults = list(find_faults(folder))
    _print(faults)
    if not faults:
        print(f"{folder.url}: all files are as they were written")
        return 0
    if repair is None:
        plural = "" if len(faults) == 1 else "s"
        console.errors.print(f"softlabel: {len(faults)} fault{plural}", markup=False)
        return 1
    return _repair(folder, faults, repair)


def _repair(folder: Folder, faults: list[Fault], recipe: str) -> int:
    """Forget what is damaged of a label set, label again, and look again."""
    if not (folder.exists(layout.SPEC) or folder.exists(layout.MANIFEST)):
        raise RecipeError(f"--repair: {folder.url} is no label set; run the stage that made it")
    store = folder.url.rsplit("/", 2)[0]
    project = Project.open(recipe, None, store) if recipe else _own_project(folder, store)
    wanted = project.labels(project.require_teacher()).intent.fingerprint
    if wanted != folder.url.rpartition("/")[2]:
        raise RecipeError(
            f"--repair: the recipe {project.loaded.source} asks for the label set {wanted}, "
            f"expected that of {folder.url}; name the recipe that made it"
        )
    for _ in range(_ROUNDS):
        for fault in faults:
            _forget(folder, fault)
        clear_groups(folder)  # they may still say what is forgotten
        # What was looked at above is no longer there.
        with shared(Project(project.loaded, project.key)):
            run(
                project.loaded.source,
                [],
                store=store,
                stages=["label"],
                students=None,
                force=False,
                as_json=False,
            )
        faults = list(find_faults(folder))
        if not faults:
            return 0
        if all(fault.earlier for fault in faults):
            break
    _print(faults)
    if any(fault.earlier for fault in faults):
        whole = "; the newest state is whole" if all(fault.earlier for fault in faults) else ""
        console.errors.print(
            "softlabel: what earlier states alone hold cannot be made again from today's data"
            f"{whole}",
            markup=False,
        )
    return 1


def _print(faults: Sequence[Fault]) -> None:
    for fault in faults:
        print(fault)


def _forget(folder: Folder, fault: Fault) -> None:
    """Delete what the label stage makes again; of earlier states it can make nothing again."""
    if fault.earlier:
        _restore_record(folder, fault)
        return
    if fault.shard is not None:
        folder.delete(f"{layout.RECORDS}/{fault.shard.record_file}")
    name = fault.url.rpartition("/")[2]
    places = [name] if name in (layout.SPEC, layout.MANIFEST) else []
    kinds = (layout.SHARDS, layout.QUARANTINE, layout.COMPACTED, layout.MANIFESTS)
    places += [f"{below}/{name}" for below in kinds]
    for place in places:
        if fault.url == folder.url_of(place):
            folder.delete(place)


def _restore_record(folder: Folder, fault: Fault) -> None:
    """Write a record again as the manifest of its state says it."""
    if fault.shard is not None:
        name = f"{layout.RECORDS}/{fault.shard.record_file}"
        if fault.url == folder.url_of(name):
            write_record(folder, name, fault.shard)


def _own_project(folder: Folder, store: str) -> Project:
    """The project that made a label set, as its specification says."""
    source = folder.url_of(layout.SPEC)
    if not folder.exists(layout.SPEC):
        raise IntegrityError(f"{source} is missing; name the recipe: --repair RECIPE")
    try:
        spec = read_record(folder, layout.SPEC)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; name the recipe: --repair RECIPE") from error
    recipe_folder = Path(spec["recipe_folder"])
    if not recipe_folder.is_dir():
        raise RecipeError(
            f"the recipe's folder {recipe_folder} is gone; name the recipe: --repair RECIPE"
        )
    append_import_path(recipe_folder)
    recipe = parse_recipe(spec["recipe"], source)
    return Project(
        LoadedRecipe(recipe, source, recipe_folder, store, spec["recipe"]), (source, (), store)
    )
