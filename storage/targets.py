"""`package.module:name` targets: the plain Python callables that people bring.

A recipe's own folder is appended to the import path, never put before what is installed.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.errors import RecipeError, one_line

_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_target(text: str) -> bool:
    """Whether `text` is written as `package.module:name`."""
    return _TARGET.fullmatch(text) is not None


def append_import_path(folder: Path) -> None:
    """Let targets be found in `folder`, after everything that is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def load_target(text: str) -> Callable[..., Any]:
    """Import the callable that `package.module:name` names.

    Raises:
        RecipeError: it cannot be imported, is not there, or cannot be called.
    """
    if not is_target(text):
        raise RecipeError(f"{text!r} is not of the form package.module:name")
    module_name, _, name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise RecipeError(
            f"cannot import {module_name!r} of the target {text!r}: {type(error).__name__}: "
            f"{one_line(error)}; modules beside the recipe are found, others must be installed"
        ) from error
    target = getattr(module, name, None)
    if not callable(target):
        found = "is not there" if target is None else "cannot be called"
        raise RecipeError(
            f"{name!r} {found} in {module_name!r} ({getattr(module, '__file__', None)}): "
            f"target {text!r}"
        )
    return target  # type: ignore[no-any-return]
