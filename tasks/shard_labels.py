"""From the reduced batches of a shard to its rows: order restored, bad samples set aside.

Shape letters: B samples of the shard, R positions of all of them, K kept classes, T temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage import schema
from storage.codec import round_trip
from storage.entries import level_scale
from storage.errors import ModelError
from storage.features import FEATURE_COLUMN
from storage.options import Keep
from storage.rows import Array, Column, Ragged, Rows, concatenate, num_rows, take, values_of
from storage.spec import LabelSetSpec
from tasks.nn.fidelity import best_agrees, codec_kl, fidelity_record
from tasks.nn.positions import join, some_rows
from tasks.nn.reduction import Reduced

NOT_FINITE = "the teacher's logits are NaN or infinite"
FEATURES_NOT_FINITE = "the teacher's features are NaN or infinite"


@dataclass(frozen=True)
class BatchLabels:
    """What came out of a batch.

    Attributes:
        places: where its samples stand in the shard, int64.
        reduced: of its positions that are there, sample after sample, on the CPU.
        mask_R: the positions that count.
        lengths_B: how many positions each sample has.
        features: of the samples, by column.
        odd_places: the places of samples whose features are not finite.
    """

    places: NDArray[np.int64]
    reduced: Reduced
    mask_R: Tensor
    lengths_B: NDArray[np.int64]
    features: dict[str, Column] = field(default_factory=dict)
    odd_places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def bad(self) -> dict[int, str]:
        """The places of samples with a position or a feature that is not finite, and the reason."""
        found = dict.fromkeys(self.odd_places.tolist(), FEATURES_NOT_FINITE)
        if bool(self.reduced.bad_R.any()):
            owner_R = np.repeat(self.places, self.lengths_B)
            places = np.unique(owner_R[self.reduced.bad_R.numpy()])
            found |= dict.fromkeys(places.tolist(), NOT_FINITE)
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class ShardLabels:
    """A shard as it will be written.

    Attributes:
        rows: the samples with their soft labels, without those that are bad.
        fidelity: of these.
        bad: the places of samples that are left out, rising, and the reason.
    """

    rows: dict[str, Column]
    fidelity: dict[str, Any]
    bad: dict[int, str]


def assemble(
    rows: Rows, parts: Sequence[BatchLabels], spec: LabelSetSpec, split: str
) -> ShardLabels:
    """The rows of a shard with their soft labels, in the order of `rows`.

    Args:
        rows: the samples that went through the teacher, in any batches; at least one.
        parts: what came out of each batch.
        spec: the form of the label set.
        split: what they belong to.
    """
    bad = {place: reason for part in parts for place, reason in part.bad().items()}
    reduced, mask_R, lengths_B = _in_order(parts)
    rows = {**rows, **_features_in_order(parts)}
    if bad:
        good_B = ~np.isin(np.arange(num_rows(rows)), list(bad))
        good_R = torch.from_numpy(np.repeat(good_B, lengths_B))
        reduced = some_rows(reduced, good_R.nonzero()[:, 0])
        mask_R, lengths_B = mask_R[good_R], lengths_B[good_B]
        rows = take(rows, np.flatnonzero(good_B))
    columns = _columns(reduced, spec, split)
    many = schema.MASK in rows
    labelled = {name: Ragged(values, lengths_B) if many else values for name, values in columns}
    fidelity = _fidelity(reduced, mask_R, spec)
    return ShardLabels({**rows, **labelled}, fidelity, dict(sorted(bad.items())))


def _in_order(
    parts: Sequence[BatchLabels],
) -> tuple[Reduced, Tensor, NDArray[np.int64]]:
    """All positions in the order of the samples in their shard."""
    reduced = join([part.reduced for part in parts])
    mask_R = torch.cat([part.mask_R for part in parts])
    lengths_B = np.concatenate([part.lengths_B for part in parts])
    order_B = np.concatenate([part.places for part in parts])
    if np.array_equal(order_B, np.arange(len(order_B))):
        return reduced, mask_R, lengths_B
    back_B = np.argsort(order_B)
    index_R = torch.from_numpy(Ragged(np.arange(len(mask_R)), lengths_B).take(back_B).values_NW)
    return some_rows(reduced, index_R), mask_R[index_R], lengths_B[back_B]


def _features_in_order(parts: Sequence[BatchLabels]) -> dict[str, Column]:
    """The features of all samples in the order of the samples in their shard.

    Raises:
        ModelError: their width varies from batch to batch.
    """
    if not parts[0].features:
        return {}
    for name, column in parts[0].features.items():
        widths = {_width(part.features[name]) for part in parts}
        if len(widths) > 1:
            raise ModelError(
                f"labels.features: {name.removeprefix(FEATURE_COLUMN)} is {_width(column)} wide in "
                f"one batch and {max(widths)} in another; say pool: mean, or leave it out"
            )
    order_B = np.concatenate([part.places for part in parts])
    return take(concatenate([part.features for part in parts]), np.argsort(order_B))


def _width(column: Column) -> tuple[int, ...]:
    """The axes that all samples share: those of a vector, or the heads of maps."""
    values = values_of(column)
    return values.shape[1:2] if values.ndim == 4 else values.shape[1:]


def _columns(reduced: Reduced, spec: LabelSetSpec, split: str) -> list[tuple[str, Array]]:
    """The label columns of the positions, by name."""
    kept, selection = reduced.kept, spec.selections[split]
    columns: list[tuple[str, Tensor | None]] = [
        (schema.INDEX, kept.index_PK),
        (schema.LOGIT, kept.logit_PK),
        (schema.REST, kept.rest_PT),
        (schema.STD, kept.std_P),
    ]
    if selection.varies:
        columns.append((schema.KEPT, kept.kept_P))
    if selection.keep is Keep.SAMPLE:
        columns.append((schema.COUNT, kept.count_PK))
    if spec.has_label:
        columns.append((schema.LABEL_LOGIT, kept.label_logit_P))
    if spec.statistics:
        columns += [(name, kept.statistics[name]) for name in schema.STATISTICS]
    return [(name, tensor.numpy()) for name, tensor in columns if tensor is not None]


def _fidelity(reduced: Reduced, mask_R: Tensor, spec: LabelSetSpec) -> dict[str, Any]:
    """The fidelity of a shard; the codec comes last, for its levels are those of a whole shard."""
    kept = reduced.kept
    decoded = round_trip(kept.logit_PK.numpy(), spec.codec, level_scale(spec.temperatures))
    decoded_PK = torch.from_numpy(decoded)
    codec_PT = codec_kl(kept.logit_PK, decoded_PK, kept.rest_PT, spec.temperatures, kept.std_P)[
        mask_R
    ]
    agreement_P = best_agrees(kept.logit_PK, decoded_PK)[mask_R]
    return fidelity_record([(reduced.fidelity, mask_R)], codec_PT, agreement_P, spec.temperatures)
