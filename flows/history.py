"""What ran when, from which recipe, and what it made: one record a run, in the store."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from flows.project import Project
from storage import layout
from storage.errors import SoftlabelError, one_line
from storage.files import Folder
from storage.records import write_record


@dataclass
class RunHistory:
    """The record of one run; written when it ends, for good or bad."""

    store: Folder
    content: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, project: Project, flow_run_id: str | None) -> Self:
        """The record of a run that begins now."""
        now = datetime.now(UTC)
        content: dict[str, Any] = {
            "id": f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
            "recipe": project.loaded.source,
            "name": project.name,
            "flow_run_id": flow_run_id,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "started": now.isoformat(timespec="seconds"),
            "stages": {},
        }
        return cls(project.store, content)

    def add(self, stage: str, record: dict[str, Any]) -> None:
        """A stage has ended."""
        self.content["stages"][stage] = record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        records = self.content["stages"].values()
        if error is None and all(record["status"] == "cached" for record in records):
            return
        self.content["status"] = "completed" if error is None else "failed"
        self.content["error"] = one_line(error) if error is not None else None
        self.content["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        with contextlib.suppress(SoftlabelError):
            write_record(self.store, layout.run_record(self.content["id"]), self.content)
