"""A small transformer: the layers that the built-in token and byte models share.

Before each part a root-mean-square norm, after it a residual; rotary positions, so that a block may
have any length; no biases. Which positions are real is told by a mask: padding changes no real
position, wherever it lies, and gives finite numbers itself. A position always sees itself.

Shape letters: B samples, L positions, W width, H heads, D numbers of a head, F feed-forward width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.sequence_options import TransformerSizes

_ROTARY_BASE = 10_000.0
_EMBEDDING_STD = 0.02


class Transformer(nn.Module):
    """Layers of attention and feed-forward, and a last norm.

    Args:
        sizes: how large it is.
        causal: whether a position sees only itself and those before it.
    """

    def __init__(self, sizes: TransformerSizes, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.dropout = nn.Dropout(sizes.dropout)
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width)
        size = sizes.width // sizes.heads
        frequency = _ROTARY_BASE ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
        self.frequency: Tensor
        self.register_buffer("frequency", frequency, persistent=False)
        self._initialise(sizes)

    def forward(self, x_BLW: Tensor, real_BL: Tensor | None) -> Tensor:
        """[B, L, W] of [B, L, W].

        Args:
            x_BLW: embedded positions.
            real_BL: which are no padding, bool; None means all.
        """
        length = x_BLW.shape[1]
        place_L = torch.arange(length, device=x_BLW.device)
        turn_LD = place_L[:, None].to(x_BLW.dtype) * self.frequency
        rotation = (turn_LD.cos(), turn_LD.sin())
        seen = _seen(place_L, real_BL, causal=self.causal)
        x_BLW = self.dropout(x_BLW)
        for layer in self.layers:
            x_BLW = layer(x_BLW, rotation, seen)
        normed: Tensor = self.norm(x_BLW)
        return normed

    def _initialise(self, sizes: TransformerSizes) -> None:
        """Normal weights of deviation sqrt(2 / 5W), which is GPT-2's 0.02 at its width.

        What is added to the residual is divided by the root of how many are added, as in GPT-2.
        """
        std = math.sqrt(2 / (5 * sizes.width))
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                added = name.endswith(("merge.weight", "down.weight"))
                nn.init.normal_(weight, std=std / math.sqrt(2 * sizes.layers) if added else std)


class _Layer(nn.Module):
    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(sizes.width)
        self.attention = _Attention(sizes)
        self.feed_forward_norm = nn.RMSNorm(sizes.width)
        self.up = nn.Linear(sizes.width, sizes.feed_forward_width, bias=False)
        self.down = nn.Linear(sizes.feed_forward_width, sizes.width, bias=False)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x_BLW: Tensor, rotation: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        attended_BLW = self.attention(self.attention_norm(x_BLW), rotation, seen)
        x_BLW = x_BLW + self.dropout(attended_BLW)
        hidden_BLF = F.gelu(self.up(self.feed_forward_norm(x_BLW)))
        summed: Tensor = x_BLW + self.dropout(self.down(hidden_BLF))
        return summed


class _Attention(nn.Module):
    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.dropout = sizes.dropout
        self.split = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.merge = nn.Linear(sizes.width, sizes.width, bias=False)

    def forward(self, x_BLW: Tensor, rotation: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.split(x_BLW).chunk(3, dim=2)
        )
        found_BHLD = F.scaled_dot_product_attention(
            _rotated(query, rotation),
            _rotated(key, rotation),
            value,
            attn_mask=seen,
            dropout_p=self.dropout if self.training else 0.0,
        )
        merged: Tensor = self.merge(found_BHLD.transpose(1, 2).flatten(2))
        return merged

    def weights(self, x_BLW: Tensor, rotation: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        """How much each position looks at each one, [B, H, L, L]: rows that sum to 1.

        `forward` never holds it: it is worked out again, for those who want to see it.
        """
        batch, length, width = x_BLW.shape
        query, key = (
            part.reshape(batch, length, self.heads, -1).transpose(1, 2)
            for part in F.linear(x_BLW, self.split.weight[: 2 * width]).chunk(2, dim=2)
        )
        score_BHLL = _rotated(query, rotation) @ _rotated(key, rotation).transpose(2, 3)
        score_BHLL = score_BHLL / math.sqrt(query.shape[3])
        return score_BHLL.masked_fill(~seen, -math.inf).softmax(dim=3)


def _rotated(x_BHLD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864)."""
    cosine, sine = rotation
    first, second = x_BHLD.chunk(2, dim=3)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=3)


def _seen(place_L: Tensor, real_BL: Tensor | None, *, causal: bool) -> Tensor:
    """Which positions each one sees: bool, [L, L] or [B, 1, L, L].

    A position sees itself, padding too: a row of attention without an entry would be NaN.
    """
    of_LL = place_L[:, None] - place_L[None, :]
    seen_LL = of_LL >= 0 if causal else of_LL == of_LL
    if real_BL is None:
        return seen_LL
    return (seen_LL & (real_BL[:, None, None, :] | (of_LL == 0))).contiguous()


def mean_of_real(x_BLW: Tensor, real_BL: Tensor | None) -> Tensor:
    """The mean over real positions, [B, W]; zeros where there is none."""
    if real_BL is None:
        return x_BLW.mean(dim=1)
    share_BL1 = real_BL[:, :, None].to(x_BLW.dtype)
    return (x_BLW * share_BL1).sum(dim=1) / share_BL1.sum(dim=1).clamp(min=1.0)


def embedding(vocabulary: int, width: int) -> nn.Embedding:
    """An embedding with GPT-2's first weights: with it as output layer all classes start even."""
    made = nn.Embedding(vocabulary, width)
    nn.init.normal_(made.weight, std=_EMBEDDING_STD)
    return made


def learned_places(count: int | None, width: int) -> nn.Parameter | None:
    """What is added to each position where all samples have one length, [count, W].

    Rotary positions tell distances only; this tells where in a file a byte lies.
    """
    return None if count is None else nn.Parameter(torch.randn(count, width) * _EMBEDDING_STD)


def placed(x_BLW: Tensor, place_LW: Tensor | None) -> Tensor:
    """With learned places, where there are any."""
    return x_BLW if place_LW is None else x_BLW + place_LW


def transformer_parameters(sizes: TransformerSizes) -> int:
    """How many numbers `Transformer` holds: two norms, 4 W^2 and 2 W F a layer, and a last norm."""
    width = sizes.width
    layer = 2 * width + 4 * width**2 + 2 * width * sizes.feed_forward_width
    return sizes.layers * layer + width
