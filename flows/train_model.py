"""A model that is trained in the process of the flow, or in several, on one machine or many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flows import engine
from flows.project import Project
from storage.cards import Card, find_card
from storage.errors import MissingProductError


@dataclass(frozen=True)
class Made:
    """What training makes.

    Attributes:
        kind: `students` or `teachers`.
        fingerprint: of what was asked for; it also tells machines what they train together.
        where: the field of the recipe, for messages.
        processes: on each machine.
    """

    kind: str
    fingerprint: str
    where: str
    processes: int


def train_model(project: Project, training: Callable[..., object], made: Made) -> Card:
    """Train; returns the card of what the first process, on whichever machine, has kept.

    Args:
        project: whose store and execution options are used.
        training: takes `device` and `ranks`; with several processes it is sent to each.
        made: what it makes.

    Raises:
        SoftlabelError: whatever made training impossible.
    """
    from tasks.device import pick_device, pick_devices
    from tasks.training_group import Group, train_together

    execution = project.recipe.execution
    if made.processes == 1 and execution.rendezvous is None:
        training(device=pick_device(execution.device))
    else:
        group = Group(
            name=made.fingerprint,
            where=made.where,
            devices=pick_devices(execution.device, made.processes),
            rendezvous=execution.rendezvous,
            wait_seconds=execution.wait_seconds,
            tries=execution.retries + 1,
        )
        train_together(training, group, engine.log)
    card = find_card(project.store, made.kind, made.fingerprint)
    if card is None:
        raise MissingProductError(
            f"{made.where}: it is trained, and {project.store.url} does not hold it; do all "
            "machines use the same store?"
        )
    return card
