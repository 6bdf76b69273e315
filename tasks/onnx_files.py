"""The files of an ONNX model: the graph, and weights that lie beside it as external data.

External data are not read to load a model from a local folder: ONNX Runtime maps their files. From
elsewhere they are fetched into a temporary folder.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import onnx
from fsspec.implementations.local import LocalFileSystem
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from storage.errors import DataError, ModelError, one_line
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.sources import digest_of_source, read_source
from tasks.onnx_digest import beside, whole_digest


class FetchedFiles:
    """A temporary folder that goes with this object."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="softlabel-onnx-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Content:
    """An ONNX model as it is loaded.

    Attributes:
        model: the serialised graph.
        folder: where its external data lie, if it has some.
        fetched: the same, where they came from elsewhere: it is there as long as this object.
    """

    model: bytes
    folder: Path | None = None
    fetched: FetchedFiles | None = None


@dataclass(frozen=True)
class OnnxFiles:
    """An ONNX model, read.

    Attributes:
        content: as it is loaded.
        digest: of the graph, and of its external data if it has some.
        size_bytes: of all files together.
    """

    content: Content
    digest: str
    size_bytes: int


def read_onnx(store: Folder, url: str, where: str) -> OnnxFiles:
    """Read a model, its external data being fetched where they are not local.

    Raises:
        DataError: a file is not there.
        ModelError: it is no ONNX model.
    """
    graph = read_source(url)
    names = external_files(graph, where)
    own = digest_of_bytes(graph)
    if not names:
        return OnnxFiles(Content(graph), own, len(graph))
    digest = whole_digest(own, {name: digest_of_source(store, beside(url, name)) for name in names})
    filesystem, path = fsspec.core.url_to_fs(url)
    size = len(graph) + sum(int(filesystem.size(beside(path, name))) for name in names)
    if isinstance(filesystem, LocalFileSystem):
        return OnnxFiles(Content(graph, Path(path).parent), digest, size)
    fetched = FetchedFiles()
    for name in names:
        _fetch(beside(url, name), fetched.folder / name)
    return OnnxFiles(Content(graph, fetched.folder, fetched), digest, size)


def external_files(graph: bytes, where: str) -> tuple[str, ...]:
    """The files of a model's external data, relative to it.

    Raises:
        ModelError: it is no ONNX model, or its files lie outside its folder.
    """
    try:
        model = onnx.load_model_from_string(graph)
    except Exception as error:
        raise ModelError(f"{where}: this is no readable ONNX model: {one_line(error)}") from error
    found = sorted(
        {
            str(ExternalDataInfo(tensor).location)
            for tensor in _tensors(model.graph)
            if uses_external_data(tensor)
        }
    )
    for name in found:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts:
            raise ModelError(
                f"{where}: the model's external data are {name!r}, expected a file beside it"
            )
    return tuple(found)


def _tensors(graph: Any) -> Iterator[Any]:
    """The tensors of a graph and of those inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _fetch(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with fsspec.open(url, "rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 24)
    except Exception as error:
        raise DataError(f"{url!r} cannot be read: {one_line(error)}") from error
