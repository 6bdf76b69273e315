"""A stream over a label set on S3: the batches of the same set on the local disk."""

import pytest

from storage.errors import IntegrityError
from storage.files import Folder
from storage.options import LabelOptions
from tasks.sources import LabelSource
from tasks.stream import Stream
from tests.tasks.test_elastic import SAID, global_batches, samples_of
from tests.tasks.toy import TableTeacher, label_set, numbered_corpus, random_table

pytestmark = pytest.mark.s3

OPTIONS = LabelOptions(
    k=2, temperature=2.0, batch_size=4, positions_per_shard=9, positions_per_row_group=4
)


def labels_in(store):
    corpus = numbered_corpus({"train": 23})
    return label_set(store, corpus, TableTeacher(random_table(40)), OPTIONS)


def test_batches_are_those_of_the_local_disk_for_any_ranks_and_workers(folder, tmp_path):
    here = LabelSource(labels_in(Folder.open(tmp_path / "store")), "train")
    there = LabelSource(labels_in(folder), "train")
    whole = global_batches([Stream(here, **SAID)])
    for world, workers in ((1, 0), (1, 2), (2, 0), (2, 2)):
        ranks = [
            Stream(there, rank=rank, world=world, workers=workers, **SAID) for rank in range(world)
        ]
        assert global_batches(ranks) == whole
        for rank in ranks:
            rank.close()
    stream = Stream(there, **SAID)
    stream.restore({**Stream(here, **SAID).state(), "consumed": 12})
    assert list(map(samples_of, stream)) == whole[2:4]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_was_deleted_meanwhile_is_one_clear_error(folder, workers):
    labels = labels_in(folder)
    stream = Stream(LabelSource(labels, "train"), workers=workers, **SAID)
    labels.folder.delete(f"shards/{labels.shards('train')[1].file}")
    with pytest.raises(IntegrityError, match="is missing; run: softlabel verify s3://"):
        list(stream)
