"""The built-in transformer over token ids.

Shape letters: B samples, L ids, W width, C classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from storage.errors import ModelError
from storage.options import Task
from tasks.nn.sequence_form import SequenceForm
from tasks.nn.transformer import (
    Transformer,
    embedding,
    learned_places,
    mean_of_real,
    placed,
    transformer_parameters,
)
from tasks.sequence_options import TokenTransformerOptions


class TokenTransformer(nn.Module):
    """Logits [B, L, C] of tokens, or [B, C] of the mean of their last layer."""

    def __init__(
        self, options: TokenTransformerOptions, num_classes: int, form: SequenceForm
    ) -> None:
        super().__init__()
        self.pooled = form.pooled
        vocabulary = options.vocabulary or num_classes
        self.embedding = embedding(vocabulary, options.width)
        self.place = learned_places(form.length, options.width)
        self.body = Transformer(options, causal=form.causal)
        self.head: nn.Module = (
            TiedLinear(self.embedding)
            if _is_tied(options, form.task)
            else nn.Linear(options.width, num_classes)
        )

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, C] or [B, L, C] of token ids [B, L]."""
        real_BL = None if attention_mask is None else attention_mask != 0
        x_BLW = placed(self.embedding(ids.long()), self.place)
        x_BLW = self.body(x_BLW, real_BL)
        if self.pooled:
            x_BLW = mean_of_real(x_BLW, real_BL)
        logits: Tensor = self.head(x_BLW)
        return logits

    def real_positions(self, inputs: tuple[Tensor, ...], count: int) -> Tensor | None:
        """Which of the `count` tokens of the inputs are no padding, bool [B, L]; None: all."""
        return inputs[1] != 0 if len(inputs) > 1 else None


class TiedLinear(nn.Module):
    """A linear layer without bias whose weight is an embedding's; it has no parameter itself."""

    bias = None

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self._source = (embedding,)  # in a tuple, so that it is no part of this module

    @property
    def weight(self) -> Tensor:
        """[C, W]."""
        return self._source[0].weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] of [..., W]."""
        return F.linear(x, self.weight)


def token_parameters(options: TokenTransformerOptions, num_classes: int, form: SequenceForm) -> int:
    """How many numbers a `TokenTransformer` holds: embeddings, layers, and a head if not tied."""
    width = options.width
    total = ((options.vocabulary or num_classes) + (form.length or 0)) * width
    head = 0 if _is_tied(options, form.task) else (width + 1) * num_classes
    return total + transformer_parameters(options) + head


def require_vocabulary(
    options: TokenTransformerOptions, num_classes: int, task: Task, where: str
) -> None:
    """Refuse a vocabulary that does not fit the classes.

    Raises:
        ModelError: it is not said and no language model's, or tied to other classes.
    """
    if task.is_language_model:
        if _is_tied(options, task) and options.vocabulary not in (None, num_classes):
            raise ModelError(
                f"{where}.vocabulary: expected the {num_classes} classes of a language model with "
                f"tied embeddings, got {options.vocabulary}; leave it out, or say "
                "tie_embeddings: false"
            )
    elif options.vocabulary is None:
        raise ModelError(
            f"{where}.vocabulary: expected how many token ids there are: the task {task} has other "
            "classes"
        )


def _is_tied(options: TokenTransformerOptions, task: Task) -> bool:
    return options.tie_embeddings and task.is_language_model
