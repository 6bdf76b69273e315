"""What a teacher's card says of its classes and inputs, against what the recipe says of the data.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storage import layout
from storage.cards import Card, find_card
from storage.errors import RecipeError
from storage.files import Folder
from storage.options import DataOptions

MEMBERS = "members"
"""What the card of several teachers lists: the fingerprint and the weights' digest of each."""


def member_cards(store: Folder, card: Card) -> list[Card | None]:
    """The cards of a teacher's members, in order; None for one that is gone or has other weights.

    Empty for a teacher that is not several.
    """
    found = []
    for entry in card.details.get(MEMBERS, ()):
        member = find_card(store, layout.TEACHERS, entry["fingerprint"])
        same = member is not None and member.details["weights_digest"] == entry["weights_digest"]
        found.append(member if same else None)
    return found


def agreed_class_names(
    said: Sequence[str] | None, details: Mapping[str, Any]
) -> tuple[str, ...] | None:
    """The names of the classes: the data's, else the teacher's own.

    Other names for the same classes are nobody's mistake; the same names in another order are one.

    Raises:
        RecipeError: a class has one number in the data and another in the teacher.
    """
    known: Sequence[str] = details.get("class_names") or ()
    if said is None:
        return tuple(known) or None
    places = {name: place for place, name in enumerate(known)}
    for place, name in enumerate(said):
        if places.get(name, place) != place:
            raise RecipeError(
                f"data.classes: {name!r} is class {place} of the data and class {places[name]} of "
                f"the teacher; say data.classes: [{', '.join(known)}], the teacher's order"
            )
    return tuple(said)


def require_sampling_rate(data: DataOptions, details: Mapping[str, Any]) -> None:
    """Refuse sounds at another rate than the teacher was trained on.

    Raises:
        RecipeError: they are.
    """
    wanted = details.get("sampling_rate")
    if data.audio is not None and wanted is not None and data.audio.rate != wanted:
        raise RecipeError(
            f"data.audio.rate: expected {wanted}, the rate that the teacher was trained on, got "
            f"{data.audio.rate}"
        )
