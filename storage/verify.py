"""Looking for damage: every byte against its record, every record against itself.

`verify` walks whatever product, or whole store, lies at a URL and yields one `Fault` for each
thing that is not as it was written. Costs one reading of everything there.
"""

from __future__ import annotations

from collections.abc import Iterator

from storage import layout
from storage.errors import MissingProductError, SoftlabelError
from storage.faults import Fault, unsealed
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.records import read_record
from storage.verify_labels import verify_label_set

_CARD_KINDS = (layout.TEACHERS, layout.STUDENTS, layout.PREDICTIONS, layout.REPORTS)


def verify(folder: Folder) -> Iterator[Fault]:
    """The faults of a label set, a model, a report, or of all products of a store.

    Raises:
        MissingProductError: there is no product at that URL.
    """
    if folder.exists(layout.SPEC) or folder.exists(layout.MANIFEST):
        yield from verify_label_set(folder)
    elif folder.exists(layout.CARD):
        yield from verify_card(folder)
    else:
        yield from _verify_store(folder)


def verify_card(folder: Folder) -> Iterator[Fault]:
    """The faults of a product with a card: the card, then each file against its sha256."""
    faults = list(unsealed(folder, layout.CARD))
    if faults:
        yield from faults
        return
    for name, sha256 in read_record(folder, layout.CARD).get("files", {}).items():
        try:
            found = digest_of_bytes(folder.read_bytes(name))
        except SoftlabelError as error:
            yield Fault(folder.url_of(name), str(error))
            continue
        if found != sha256:
            yield Fault(folder.url_of(name), f"expected sha256 {sha256[:12]}, got {found[:12]}")


def _verify_store(store: Folder) -> Iterator[Fault]:
    kinds = store.folders()
    known = [kind for kind in kinds if kind in (*_CARD_KINDS, layout.LABELS)]
    if not known:
        raise MissingProductError(
            f"there is no label set, model, report or store at {store.url}; expected one of "
            f"{layout.MANIFEST}, {layout.CARD} or the folder {layout.LABELS}"
        )
    for kind in known:
        for name in (store / kind).folders():
            product = store / layout.product(kind, name)
            unfinished = layout.MANIFEST if kind == layout.LABELS else layout.CARD
            if product.exists(unfinished):
                yield from verify(product)
