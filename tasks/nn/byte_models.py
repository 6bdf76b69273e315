"""The built-in models over bytes: a transformer over patches of them, and a perceptron.

Bytes are joined patch by patch, so that a file's first and last kilobyte are 256 positions, not
2,048: attention costs a 64th.

Shape letters: B samples, L bytes, N patches, W width, C classes.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.nn.sequence_form import SequenceForm
from tasks.nn.transformer import (
    Transformer,
    learned_places,
    mean_of_real,
    placed,
    transformer_parameters,
)
from tasks.sequence_options import ByteMlpOptions, ByteTransformerOptions, patch_of

PADDING_BYTE = 256


class BytePatches(nn.Module):
    """Bytes embedded and joined, `patch` by `patch`: [B, N, W] and which patches hold a byte."""

    def __init__(self, vocabulary: int, patch: int, width: int, out: int, *, padded: bool) -> None:
        super().__init__()
        self.patch = patch
        self.padded = padded
        self.embedding = nn.Embedding(vocabulary, width)
        self.join = nn.Linear(patch * width, out, bias=False)
        nn.init.normal_(self.join.weight, std=1 / math.sqrt(patch * width))

    def forward(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Patches of ids [B, L]; the last one is filled up with padding."""
        ids = ids.long()
        x_BLW = self.embedding(ids)
        real_BL = self._real_bytes(ids, mask)
        if real_BL is None:
            return self.join(x_BLW), None  # every byte is a position, and real
        x_BLW = x_BLW * real_BL[:, :, None]
        if self.patch == 1:
            return self.join(x_BLW), real_BL
        batch, length, width = x_BLW.shape
        count = (length + self.patch - 1) // self.patch
        missing = count * self.patch - length
        x_BNW = F.pad(x_BLW, (0, 0, 0, missing)).reshape(batch, count, self.patch * width)
        filled_BL = F.pad(real_BL.to(x_BLW.dtype), (0, missing))
        return self.join(x_BNW), filled_BL.reshape(batch, count, self.patch).amax(dim=2) > 0

    def real(self, ids: Tensor, mask: Tensor | None) -> Tensor | None:
        """Which patches hold a byte, bool [B, N]; None means all."""
        real_BL = self._real_bytes(ids, mask)
        if real_BL is None or self.patch == 1:
            return real_BL
        filled_BL = F.pad(real_BL, (0, -real_BL.shape[1] % self.patch))
        return filled_BL.reshape(len(ids), -1, self.patch).any(dim=2)

    def _real_bytes(self, ids: Tensor, mask: Tensor | None) -> Tensor | None:
        if mask is not None:
            return mask != 0
        return ids != PADDING_BYTE if self.padded else None


class ByteTransformer(nn.Module):
    """Logits [B, C] of bytes, or [B, L, C] where each byte is a position."""

    def __init__(
        self, options: ByteTransformerOptions, num_classes: int, form: SequenceForm
    ) -> None:
        super().__init__()
        self.pooled = form.pooled
        patch = patch_of(options, many_positions=not form.pooled)
        width = options.width
        self.patches = BytePatches(options.vocabulary, patch, width, width, padded=self.pooled)
        self.probe_length = 2 * patch + 1
        self.place = learned_places(_num_patches(form.length, patch), width)
        self.body = Transformer(options, causal=form.causal)
        self.head = nn.Linear(width, num_classes)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, C] or [B, L, C] of bytes [B, L]."""
        x_BNW, real_BN = self.patches(ids, attention_mask)
        x_BNW = self.body(placed(x_BNW, self.place), real_BN)
        logits: Tensor = self.head(mean_of_real(x_BNW, real_BN) if self.pooled else x_BNW)
        return logits

    def real_positions(self, inputs: tuple[Tensor, ...], count: int) -> Tensor | None:
        """Which of the `count` patches of the inputs hold a byte, bool [B, N]; None means all."""
        return self.patches.real(inputs[0], inputs[1] if len(inputs) > 1 else None)


class ByteMlp(nn.Module):
    """Logits [B, C] of bytes: each patch by itself, then the mean and the largest of all."""

    def __init__(self, options: ByteMlpOptions, num_classes: int, form: SequenceForm) -> None:
        super().__init__()
        first = options.hidden[0]
        self.patches = BytePatches(
            options.vocabulary, options.patch, options.width, first, padded=True
        )
        self.probe_length = 2 * options.patch + 1
        self.place = learned_places(_num_patches(form.length, options.patch), first)
        layers: list[nn.Module] = [nn.RMSNorm(first), nn.GELU(), nn.Dropout(options.dropout)]
        for before, after in pairwise(options.hidden):
            layers += [nn.Linear(before, after), nn.GELU(), nn.Dropout(options.dropout)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(2 * options.hidden[-1], num_classes)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, C] of bytes [B, L]."""
        x_BNW, real_BN = self.patches(ids, attention_mask)
        x_BNW = self.layers(placed(x_BNW, self.place))
        # GELU is at least -0.17, so that padding of -1 is never the largest but where all is.
        shown_BNW = x_BNW if real_BN is None else x_BNW.masked_fill(~real_BN[:, :, None], -1.0)
        both = torch.cat([mean_of_real(x_BNW, real_BN), shown_BNW.amax(dim=1)], dim=1)
        logits: Tensor = self.head(both)
        return logits


def byte_transformer_parameters(
    options: ByteTransformerOptions, num_classes: int, form: SequenceForm
) -> int:
    """How many numbers a `ByteTransformer` holds."""
    width = options.width
    patch = patch_of(options, many_positions=not form.pooled)
    total = options.vocabulary * width + patch * width**2
    total += (_num_patches(form.length, patch) or 0) * width
    return total + transformer_parameters(options) + (width + 1) * num_classes


def byte_mlp_parameters(options: ByteMlpOptions, num_classes: int, form: SequenceForm) -> int:
    """How many numbers a `ByteMlp` holds."""
    first, last = options.hidden[0], options.hidden[-1]
    total = options.vocabulary * options.width + options.patch * options.width * first + first
    total += (_num_patches(form.length, options.patch) or 0) * first
    total += sum((before + 1) * after for before, after in pairwise(options.hidden))
    return total + (2 * last + 1) * num_classes


def _num_patches(length: int | None, patch: int) -> int | None:
    return None if length is None else -(-length // patch)
