import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import environment
from flows.prefect_home import configured_api_url
from flows.server import (
    LocalServer,
    _last_lines,
    _open_log,
    _server_environment,
    is_healthy,
)
from flows.server_files import ServerFiles, ServerState, read_state, try_lock
from storage.errors import ServerError

ROOT = Path(__file__).resolve().parents[2]

# A client that says its URL (or its error), runs what it is asked to, and lives until told to end.
CLIENT = """
import sys
from flows import environment
environment.prepare()
from flows.server import LocalServer
from storage.errors import ServerError
server = LocalServer()
server.start(seconds=float(sys.argv[1]))
try:
    print(server.wait(), flush=True)
except ServerError as e:
    print("ServerError", e, flush=True)
    sys.exit(1)
if sys.argv[2] == "flow":
    from prefect import flow, task
    @task
    def double(number):
        return 2 * number
    @flow
    def forty():
        return [double(number) for number in range(40)]
    forty()
    print("ran", flush=True)
else:
    sys.stdin.read()
"""


def until(condition, what, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)
    return value


@pytest.fixture(autouse=True)
def plain_environment(tmp_path, monkeypatch):
    """No settings but the test's own: a new home, and a working folder without any."""
    for name in list(os.environ):
        if name.startswith("PREFECT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


class Client:
    """A process that holds the local server of a home."""

    def __init__(self, home, what="hold", seconds=120.0, **variables):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(seconds), what],
            env=os.environ | {"PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT)} | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def end(self):
        """Close the client's input, on which it ends, and return what it still printed."""
        output, _ = self.process.communicate(timeout=60)
        return output

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def start(home):
    with contextlib.ExitStack() as stack:

        def start_client(what="hold", seconds=120.0, **variables):
            client = Client(home, what, seconds, **variables)
            stack.callback(client.kill)
            return client

        yield start_client
        stack.close()
        until(lambda: server_is_gone(home), "the server's end", seconds=30.0)


@pytest.fixture(scope="session")
def filled_home(tmp_path_factory):
    """A home whose database has its tables, which takes 16 s to make."""
    home = tmp_path_factory.mktemp("filled")
    client = Client(home)
    try:
        assert client.line().startswith("http://127.0.0.1:")
    finally:
        client.end()
    until(lambda: server_is_gone(home), "the server's end", seconds=30.0)
    return home


@pytest.fixture
def home(filled_home, tmp_path):
    return shutil.copytree(filled_home, tmp_path / "home")


def files_of(home):
    return ServerFiles(Path(home) / "softlabel")


def server_is_gone(home):
    lock = try_lock(files_of(home).server_lock, fcntl.LOCK_EX)
    if lock is None:
        return False
    os.close(lock)
    return True


def states_of_task_runs(home):
    with contextlib.closing(sqlite3.connect(Path(home) / "prefect.db")) as database:
        return dict(
            database.execute("select state_name, count(*) from task_run group by state_name")
        )


# What needs no server


def test_prepare_keeps_what_the_user_set(monkeypatch):
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "DEBUG")
    for name in environment._DEFAULTS:
        if name != "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL":
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    environment.prepare()
    assert os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "DEBUG"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_without_any_setting_no_api_is_configured():
    assert configured_api_url() is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env", "PREFECT_API_URL=http://chosen/api\n"),
        ("prefect.toml", '[api]\nurl = "http://chosen/api"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://chosen/api"\n'),
    ],
)
def test_an_api_is_configured_by_a_file_of_the_working_folder(name, content):
    Path(name).write_text(content)
    assert configured_api_url() == "http://chosen/api"


def test_an_api_is_configured_by_the_active_profile(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "profiles.toml").write_text(
        'active = "one"\n[profiles.one]\nPREFECT_API_URL = "http://one/api"\n[profiles.none]\n'
        '[profiles.two]\nPREFECT_API_URL = "http://two/api"\n'
    )
    assert configured_api_url() == "http://one/api"
    monkeypatch.setenv("PREFECT_PROFILE", "two")
    assert configured_api_url() == "http://two/api"
    monkeypatch.setenv("PREFECT_PROFILE", "none")
    assert configured_api_url() is None


