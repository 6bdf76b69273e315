"""What a recipe may say about what is inside, and what it comes to."""

import pytest
from pydantic import ValidationError

from storage.errors import RecipeError
from storage.feature_options import StoredFeature
from tasks.feature_options import (
    InitialiseOptions,
    MatchOptions,
    matches_of,
    uniform_layers,
    wanted_features,
)
from tasks.options import StudentOptions, stored_misfit

MLP = {"kind": "mlp"}


def pairs(*said, student=2, teacher=6):
    options = [MatchOptions(**entry) for entry in said]
    return [(match.student, match.teacher) for match in matches_of(options, student, teacher, "m")]


def test_a_name_alone_is_of_both_models():
    assert pairs({"teacher": "hidden.-1"}) == [(("hidden.-1",), ("hidden.-1",))]
    assert pairs({"teacher": "hidden.6", "student": "hidden.2"}) == [(("hidden.2",), ("hidden.6",))]


def test_layers_are_written_out():
    found = pairs({"kind": "hidden", "layers": {1: 3, 2: 6}})
    assert found == [(("hidden.1",), ("hidden.3",)), (("hidden.2",), ("hidden.6",))]


def test_uniform_is_tinybert_s_map():
    hidden = pairs({"kind": "hidden", "layers": "uniform"})
    assert hidden == [
        (("hidden.0",), ("hidden.0",)),
        (("hidden.1",), ("hidden.3",)),
        (("hidden.2",), ("hidden.6",)),
    ]
    maps = pairs({"kind": "attention", "layers": "uniform"})
    assert maps == [(("attention.1",), ("attention.3",)), (("attention.2",), ("attention.6",))]


def test_losses_have_names():
    options = [
        MatchOptions(teacher="hidden.-1", loss="cosine"),
        MatchOptions(teacher="hidden.6", student="hidden.2", pool="first"),
        MatchOptions(teacher=["hidden.1", "hidden.2"], loss="gram"),
    ]
    assert [match.name for match in matches_of(options, 2, 6, "m")] == [
        "cosine.hidden.-1",
        "mse.hidden.2.hidden.6.first",
        "gram.hidden.1.hidden.2",
    ]


def test_what_is_wanted_of_the_teacher_is_known_from_the_words():
    options = [
        MatchOptions(teacher="hidden.-1"),
        MatchOptions(kind="attention", layers={1: 2}),
        MatchOptions(kind="hidden", layers="uniform"),
    ]
    assert wanted_features(options) == ("hidden.-1", "attention.2")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"loss": "mse"}, "expected teacher: <feature>, or kind: and layers:"),
        ({"teacher": "hidden.1", "kind": "hidden"}, "expected teacher: <feature>, or kind:"),
        ({"layers": "uniform"}, "layers goes with kind"),
        ({"teacher": "hidden.1", "kind": "hidden", "layers": "uniform"}, "layers goes with kind"),
        ({"kind": "attention", "layers": {0: 1}}, "layers of attention maps are counted from 1"),
        ({"teacher": "attention.1", "student": "hidden.1"}, "compared with another one"),
        ({"teacher": "attention.1", "loss": "cosine"}, "by mse or ce"),
        ({"kind": "attention", "layers": "uniform", "loss": "mmd"}, "by mse or ce"),
        ({"teacher": "hidden.1", "loss": "ce"}, "ce compares attention maps"),
        ({"teacher": "attention.1", "projection": "linear"}, "neither projected nor pooled"),
        ({"teacher": ["hidden.1", "hidden.2"]}, "pairs of features are for gram and mmd"),
        ({"teacher": ["hidden.1", "hidden.2"], "student": "hidden.1", "loss": "mmd"}, "alike"),
        ({"teacher": "hidden.1", "loss": "gram", "pool": "mean"}, "pool them not"),
        ({"teacher": "layer.1"}, "should match pattern"),
        ({"teacher": "hidden.1", "weight": 0}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(said, expected):
    with pytest.raises(ValidationError, match=expected):
        MatchOptions(**said)


def test_layers_that_cannot_be_spread_are_refused():
    with pytest.raises(RecipeError, match=r"^s\.m\.0\.layers: uniform .* divides, got 6 and 4"):
        matches_of([MatchOptions(kind="hidden", layers="uniform")], 4, 6, "s.m")
    with pytest.raises(RecipeError, match=r"^s\.m\.0\.layers: uniform needs the teacher itself"):
        matches_of([MatchOptions(kind="hidden", layers="uniform")], 4, None, "s.m")
    with pytest.raises(RecipeError, match="got 0 and 2"):
        uniform_layers(2, 0, "s.m")


def test_nothing_is_matched_twice():
    twice = [MatchOptions(teacher="hidden.1"), MatchOptions(teacher="hidden.1", weight=2)]
    with pytest.raises(RecipeError, match=r"^m\.1: mse\.hidden\.1 is matched already"):
        matches_of(twice, 2, 6, "m")


def test_a_student_is_another_one_with_other_matches():
    plain = StudentOptions(model=MLP)
    assert "match" not in plain.identity()
    matched = StudentOptions(model=MLP, match=[{"teacher": "hidden.1"}])
    live = StudentOptions(model=MLP, match=[{"teacher": "hidden.1"}], teacher="live")
    begun = StudentOptions(model=MLP, initialise={"from": "teacher", "layers": [1, 3]})
    identities = [entry.identity() for entry in (plain, matched, live, begun)]
    assert all(one not in identities[:place] for place, one in enumerate(identities))
    assert [entry.needs_teacher for entry in (plain, matched, live, begun)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_live_teacher_needs_something_to_compare():
    with pytest.raises(ValidationError, match="teacher: live needs a match"):
        StudentOptions(model=MLP, teacher="live")


def test_layers_to_begin_with_are_counted_from_1():
    assert InitialiseOptions.model_validate({"from": "teacher"}).layers == "uniform"
    with pytest.raises(ValidationError):
        InitialiseOptions(layers=[0, 2])


def test_what_is_looked_into_is_not_compiled():
    with pytest.raises(ValidationError, match=r"training\.compile: expected false with a match"):
        StudentOptions(model=MLP, match=[{"teacher": "hidden.1"}], training={"compile": True})


@pytest.mark.parametrize(
    ("match", "features", "expected"),
    [
        ({"teacher": "hidden.1"}, [{"feature": "hidden.1"}], None),
        ({"teacher": "hidden.1", "pool": "mean"}, [{"feature": "hidden.1", "pool": "mean"}], None),
        (
            {"kind": "hidden", "layers": {1: 3}},
            [{"feature": "hidden.1"}],
            "match: hidden.3 is not stored (hidden.1); add {feature: hidden.3} to "
            "labels.features, or say teacher: live",
        ),
        (
            {"teacher": "hidden.1"},
            [],
            "match: hidden.1 is not stored (no features are); add {feature: hidden.1} to "
            "labels.features, or say teacher: live",
        ),
        (
            {"teacher": "hidden.1"},
            [{"feature": "hidden.1", "pool": "mean"}],
            "match: hidden.1 is stored with pool: mean, expected the same, got none",
        ),
        (
            {"kind": "hidden", "layers": "uniform"},
            [],
            "match: uniform layers need teacher: live; or write the layers out",
        ),
    ],
)
def test_what_is_compared_is_stored(match, features, expected):
    stored = [StoredFeature(**entry) for entry in features]
    assert stored_misfit(StudentOptions(model=MLP, match=[match]), stored) == expected
    live = StudentOptions(model=MLP, match=[match], teacher="live")
    assert stored_misfit(live, stored) is None
    assert live.stored_features == ()
