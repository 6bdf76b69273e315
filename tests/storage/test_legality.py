import numpy as np
import pytest

from storage import schema
from storage.legality import illegal, impossible
from storage.options import Keep, Selection
from storage.rows import Ragged
from storage.spec import InputSpec
from tests.storage.toy import kept, token_spec, toy_rows, toy_spec

TOP_3 = kept(train=3)["train"]
NUCLEUS = Selection(keep=Keep.TOP_P, k=3, p=0.9)
DRAWS = Selection(keep=Keep.SAMPLE, k=3, draws=4)


class TestImpossible:
    """Forms that no label set has, and that would cost memory if they were believed."""

    def test_true_forms_can_be(self):
        assert impossible(toy_spec()) is None
        assert impossible(token_spec(num_classes=2**24)) is None

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"num_classes": 2**24 + 1}, "classes, a label set has at most"),
            ({"num_classes": 2**70}, "classes, a label set has at most"),
            ({"selections": kept(train=6)}, "6 entries of 5 classes in the split train"),
            ({"temperatures": ("std", 1.0)}, "logits at std"),
            ({"inputs": (InputSpec(name="x", dtype="", shape=()),)}, "no number type"),
            ({"inputs": (InputSpec(name="x", dtype="O", shape=()),)}, "no number type"),
        ],
    )
    def test_others_are_named(self, changes, problem):
        assert problem in impossible(toy_spec(**changes))


class TestIllegal:
    """What no soft label may hold, number by number."""

    def rows(self, **changes):
        rows = {name: np.array(c) for name, c in toy_rows(toy_spec(), "train", range(3)).items()}
        for name, (place, value) in changes.items():
            rows[name][place] = value
        return rows

    def test_a_true_label_is_legal(self):
        assert illegal(self.rows(), toy_spec(), TOP_3) is None

    def test_a_masked_class_and_nothing_left_are_legal(self):
        rows = self.rows(logit=((1, 2), -np.inf), rest=((1, 0), -np.inf))
        assert illegal(rows, toy_spec(), TOP_3) is None

    def test_no_positions_are_legal(self):
        rows = {name: column[:0] for name, column in self.rows().items()}
        assert illegal(rows, toy_spec(), TOP_3) is None

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"index": ((1, 0), 5)}, "a class id of 5"),
            ({"index": ((1, 0), 2)}, "a class is kept twice"),
            ({"logit": ((1, 1), np.nan)}, "above 0 or NaN"),
            ({"logit": ((1, 1), 0.5)}, "above 0 or NaN"),
            ({"rest": ((1, 0), np.nan)}, "a rest that is NaN"),
            ({"rest": ((1, 0), np.inf)}, "infinite"),
            ({"logit": ((1, 0), -1.0)}, "without its best class"),
            ({"logit": ((1, slice(None)), -np.inf)}, "without its best class"),
            ({"logit": ((1, slice(None)), [-1.0, 0.0, -1.0])}, "in the first place"),
            ({"index": ((1, 0), -1)}, "a class id of -1"),
            ({"label_logit": (1, np.nan)}, "a label_logit that is NaN"),
            ({"label_logit": (1, 0.5)}, "a label_logit above 0"),
            ({"label": (1, 5)}, "a hard label of 5"),
            ({"label": (1, -1)}, "a hard label of -1"),
        ],
    )
    def test_anything_else_is_named(self, changes, problem):
        assert problem in illegal(self.rows(**changes), toy_spec(), TOP_3)

    @pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
    def test_a_temperature_that_is_none_is_named(self, wrong):
        spec = toy_spec(temperatures=(2.0, 1.0, "std"))
        rows = dict(toy_rows(spec, "train", range(3)))
        assert illegal(rows, spec, TOP_3) is None
        rows["std"] = np.array([1.0, wrong, 1.0])
        assert "std" in illegal(rows, spec, TOP_3)

    def test_inputs_of_several_lengths_are_named(self):
        lengths = np.array([1, 2, 3])
        texts = {"input.a": Ragged(np.arange(6), lengths), "input.b": Ragged(np.arange(6), lengths)}
        assert illegal({**self.rows(), **texts}, toy_spec(), TOP_3) is None
        texts["input.b"] = Ragged(np.arange(6), lengths[::-1])
        problem = illegal({**self.rows(), **texts}, toy_spec(), TOP_3)
        assert problem == "other numbers of positions in input.b than in the input before it"

    def test_a_position_without_a_label_is_legal(self):
        assert illegal(self.rows(label=(1, -100)), toy_spec(), TOP_3) is None

    @pytest.mark.parametrize("name", schema.STATISTICS)
    def test_statistics_that_are_nan_are_named(self, name):
        spec = toy_spec(statistics=True)
        rows = dict(toy_rows(spec, "train", range(3)))
        assert illegal(rows, spec, TOP_3) is None
        rows[name][1] = np.nan
        assert f"a {name} that is NaN" in illegal(rows, spec, TOP_3)

    @pytest.mark.parametrize("name", ["input.tokens", "rest", "label", "mask"])
    def test_blocks_of_other_lengths_are_named(self, name):
        spec = token_spec()
        rows = dict(toy_rows(spec, "train", range(3)))
        assert illegal(rows, spec, TOP_3) is None
        column = rows[name]
        rows[name] = Ragged(column.values_NW, column.lengths_B[::-1])
        assert f"numbers of positions in {name}" in illegal(rows, spec, TOP_3)


class TestEntriesThatVary:
    """Places without an entry hold id 0 and -inf, and count as nothing."""

    def rows(self, **changes):
        rows = {name: np.array(c) for name, c in toy_rows(toy_spec(), "train", range(3)).items()}
        rows["kept"] = np.array([3, 2, 1])
        rows["count"] = np.array([[2, 1, 1], [3, 1, 0], [4, 0, 0]])
        gone = np.arange(3) >= rows["kept"][:, None]
        rows["index"][gone], rows["logit"][gone] = 0, -np.inf
        for name, (place, value) in changes.items():
            rows[name][place] = value
        return rows

    @pytest.mark.parametrize("selection", [NUCLEUS, DRAWS])
    def test_a_true_label_is_legal(self, selection):
        assert illegal(self.rows(), toy_spec(), selection) is None

    @pytest.mark.parametrize("selection", [NUCLEUS, DRAWS])
    def test_a_class_that_is_there_twice_is_named(self, selection):
        rows = self.rows(index=((0, slice(None)), [1, 2, 1]))
        assert "kept twice" in illegal(rows, toy_spec(), selection)

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"count": ((1, 0), 2)}, "draws are not 4"),
            ({"count": ((0, slice(None)), [4, 0, 0])}, "draws are not 4"),
            ({"logit": ((0, 2), -np.inf)}, "without probability that was drawn"),
        ],
    )
    def test_draws_that_cannot_be_are_named(self, changes, problem):
        assert problem in illegal(self.rows(**changes), toy_spec(), DRAWS)

    def test_draws_need_not_hold_the_best_class(self):
        rows = self.rows(logit=((2, 0), -1.0))
        assert illegal(rows, toy_spec(), DRAWS) is None
        assert "best class" in illegal(rows, toy_spec(), NUCLEUS)

    def test_the_most_probable_draw_comes_first(self):
        rows = self.rows(logit=((0, slice(None)), [-1.0, -0.5, -2.0]))
        assert "most probable" in illegal(rows, toy_spec(), DRAWS)