def test_the_environment_comes_before_any_file(monkeypatch):
    Path("prefect.toml").write_text('[api]\nurl = "http://file/api"\n')
    monkeypatch.setenv("PREFECT_API_URL", "http://variable/api")
    assert configured_api_url() == "http://variable/api"


def test_settings_that_do_not_read_are_named():
    Path("prefect.toml").write_text("[api\n")
    with pytest.raises(ServerError, match=r"prefect\.toml"):
        configured_api_url()


def test_shared_locks_go_together_and_exclude_an_exclusive_one(tmp_path):
    path = tmp_path / "lock"
    shared = [try_lock(path, fcntl.LOCK_SH) for _ in range(2)]
    assert None not in shared
    assert try_lock(path, fcntl.LOCK_EX) is None
    os.close(shared.pop())
    assert try_lock(path, fcntl.LOCK_EX) is None
    os.close(shared.pop())
    exclusive = try_lock(path, fcntl.LOCK_EX)
    assert exclusive is not None
    assert try_lock(path, fcntl.LOCK_SH) is None
    os.close(exclusive)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": "x", "url": "u"}'])
def test_a_state_file_that_does_not_read_says_nothing(tmp_path, content):
    path = tmp_path / "server.json"
    assert read_state(path) is None
    path.write_text(content)
    assert read_state(path) is None


def test_a_state_file_is_read(tmp_path):
    path = tmp_path / "server.json"
    path.write_text(json.dumps({"pid": 7, "url": "http://127.0.0.1:1/api"}))
    assert read_state(path) == ServerState(pid=7, url="http://127.0.0.1:1/api")


def test_a_port_that_nobody_listens_to_is_not_healthy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert not is_healthy(f"http://127.0.0.1:{port}/api")


def test_a_port_that_never_answers_is_not_healthy():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not is_healthy(f"http://127.0.0.1:{silent.getsockname()[1]}/api", seconds=0.2)


def test_a_large_log_starts_anew_and_a_small_one_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "server.log"
    monkeypatch.setattr("flows.server.LOG_SIZE_BYTES", 10)
    for content, expected in ((b"small ", b"small new"), (b"much too large ", b"new")):
        path.write_bytes(content)
        with _open_log(path) as log:
            log.write(b"new")
        assert path.read_bytes() == expected


def test_the_last_lines_are_those_of_this_start(tmp_path):
    path = tmp_path / "server.log"
    assert _last_lines(path, 0) == "(no log)"
    path.write_text("old\n" + "".join(f"line {i}\n" for i in range(40)))
    assert _last_lines(path, 4).splitlines() == [f"line {i}" for i in range(25, 40)]
    assert _last_lines(path, path.stat().st_size) == "(nothing was logged)"


