"""What a faulty network, a tired server and wrong credentials do to a folder on S3."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from storage import retry
from storage.errors import StoreError
from storage.files import Folder
from storage.retry import Patience
from tests.storage.refusal import refused
from tests.storage.s3.conftest import KEY_ID, SECRET
from tests.storage.s3.faulty_proxy import Kind

pytestmark = [pytest.mark.slow, pytest.mark.s3]

BIG = 3_000_000
TRANSIENT = {
    "internal error": {"kind": Kind.ANSWER},
    "slow down": {"kind": Kind.ANSWER, "status": 503, "code": "SlowDown"},
    "error page": {"kind": Kind.NONSENSE, "status": 502},
    "no S3 answer": {"kind": Kind.NONSENSE, "status": 200},
    "reset": {"kind": Kind.RESET},
    "lost answer": {"kind": Kind.LOST},
}
BROKEN_READS = {**TRANSIENT, "cut": {"kind": Kind.CUT}}
del BROKEN_READS["no S3 answer"]  # of a GET it is the content
REFUSALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")


class TestTransientFaults:
    @pytest.mark.parametrize("fault", BROKEN_READS.values(), ids=BROKEN_READS)
    def test_a_file_is_read_whole_afterwards(self, folder, proxy, fault):
        content = os.urandom(BIG)
        folder.write_bytes("a.bin", content)
        proxy.fail(operation="GET", times=3, **fault)
        assert folder.read_bytes("a.bin") == content
        assert proxy.suffered.total() == 3
        proxy.fail(operation="RANGE", times=3, **fault)
        assert folder.open_file("a.bin", BIG).read() == content
        proxy.fail(operation="GET", times=3, **fault)
        assert folder.read_many(["a.bin", "none"]) == {"a.bin": content}
        assert proxy.suffered.total() == 9

    @pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
    def test_a_file_is_written_whole_afterwards(self, folder, proxy, fault):
        content = os.urandom(BIG)
        proxy.fail(operation="PUT", times=3, **fault)
        folder.write_bytes("a.bin", content)
        proxy.fail(operation="PUT", times=3, **fault)
        assert folder.create("b.bin", content)
        assert not folder.create("b.bin", content)
        assert proxy.suffered.total() == 6
        assert folder.read_many(["a.bin", "b.bin"]) == {"a.bin": content, "b.bin": content}

    @pytest.mark.parametrize("fault", BROKEN_READS.values(), ids=BROKEN_READS)
    def test_looking_and_deleting_succeed_afterwards(self, folder, proxy, fault):
        for number in range(10):
            folder.write_bytes(f"{number}.bin", b"1")
        for operation in ("LIST", "HEAD", "DELETE"):
            proxy.fail(operation=operation, times=3, **fault)
        assert len(folder.sizes()) == 10
        assert folder.exists("1.bin")
        folder.delete("1.bin")
        assert not folder.exists("1.bin")

    def test_a_slow_answer_is_waited_for(self, folder, proxy):
        folder.write_bytes("a.bin", b"1")
        proxy.fail(Kind.SLOW, "GET", seconds=0.1)
        assert folder.read_bytes("a.bin") == b"1"
        assert proxy.counts["GET"] == 1

    def test_a_server_that_never_answers_is_asked_again_and_given_up(
        self, bucket, proxy, monkeypatch
    ):
        config = {"config_kwargs": {"read_timeout": 0.2}}
        monkeypatch.setitem(fsspec.config.conf, "s3", config)
        folder = Folder.open(f"s3://{bucket}/impatient")
        proxy.fail(Kind.SLOW, seconds=60)
        folder.write_bytes("a.bin", b"1")
        monkeypatch.setattr(retry, "PATIENCE", Patience(seconds=0.5, first_wait_seconds=0.001))
        proxy.fail(Kind.SLOW, times=100, seconds=60)
        start = time.monotonic()
        with refused(StoreError, folder.url_of("a.bin"), "Read timeout"):
            folder.read_bytes("a.bin")
        assert time.monotonic() - start < 5

    def test_many_files_of_a_server_that_never_answers_are_given_up(
        self, bucket, proxy, monkeypatch
    ):
        config = {"config_kwargs": {"read_timeout": 0.2}}
        monkeypatch.setitem(fsspec.config.conf, "s3", config)
        monkeypatch.setattr(retry, "PATIENCE", Patience(tries=2, first_wait_seconds=0.001))
        folder = Folder.open(f"s3://{bucket}/impatient")
        proxy.fail(Kind.SLOW, times=1000, seconds=60)
        with refused(StoreError, folder.url_of("0"), "Read timeout"):
            folder.read_many(str(number) for number in range(1000))
        assert proxy.counts["GET"] < 100

    def test_threads_in_a_storm_keep_their_files_apart(self, folder, proxy):
        proxy.storm(0.3, seed=1)

        def use(number):
            content = os.urandom(100_000 + number)
            folder.write_bytes(f"{number}.bin", content)
            created = folder.create(f"{number}.new", content)
            return created and folder.read_bytes(f"{number}.bin") == content

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(use, range(24)))
        assert len(folder.sizes()) == 48
        assert proxy.suffered.total() > 10

    def test_a_fault_that_stays_is_said_in_one_line(self, folder, proxy):
        folder.write_bytes("a.bin", bytes(BIG))
        for fault in BROKEN_READS.values():
            proxy.clear()
            proxy.fail(times=100, **fault)
            with refused(StoreError, folder.url_of("a.bin"), "also when tried again"):
                folder.read_bytes("a.bin")
            # The HTTP client sends a request again by itself if its connection had been used.
            assert proxy.counts["GET"] <= 2 * Patience().tries


class TestPermanentFaults:
    @pytest.mark.parametrize("code", REFUSALS)
    def test_refused_credentials_fail_at_once_and_are_not_repeated(self, folder, proxy, code):
        message = f"No access for {KEY_ID} with {SECRET}"
        proxy.fail(Kind.ANSWER, times=100, status=403, code=code, message=message)
        for use in (
            lambda: folder.read_bytes("a.bin"),
            lambda: folder.write_bytes("a.bin", b"1"),
            lambda: folder.create("a.bin", b"1"),
            lambda: folder.exists("a.bin"),
            lambda: folder.delete("a.bin"),
            lambda: folder.sizes(),
        ):
            proxy.requests.clear()
            with pytest.raises(StoreError) as caught:
                use()
            text = str(caught.value)
            assert folder.url in text
            assert "check the credentials" in text
            assert KEY_ID not in text
            assert SECRET not in text
            assert "\n" not in text
            assert len(proxy.requests) == 1

    def test_a_missing_bucket_is_no_empty_folder(self, proxy):
        folder = Folder.open("s3://no-such-bucket/store")
        for use in (
            lambda: folder.read_bytes("a.bin"),
            lambda: folder.read_many(["a.bin"]),
            lambda: folder.write_bytes("a.bin", b"1"),
            lambda: folder.create("a.bin", b"1"),
            lambda: folder.exists("a.bin"),
            lambda: folder.sizes(),
            lambda: folder.require_writable(),
        ):
            proxy.requests.clear()
            with refused(StoreError, "s3://no-such-bucket/store", "no such bucket; create it"):
                use()
            assert len(proxy.requests) <= 2

    def test_missing_credentials_are_asked_for(self, bucket, monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        filesystem = fsspec.get_filesystem_class("s3")
        filesystem.clear_instance_cache()
        folder = Folder.open(f"s3://{bucket}/store")
        with refused(StoreError, folder.url_of("a.bin"), "set AWS_ACCESS_KEY_ID"):
            folder.read_bytes("a.bin")
        filesystem.clear_instance_cache()

    def test_a_server_that_is_not_there_is_named(self, bucket, proxy, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        filesystem = fsspec.get_filesystem_class("s3")
        filesystem.clear_instance_cache()
        folder = Folder.open(f"s3://{bucket}/store")
        with refused(
            StoreError, folder.url_of("a.bin"), "http://127.0.0.1:9/", "check the network"
        ):
            folder.write_bytes("a.bin", b"1")
        filesystem.clear_instance_cache()
        assert proxy.counts == {}
