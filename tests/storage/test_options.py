import pytest
from pydantic import ValidationError

from storage.identity import fingerprint
from storage.options import (
    Codec,
    DataOptions,
    Keep,
    KeptSetOptions,
    LabelOptions,
    Selection,
    SplitOptions,
    Task,
)

INFINITE = [float("inf"), float("-inf"), float("nan")]


def data_options(**changes):
    options = {"name": "digits", "source": "a.csv", "inputs": "x", "splits": {"column": "split"}}
    return DataOptions.model_validate(options | changes)


class TestEveryOption:
    def test_an_unknown_key_is_refused(self):
        with pytest.raises(ValidationError, match=r"temperatur\n.*Extra inputs are not permitted"):
            LabelOptions(temperatur=2.0)

    def test_options_are_frozen(self):
        options = LabelOptions()
        with pytest.raises(ValidationError, match="frozen"):
            options.k = 3

    @pytest.mark.parametrize(
        ("field", "value", "there_is"),
        [
            ("inputs", "reference", "copy"),
        ],
    )
    def test_what_is_planned_is_refused_and_never_ignored(self, field, value, there_is):
        with pytest.raises(ValidationError, match=f"is not built yet; there is: {there_is}"):
            LabelOptions.model_validate({field: value})

    @pytest.mark.parametrize("keep", ["top_p", "sample"])
    def test_models_are_compared_on_a_true_kept_set(self, keep):
        with pytest.raises(ValidationError, match=r"evaluation\.keep"):
            LabelOptions.model_validate({"evaluation": {"keep": keep}})

    @pytest.mark.parametrize(
        "field",
        [
            "keep",
            "layout",
            "p",
            "draws",
            "max_bytes",
            "max_bad",
            "codec",
            "inputs",
            "on_bad_sample",
            "batch_size",
        ],
    )
    def test_what_is_neither_there_nor_planned_is_refused(self, field):
        with pytest.raises(ValidationError, match=field):
            LabelOptions.model_validate({field: "nonsense"})


class TestTask:
    @pytest.mark.parametrize(
        ("task", "many", "language"),
        [
            (Task.CLASSIFICATION, False, False),
            (Task.TAGGING, True, False),
            (Task.MASKED_LM, True, True),
            (Task.CAUSAL_LM, True, True),
        ],
    )
    def test_tasks(self, task, many, language):
        assert task.has_many_positions is many
        assert task.is_language_model is language

    def test_what_has_no_softmax_is_refused(self):
        with pytest.raises(ValidationError, match="task"):
            data_options(task="regression")


class TestSplitOptions:
    @pytest.mark.parametrize(
        "ways", [{}, {"column": "a", "fractions": {"train": 1}}, {"column": "a", "file": True}]
    )
    def test_there_is_exactly_one_way(self, ways):
        with pytest.raises(
            ValidationError, match="exactly one of column, fractions, file and folder"
        ):
            SplitOptions.model_validate(ways)

    @pytest.mark.parametrize("fractions", [{"train": 0.8, "test": 0.1}, {"train": 0.5}, {}])
    def test_fractions_sum_to_one(self, fractions):
        with pytest.raises(ValidationError, match="fractions must sum to 1, got"):
            SplitOptions(fractions=fractions)

    def test_a_sum_may_be_inexact(self):
        assert SplitOptions(fractions={"train": 0.7, "validation": 0.2, "test": 0.1})

    @pytest.mark.parametrize("share", [0, -0.5, 1.5, *INFINITE])
    def test_a_fraction_is_a_share(self, share):
        with pytest.raises(ValidationError, match="fractions"):
            SplitOptions(fractions={"train": share, "test": 1 - share})

    @pytest.mark.parametrize("name", ["", "Train", "a b", "a/b", "../a", "a" * 41, "ä"])
    def test_the_name_of_a_split_can_be_part_of_a_file_name(self, name):
        with pytest.raises(ValidationError, match="fractions"):
            SplitOptions(fractions={name: 1.0})


