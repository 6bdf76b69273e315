"""The folder's contract on the back ends that need no server; the one that does is in `s3`."""

import contextlib
import secrets
import sys

import pytest
from fsspec.registry import _registry

from storage.errors import StoreError
from storage.files import Folder
from tests.storage.folder_contract import TreeContract
from tests.storage.refusal import refused


@contextlib.contextmanager
def memory_url():
    """A new place in this process's memory."""
    url = f"memory://contract-{secrets.token_hex(4)}"
    yield url
    folder = Folder.open(url)
    if folder.filesystem.exists(folder.path):
        folder.filesystem.rm(folder.path, recursive=True)


class TestMemory(TreeContract):
    @pytest.fixture
    def url(self):
        with memory_url() as url:
            yield url

    def test_it_is_written_as_a_url(self, folder):
        assert not folder.is_local
        assert folder.url.startswith("memory://")
        assert folder.url_of("a/b.bin") == f"{folder.url}/a/b.bin"


class TestFileUrl(TreeContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"file://{tmp_path}/a folder/store"

    def test_it_is_a_local_folder(self, folder, url):
        assert folder.is_local
        assert folder.url == url.removeprefix("file://")


class TestChain(TreeContract):
    """A folder as a file system of its own, over another."""

    @pytest.fixture
    def url(self):
        with memory_url() as outer:
            yield f"dir://sets/a::{outer}"

    def test_names_go_before_the_rest_of_the_chain(self, folder, url):
        outer = url.partition("::")[2]
        assert folder.url == url
        assert folder.url_of("b.bin") == f"dir://sets/a/b.bin::{outer}"
        folder.write_bytes("b.bin", b"1")
        assert Folder.open(outer).read_bytes("sets/a/b.bin") == b"1"


class TestUrls:
    def test_a_password_in_a_url_is_not_repeated(self):
        with pytest.raises(StoreError) as caught:
            Folder.open("nowhere://me:open-sesame@host/x")
        assert "'nowhere://me:***@host/x'" in str(caught.value)
        assert "sesame" not in str(caught.value)

    def test_a_missing_client_is_named(self, monkeypatch):
        monkeypatch.delitem(_registry, "s3", raising=False)  # kept once it was used
        monkeypatch.setitem(sys.modules, "s3fs", None)
        with refused(StoreError, "'s3://bucket/x'", "s3fs"):
            Folder.open("s3://bucket/x")
