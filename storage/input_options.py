"""What a recipe may say of data that are no numbers yet: texts, images, sounds and raw files."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from storage.identity import Json
from storage.options_base import Options

TEACHER_TOKENIZER = "teacher"
"""The tokenizer that belongs to the teacher's model."""
BYTES_TOKENIZER = "bytes"
"""A token for each byte, and one more: see `tasks.inputs.byte_tokenizer`."""

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
"""The input that is 1 where a sample is, so that padding, which is 0 everywhere, can be told."""
TOKEN_TYPE_IDS = "token_type_ids"
DOCUMENT = "document"
FOLDER = "folder"
"""The label of a file: the name of the folder that it lies in, right below the source."""
IMAGE = "image"
WAVEFORM = "waveform"
TEXT = "text"
"""The column of the content of text files."""
BYTES = "bytes"


class Format(StrEnum):
    """What the source is."""

    AUTO = "auto"
    """A table or a target: by the suffix of its name."""
    TEXT = "text"
    """Text files, which are packed into blocks of tokens."""
    IMAGES = "images"
    """A folder of images."""
    AUDIO = "audio"
    """A folder of sounds."""
    FILES = "files"
    """Any files, by their bytes."""
    IDX = "idx"
    """The files of MNIST and its relatives: images and labels in pairs."""

    @property
    def is_listed(self) -> bool:
        """Whether each sample, or text, is a file that a listing finds."""
        return self not in (Format.AUTO, Format.IDX)

    @property
    def is_decoded(self) -> bool:
        """Whether each sample is a file of its own."""
        return self in (Format.IMAGES, Format.AUDIO, Format.FILES)


class TokenOptions(Options):
    """How texts become tokens."""

    tokenizer: str = TEACHER_TOKENIZER
    """`teacher` for the one of the teacher's model, `bytes` for a token per byte, or the name or
    folder of a Hugging Face tokenizer."""
    gguf_file: str | None = None
    """The GGUF file in that folder which holds the tokenizer."""
    revision: str | None = None
    """The revision of a tokenizer on the Hugging Face Hub."""
    max_length: Annotated[PositiveInt, Field(ge=2)] = 512
    """The most tokens of a text that is classified or tagged."""
    too_long: Literal["truncate", "bad"] = "truncate"
    """What becomes of a longer text: cut off, or a bad sample (see `labels.on_bad_sample`)."""
    block: Annotated[PositiveInt, Field(ge=2)] = 512
    """The tokens of a block of a language model; the last block is shorter."""
    separator: bool = True
    """Whether a document ends with the separating token (the end of a text), which is predicted."""
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """For a masked language model: the share of tokens that are masked, at least one a block."""
    seed: NonNegativeInt = 0
    """For a masked language model: another seed masks other tokens."""
    outputs: (
        Annotated[
            tuple[Literal["input_ids", "attention_mask", "token_type_ids", "document"], ...],
            Field(min_length=1),
        ]
        | None
    ) = None
    """What the models get, by position; None means the ids, and (but for a causal language model)
    the attention mask."""

    @model_validator(mode="after")
    def _ids_are_there(self) -> Self:
        if self.outputs is not None and INPUT_IDS not in self.outputs:
            raise ValueError("outputs must hold input_ids")
        if self.outputs is not None and len(set(self.outputs)) != len(self.outputs):
            raise ValueError("outputs holds a name twice")
        return self

    def identity(self) -> Json:
        """The options; the tokenizer itself is known by the digest of its files."""
        where = {"gguf_file", "revision"}
        if self.tokenizer != BYTES_TOKENIZER:
            where.add("tokenizer")
        return self.model_dump(mode="json", exclude=where)


class ImageOptions(Options):
    """How images become arrays: uint8 [channels, height, width]."""

    size: tuple[PositiveInt, PositiveInt]
    """Height and width."""
    channels: Literal[1, 3] = 3
    """3 for red, green and blue; 1 for grey."""
    resize: Literal["crop", "fit", "stretch"] = "crop"
    """`crop` fills the size and cuts what stands out, `fit` shows all with black borders,
    `stretch` changes the proportions."""


