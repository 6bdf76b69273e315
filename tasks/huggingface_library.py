"""Hugging Face's libraries: imported only where they are needed, and kept off the terminal.

They are an extra: a recipe that names none of their models runs without them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from storage.errors import ModelError

EXTRA = "pip install 'softlabel[huggingface]'"
_SPEAKERS = (
    "transformers",
    "huggingface_hub",
    "gguf",
    "accelerate",
    "filelock",
    "httpx",
    "urllib3",
)


def library(name: str, where: str) -> Any:
    """A module of one of the libraries.

    Raises:
        ModelError: it is not installed.
    """
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        missing = name.partition(".")[0]
        raise ModelError(
            f"{where}: a Hugging Face model needs the package {missing!r}, which cannot be "
            f"imported; run: {EXTRA}"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Progress bars, advice and warnings of the libraries do not reach the terminal.

    What goes wrong is raised, and said once by whoever catches it.
    """
    speakers = [logging.getLogger(name) for name in _SPEAKERS]
    before = [(speaker.level, speaker.propagate, speaker.disabled) for speaker in speakers]
    silence = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        warnings.simplefilter("ignore")
        for speaker in speakers:
            speaker.disabled = True
            speaker.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for speaker, (level, propagate, disabled) in zip(speakers, before, strict=True):
                speaker.setLevel(level)
                speaker.propagate, speaker.disabled = propagate, disabled
