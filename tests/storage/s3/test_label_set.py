"""A label set that is made and read through a storm is the one that a quiet disk holds."""

import numpy as np
import pytest

from storage import layout
from storage.files import Folder
from storage.reader import LabelSet
from storage.rows import Ragged
from tests.storage.toy import SET_FINGERPRINT, token_spec, write_toy_set

pytestmark = [pytest.mark.slow, pytest.mark.s3]


class TestLabelSet:
    @pytest.mark.parametrize("seed", range(3))
    def test_a_label_set_is_made_and_read_through_a_storm(self, bucket, proxy, tmp_path, seed):
        local = write_toy_set(Folder.open(tmp_path), token_spec(), train=40, test=7)
        # A reader that opens shards by fsspec's own handle looks and seeks without a second try.
        proxy.storm(0.4, seed)
        made = write_toy_set(Folder.open(f"s3://{bucket}/s"), token_spec(), train=40, test=7)
        made.close()
        opened = LabelSet.open(f"s3://{bucket}/s/{layout.product(layout.LABELS, SET_FINGERPRINT)}")
        assert opened.digest == local.digest
        assert opened.splits == local.splits
        for split in local.splits:
            pairs = zip(opened.batches(split), local.batches(split), strict=True)
            for found, expected in pairs:
                assert_equal(found, expected)
        opened.close()
        local.close()
        assert proxy.suffered.total() >= 5


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        for each, other in zip(parts(found[name]), parts(column), strict=True):
            np.testing.assert_array_equal(each, other)


def parts(column):
    return [column.values_NW, column.lengths_B] if isinstance(column, Ragged) else [column]
