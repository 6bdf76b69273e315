"""Several teachers as one: each runs in turn on the same inputs, and their outputs are mixed.

What is kept is chosen from the mixture, so the rest is exact as with any other teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from storage.errors import ModelError
from storage.identity import canonical_json, digest_of_bytes
from tasks.nn.mixing import Mixture
from tasks.teacher_facts import MEMBERS
from tasks.teacher_options import EnsembleTeacherOptions, Mix, member_place
from tasks.teachers import Teacher


class EnsembleTeacher:
    """A weighted mean of teachers.

    Args:
        members: they run in this order.
        shares: their weights, summing to 1.
        mix: what is averaged.
    """

    def __init__(self, members: Sequence[Teacher], shares: Sequence[float], mix: Mix) -> None:
        self.num_classes = same_classes([member.num_classes for member in members])
        self._members = tuple(zip(members, shares, strict=True))
        self._mix = mix

    @torch.inference_mode()
    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits [P, C] of inputs [B, ...]; log-probabilities, where these are mixed."""
        mixture = Mixture(self._mix)
        for member, share in self._members:
            mixture.add(member.logits(inputs), share)
        return mixture.logit_PC


def same_classes(found: Sequence[int]) -> int:
    """The number of classes that all members give.

    Raises:
        ModelError: they give different ones.
    """
    if len(set(found)) > 1:
        given = ", ".join(f"member {place} gives {count}" for place, count in enumerate(found))
        raise ModelError(
            f"teacher.members: expected the same number of classes of all, but {given}; mix "
            "teachers of one set of classes"
        )
    return found[0]


def ensemble_details(
    options: EnsembleTeacherOptions, members: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What a card says of several teachers.

    Args:
        options: what was asked for.
        members: `fingerprint` and the details of each member's card.

    Raises:
        ModelError: they give different classes.
    """
    parameters = [member["parameters"] for member in members]
    listed = [
        {"fingerprint": member["fingerprint"], "weights_digest": member["weights_digest"]}
        for member in members
    ]
    mixed = [options.mix, options.shares, [entry["weights_digest"] for entry in listed]]
    return {
        "source": f"{len(members)} teachers, mixed",
        "weights_digest": digest_of_bytes(canonical_json(mixed)),
        "num_classes": same_classes([member["num_classes"] for member in members]),
        "parameters": None if None in parameters else sum(parameters),
        "size_bytes": sum(member["size_bytes"] for member in members),
        MEMBERS: listed,
        **_shared_facts(members),
    }


def _shared_facts(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the members that know the names of classes, or a sampling rate, agree on.

    Other names for the same classes are nobody's mistake; the same names in another order are one.

    Raises:
        ModelError: a class has one number in one member and another in another.
    """
    found: dict[str, Any] = {}
    for place, member in enumerate(members):
        for fact in ("class_names", "sampling_rate"):
            known = member.get(fact)
            clash = None if known is None else _clash(found.setdefault(fact, known), known)
            if clash is not None:
                raise ModelError(
                    f"{member_place(place)}: {clash}; mix teachers of the same classes and inputs"
                )
    return found


def _clash(first: Any, other: Any) -> str | None:
    if not isinstance(first, Sequence):
        rates = f"its sampling rate is {other}, of those before it {first}"
        return None if first == other else rates
    places = {name: place for place, name in enumerate(first)}
    for place, name in enumerate(other):
        if places.get(name, place) != place:
            return f"{name!r} is its class {place}, and {places[name]} of those before it"
    return None
