"""What a product comes from, as its card tells it: recipe, labels, teacher, data and code."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from storage.reader import LabelSet
from storage.summary import describe_origin
from tasks.inputs.tokenizers import TextTokenizer
from tasks.intents import FIT_CODE_VERSION

LINEAGE: Final = "lineage"
"""Where it stands among a card's details."""
_PACKAGES = ("softlabel", "torch", "transformers", "onnx", "onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class Origin:
    """Who asks for a product.

    Attributes:
        recipe: as plain values, overrides included.
        source: the recipe's path or URL.
        overrides: what was changed of it, as `path.of.field=value`.
        teacher: the teacher's fingerprint, where it is known.
        tokenizer: what the data were tokenized with, where that is known.
    """

    recipe: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    overrides: tuple[str, ...] = ()
    teacher: str | None = None
    tokenizer: TextTokenizer | None = None


NOBODY: Final = Origin()
"""For those who ask without a recipe."""


def lineage(origin: Origin, seed: int) -> dict[str, Any]:
    """What is told of every fitted model."""
    return {
        "recipe_source": origin.source,
        "overrides": list(origin.overrides),
        "data": (origin.recipe.get("data") or {}).get("name"),
        "seed": seed,
        "fit_code_version": FIT_CODE_VERSION,
        "versions": _versions(),
        "recipe": dict(origin.recipe),
    }


def student_lineage(origin: Origin, seed: int, labels: LabelSet) -> dict[str, Any]:
    """The same and what a student learnt from."""
    made_from = describe_origin(labels)
    return {
        "label_set": {
            "url": labels.folder.url,
            "fingerprint": labels.manifest.fingerprint,
            "digest": labels.digest,
        },
        "teacher": {
            "fingerprint": origin.teacher,
            "weights_digest": made_from.get("teacher", {}).get("weights"),
        },
        **lineage(origin, seed),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
