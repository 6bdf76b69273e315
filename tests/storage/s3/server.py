"""A real S3 server, moto's, in a process of its own that ends with whoever started it.

`python -m tests.storage.s3.server` serves on a free port of 127.0.0.1, prints the port, and ends
when its standard input closes. Requests are served one after the other: moto's conditional PUT
looks and then writes, so two at once could both succeed.
"""

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """A running server; gives its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.storage.s3.server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(timeout=10)


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
