import errno
import time

import pytest

from storage import retry
from storage.errors import StoreError
from storage.retry import Patience, is_missing_bucket, is_transient, patiently, reason, redacted


class AnswerError(Exception):
    """As botocore's: it carries the server's answer."""

    def __init__(self, code, status=400):
        super().__init__(f"the server said {code}")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class StatusError(Exception):
    """As gcsfs's and azure's: it carries the status."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status_code = status


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(retry, "PATIENCE", Patience(tries=4, first_wait_seconds=0.0))


class TestPatiently:
    def test_what_succeeds_is_done_once(self, quick):
        assert patiently(fails(0)) == 1

    def test_transient_failures_are_tried_again(self, quick):
        assert patiently(fails(3)) == 4

    def test_the_last_failure_is_raised(self, quick):
        operation = fails(9)
        with pytest.raises(ConnectionResetError, match="number 4"):
            patiently(operation)

    def test_a_permanent_failure_is_not_tried_again(self, quick):
        with pytest.raises(PermissionError, match="number 1"):
            patiently(fails(9, PermissionError))

    def test_no_try_starts_after_the_end(self, monkeypatch):
        monkeypatch.setattr(retry, "PATIENCE", Patience(seconds=-1.0))
        with pytest.raises(ConnectionResetError, match="number 1"):
            patiently(fails(9))

    def test_waits_grow_with_jitter_to_a_bound(self):
        patience = Patience(first_wait_seconds=1.0, longest_wait_seconds=5.0)
        for failures, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (9, 5.0)):
            waits = {patience.wait_seconds(failures) for _ in range(20)}
            assert len(waits) > 1
            assert all(longest / 2 <= wait <= longest for wait in waits)

    def test_all_waits_together_are_short(self):
        patience = Patience()
        waits = [patience.wait_seconds(failures) for failures in range(1, patience.tries)]
        assert sum(waits) < 10

    def test_the_waits_are_kept(self, monkeypatch):
        slept = []
        monkeypatch.setattr(time, "sleep", slept.append)
        patiently(fails(2))
        assert len(slept) == 2


class TestIsTransient:
    @pytest.mark.parametrize(
        "error",
        [
            ConnectionResetError(),
            BrokenPipeError(),
            TimeoutError(),
            AnswerError("SlowDown", 503),
            AnswerError("RequestTimeout", 400),
            AnswerError("ConditionalRequestConflict", 409),
            AnswerError("500", 500),
            StatusError(429),
            StatusError(502),
            caused(OSError(errno.EBUSY, "slow"), AnswerError("ServiceUnavailable", 503)),
        ],
    )
    def test_these_may_pass(self, error):
        assert is_transient(error)

    @pytest.mark.parametrize(
        "error",
        [
            FileNotFoundError(),
            PermissionError(),
            FileExistsError(),
            OSError(errno.ENOSPC, "No space left on device"),
            ValueError(),
            AnswerError("AccessDenied", 403),
            AnswerError("NotImplemented", 501),
            StatusError(404),
            caused(PermissionError("denied"), AnswerError("ExpiredToken", 400)),
            caused(StoreError("tried before"), ConnectionResetError()),
        ],
    )
    def test_these_stay(self, error):
        assert not is_transient(error)


class TestReason:
    def test_a_missing_bucket_is_told_from_a_missing_file(self):
        bucket = caused(FileNotFoundError(), AnswerError("NoSuchBucket", 404))
        file = caused(FileNotFoundError(), AnswerError("NoSuchKey", 404))
        assert (is_missing_bucket(bucket), is_missing_bucket(file)) == (True, False)
        assert "no such bucket" in reason(bucket)
        assert reason(file) == "there is no such file"

    def test_a_local_refusal_is_said_by_the_system(self):
        assert reason(PermissionError(errno.EACCES, "Permission denied")) == "Permission denied"

    def test_what_is_not_known_is_said_as_it_is(self):
        assert reason(ValueError("odd\nthing")) == "odd thing"


class TestRedacted:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("sftp://me:word@host/a", "sftp://me:***@host/a"),
            ("sftp://me@host/a", "sftp://me@host/a"),
            ("https://h/a?X-Amz-Signature=abc&b=1", "https://h/a?X-Amz-Signature=***&b=1"),
            ("https://h/a?se=1&sig=a%2Fb", "https://h/a?se=1&sig=***"),
            ("s3://bucket/key=1/monkey.bin", "s3://bucket/key=1/monkey.bin"),
            ("abc is short, given-secret is not", "abc is short, *** is not"),
        ],
    )
    def test_secrets_are_left_out(self, text, expected):
        assert redacted(text, "given-secret", "abc") == expected

    @pytest.mark.parametrize(
        "name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"]
    )
    def test_those_of_the_environment_too(self, name, monkeypatch):
        monkeypatch.setenv(name, "sesame-sesame")
        assert redacted("no sesame-sesame here") == "no *** here"


def fails(times, kind=ConnectionResetError):
    """An operation that fails so often and then gives the number of its call."""
    calls = 0

    def operation():
        nonlocal calls
        calls += 1
        if calls <= times:
            raise kind(f"number {calls}")
        return calls

    return operation
