"""Where machines meet that train together. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from storage.options import Options


class RendezvousOptions(Options):
    """Where several machines meet that train one model together."""

    machines: Annotated[int, Field(ge=2)]
    """How many; the same command runs on each of them, with the same store."""
    endpoint: Annotated[str, Field(pattern=r"^[^:/\s]+:\d+$")]
    """`host:port` of one of them, which all can reach."""
