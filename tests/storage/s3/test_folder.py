"""The folder's contract on S3 over HTTP, and what each operation costs there."""

import pytest

from storage.files import Folder
from tests.storage.folder_contract import FolderContract

pytestmark = [pytest.mark.slow, pytest.mark.s3]

SIZE_BYTES = 1_000_000


class TestS3(FolderContract):
    @pytest.fixture
    def url(self, bucket):
        return f"s3://{bucket}/a store"

    def test_a_bucket_is_a_folder(self, bucket):
        folder = Folder.open(f"s3://{bucket}")
        assert folder.sizes() == {}
        folder.write_bytes("a/b.bin", b"1")
        folder.write_bytes("c.bin", b"12")
        assert (folder.sizes(), folder.folders()) == ({"c.bin": 2}, ["a"])

    def test_an_empty_file_that_marks_a_folder_is_no_file(self, folder):
        folder.filesystem.touch(f"{folder.path}/")
        assert folder.sizes() == {}
        folder.write_bytes("a.bin", b"1")
        assert folder.sizes() == {"a.bin": 1}


class TestRequests:
    """What an operation costs, counted by the proxy."""

    @pytest.mark.parametrize(
        ("use", "expected"),
        [
            (lambda folder: folder.write_bytes("b.bin", b"1"), {"PUT": 1}),
            (lambda folder: folder.read_bytes("a.bin"), {"GET": 1}),
            (lambda folder: folder.read_many(["a.bin", "none"]), {"GET": 2}),
            (lambda folder: folder.open_file("a.bin", SIZE_BYTES).read(10), {"RANGE": 1}),
            (lambda folder: folder.exists("a.bin"), {"HEAD": 1}),
            (lambda folder: folder.exists("none"), {"HEAD": 1, "LIST": 1}),
            (lambda folder: folder.delete("a.bin"), {"DELETE": 1}),
            (lambda folder: folder.create("b.bin", b"1"), {"PUT": 1}),
            (lambda folder: folder.create("a.bin", b"1"), {"PUT": 1, "HEAD": 1}),
            (lambda folder: folder.sizes(), {"LIST": 1}),
            (lambda folder: folder.folders(), {"LIST": 1}),
            (lambda folder: (folder / "none").sizes(), {"LIST": 2}),
            (lambda folder: folder.require_writable(), {"PUT": 1, "DELETE": 1}),
        ],
    )
    def test_an_operation_costs_one_request_or_two(self, folder, proxy, use, expected):
        folder.write_bytes("a.bin", bytes(SIZE_BYTES))
        proxy.clear()
        use(folder)
        assert proxy.counts == expected

    def test_a_listing_costs_one_request_for_a_thousand_files(self, folder, proxy):
        for number in range(1001):
            folder.write_bytes(f"{number:04}", b"")
        proxy.clear()
        assert len(folder.sizes()) == 1001
        assert proxy.counts == {"LIST": 2}


class TestParts:
    def test_a_part_behind_the_end_is_empty(self, folder):
        folder.write_bytes("file", b"0123")
        folder.write_bytes("empty", b"")
        assert folder.open_file("file", 9).read() == b"0123"
        assert folder.open_file("empty", 9).read() == b""
        file = folder.open_file("file", 9)
        file.seek(4)
        assert file.read() == b""
