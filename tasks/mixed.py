"""Several label sets as one source: of every few samples in a row, each set has its share.

What is mixed must be labels of the same classes for the same inputs. Rows keep what all sets have:
the temperatures that all of them store, in the order of the first one. See `storage.mixed_order`
for the order; a small set begins anew when it was gone through, and an epoch ends with the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage import schema
from storage.errors import RecipeError
from storage.identity import Json, canonical_json, digest_of_bytes
from storage.mixed_order import MixedOrder, mixing_pattern
from storage.options import STD, TRAIN, Keep
from storage.reader import LabelSet
from storage.rows import Column, Ragged, Rows
from storage.spec import InputSpec, LabelSetSpec
from tasks.sources import LabelSource

_NOT_MIXED = (schema.KEPT, schema.STD)
"""Columns that need not be in all sets: how many entries there are is seen by the entries."""


@dataclass(frozen=True)
class Mixed:
    """A label set that is mixed with a student's own, and the share of samples it gives."""

    labels: LabelSet
    share: float

    def identity(self) -> Json:
        """What decides what is learnt from it."""
        manifest = self.labels.manifest
        return {
            "fingerprint": manifest.fingerprint,
            "digest": manifest.digest,
            "share": self.share,
        }

    def described(self) -> Json:
        """The same and where it lies, for a card."""
        return {"url": self.labels.folder.url, **self.identity()}


def training_source(
    labels: LabelSet, mixed: Sequence[Mixed], where: str, features: Sequence[str] = ()
) -> LabelSource | MixedSource:
    """What a student learns from: its own training split, or that with others.

    Args:
        labels: its own label set.
        mixed: the others; its own gives what their shares leave.
        where: the field of the recipe, for messages.
        features: names of `storage.features` that are wanted of all.

    Raises:
        RecipeError: the sets do not go together, or lack a feature.
    """
    own = LabelSource(labels, TRAIN, features)
    if not mixed:
        return own
    shares = [one.share for one in mixed]
    others = [LabelSource(one.labels, TRAIN, features) for one in mixed]
    return MixedSource([own, *others], [1 - sum(shares), *shares], where)


class MixedSource:
    """Label sets that are streamed together.

    Attributes:
        sources: a split of each; the first one says how long an epoch is.
        spec: what all sets have in common, as the specification of the first with fewer
            temperatures.
    """

    def __init__(
        self, sources: Sequence[LabelSource], weights: Sequence[float], where: str = "mix"
    ) -> None:
        """Mix `sources` with `weights`, of which only the proportions count.

        Args:
            sources: a split of each set.
            weights: of each; at least a thousandth of their sum.
            where: the field of the recipe, for messages.

        Raises:
            RecipeError: the sets do not go together; each difference is a line.
        """
        if len(sources) != len(weights) or not sources:
            raise RecipeError(f"{where}: expected {len(sources)} weights, got {len(weights)}")
        _require_alike(sources, where)
        first = sources[0]
        self.sources = tuple(sources)
        self.temperatures = _shared_temperatures(sources)
        self.spec: LabelSetSpec = first.labels.spec.model_copy(
            update={"temperatures": self.temperatures}
        )
        self.augment = first.augment
        self.drawn_at = first.drawn_at
        self.group_sizes = tuple(
            itertools.chain.from_iterable(source.group_sizes for source in sources)
        )
        self._pattern = mixing_pattern(weights)
        shares = [self._pattern.count(place) for place in range(len(sources))]
        named = [[source.digest, source.split] for source in sources]
        self.digest = digest_of_bytes(canonical_json({"mix": named, "shares": shares}))
        self._places = [
            (source, group) for source in sources for group in range(len(source.group_sizes))
        ]
        wanted = [name for name in first.columns if name not in _NOT_MIXED]
        self._columns = [*wanted, *([schema.STD] if STD in self.temperatures else [])]

    def read(self, group: int) -> Rows:
        """The rows of one row group, with the columns and temperatures that all sets have."""
        source, place = self._places[group]
        rows = source.read(place)
        places = [source.temperatures.index(at) for at in self.temperatures]
        return {
            name: _some_columns(rows[name], places) if name == schema.REST else rows[name]
            for name in self._columns
        }

    def order(self, seed: int, window: int, *, shuffle: bool) -> MixedOrder:
        """The order of the samples."""
        orders = [source.order(seed, window, shuffle=shuffle) for source in self.sources]
        return MixedOrder(tuple(orders), self._pattern)


def _require_alike(sources: Sequence[LabelSource], where: str) -> None:
    first, *others = sources
    own = _facts(first)
    faults = [
        f"{where}: expected {name} {own[name]} as in {first.labels.folder.url}, got {came} in "
        f"{other.labels.folder.url}"
        for other in others
        for name, came in _facts(other).items()
        if came != own[name]
    ]
    if faults:
        raise RecipeError("\n".join(faults))


def _facts(source: LabelSource) -> dict[str, Any]:
    """What has to be the same in all sets, in words."""
    spec = source.labels.spec
    return {
        "the task": spec.task.value,
        "the number of classes": spec.num_classes,
        "the classes": ", ".join(spec.class_names) if spec.class_names else "without names",
        "the inputs": "; ".join(map(_input, spec.inputs)),
        "hard labels": "there" if spec.has_label else "not there",
        "the temperature of the logits": f"{spec.temperature:g}",
        "to be kept": _kept(source),
        "the steps that make views": [step.model_dump() for step in source.augment],
        "the features": _features(source),
        "the columns": ", ".join(sorted({*source.columns} - {*_NOT_MIXED})),
    }


def _features(source: LabelSource) -> str:
    """What is made of those that are read: what numbers they are written as does not matter."""
    wanted = source.spec.features_of(source.split).items()
    said = [
        f"{feature.feature} with pool: {feature.pool} and size: {feature.size or 'none'}"
        for name, feature in wanted
        if name in source.columns
    ]
    return "; ".join(sorted(said)) or "none"


def _kept(source: LabelSource) -> str:
    if source.drawn_at is not None:
        return f"draws at temperature {source.drawn_at:g}"
    keep = source.labels.spec.selections[source.split].keep
    return "all classes" if keep is Keep.ALL else "the best classes"


def _input(spec: InputSpec) -> str:
    """What models see of an input: any integers are the same to them."""
    numbers = "numbers" if np.dtype(spec.dtype).kind == "f" else "integers"
    return f"{spec.name} of {'any length' if spec.shape is None else spec.shape}, {numbers}"


def _shared_temperatures(sources: Sequence[LabelSource]) -> tuple[Any, ...]:
    """Those that all sets store; the first, at which logits are stored, always is one."""
    first, *others = sources
    return tuple(
        at for at in first.temperatures if all(at in other.temperatures for other in others)
    )


def _some_columns(column: Column, places: list[int]) -> Column:
    if isinstance(column, Ragged):
        return Ragged(column.values_NW[:, places], column.lengths_B)
    return column[:, places]
