"""Waveforms as audio models want them: brought to mean 0 and deviation 1, padding being silence.

Shape letters: B clips, N samples of sound.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPSILON = 1e-7


class Waveforms(nn.Module):
    """Makes [B, N] float32 of [B, N], each clip by itself.

    What is beyond a clip's end does not count and becomes 0, so the numbers of a clip do not depend
    on the longest one beside it.
    """

    def __init__(self, *, normalize: bool = True, least: int = 1) -> None:
        """Set what is done.

        Args:
            normalize: whether clips are brought to mean 0 and deviation 1.
            least: the samples that the model needs; silence makes a shorter clip so long, and
                counts.
        """
        super().__init__()
        self.settings = {"normalize": normalize, "least": least}
        self.normalize, self.least = normalize, least

    def forward(self, wave_BN: Tensor, mask_BN: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The waveforms and the mask of their real samples."""
        wave_BN = wave_BN.float()
        if self.normalize:
            wave_BN = _normalized(wave_BN, mask_BN)
        if self.least > 1:
            wave_BN = self._long_enough(wave_BN)
            mask_BN = None if mask_BN is None else self._counting(mask_BN)
        return wave_BN, mask_BN

    def _counting(self, mask_BN: Tensor) -> Tensor:
        mask_BN = self._long_enough(mask_BN)
        needed_N = torch.arange(mask_BN.shape[1], device=mask_BN.device) < self.least
        return torch.where(needed_N, torch.ones_like(mask_BN), mask_BN)

    def _long_enough(self, values_BN: Tensor) -> Tensor:
        # Silence is added and cut off again: no branch on the length, so that it can be exported.
        length = torch.sym_max(values_BN.shape[1], self.least)  # type: ignore[no-untyped-call]
        return F.pad(values_BN, (0, self.least))[:, :length]


def _normalized(wave_BN: Tensor, mask_BN: Tensor | None) -> Tensor:
    if mask_BN is None:
        mean_B1 = wave_BN.mean(dim=1, keepdim=True)
        variance_B1 = wave_BN.var(dim=1, keepdim=True, correction=0)
        return (wave_BN - mean_B1) / (variance_B1 + _EPSILON).sqrt()
    real_BN = (mask_BN != 0).float()
    count_B1 = real_BN.sum(dim=1, keepdim=True).clamp(min=1.0)
    mean_B1 = (wave_BN * real_BN).sum(dim=1, keepdim=True) / count_B1
    gap_BN = (wave_BN - mean_B1) * real_BN
    variance_B1 = gap_BN.square().sum(dim=1, keepdim=True) / count_B1
    return gap_BN / (variance_B1 + _EPSILON).sqrt()
