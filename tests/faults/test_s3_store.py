"""The whole command over S3 through a bad network, killed in between: as on a quiet local disk."""

import os

import fsspec
import pytest

from storage.files import Folder
from storage.reader import LabelSet
from storage.verify import verify
from tests.faults.command import Command, until
from tests.storage.s3.faulty_proxy import faulty_proxy
from tests.storage.s3.server import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(1500)]

STORE = "s3://bucket/store"


@pytest.fixture
def proxy(monkeypatch):
    with s3_server() as port, faulty_proxy(port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        Folder.open(STORE).filesystem.mkdir("bucket")
        yield proxy
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_killed_on_s3_it_ends_as_on_a_local_disk(proxy, recipe, prefect_home, uninterrupted):
    expected, _ = uninterrupted
    command = Command(recipe, STORE, prefect_home)
    proxy.storm(0.05, seed=0)

    def some_shards() -> bool:
        return any(len((folder / "records").sizes()) >= 5 for folder in label_sets())

    def label_sets() -> list[Folder]:
        labels = Folder.open(STORE) / "labels"
        return [labels / name for name in labels.folders()]

    assert command.kill_when(some_shards, delay=0.1)
    (folder,) = label_sets()
    before = set((folder / "shards").sizes())
    assert len(before) >= 5
    result = command.finish()
    assert result["stages"]["label"]["digest"] == expected["stages"]["label"]["digest"]
    assert result["stages"]["label"]["shards_reused"] >= 5
    assert before <= set((folder / "shards").sizes())
    assert proxy.suffered.total() >= 10
    proxy.clear()
    labels = LabelSet.open(folder)
    assert sum(len(rows["sample_id"]) for rows in labels.batches("train")) > 1000
    labels.close()
    assert list(verify(Folder.open(STORE))) == []
    again = command.finish()
    assert {stage["status"] for stage in again["stages"].values()} == {"cached"}
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)
