"""The estimate of a label set's bytes against the bytes, and what does not fit."""

import pytest

from storage.errors import RecipeError, SpaceError
from storage.options import Codec, Keep, LabelOptions, Layout
from storage.spec import spec_of
from storage.writer import ShardPlan
from tasks.estimate import MOST_FEATURE_BYTES, Sizes, estimate_by_probe, require_memory
from tasks.planning import plan_labels
from tasks.space import require_space
from tests.storage.refusal import refused
from tests.tasks.toy import FINGERPRINT, TableTeacher, label_set, numbered_corpus, random_table


@pytest.mark.parametrize(
    ("keep", "layout", "codec"),
    [
        (Keep.TOP_K, Layout.PLAIN, Codec.FLOAT16),
        (Keep.TOP_P, Layout.FAST, Codec.FLOAT32),
        (Keep.SAMPLE, Layout.COMPACT, Codec.UINT8),
    ],
)
def test_it_is_near_what_is_written(store, keep, layout, codec):
    corpus = numbered_corpus({"train": 3000, "test": 500}, 200)
    teacher = TableTeacher(random_table(3500, 200))
    options = LabelOptions(
        keep=keep, k=20, layout=layout, codec=codec, batch_size=300, positions_per_shard=1000
    )
    spec = spec_of(corpus.form, options, 200, None)
    plan = plan_labels(store, FINGERPRINT, corpus.index(options.positions_per_shard))
    expected = estimate_by_probe(plan.missing, spec, corpus, teacher, options.batch_size)
    assert teacher.batch_sizes == [300, 300], "one batch of each split"
    labels = label_set(store, corpus, teacher, options)
    assert expected == pytest.approx(labels.manifest.size_bytes, rel=0.2)
    labels.close()


def test_only_missing_splits_are_probed(store):
    corpus = numbered_corpus({"train": 30, "test": 10})
    teacher = TableTeacher(random_table(40))
    options = LabelOptions(k=2, batch_size=64)
    spec = spec_of(corpus.form, options, 5, None)
    plan = plan_labels(store, FINGERPRINT, corpus.index(options.positions_per_shard))
    some = [shard for shard in plan.missing if shard.split == "test"]
    assert estimate_by_probe(some, spec, corpus, teacher, 64) > 0
    assert teacher.batch_sizes == [10]
    assert estimate_by_probe([], spec, corpus, teacher, 64) == 0


def test_features_that_do_not_fit_into_memory_are_refused():
    plan = ShardPlan("0" * 16, "train", 0, 0, 10, 65536)
    require_memory([plan], Sizes(features_per_position=MOST_FEATURE_BYTES / 65536))
    with refused(RecipeError, "labels.positions_per_shard", "2.1 GB", "lower it to 32,768"):
        require_memory([plan], Sizes(features_per_position=2 * MOST_FEATURE_BYTES / 65536))


def test_what_is_there_counts_towards_the_limit(store):
    require_space(store, 400, 500, 900)
    with refused(SpaceError, "labels.max_bytes", "about 901 bytes", "900 are allowed"):
        require_space(store, 400, 501, 900)


def test_no_more_is_begun_than_is_free(store, monkeypatch):
    monkeypatch.setattr("storage.local.free_bytes", lambda _: 1000)
    require_space(store, 1000, 5000, None)
    with refused(SpaceError, "about 1,001 bytes", "1,000 are free", str(store.url)):
        require_space(store, 1001, 0, None)
