"""The largest logits of each position, in an order that is the same on every device.

Larger logits come first, and of equal ones the lower class id; -0 and 0 are equal. `torch.topk`
promises no order of equal logits, and looks at every class `count` times at worst. Here one pass
takes the maximum of each block of 64 classes. Of the blocks, ordered by (maximum, lower ids first),
the first `count` hold all that is wanted: each block before another holds an entry that comes
before all entries of the other. So only `count` x 64 candidates are looked at.

Shape letters: P positions, C classes, N blocks, K wanted, M candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 64
_ID_BITS = 32
_LAST_ID = (1 << 31) - 1


def largest(logit_PC: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest logits and their class ids, best first; [P, K] both.

    Args:
        logit_PC: float32 or float64 without NaN, at most 2^31 classes; rows may be strided.
        count: K, at most C.
    """
    num_blocks = logit_PC.shape[1] // _BLOCK
    if count >= num_blocks:
        id_PM = torch.arange(logit_PC.shape[1], device=logit_PC.device).expand_as(logit_PC)
        index_PK = _first(logit_PC, id_PM, count)
    else:
        index_PK = _first(*_candidates(logit_PC, num_blocks, count), count)
    return logit_PC.gather(1, index_PK), index_PK


def _candidates(logit_PC: Tensor, num_blocks: int, count: int) -> tuple[Tensor, Tensor]:
    """The logits and ids of all that can be among the first; ids rise."""
    whole = num_blocks * _BLOCK
    block_PNb = logit_PC[:, :whole].unflatten(1, (num_blocks, _BLOCK))
    number_N = torch.arange(num_blocks, device=logit_PC.device)
    most_PN = block_PNb.amax(dim=2)
    chosen_PK = _first(most_PN, number_N.expand_as(most_PN), count)
    if logit_PC.dtype == torch.float64:
        chosen_PK = chosen_PK.sort(dim=1).values
    row_P1 = torch.arange(len(logit_PC), device=logit_PC.device)[:, None]
    found_PM = block_PNb[row_P1, chosen_PK].flatten(1)
    within = torch.arange(_BLOCK, device=logit_PC.device)
    id_PM = (chosen_PK[:, :, None] * _BLOCK + within).flatten(1)
    if whole == logit_PC.shape[1]:
        return found_PM, id_PM
    last_C = torch.arange(whole, logit_PC.shape[1], device=logit_PC.device)
    last_PC = last_C.expand(len(logit_PC), -1)
    return torch.cat([found_PM, logit_PC[:, whole:]], 1), torch.cat([id_PM, last_PC], 1)


def _first(value_PM: Tensor, id_PM: Tensor, count: int) -> Tensor:
    """The ids that come first by (larger value, lower id); [P, K]. Of float64, ids must rise."""
    if value_PM.dtype == torch.float64:
        order_PM = value_PM.sort(dim=1, descending=True, stable=True).indices
        return id_PM.gather(1, order_PM[:, :count])
    # The bits of a float32, as a signed number, rise with it; those of negative ones once flipped.
    bits_PM = (value_PM + 0.0).view(torch.int32)
    rank_PM = bits_PM ^ ((bits_PM >> 31) & _LAST_ID)
    key_PM = torch.add(_LAST_ID - id_PM, rank_PM, alpha=1 << _ID_BITS)
    return _LAST_ID - (key_PM.topk(count, dim=1).values & ((1 << _ID_BITS) - 1))
