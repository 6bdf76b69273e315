"""Google's Magika, a real teacher in ONNX: its model, and files of this machine as it sees them."""

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import magika
import numpy as np
from magika.types import Seekable
from numpy.typing import NDArray

from storage.spec import InputSpec

MODEL = Path(magika.__file__).parent / "models" / "standard_v3_3" / "model.onnx"
CLASSES = json.loads((MODEL.parent / "config.min.json").read_text())["target_labels_space"]
BYTES = InputSpec(name="bytes", dtype="int32", shape=(2048,))
_PYTHON = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
_ROOTS = (*_PYTHON, Path("/usr/share"))
_LARGEST = 4 << 20
_OF_A_KIND = 25
"""Files of one suffix, so that not all are source code."""


def files(reader: magika.Magika, count: int) -> list[tuple[Path, NDArray[np.int32]]]:
    """So many files that Magika asks its model about, and the model's input for each."""
    found = []
    for path in _candidates():
        with path.open("rb") as stream:
            # What Magika itself does before its model; it has no public way to ask for it.
            _, features = reader._get_result_or_features_from_seekable(Seekable(stream), path)
        if features is not None:
            found.append((path, np.array([*features.beg, *features.end], np.int32)))
        if len(found) == count:
            return found
    raise LookupError(f"this machine has {len(found)} of {count} files")


def _candidates() -> Iterator[Path]:
    seen: dict[str, int] = {}
    for root in _ROOTS:
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST:
                continue
            kind = path.suffix or path.name
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] <= _OF_A_KIND:
                yield path
