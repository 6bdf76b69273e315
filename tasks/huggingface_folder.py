"""A trained Hugging Face model as files that the library's own `from_pretrained` loads.

The weights lie under the names that they have in transformers, so nothing is stored twice; what
softlabel alone has to know to build the module again stands in a file of its own.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage import layout
from storage.errors import ModelError, one_line
from tasks.huggingface_files import PROCESSOR
from tasks.huggingface_library import quiet
from tasks.huggingface_models import CONFIGURATION, PREPARATION
from tasks.huggingface_module import HuggingFaceModule


def folder_files(
    module: HuggingFaceModule, class_names: Sequence[str] | None = None
) -> dict[str, bytes]:
    """The files beside the weights: the configuration, the processor's settings, and ours.

    Args:
        module: a model that was trained here.
        class_names: names of the classes, in their order, where there are any.
    """
    own = {name: value for name, value in module.saved.items() if name != CONFIGURATION}
    files = {
        layout.MODEL_CONFIG: _json(_configuration(module, class_names)),
        layout.MODEL_FORM: _json(own),
    }
    processor = _processor(module.saved[PREPARATION])
    return files | ({PROCESSOR: _json(processor)} if processor else {})


def saved_of(configuration: bytes, form: bytes) -> dict[str, Any]:
    """What a module can be built from again, out of its two files."""
    return {**json.loads(form), CONFIGURATION: json.loads(configuration)}


def tokenizer_files(tokenizer: Any, where: str) -> dict[str, bytes]:
    """The files of a transformers tokenizer, by their names.

    Raises:
        ModelError: the library cannot save it.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with quiet():
                tokenizer.save_pretrained(folder)
        except Exception as error:
            raise ModelError(f"{where}: the tokenizer is not saved: {one_line(error)}") from error
        paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
        return {path.name: path.read_bytes() for path in paths}


def _configuration(module: HuggingFaceModule, class_names: Sequence[str] | None) -> dict[str, Any]:
    said = {
        **module.saved[CONFIGURATION],
        "architectures": [type(module.model).__name__],
        "dtype": "float32",
    }
    if class_names is not None and len(class_names) == module.model.config.num_labels:
        said["id2label"] = {str(place): name for place, name in enumerate(class_names)}
        said["label2id"] = {name: place for place, name in enumerate(class_names)}
    return said


def _processor(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the library's own processor of images that does the same; else none."""
    if settings["kind"] != "images":
        return {}
    size, edge, crop = settings["size"], settings["shortest_edge"], settings["crop"]
    said: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor" if crop else "ViTImageProcessor",
        "do_convert_rgb": False,
        "do_resize": bool(size or edge),
        "resample": settings["resample"],
        "do_center_crop": bool(crop),
        "do_rescale": True,
        "rescale_factor": settings["scale"],
        "do_normalize": True,
        "image_mean": _per_channel(settings["mean"], settings["channels"]),
        "image_std": _per_channel(settings["std"], settings["channels"]),
    }
    if size:
        said["size"] = {"height": size[0], "width": size[1]}
    elif edge:
        said["size"] = {"shortest_edge": edge}
    if crop:
        said["crop_size"] = {"height": crop[0], "width": crop[1]}
    return said


def _per_channel(values: Sequence[float], channels: int) -> list[float]:
    return list(values) * (channels if len(values) == 1 else 1)


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True).encode()
