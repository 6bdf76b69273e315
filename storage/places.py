"""Places that a recipe can name on any machine: files that a Python package or Python itself ships.

package://magika/models/standard_v3_3/model.onnx    below the folder of an installed package
stdlib://json/*.py                                   below the folder of the standard library
"""

from __future__ import annotations

import importlib.machinery
import sysconfig
from pathlib import Path
from typing import Final

from storage.errors import DataError

_PACKAGE: Final = "package://"
_STDLIB: Final = "stdlib://"


def is_shipped(text: str) -> bool:
    """Whether `text` names a file that Python or a package ships."""
    return text.startswith((_PACKAGE, _STDLIB))


def locate(text: str) -> str:
    """Where such a file lies on this machine; the package is not imported.

    Raises:
        DataError: the package is not installed.
    """
    if text.startswith(_STDLIB):
        return f"{sysconfig.get_path('stdlib')}/{text.removeprefix(_STDLIB)}"
    name, _, path = text.removeprefix(_PACKAGE).partition("/")
    spec = importlib.machinery.PathFinder.find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise DataError(f"{text!r}: the package {name!r} is not installed; install it with pip")
    return str(Path(folders[0]) / path) if path else folders[0]
