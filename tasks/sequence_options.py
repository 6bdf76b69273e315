"""What a recipe may say about the built-in models over tokens and bytes. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from storage.options import Options

Dropout = Annotated[float, Field(ge=0, lt=1)]
BYTE_VOCABULARY = 257
"""The 256 bytes, and the id 256: padding, or a border between documents."""


class TransformerSizes(Options):
    """How large a transformer is."""

    layers: PositiveInt = 4
    width: PositiveInt = 128
    """Numbers of each position between layers."""
    heads: PositiveInt = 4
    """They divide the width, each an even number wide."""
    feed_forward: Annotated[float, Field(gt=0, le=64)] = 4.0
    """The hidden width of the feed-forward part, over the width."""
    dropout: Dropout = 0.0

    @property
    def feed_forward_width(self) -> int:
        """The hidden width of the feed-forward part."""
        return max(1, round(self.width * self.feed_forward))

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width: expected a multiple of 2 x heads ({2 * self.heads}), got {self.width}"
            )
        return self


class TokenTransformerOptions(TransformerSizes):
    """A transformer over token ids, and over `attention_mask` where the data have one."""

    kind: Literal["token_transformer"]
    vocabulary: PositiveInt | None = None
    """How many token ids there are; None means the number of classes, for language models only."""
    tie_embeddings: bool = True
    """Language models: the embeddings are the output layer too. It has no effect otherwise."""


class ByteTransformerOptions(TransformerSizes):
    """A transformer over bytes, several of which may make one position of attention."""

    kind: Literal["byte_transformer"]
    patch: PositiveInt | None = None
    """Bytes that make one position; None means 8 for a classified sample, and 1 otherwise."""
    vocabulary: PositiveInt = BYTE_VOCABULARY
    """How many ids there are: 0 to 255 are bytes, 256 is padding of a classified sample."""


class ByteMlpOptions(Options):
    """A multilayer perceptron over patches of bytes, the mean and largest of which are classified.

    It looks at no two patches together: a fast student for files and other bytes.
    """

    kind: Literal["byte_mlp"]
    patch: PositiveInt = 8
    """Bytes that are looked at together."""
    width: PositiveInt = 32
    """Numbers that a byte is embedded in."""
    hidden: tuple[PositiveInt, ...] = Field(default=(128, 128), min_length=1)
    dropout: Dropout = 0.0
    vocabulary: PositiveInt = BYTE_VOCABULARY
    """How many ids there are: 0 to 255 are bytes, 256 is padding."""


def patch_of(options: ByteTransformerOptions, *, many_positions: bool) -> int:
    """Bytes that make one position of attention."""
    if options.patch is not None:
        return options.patch
    return 1 if many_positions else 8


SequenceOptions = TokenTransformerOptions | ByteTransformerOptions | ByteMlpOptions
