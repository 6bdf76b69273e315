"""The digest of an ONNX model: of its graph, and of weights that lie beside it.

It is kept by the path, size and time of each file, and imports nothing heavy once it is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from storage import layout
from storage.errors import IntegrityError
from storage.files import Folder
from storage.identity import digest_of_bytes, digest_of_digests, fingerprint
from storage.records import read_record, write_record
from storage.sources import digest_of_source, read_source


def onnx_digest(store: Folder, url: str, where: str) -> str:
    """The digest of a model with its external data, if it has some.

    Raises:
        DataError: a file is not there.
        ModelError: it is no ONNX model.
    """
    own = digest_of_source(store, url)
    names = _external_files(store, url, own, where)
    return whole_digest(own, {name: digest_of_source(store, beside(url, name)) for name in names})


def whole_digest(own: str, external: Mapping[str, str]) -> str:
    """The digest of a graph and of its external data by name; of a graph alone its own."""
    if not external:
        return own
    named = (digest_of_bytes(name.encode()) + digest for name, digest in sorted(external.items()))
    return digest_of_digests([own, *named])


def beside(url: str, name: str) -> str:
    """A file in the folder of another one."""
    head, slash, _ = url.rpartition("/")
    return f"{head}{slash}{name}"


def _external_files(store: Folder, url: str, own: str, where: str) -> list[str]:
    """The external data of a graph, from a note under the graph's digest, or from the graph."""
    note = layout.file_digest(fingerprint({"external_data_of": own}))
    if store.exists(note):
        with suppress(IntegrityError, KeyError):
            return list(read_record(store, note)["files"])
    from tasks.onnx_files import external_files

    names = list(external_files(read_source(url), where))
    write_record(store, note, {"external_data_of": own, "files": names})
    return names
