"""From what a graph gives of its logits to soft labels and their fidelity.

All that is left to do is on k and T numbers a position. Formulas as in `tasks.nn`.

Shape letters: P positions, R positions that are there, C classes, K kept, T temperatures.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from storage import schema
from tasks.nn.fidelity import Fidelity
from tasks.nn.reduction import Reduced
from tasks.nn.softlabels import SoftLabels, entry_log_probs
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
    found: Mapping[str, Tensor], real_P: Tensor, label_P: Tensor | None, layout: Layout
) -> Reduced:
    """What `reduce_logits` would give.

    Args:
        found: the graph's outputs for P positions.
        real_P: the positions that are there, on the CPU.
        label_P: hard labels, negative where there is none; or None.
        layout: what the graph was asked for.
    """
    if not bool(real_P.all()):
        there_P = real_P.to(found[INDEX].device)
        found = {name: tensor[there_P] for name, tensor in found.items()}
        label_P = None if label_P is None else label_P[real_P]
    best_R1 = found[VALUE][:, :1]
    bad_R = _bad(found)
    kept = SoftLabels(
        index_PK=found[INDEX],
        logit_PK=(found[VALUE] - best_R1) / layout.temperatures[0],
        rest_PT=_rest(found, layout),
        label_logit_P=None if label_P is None else _label_logit(found, label_P, layout),
        kept_P=None,
        count_PK=None,
        statistics=_statistics(found) if layout.statistics else {},
    )
    best_R = found.get(BEST, found[INDEX])[:, 0]
    return Reduced(kept, _fidelity(found, kept, layout), bad_R, best_R)


def _bad(found: Mapping[str, Tensor]) -> Tensor:
    """NaN or +inf among the kept logits or, through the sums, among the others; or all -inf."""
    mass_P = found[MASS].sum(dim=1)
    infinite_P = ~torch.isfinite(found[VALUE][:, 0]) | ~torch.isfinite(mass_P)
    return infinite_P | torch.isnan(found[VALUE]).any(dim=1) | torch.isposinf(found[LARGEST][:, 0])


def _rest(found: Mapping[str, Tensor], layout: Layout) -> Tensor:
    largest_P1 = found[LARGEST]
    safe_P1 = torch.where(torch.isneginf(largest_P1), 0.0, largest_P1)
    at_T = found[MASS].new_tensor(layout.temperatures)
    return found[MASS].log() + (safe_P1 - found[VALUE][:, :1]) / at_T


def _label_logit(found: Mapping[str, Tensor], label_P: Tensor, layout: Layout) -> Tensor:
    logit_P = (found[LABEL_VALUE] - found[VALUE][:, :1])[:, 0] / layout.temperatures[0]
    return torch.where((label_P >= 0).to(logit_P.device), logit_P, 0.0)


def _fidelity(found: Mapping[str, Tensor], kept: SoftLabels, layout: Layout) -> Fidelity:
    num_others = layout.teacher_classes - kept.index_PK.shape[1]
    retained, truncation = [], []
    for place, at in enumerate(layout.temperatures):
        rest_P, mass_P = kept.rest_PT[:, place], found[MASS][:, place]
        log_p_PK, log_rest_P = entry_log_probs(kept.logit_PK, rest_P, layout.temperatures[0], at)
        retained.append(log_p_PK.exp().sum(dim=1).clamp(max=1.0))
        even_P = mass_P.log() - mass_P.new_tensor(float(num_others)).log()
        uneven_P = torch.where(mass_P > 0, found[MOMENT][:, place] / mass_P - even_P, 0.0)
        truncation.append(log_rest_P.exp() * uneven_P.clamp(min=0.0))
    return Fidelity(torch.stack(retained, dim=1), torch.stack(truncation, dim=1), None)


def _statistics(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    columns = found[STATISTICS].unbind(dim=1)
    return dict(zip(schema.STATISTICS, columns, strict=True))
