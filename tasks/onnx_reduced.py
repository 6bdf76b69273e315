"""From what a graph gives of its logits to soft labels and their fidelity.

The graph reads all classes; what follows from its k and T numbers a position is worked out as for
logits that torch has read.

Shape letters: P positions, R positions that are there, C classes, K kept, T temperatures.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from storage import schema
from tasks.nn.gathered import Gathered
from tasks.nn.others import Others
from tasks.nn.reduction import Reduced, Reduction, conclude
from tasks.onnx_graph import (
    BEST,
    INDEX,
    LABEL_VALUE,
    LARGEST,
    MASS,
    MOMENT,
    STATISTICS,
    VALUE,
    Layout,
)


def finished(
    found: Mapping[str, Tensor],
    real_P: Tensor,
    label_P: Tensor | None,
    layout: Layout,
    reduction: Reduction,
) -> Reduced:
    """What `reduce_logits` would give.

    Args:
        found: the graph's outputs for P positions.
        real_P: the positions that are there, on the CPU.
        label_P: hard labels, negative where there is none; or None.
        layout: what the graph was asked for.
        reduction: what is to be kept.
    """
    if not bool(real_P.all()):
        there_P = real_P.to(found[INDEX].device)
        found = {name: tensor[there_P] for name, tensor in found.items()}
        label_P = None if label_P is None else label_P[real_P]
    most_R = found[VALUE][:, 0]
    gathered = Gathered(
        index_PK=found[INDEX],
        value_PK=found[VALUE],
        count_PK=None,
        most_P=most_R,
        label_P=None if label_P is None else _label(found, label_P, most_R),
        others=_others(found, layout),
        temperatures=layout.temperatures,
        num_classes=layout.teacher_classes,
        best_P=found.get(BEST, found[INDEX])[:, 0],
        bad_P=_bad(found),
        statistics=_statistics(found) if layout.statistics else {},
    )
    return conclude(gathered, reduction)


def _bad(found: Mapping[str, Tensor]) -> Tensor:
    """NaN or +inf among the kept logits or, through the sums, among the others; or all -inf."""
    mass_P = found[MASS].sum(dim=1)
    infinite_P = ~torch.isfinite(found[VALUE][:, 0]) | ~torch.isfinite(mass_P)
    return infinite_P | torch.isnan(found[VALUE]).any(dim=1) | torch.isposinf(found[LARGEST][:, 0])


def _others(found: Mapping[str, Tensor], layout: Layout) -> Others:
    """The graph's moments are of distances over T, the others' of distances."""
    largest_P = found[LARGEST][:, 0]
    at_T = found[MOMENT].new_tensor(layout.temperatures)
    safe_P = torch.where(torch.isneginf(largest_P), 0.0, largest_P)
    return Others(safe_P, found[MASS], found[MOMENT] * at_T)


def _label(found: Mapping[str, Tensor], label_P: Tensor, most_P: Tensor) -> Tensor:
    there_P = (label_P >= 0).to(most_P.device)
    return torch.where(there_P, found[LABEL_VALUE][:, 0], most_P)


def _statistics(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    columns = found[STATISTICS].unbind(dim=1)
    return dict(zip(schema.STATISTICS, columns, strict=True))
