"""A file system in memory, `flaky://`, that can be told to fail once."""

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class FlakyFileSystem(MemoryFileSystem):
    """Fails when a file whose name holds `fail_on` is written for the `fail_at`-th time."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    written: ClassVar[list[str]] = []
    fail_on: ClassVar[str | None] = None
    fail_at: ClassVar[int] = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(str(path).replace("flaky://", "memory://", 1))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        kind = type(self)
        if kind.fail_on is not None and kind.fail_on in path:
            kind.fail_at -= 1
            if kind.fail_at == 0:
                raise ConnectionResetError("the connection was lost")
        kind.written.append(path)
        super().pipe_file(path, value, mode=mode, **kwargs)


def fail_once(name: str, at: int) -> type[FlakyFileSystem]:
    """An empty file system that fails at the `at`-th file whose name holds `name`."""
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    FlakyFileSystem.store.clear()
    FlakyFileSystem.written.clear()
    FlakyFileSystem.pseudo_dirs[:] = [""]
    FlakyFileSystem.fail_on, FlakyFileSystem.fail_at = name, at
    return FlakyFileSystem
