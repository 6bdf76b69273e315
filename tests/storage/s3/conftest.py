"""An S3 server with a faulty network before it, and a bucket of its own for every test.

The server is moto's, in its own process; between it and the client stands a proxy that does wrong
what a test tells it to.
"""

import itertools
import os

import fsspec
import pytest

from storage import retry
from storage.files import Folder
from storage.retry import Patience
from tests.storage.s3.faulty_proxy import faulty_proxy
from tests.storage.s3.server import s3_server

KEY_ID = "AKIDNOTTOBESEEN"
SECRET = "a-secret-not-to-be-seen"
BUCKETS = itertools.count()


@pytest.fixture(scope="package")
def server():
    with s3_server() as port, faulty_proxy(port) as proxy, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield proxy
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def proxy(server, monkeypatch):
    monkeypatch.setattr(retry, "PATIENCE", Patience(first_wait_seconds=0.001))
    server.clear()
    yield server
    server.clear()


@pytest.fixture
def bucket(proxy):
    name = f"bucket-{next(BUCKETS)}"
    Folder.open(f"s3://{name}").filesystem.mkdir(name)
    proxy.clear()
    return name


@pytest.fixture
def folder(bucket):
    return Folder.open(f"s3://{bucket}/store")
