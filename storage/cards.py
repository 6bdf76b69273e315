"""Cards: what says that a teacher, a student, predictions or a report is finished, and what it is.

A card is written after the files that it lists, each with its sha256; a product without a card is
not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from storage import layout
from storage.errors import IntegrityError, MissingProductError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.records import parse, read_record, write_record
from storage.spec import FORMAT_VERSION, StoredModel


class Card(StoredModel):
    """A finished product.

    Attributes:
        kind: `teachers`, `students`, `predictions` or `reports`.
        name: what the recipe calls it.
        intent: what was asked for; its fingerprint is `fingerprint`.
        files: the sha256 of each file beside the card.
        details: what came out: digests, sizes, figures.
        created: when, in UTC.
    """

    format_version: int = FORMAT_VERSION
    kind: str
    name: str
    fingerprint: str
    intent: dict[str, Any]
    files: dict[str, str]
    details: dict[str, Any]
    created: str


def publish(
    store: Folder,
    kind: str,
    fingerprint: str,
    *,
    name: str,
    intent: dict[str, Any],
    details: dict[str, Any],
    files: Mapping[str, bytes],
) -> Card:
    """Write a product's files, then its card.

    Raises:
        StoreError: something cannot be written; then the product is not there.
    """
    folder = store / layout.product(kind, fingerprint)
    digests = {file_name: digest_of_bytes(content) for file_name, content in files.items()}
    old = find_card(store, kind, fingerprint)
    if old is not None and old.files != digests:
        folder.delete(layout.CARD)  # a half replaced product is not there
    for file_name, content in files.items():
        folder.write_bytes(file_name, content)
    card = Card(
        kind=kind,
        name=name,
        fingerprint=fingerprint,
        intent=intent,
        files=digests,
        details=details,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_record(folder, layout.CARD, card)
    return card


def extend(
    store: Folder, card: Card, files: Mapping[str, bytes], details: Mapping[str, Any]
) -> Card:
    """Add files and details to a product that is there, and give its new card.

    Raises:
        StoreError: something cannot be written; then the product is as before.
    """
    folder = store / layout.product(card.kind, card.fingerprint)
    for name, content in files.items():
        folder.write_bytes(name, content)
    digests = {name: digest_of_bytes(content) for name, content in files.items()}
    more = card.model_copy(
        update={"files": card.files | digests, "details": {**card.details, **details}}
    )
    write_record(folder, layout.CARD, more)
    return more


def find_card(store: Folder, kind: str, fingerprint: str) -> Card | None:
    """The card of a product, or None where the product or one of its files is not there.

    A damaged card counts as not there: the product is made again.
    """
    folder = store / layout.product(kind, fingerprint)
    sizes = folder.sizes()
    if layout.CARD not in sizes:
        return None
    try:
        card = read_card(folder)
    except IntegrityError:
        return None
    if card.fingerprint != fingerprint or any(not sizes.get(name) for name in card.files):
        return None
    return card


def read_card(folder: Folder) -> Card:
    """The card in a product's folder.

    Raises:
        IntegrityError: it is damaged.
    """
    return parse(Card, read_record(folder, layout.CARD), folder.url_of(layout.CARD))


def read_file(store: Folder, card: Card, name: str) -> bytes:
    """A file of a product, checked against the card.

    Raises:
        MissingProductError: the card lists no such file.
        IntegrityError: its bytes are not those that were written.
    """
    folder = store / layout.product(card.kind, card.fingerprint)
    if name not in card.files:
        raise MissingProductError(f"{folder.url} holds no {name}")
    content = folder.read_bytes(name)
    if digest_of_bytes(content) != card.files[name]:
        raise IntegrityError(
            f"{folder.url_of(name)} is damaged: it does not have the sha256 of its card; delete "
            f"{folder.url_of(layout.CARD)} and run the stage again"
        )
    return content


def all_cards(store: Folder, kind: str) -> list[Card]:
    """The readable cards of one kind."""
    cards = (find_card(store, kind, name) for name in (store / kind).folders())
    return [card for card in cards if card is not None]
