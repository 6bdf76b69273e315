"""GGUF files: converted once to plain weights in the user's cache, and read from there.

Taking 135 million quantised parameters apart takes the library half a minute; the plain ones are
read in half a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from storage.errors import ModelError, one_line
from tasks.huggingface_files import CONFIG, WEIGHTS, made_once, sha256_of
from tasks.huggingface_library import library, quiet
from tasks.weights import untied


def converted(folder: Path, gguf_file: str, where: str) -> Path:
    """The folder of plain weights that a GGUF file of a language model was converted to.

    Raises:
        ModelError: the file is damaged, or the library cannot read its kind of model.
    """
    path = folder / gguf_file
    transformers = library("transformers", where)
    library("gguf", where)

    def make(target: Path) -> None:
        try:
            with quiet():
                model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    folder, gguf_file=gguf_file, dtype="float32"
                )
                save_file(untied(model), target / WEIGHTS, metadata={"format": "pt"})
                model.config.architectures = [type(model).__name__]
                model.config.to_json_file(target / CONFIG)
        except Exception as error:
            raise ModelError(f"{where}: {path} cannot be converted: {one_line(error)}") from error

    return made_once(
        "gguf", {"gguf": sha256_of(path), "transformers": transformers.__version__}, make
    )
