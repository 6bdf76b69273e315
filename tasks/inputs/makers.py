"""Which code makes numbers of the data that a recipe names. Imports it when it is wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from storage.data_options import DataOptions
from storage.errors import RecipeError
from storage.file_corpus import FileDecoder
from storage.files import Folder
from storage.input_options import BYTES_TOKENIZER, TEACHER_TOKENIZER, TokenOptions
from storage.preparation import Preparation
from tasks.huggingface_options import HuggingFaceModelOptions, HuggingFaceTeacherOptions
from tasks.inputs.tokenizers import ByteTokenizer, HuggingFaceTokenizer, TextTokenizer
from tasks.teacher_options import FitTeacherOptions, TeacherOptions


def file_decoder(options: DataOptions) -> FileDecoder | None:
    """What decodes the files that are samples; None where the data are none."""
    return content_decoder(options) if options.format.is_decoded else None


def content_decoder(options: DataOptions) -> FileDecoder | None:
    """What decodes images, sounds or bytes, wherever their content comes from."""
    if options.image is not None:
        from tasks.inputs.images import ImageDecoder

        return ImageDecoder(options.image)
    if options.audio is not None:
        from tasks.inputs.audio import AudioDecoder

        return AudioDecoder(options.audio)
    if options.bytes is not None:
        from tasks.inputs.raw_files import BytesDecoder

        return BytesDecoder(options.bytes)
    return None


def preparation(
    store: Folder, options: DataOptions, folder: Path, teacher: TeacherOptions
) -> Preparation | None:
    """What makes samples of a table's columns or of text files; None where nothing has to.

    Args:
        store: keeps the digest of the tokenizer's files.
        options: the recipe's.
        folder: the recipe's.
        teacher: whose tokenizer `tokenizer: teacher` is.

    Raises:
        RecipeError: the teacher has no tokenizer of its own.
        ModelError: there is no such tokenizer.
    """
    if options.tokens is not None:
        from tasks.inputs.preparations import TextPreparation

        return TextPreparation(options, tokenizer_of(store, options.tokens, folder, teacher))
    decoder = content_decoder(options)
    if decoder is None or options.format.is_decoded:
        return None
    from tasks.inputs.preparations import DecodedColumn

    return DecodedColumn(options, decoder, str(folder))


def tokenizer_of(
    store: Folder, options: TokenOptions, folder: Path, teacher: TeacherOptions
) -> TextTokenizer:
    """The tokenizer that a recipe names, not loaded yet."""
    if options.tokenizer == BYTES_TOKENIZER:
        return ByteTokenizer()
    named = HuggingFaceTokenizer(
        options.tokenizer, folder, options.gguf_file, options.revision, digest=""
    )
    if options.tokenizer == TEACHER_TOKENIZER:
        model = teacher.model if isinstance(teacher, FitTeacherOptions) else teacher
        if not isinstance(model, HuggingFaceTeacherOptions | HuggingFaceModelOptions):
            raise RecipeError(
                f"data.tokens.tokenizer: a teacher of kind {teacher.kind!r} has no tokenizer; name "
                "a folder or a name on the Hugging Face Hub, or say bytes"
            )
        named = replace(
            named, model=model.model, gguf_file=model.gguf_file, revision=model.revision
        )
    return replace(named, digest=_digest(store, named))


def _digest(store: Folder, tokenizer: HuggingFaceTokenizer) -> str:
    """The sha256 over the files that make a tokenizer; each is read once."""
    from tasks.huggingface_files import kept_digest, local_folder

    found = local_folder(
        tokenizer.model,
        tokenizer.folder,
        where="data.tokens",
        revision=tokenizer.revision,
        gguf_file=tokenizer.gguf_file,
        weights=False,
    )
    if tokenizer.gguf_file is not None:
        return kept_digest(store, found, [tokenizer.gguf_file])
    names = sorted(path.name for path in found.iterdir() if _is_part(path.name))
    return kept_digest(store, found, names)


def _is_part(name: str) -> bool:
    """Whether a file of a model's folder belongs to its tokenizer."""
    beginnings = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "spiece")
    return (
        name.startswith(beginnings) or name.endswith((".model", ".tiktoken")) or name == "bpe.codes"
    )