class TestDataOptions:
    def test_one_input_may_be_said_without_a_list(self):
        assert data_options(inputs="x").inputs == ("x",)
        assert data_options(inputs=["x", "y"]).inputs == ("x", "y")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"inputs": []}, "inputs"),
            ({"inputs": ["x", "x"]}, "inputs holds a column twice"),
            ({"source": {"train": "a.csv"}}, "splits.file: true goes with a source for each split"),
            ({"splits": {"file": True}}, "splits.file: true goes with a source for each split"),
            ({"source": ""}, "source names no file"),
            ({"source": {}, "splits": {"file": True}}, "source names no file"),
            ({"classes": ["a", "b", "a"]}, "classes holds a name twice"),
            ({"classes": []}, "classes holds no name"),
            ({"classes": 0}, "classes"),
            ({"shapes": {"y": [2]}}, "shapes names 'y', which is not among inputs"),
            ({"shapes": {"x": [0]}}, "shapes"),
            ({"name": "My Data"}, "name"),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, changes, message):
        with pytest.raises(ValidationError, match=message):
            data_options(**changes)

    def test_classes_are_a_number_or_names(self):
        assert data_options(classes=10).num_classes == 10
        assert data_options(classes=10).class_names is None
        assert data_options(classes=["cat", "dog"]).num_classes == 2
        assert data_options(classes=["cat", "dog"]).class_names == ("cat", "dog")
        assert data_options().num_classes is None

    def test_padding_begins_where_the_classes_end(self):
        with pytest.raises(ValidationError, match="padded: true goes with classes"):
            data_options(padded=True)
        assert data_options(padded=True, classes=7).num_classes == 7

    def test_identity_does_not_hold_where_the_data_lie(self):
        a, b = data_options(source="a.csv"), data_options(source="/data/b.parquet", version="2")
        assert fingerprint(a.identity()) == fingerprint(b.identity())

    @pytest.mark.parametrize(
        "changes",
        [
            {"name": "letters"},
            {"inputs": ["y"]},
            {"label": "y"},
            {"splits": {"fractions": {"train": 1.0}}},
            {"task": "tagging"},
        ],
    )
    def test_identity_holds_the_preprocessing(self, changes):
        assert data_options(**changes).identity() != data_options().identity()