class AudioOptions(Options):
    """How sounds become arrays: float32 waveforms, one channel. One of both lengths."""

    rate: Annotated[PositiveInt, Field(ge=100, le=768_000)] = 16_000
    """Samples of a second; sounds of another rate are resampled."""
    seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    """All have this length: cut off, or filled up with silence."""
    max_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Each keeps its own length up to this one; the models get an attention mask too."""
    too_long: Literal["truncate", "bad"] = "truncate"
    """What becomes of a sound that is longer: cut off, or a bad sample."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.seconds is None) == (self.max_seconds is None):
            raise ValueError("expected exactly one of seconds and max_seconds")
        if self.num_samples < 1:
            raise ValueError("that is not a single sample at this rate")
        return self

    @property
    def num_samples(self) -> int:
        """The samples of a sound, or the most that it can have."""
        return round((self.seconds or self.max_seconds or 0.0) * self.rate)


class BytesOptions(Options):
    """How files become numbers: their first and last bytes, or just the first.

    With `begin` and `end` they are the features of Google's Magika: at most `block` bytes are read
    at each side, whitespace is stripped there, and what is missing is padded.
    """

    length: PositiveInt | None = None
    """The first so many bytes; instead of begin and end."""
    begin: NonNegativeInt = 0
    """Bytes from the beginning; padding follows them."""
    end: NonNegativeInt = 0
    """Bytes from the end; padding precedes them."""
    pad: Annotated[int, Field(ge=0, le=32767)] = 256
    """The number that stands where there is no byte."""
    strip: bool = False
    """With begin and end: leave out whitespace at the beginning and at the end."""
    block: PositiveInt = 4096
    """With begin and end: how many bytes are read at each side."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.length is None) == (self.begin + self.end == 0):
            raise ValueError("expected either length, or begin and end")
        if max(self.begin, self.end) > self.block:
            raise ValueError("block is smaller than begin or end")
        if self.length is not None and self.strip:
            raise ValueError("strip goes with begin and end")
        return self

    @property
    def width(self) -> int:
        """How many numbers a file becomes."""
        return self.length or self.begin + self.end


class FileOptions(Options):
    """Which files of a folder are samples: never links, nor hidden ones."""

    limit: PositiveInt | None = None
    """So many of them at most, chosen by a hash of their paths."""
    min_bytes: NonNegativeInt = 0
    """Smaller files are left out."""
    max_bytes: PositiveInt | None = None
    """Larger files are left out."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths that are left out, relative as in `sample_id`: `**/*.pyc`."""


class InputOptions(Options):
    """What the source is, and how what it holds becomes numbers."""

    format: Format = Format.AUTO
    """`auto` for tables and targets; `text`, `images`, `audio` and `files` for files that are
    samples, or texts, themselves; `idx` for the files of MNIST and its relatives."""
    tokens: TokenOptions | None = None
    """How texts become tokens: those of `format: text`, or of the columns `inputs` of a table."""
    image: ImageOptions | None = None
    """How images become arrays: files, or the column `inputs` of a table, of content or paths."""
    audio: AudioOptions | None = None
    """How sounds become waveforms: files, or the column `inputs` of a table."""
    bytes: BytesOptions | None = None
    """How any content becomes numbers: files, or the column `inputs` of a table."""
    files: FileOptions = FileOptions()
    """Which files are taken."""

    @model_validator(mode="after")
    def _goes_with_the_format(self) -> Self:
        said = [name for name in _MAKERS.values() if getattr(self, name) is not None]
        wanted = _MAKERS.get(self.format)
        if wanted is not None and said != [wanted]:
            raise ValueError(f"format: {self.format} goes with {wanted}, and only that")
        if self.format is Format.IDX and said:
            raise ValueError(f"format: idx holds numbers; leave {said[0]} out")
        if len(said) > 1:
            raise ValueError(f"expected one of {' and '.join(said)}")
        if not self.format.is_listed and self.files != FileOptions():
            raise ValueError("files goes with the formats text, images, audio and files")
        return self

    @property
    def maker(self) -> TokenOptions | ImageOptions | AudioOptions | BytesOptions | None:
        """What makes numbers of the content, where something has to."""
        return self.tokens or self.image or self.audio or self.bytes

    def unsaid(self) -> set[str]:
        """The fields of these options that a recipe leaves out, and those that only choose files.

        What was made without them keeps its name.
        """
        names = {name for name in _MAKERS.values() if getattr(self, name) is None} | {"files"}
        return names | ({"format"} if self.format is Format.AUTO else set())


_MAKERS: Final[dict[Format, str]] = {
    Format.TEXT: "tokens",
    Format.IMAGES: "image",
    Format.AUDIO: "audio",
    Format.FILES: "bytes",
}
"""The options that make numbers of each format."""
