"""The local Prefect server's own process: serves until its last client is gone.

Prefect is imported only after the process watches its clients, so that one whose client is killed
before it answers ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from flows.server_files import ServerFiles, ServerState, try_lock
from storage.errors import ServerError

if TYPE_CHECKING:
    import uvicorn

PREFERRED_PORT = 4200

_SERVER_POLL_SECONDS = 0.3
_DRAIN_SECONDS = 10.0
_STALLED_SECONDS = 1.0
_SHUTDOWN_SECONDS = 10.0


class _Clients:
    """Watches from a thread whether a client is left, from before Prefect is imported."""

    def __init__(self, lock_path: Path) -> None:
        self._lock_path = lock_path
        self._serving = threading.Event()
        self._gone = threading.Event()
        threading.Thread(target=self._watch, name="clients", daemon=True).start()

    def served(self) -> None:
        """Say that from now on the server ends by itself when `gone` is true."""
        self._serving.set()

    @property
    def gone(self) -> bool:
        """Whether no client is left; none can come any more, the lock is held."""
        return self._gone.is_set()

    def _watch(self) -> None:
        # Where the folder is gone nobody can be a client any more.
        with contextlib.suppress(OSError):
            while try_lock(self._lock_path, fcntl.LOCK_EX) is None:
                time.sleep(_SERVER_POLL_SECONDS)
        self._gone.set()
        if self._serving.is_set():
            # A shutdown that hangs must not outlive its clients for long.
            time.sleep(_DRAIN_SECONDS + _SHUTDOWN_SECONDS)
        # SQLite stays consistent: what is not committed is rolled back.
        os._exit(0)


def serve(lock: int, files: ServerFiles) -> None:
    """Run the Prefect server until no client is left; `lock` is the inherited `server.lock`."""
    os.set_inheritable(lock, False)
    clients = _Clients(files.clients_lock)
    # Importing Prefect and creating its tables allocate much and free little: a quarter faster.
    gc.disable()
    with _listen() as listener:
        port = listener.getsockname()[1]
        # The UI asks its server where the API is; Prefect reads this when it is imported.
        os.environ["PREFECT_SERVER_API_HOST"] = "127.0.0.1"
        os.environ["PREFECT_SERVER_API_PORT"] = str(port)
        state = ServerState(pid=os.getpid(), url=f"http://127.0.0.1:{port}/api")
        asyncio.run(_serve_clients(listener, state, files, clients))


def _listen() -> socket.socket:
    for port in (PREFERRED_PORT, 0):
        # asyncio switches off Nagle (40 ms on every answer) only where TCP is named.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            listener.close()
        else:
            return listener
    raise ServerError("expected a free port on 127.0.0.1 for the Prefect server, but there is none")


async def _serve_clients(
    listener: socket.socket, state: ServerState, files: ServerFiles, clients: _Clients
) -> None:
    server = _prefect_server()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    gc.enable()
    gc.freeze()
    if server.started:
        clients.served()
        _write_state(files.state, state)
        while not clients.gone and not serving.done():
            await asyncio.sleep(_SERVER_POLL_SECONDS / 3)
        await _drain(server)
        files.state.unlink(missing_ok=True)
        server.should_exit = True
    await serving


def _prefect_server() -> uvicorn.Server:
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(
        create_app(final=True),
        log_config=None,  # Prefect has set up uvicorn's loggers
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def _write_state(path: Path, state: ServerState) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(state)), encoding="utf-8")
    partial.replace(path)


async def _drain(server: uvicorn.Server) -> None:
    """Wait until what the last client sent is read and handled, or until nothing moves.

    Prefect's clients report task runs as events, which the server queues and stores later.
    Stopping its services stores what they hold, but not what still waits in front of them.
    """
    end = time.monotonic() + _DRAIN_SECONDS
    seen, moved = None, time.monotonic()
    while time.monotonic() < end:
        pending = (len(server.server_state.connections), _pending_events())
        if pending == (0, 0):
            return
        if pending != seen:
            seen, moved = pending, time.monotonic()
        elif time.monotonic() - moved > _STALLED_SECONDS:
            return
        await asyncio.sleep(0.02)


def _pending_events() -> int:
    from prefect.server.utilities.messaging.memory import METRICS

    return sum(topic["published"] - topic["consumed"] for topic in METRICS.values())


def _main() -> None:
    lock, folder = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        serve(int(lock), ServerFiles(Path(folder)))
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is stored; taking the interpreter apart would only log complaints.
    os._exit(0)


if __name__ == "__main__":
    _main()