class TestLabelOptions:
    @pytest.mark.parametrize("temperature", [0, -1, *INFINITE, 1001, "warm"])
    def test_a_temperature_is_a_finite_number_above_zero(self, temperature):
        with pytest.raises(ValidationError, match="temperature"):
            LabelOptions(temperature=temperature)
        with pytest.raises(ValidationError, match="temperatures"):
            LabelOptions(temperatures=(2.0, temperature))

    @pytest.mark.parametrize(
        ("said", "stored"),
        [
            ({}, (1.0,)),
            ({"temperature": 2}, (2.0, 1.0)),
            ({"temperature": 2, "temperatures": [4, 2, 8]}, (2.0, 4.0, 8.0, 1.0)),
            ({"temperature": 1, "temperatures": [4, 1]}, (1.0, 4.0)),
            ({"temperature": 2, "temperatures": [1, 4, 4]}, (2.0, 1.0, 4.0)),
        ],
    )
    def test_temperatures_start_with_t_and_hold_one(self, said, stored):
        options = LabelOptions.model_validate(said)
        assert options.temperatures == stored
        assert LabelOptions.model_validate(options.model_dump()) == options

    @pytest.mark.parametrize(
        "field", ["k", "batch_size", "positions_per_shard", "positions_per_row_group"]
    )
    @pytest.mark.parametrize("value", [0, -1, 1.5])
    def test_a_number_of_things_is_at_least_one(self, field, value):
        with pytest.raises(ValidationError, match=field):
            LabelOptions.model_validate({field: value})

    def test_defaults(self):
        options = LabelOptions()
        assert (options.keep, options.k, options.codec) == (Keep.TOP_K, 64, Codec.FLOAT16)
        assert options.evaluation == KeptSetOptions(keep=Keep.TOP_K, k=64)

    def test_training_keeps_what_was_asked_for(self):
        assert LabelOptions(k=3).selection("train", 10) == Selection(keep=Keep.TOP_K, k=3)
        everything = LabelOptions(keep=Keep.ALL, k=3).selection("train", 10)
        assert everything == Selection(keep=Keep.ALL, k=10)

    def test_a_nucleus_has_at_most_k_classes_and_at_most_all(self):
        options = LabelOptions(keep=Keep.TOP_P, k=64, p=0.8, select_temperature=2.0)
        assert options.selection("train", 10) == Selection(
            keep=Keep.TOP_P, k=10, p=0.8, temperature=2.0
        )

    def test_draws_have_at_most_so_many_different_classes(self):
        options = LabelOptions(keep=Keep.SAMPLE, k=3, draws=50, seed=7)
        assert options.selection("train", 10) == Selection(keep=Keep.SAMPLE, k=10, draws=50, seed=7)
        assert options.selection("train", 1000).k == 50

    def test_draws_are_made_at_a_stored_temperature(self):
        assert 3.0 in LabelOptions(keep=Keep.SAMPLE, select_temperature=3.0).temperatures
        assert 3.0 not in LabelOptions(keep=Keep.TOP_P, select_temperature=3.0).temperatures

    @pytest.mark.parametrize("split", ["test", "validation"])
    def test_other_splits_keep_what_makes_them_comparable(self, split):
        def k(options: LabelOptions, num_classes: int) -> int:
            return options.selection(split, num_classes).k

        assert k(LabelOptions(k=3), 10) == 10
        assert k(LabelOptions(keep=Keep.SAMPLE), 1000) == 64
        assert k(LabelOptions(k=3, evaluation=KeptSetOptions(k=5)), 1000) == 5
        assert k(LabelOptions(evaluation=KeptSetOptions(keep=Keep.ALL)), 1000) == 1000

    def test_identity_is_what_decides_the_bytes(self):
        assert LabelOptions(k=3).identity() != LabelOptions(k=4).identity()
        assert LabelOptions(batch_size=8).identity() != LabelOptions(batch_size=16).identity()
        assert not {"on_bad_sample", "max_bad", "max_bytes"} & LabelOptions().identity().keys()

    def test_identity_of_features_and_of_std_is_there_only_where_they_are(self):
        plain = LabelOptions()
        assert "features" not in plain.identity()
        assert plain.identity()["temperatures"] == [1.0]
        kept = LabelOptions(features=[{"feature": "hidden.1"}], temperatures=["std"])
        assert kept.identity()["temperatures"] == [1.0, "std"]
        asked = {"feature": "hidden.1", "pool": "none", "size": None, "dtype": "float16"}
        assert kept.identity()["features"] == [asked]

    @pytest.mark.parametrize(
        ("keep", "with_effect"),
        [
            ("top_k", {"k"}),
            ("top_p", {"k", "p", "select_temperature"}),
            ("sample", {"draws", "seed", "select_temperature"}),
            ("all", set()),
        ],
    )
    def test_identity_leaves_out_what_has_no_effect(self, keep, with_effect):
        for field in ("k", "p", "draws", "seed", "select_temperature"):
            changed = {"keep": keep, field: 0.5 if field in ("p", "select_temperature") else 5}
            same = (
                LabelOptions.model_validate(changed).identity()
                == LabelOptions.model_validate({"keep": keep}).identity()
            )
            assert same != (field in with_effect)

    def test_equal_intents_have_one_identity(self):
        a = LabelOptions.model_validate({"temperature": 2})
        b = LabelOptions.model_validate({"temperature": 2.0, "temperatures": [2.0, 1.0]})
        assert fingerprint(a.identity()) == fingerprint(b.identity())


IMAGES = {"format": "images", "image": {"size": [8, 8]}, "inputs": []}
TEXT = {"format": "text", "task": "causal_lm", "tokens": {}, "inputs": []}


