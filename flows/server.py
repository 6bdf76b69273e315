"""The local Prefect server: started when there is none, shared, and gone with its last client.

A client is a process that runs flows; it holds a shared lock on `clients.lock` until it ends. The
server is a child process in a session of its own; it holds an exclusive lock on `server.lock`,
which its client took and handed down, so there is never a second one. It asks again and again for
`clients.lock` exclusively: once it gets it, no client is left, and it stores what is still pending
and ends. The kernel releases locks however a process dies, so kill -9 is no special case.

Both locks, `server.json` (pid and URL of the server that answers) and `server.log` lie in
`<PREFECT_HOME>/softlabel`. The database is Prefect's own, so `prefect server start` shows the
same runs later. A start costs 4-5 s, and 16 s once for a new database.

Prefect is imported by the server process only, and only after it watches its clients.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from flows.server_files import ServerFiles, client_locks, read_state, try_lock
from storage.errors import ServerError

START_SECONDS = 180.0
"""How long `LocalServer.wait` waits by default; a new database takes 16 s on two slow cores."""

LOG_SIZE_BYTES = 1_000_000
LOG_LINES_SHOWN = 15
_CLIENT_POLL_SECONDS = 0.05

_SERVER_SETTINGS = {
    # What a client silenced for its terminal belongs in the server's log.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "NOTSET",
    "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "NOTSET",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # One transaction for each state of each task run is what makes SQLite slow.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


class LocalServer:
    """A client's hold on the local server: `start` early, `wait` when the API is needed.

    The hold ends with the process or with `release`. A process that has a `LocalServer` shares
    the server that others run, or starts one.
    """

    def __init__(self, files: ServerFiles | None = None) -> None:
        self._files = files or ServerFiles.default()
        self._started = False
        self._decided = threading.Event()
        self._deadline = 0.0
        self._client_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._url: str | None = None
        self._error: Exception | None = None

    def start(self, seconds: float = START_SECONDS) -> None:
        """Begin to find or start the server and return at once; `seconds` bounds the wait."""
        if self._started:
            return
        self._started = True
        self._deadline = time.monotonic() + seconds
        threading.Thread(target=self._bring_up, name="softlabel-server", daemon=True).start()

    def wait(self) -> str:
        """Return the URL of the API once it answers, and make Prefect use it in this process.

        Raises:
            ServerError: the server ended, or did not answer in time.
        """
        self.start()
        self._decided.wait()
        if self._error is not None:
            raise self._error
        assert self._url is not None
        _use_api(self._url)
        return self._url

    def release(self) -> None:
        """Let go of the server for good; it ends when no other client holds it."""
        if self._client_lock is not None:
            client_locks.discard(self._client_lock)
            os.close(self._client_lock)
            self._client_lock = None

    def _bring_up(self) -> None:
        try:
            self._url = self._find_or_start()
        except ServerError as e:
            self._error = e
        finally:
            self._decided.set()
        if self._process is not None:
            self._process.wait()  # reaps the server if it ends before this process

    def _find_or_start(self) -> str:
        try:
            self._files.folder.mkdir(parents=True, exist_ok=True)
            self._hold_client_lock()
            while (url := self._healthy_url_or_spawn()) is None:
                self._pause_before_deadline()
        except OSError as e:
            raise ServerError(
                f"expected to keep the Prefect server's files in {self._files.folder}, but: {e}; "
                "make the folder writable or set PREFECT_HOME to another one"
            ) from e
        return url

    def _hold_client_lock(self) -> None:
        # Taken only while an ending server stores its last records.
        while (lock := try_lock(self._files.clients_lock, fcntl.LOCK_SH)) is None:
            self._pause_before_deadline()
        self._client_lock = lock
        client_locks.add(lock)

    def _healthy_url_or_spawn(self) -> str | None:
        if self._process is not None and self._process.poll() is not None:
            raise self._failure(f"ended with exit code {self._process.returncode}")
        lock = try_lock(self._files.server_lock, fcntl.LOCK_EX)
        if lock is not None:
            self._spawn(lock)
            return None
        state = read_state(self._files.state)
        return state.url if state is not None and is_healthy(state.url) else None

    def _spawn(self, server_lock: int) -> None:
        """Start the server and hand it the lock, which is then never free between the two."""
        try:
            # Whatever a dead server left must not be taken for the new one's.
            self._files.state.unlink(missing_ok=True)
            with _open_log(self._files.log) as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    _server_command(server_lock, self._files.folder),
                    env=_server_environment(),
                    pass_fds=(server_lock,),
                    # Ctrl-C in the terminal must reach the run, but not the server, which has
                    # yet to record how the run ended.
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        finally:
            os.close(server_lock)

    def _pause_before_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            raise self._failure("did not answer in time")
        time.sleep(_CLIENT_POLL_SECONDS)

    def _failure(self, what: str) -> ServerError:
        lines = _last_lines(self._files.log, self._log_start)
        return ServerError(
            f"expected the local Prefect server to start, but it {what}; see {self._files.log}, "
            "or set PREFECT_API_URL to a server of your own. Its last lines:\n" + lines
        )


def is_healthy(url: str, seconds: float = 2.0) -> bool:
    """Return whether a Prefect API answers at the URL; never goes through a proxy."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=seconds)
    try:
        connection.request("GET", f"{parts.path}/health")
        response = connection.getresponse()
        return response.status == 200 and response.read().strip() == b"true"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _use_api(url: str) -> None:
    os.environ["PREFECT_API_URL"] = url
    # Prefect reads its settings when it is imported; one that came earlier is told.
    context = sys.modules.get("prefect.context")
    if context is not None:
        context.refresh_global_settings_context()


def _server_command(lock: int, folder: Path) -> list[str]:
    # -P keeps a `flows` folder in the user's working folder from being imported instead of ours.
    return [sys.executable, "-P", "-m", "flows.server_process", str(lock), str(folder)]


def _server_environment() -> dict[str, str]:
    environment = os.environ | _SERVER_SETTINGS
    environment.pop("PREFECT_API_URL", None)
    packages = str(Path(__file__).resolve().parent.parent)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (packages, inherited)))
    return environment


def _open_log(path: Path) -> IO[bytes]:
    is_large = path.exists() and path.stat().st_size > LOG_SIZE_BYTES
    return path.open("wb" if is_large else "ab")


def _last_lines(path: Path, start: int) -> str:
    try:
        text = path.read_bytes()[start:].decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-LOG_LINES_SHOWN:]) or "(nothing was logged)"