def test_the_server_does_not_inherit_the_clients_api(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("PYTHONPATH", "mine")
    variables = _server_environment()
    assert "PREFECT_API_URL" not in variables
    assert variables["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "mine"]


def test_a_folder_that_cannot_be_made_is_a_server_error(tmp_path):
    (tmp_path / "file").write_text("")
    server = LocalServer(ServerFiles(tmp_path / "file" / "softlabel"))
    server.start()
    with pytest.raises(ServerError, match="PREFECT_HOME"):
        server.wait()


def test_a_server_that_never_gets_ready_is_given_up(tmp_path):
    files = ServerFiles(tmp_path)
    held = try_lock(files.server_lock, fcntl.LOCK_EX)
    server = LocalServer(files)
    server.start(seconds=0.2)
    with pytest.raises(ServerError, match="in time"):
        server.wait()
    server.release()
    os.close(held)


def test_a_forked_child_does_not_hold_the_server(tmp_path):
    files = ServerFiles(tmp_path)
    server = LocalServer(files)
    server._hold_client_lock()
    go_on, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.read(go_on, 1)
        os._exit(0)
    try:
        assert try_lock(files.clients_lock, fcntl.LOCK_EX) is None
        server.release()
        lock = until(lambda: try_lock(files.clients_lock, fcntl.LOCK_EX), "the lock", seconds=5.0)
        os.close(lock)
    finally:
        os.close(end)
        os.close(go_on)
        os.waitpid(child, 0)


# Real servers


@pytest.mark.slow
def test_two_clients_share_a_server_until_the_last_has_ended(home, start):
    first, second = start(), start()
    url = first.line()
    assert url.startswith("http://127.0.0.1:")
    assert second.line() == url
    assert first.end() == ""
    third = start()
    assert third.line() == url
    assert second.end() == ""
    assert is_healthy(url)
    assert third.end() == ""
    until(lambda: server_is_gone(home), "the server's end", seconds=5.0)
    assert not is_healthy(url)
    assert not files_of(home).state.exists()


@pytest.mark.slow
def test_kill_9_of_the_only_client_ends_the_server(home, start):
    client = start()
    url = client.line()
    client.kill()
    until(lambda: server_is_gone(home), "the server's end", seconds=5.0)
    assert not is_healthy(url)


@pytest.mark.slow
def test_kill_9_before_the_server_is_ready_ends_it(home, start):
    client = start()
    until(lambda: files_of(home).log.exists() and not server_is_gone(home), "the server's start")
    client.kill()
    until(lambda: server_is_gone(home), "the server's end", seconds=5.0)


@pytest.mark.slow
def test_a_second_client_takes_over_the_server_whose_starter_was_killed(home, start):
    first = start()
    until(lambda: files_of(home).clients_lock.exists() and not server_is_gone(home), "the start")
    second = start()
    until(lambda: shared_by(files_of(home).clients_lock) == 2, "the second client")
    first.kill()
    assert is_healthy(second.line())
    assert second.end() == ""


def shared_by(path):
    """Count the processes that hold a lock on the file, as the kernel lists them."""
    inode = path.stat().st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return sum(f":{inode} " in line and "READ" in line for line in lines)


@pytest.mark.slow
def test_the_state_of_a_dead_server_is_ignored(home, start):
    files = files_of(home)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        stale = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        files.state.write_text(json.dumps({"pid": os.getpid(), "url": stale}))
        client = start()
        url = client.line()
        assert url != stale
        assert is_healthy(url)
        assert read_state(files.state).url == url
        client.end()


@pytest.mark.slow
def test_a_killed_server_is_replaced(home, start):
    first = start()
    first.line()
    os.kill(read_state(files_of(home).state).pid, signal.SIGKILL)
    until(lambda: server_is_gone(home), "the server's end", seconds=5.0)
    assert files_of(home).state.exists()
    second = start()
    assert is_healthy(second.line())


@pytest.mark.slow
def test_a_server_whose_folder_is_removed_ends(home, start):
    start().line()
    pid = read_state(files_of(home).state).pid
    shutil.rmtree(files_of(home).folder)
    until(lambda: not psutil.pid_exists(pid), "the server's end", seconds=30.0)
    files_of(home).folder.mkdir()


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(home, start):
    client = start(PREFECT_SERVER_DATABASE_CONNECTION_URL="nonsense://nowhere")
    output = client.end()
    assert client.process.returncode == 1
    assert output.startswith("ServerError expected the local Prefect server to start")
    assert str(files_of(home).log) in output
    assert "nonsense" in output.split("last lines:")[1]


@pytest.mark.slow
def test_every_task_run_is_recorded_although_the_client_ends_at_once(home, start):
    client = start("flow")
    assert client.line().startswith("http://127.0.0.1:")
    # Nothing of Prefect on the terminal, and no complaint as the process ends.
    assert client.end() == "ran\n"
    assert client.process.returncode == 0
    until(lambda: server_is_gone(home), "the server's end", seconds=15.0)
    assert states_of_task_runs(home) == {"Completed": 40}
    assert "Traceback" not in files_of(home).log.read_text()
