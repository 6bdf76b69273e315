"""Images as image models want them: resized, cropped, rescaled and normalised, in torch alone.

Shape letters: B images, D channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MODES = {2: "bilinear", 3: "bicubic"}
RESAMPLINGS = tuple(_MODES)
"""The numbers by which Pillow calls the ways of resizing that there are here."""
_LARGEST = 255.0


class Pixels(nn.Module):
    """Makes [B, D, H, W] float32 of [B, H, W] or [B, channels, H, W].

    Whole numbers are levels from 0 to 255: they are rescaled, and rounded after resizing as image
    files are. Fractions are taken as rescaled already. One channel becomes as many as are wanted.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        size: Sequence[int] | None = None,
        shortest_edge: int | None = None,
        resample: int = 2,
        crop: Sequence[int] | None = None,
        scale: float = 1 / _LARGEST,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
    ) -> None:
        """Set what is done, in this order.

        Args:
            channels: D.
            size: the height and width to resize to; None resizes to no fixed size.
            shortest_edge: the length to which the shorter edge is resized instead.
            resample: how; one of `RESAMPLINGS`.
            crop: the height and width to cut out of the middle.
            scale: what a level is multiplied by.
            mean: what is subtracted then, for each channel or for all.
            std: what is divided by then.
        """
        super().__init__()
        self.settings: dict[str, Any] = {
            "channels": channels,
            "size": list(size) if size else None,
            "shortest_edge": shortest_edge,
            "resample": resample,
            "crop": list(crop) if crop else None,
            "scale": scale,
            "mean": list(mean),
            "std": list(std),
        }
        self.channels, self.resample, self.scale = channels, resample, scale
        self.size, self.shortest_edge, self.crop = size, shortest_edge, crop
        # Not among the weights: they belong to the settings.
        self.register_buffer("mean_D11", _per_channel(mean), persistent=False)
        self.register_buffer("std_D11", _per_channel(std), persistent=False)

    mean_D11: Tensor
    std_D11: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Make [B, D, H, W]; whole numbers are levels, fractions are rescaled already."""
        levels = not images.is_floating_point()
        image_BDHW = (images[:, None] if images.dim() == 3 else images).float()
        if image_BDHW.shape[1] == 1:
            image_BDHW = image_BDHW.expand(-1, self.channels, -1, -1)
        height, width = image_BDHW.shape[-2:]
        wanted = self._resized(height, width)
        if wanted != (height, width):
            image_BDHW = _resize(image_BDHW, wanted, self.resample, levels=levels)
        if self.crop:
            image_BDHW = _cut(image_BDHW, *self.crop)
        if levels:
            image_BDHW = image_BDHW * self.scale
        return (image_BDHW - self.mean_D11) / self.std_D11

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.size:
            return self.size[0], self.size[1]
        if self.shortest_edge is None:
            return height, width
        short = self.shortest_edge
        if width <= height:
            return int(short * height / width), short
        return short, int(short * width / height)


def _resize(image_BDHW: Tensor, size: tuple[int, int], resample: int, *, levels: bool) -> Tensor:
    """First the width and then the height, levels being whole after each: as Pillow does it."""
    for step in ((image_BDHW.shape[-2], size[1]), size):
        image_BDHW = F.interpolate(
            image_BDHW, step, mode=_MODES[resample], align_corners=False, antialias=True
        )
        if levels:  # a half goes up, not to the even number
            image_BDHW = (image_BDHW + 0.5).floor().clamp(0.0, _LARGEST)
    return image_BDHW


def _cut(image_BDHW: Tensor, height: int, width: int) -> Tensor:
    """The middle; where an image is smaller, zeros lie around it."""
    more_height = max(0, height - image_BDHW.shape[-2])
    more_width = max(0, width - image_BDHW.shape[-1])
    if more_height or more_width:
        top, left = -(-more_height // 2), -(-more_width // 2)
        around = (left, more_width - left, top, more_height - top)
        image_BDHW = F.pad(image_BDHW, around)
    top = (image_BDHW.shape[-2] - height) // 2
    left = (image_BDHW.shape[-1] - width) // 2
    return image_BDHW[..., top : top + height, left : left + width]


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32)[:, None, None]
