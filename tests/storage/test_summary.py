"""What a label set says of itself."""

from storage.examples import MOST_CLASSES, MOST_POSITIONS, examples
from storage.options import Keep, Task
from storage.records import read_record, write_record
from storage.summary import describe_origin, describe_splits, earlier_digests
from tests.storage.kinds import SELECTIONS, spec_of_kind, write_known_set


def test_it_describes_itself(store):
    labels = write_known_set(store, spec_of_kind(Keep.SAMPLE, task=Task.CAUSAL_LM)).labels
    found = labels.describe()
    assert (found["keep"], found["codec"], found["layout"]) == ("sample", "float32", "plain")
    assert found["digest"] == labels.digest
    assert found["samples"] == {"train": 9, "test": 3}


def test_each_split_says_what_it_keeps(store):
    expected = {
        Keep.TOP_K: {"k": 4},
        Keep.ALL: {"k": 9},
        Keep.TOP_P: {"k": 5, "p": 0.8, "select_temperature": 1.0},
        Keep.SAMPLE: {"k": 6, "draws": 6, "seed": 0, "select_temperature": 1.0},
    }
    for keep in SELECTIONS:
        labels = write_known_set(store, spec_of_kind(keep)).labels
        found = describe_splits(labels)
        sizes = ("rows", "positions", "shards", "bytes", "bytes_per_position", "fidelity")
        kept = {name: value for name, value in found["train"].items() if name not in sizes}
        assert kept == {"keep": keep.value, **expected[keep]}
        assert [found["train"][name] for name in sizes[:3]] == [9, 9, 2]
        assert found["test"]["k"] == 3


def test_other_states_are_named(store):
    labels = write_known_set(store, spec_of_kind()).labels
    assert earlier_digests(labels) == []
    grown = write_known_set(store, spec_of_kind(), sizes=(5, 6)).labels
    assert earlier_digests(grown) == [labels.digest]


def test_its_origin_is_what_its_specification_says(store):
    labels = write_known_set(store, spec_of_kind()).labels
    assert describe_origin(labels) == {}
    intent = {"teacher": {"weights": "abc"}, "data": {"name": "toys"}}
    content = {"intent": intent, "recipe": {"name": "toy"}, "recipe_folder": "/toys"}
    write_record(labels.folder, "spec.json", content)
    assert describe_origin(labels)["teacher"] == {"weights": "abc"}
    assert read_record(labels.folder, "spec.json") == content
    labels.folder.delete("spec.json")
    assert describe_origin(labels) == {}


def test_examples_are_the_first_samples(store):
    names = tuple(f"class {number}" for number in range(12))
    spec = spec_of_kind(Keep.ALL, num_classes=12, class_names=names)
    labels = write_known_set(store, spec).labels
    found = examples(labels, "train", 7)
    assert [entry["sample_id"] for entry in found[4:]] == ["train-4", "train-100", "train-101"]
    for entry in found:
        assert len(entry["classes"]) == MOST_CLASSES
        total = sum(shown["probability"] for shown in entry["classes"]) + entry["others"]
        assert abs(total - 1) < 1e-6
        assert all(shown["name"] == f"class {shown['id']}" for shown in entry["classes"])
    assert max(entry["others"] for entry in found) > 0
    labels.close()


def test_examples_of_blocks_say_which_positions_count(store):
    labels = write_known_set(store, spec_of_kind(Keep.SAMPLE, task=Task.CAUSAL_LM)).labels
    rows = next(labels.batches("train"))
    found = examples(labels, "train", 1)
    length = int(rows["index"].lengths_B[0])
    assert [entry["position"] for entry in found] == list(range(min(length, MOST_POSITIONS)))
    assert [entry["counts"] for entry in found] == rows["mask"].values_NW[:length].tolist()
    assert all(sum(shown["draws"] for shown in entry["classes"]) == 6 for entry in found)
    assert found[-1]["label"] is None
    labels.close()
