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

import asyncio
import contextlib
import fcntl
import gc
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from storage.errors import ServerError

if TYPE_CHECKING:
    import uvicorn

START_SECONDS = 180.0
"""How long `LocalServer.wait` waits by default; a new database takes 16 s on two slow cores."""

PREFERRED_PORT = 4200
LOG_SIZE_BYTES = 1_000_000
LOG_LINES_SHOWN = 15

_CLIENT_POLL_SECONDS = 0.05
_SERVER_POLL_SECONDS = 0.3
_DRAIN_SECONDS = 10.0
_STALLED_SECONDS = 1.0
_SHUTDOWN_SECONDS = 10.0

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


@dataclass(frozen=True)
class ServerFiles:
    """The files that clients and server share, all in one folder."""

    folder: Path

    @classmethod
    def default(cls) -> "ServerFiles":
        """Return the files below the user's PREFECT_HOME."""
        return cls(_prefect_home() / "softlabel")

    @property
    def clients_lock(self) -> Path:
        """Held shared by every client, exclusively by a server that has none left."""
        return self.folder / "clients.lock"

    @property
    def server_lock(self) -> Path:
        """Held exclusively by the one server, from before its process exists to its end."""
        return self.folder / "server.lock"

    @property
    def state(self) -> Path:
        """Says where the server answers; believed only while `server_lock` is held."""
        return self.folder / "server.json"

    @property
    def log(self) -> Path:
        """Everything that the server process prints."""
        return self.folder / "server.log"


@dataclass(frozen=True)
class ServerState:
    """What `server.json` holds: the process, and the URL of its API."""

    pid: int
    url: str


# The user's own server


def configured_api_url() -> str | None:
    """Return the API that the user chose for Prefect, or None: then softlabel starts a server.

    Looks where Prefect looks, in its order: the environment, `.env`, `prefect.toml` and
    `pyproject.toml` of the working folder, the active profile. Prefect itself is not imported,
    which would delay the start of the server by its 1.5 s.
    """
    here = Path()
    candidates = (
        os.environ.get("PREFECT_API_URL"),
        _dotenv_api_url(here / ".env"),
        _read_toml(here / "prefect.toml").get("api", {}).get("url"),
        _read_toml(here / "pyproject.toml")
        .get("tool", {})
        .get("prefect", {})
        .get("api", {})
        .get("url"),
        _profile_api_url(),
    )
    return next((str(url) for url in candidates if url), None)


def _prefect_home() -> Path:
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser().absolute()


def _profile_api_url() -> str | None:
    path = os.environ.get("PREFECT_PROFILES_PATH") or _prefect_home() / "profiles.toml"
    content = _read_toml(Path(path).expanduser())
    active = os.environ.get("PREFECT_PROFILE") or content.get("active")
    url: str | None = content.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return url


def _dotenv_api_url(path: Path) -> str | None:
    if not path.is_file():
        return None
    from dotenv import dotenv_values

    return dotenv_values(path).get("PREFECT_API_URL")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise ServerError(
            f"expected TOML with Prefect's settings in {path}, but it does not read: {e}; "
            "mend or remove the file"
        ) from e


# Locks


_client_locks: set[int] = set()


def _close_client_locks() -> None:
    """Drop a forked child's copies, so that it keeps no server alive after its parent's death."""
    while _client_locks:
        os.close(_client_locks.pop())


os.register_at_fork(after_in_child=_close_client_locks)


def try_lock(path: Path, operation: int) -> int | None:
    """Lock a file (created when missing) and return its descriptor, or None if it is taken.

    `operation` is `fcntl.LOCK_SH` or `fcntl.LOCK_EX`. Closing the descriptor releases the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


# The client's half


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
            _client_locks.discard(self._client_lock)
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
        _client_locks.add(lock)

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


def read_state(path: Path) -> ServerState | None:
    """Return what the file says of the server, or None when it is missing or not readable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ServerState(pid=int(content["pid"]), url=str(content["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    return [sys.executable, "-P", "-m", "flows.server", str(lock), str(folder)]


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


# The server's half


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


def _prefect_server() -> "uvicorn.Server":
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


async def _drain(server: "uvicorn.Server") -> None:
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