class TestFormats:
    @pytest.mark.parametrize(
        "changes",
        [
            IMAGES,
            IMAGES | {"label": "folder", "splits": {"folder": True}},
            TEXT | {"source": ["a/**", "b/*.txt"]},
            {"format": "files", "inputs": [], "bytes": {"length": 8}, "files": {"limit": 3}},
            {"format": "audio", "inputs": [], "audio": {"seconds": 1}},
            {"format": "idx", "inputs": [], "label": "label", "splits": {"file": True}},
            {"tokens": {"tokenizer": "bytes"}, "inputs": ["a", "b"]},
            {"task": "masked_lm", "tokens": {}},
            {"image": {"size": [8, 8]}},
        ],
    )
    def test_what_fits_together_is_taken(self, changes):
        splits = {"fractions": {"train": 1.0}}
        assert data_options(**({"splits": splits} | changes))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (IMAGES | {"image": None}, "format: images goes with image, and only that"),
            (IMAGES | {"bytes": {"length": 3}}, "format: images goes with image, and only that"),
            (IMAGES | {"inputs": ["x"]}, "format: images says what they are"),
            (IMAGES | {"id": "name"}, "id: format: images has no columns"),
            (IMAGES | {"splits": {"column": "x"}}, "splits.column: format: images has no columns"),
            (IMAGES | {"label": "class"}, "label: expected 'folder', or none, with format: images"),
            (IMAGES | {"task": "causal_lm"}, "format: images goes with task: classification"),
            (TEXT | {"task": "classification"}, "goes with task: causal_lm or masked_lm"),
            (TEXT | {"label": "folder"}, "the tokens are the labels"),
            ({"files": {"limit": 2}}, "files goes with the formats"),
            ({"tokens": {}, "image": {"size": [1, 1]}}, "expected one of tokens and image"),
            ({"splits": {"folder": True}}, "splits.folder: true goes with the formats"),
            ({"tokens": {}, "inputs": ["a", "b", "c"]}, "inputs: expected one or two columns"),
            ({"image": {"size": [1, 1]}, "task": "tagging"}, "task: expected classification"),
            ({"tokens": {}, "task": "causal_lm", "label": "x"}, "the tokens themselves are"),
            ({"tokens": {}, "attention_mask": True}, "go with inputs that are numbers already"),
            ({"format": "idx", "inputs": [], "tokens": {}}, "format: idx holds numbers"),
            ({"tokens": {"outputs": ["attention_mask"]}}, "outputs must hold input_ids"),
            ({"audio": {}}, "exactly one of seconds and max_seconds"),
            ({"audio": {"rate": 100, "seconds": 0.001}}, "not a single sample"),
            ({"bytes": {}}, "either length, or begin and end"),
            ({"bytes": {"begin": 9, "block": 8}}, "block is smaller"),
            ({"bytes": {"length": 9, "strip": True}}, "strip goes with begin and end"),
        ],
    )
    def test_what_does_not_is_refused(self, changes, message):
        splits = {"fractions": {"train": 1.0}}
        with pytest.raises(ValidationError, match=message):
            data_options(**({"splits": splits} | changes))

    def test_identity_holds_how_content_becomes_numbers_and_not_which_files(self):
        splits = {"splits": {"fractions": {"train": 1.0}}}
        plain = data_options(**splits, **IMAGES).identity()
        assert data_options(**splits, **IMAGES, files={"limit": 2}).identity() == plain
        other = IMAGES | {"image": {"size": [8, 8], "resize": "fit"}}
        assert data_options(**splits, **other).identity() != plain
        here = data_options(**splits, **TEXT | {"tokens": {"tokenizer": "here"}}).identity()
        assert (
            data_options(**splits, **TEXT | {"tokens": {"tokenizer": "there"}}).identity() == here
        )
        assert data_options(**splits, **TEXT | {"tokens": {"block": 8}}).identity() != here

    def test_what_came_later_leaves_the_names_of_what_was_made(self):
        assert set(data_options().identity()) == {
            "name", "task", "inputs", "shapes", "label", "mask", "id", "classes", "padded",
            "splits",
        }  # fmt: skip
