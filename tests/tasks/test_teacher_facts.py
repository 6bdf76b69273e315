"""A teacher's classes and sounds against those of the data."""

import pytest

from storage.errors import RecipeError
from storage.options import DataOptions
from tasks.teacher_facts import agreed_class_names, require_sampling_rate

TEACHER = {"class_names": ["cat", "dog", "bird"], "sampling_rate": 16_000}


@pytest.mark.parametrize(
    ("said", "details", "expected"),
    [
        (None, TEACHER, ("cat", "dog", "bird")),
        (None, {}, None),
        (("a", "b"), {}, ("a", "b")),
        (("cat", "dog", "bird"), TEACHER, ("cat", "dog", "bird")),
        (("Katze", "Hund", "Vogel"), TEACHER, ("Katze", "Hund", "Vogel")),
    ],
)
def test_the_names_of_the_data_go_before_those_of_the_teacher(said, details, expected):
    assert agreed_class_names(said, details) == expected


def test_one_name_with_two_numbers_is_refused():
    with pytest.raises(RecipeError, match=r"'bird' is class 0 of the data and class 2 of the tea"):
        agreed_class_names(("bird", "cat", "dog"), TEACHER)


def test_sounds_of_another_rate_are_refused():
    said = {"name": "s", "source": "./s", "format": "audio", "splits": {"folder": True}}
    data = DataOptions(**said, audio={"rate": 8000, "seconds": 1.0})
    with pytest.raises(RecipeError, match=r"data\.audio\.rate: expected 16000, .*, got 8000"):
        require_sampling_rate(data, TEACHER)
    require_sampling_rate(data, {})
    require_sampling_rate(DataOptions(**said, audio={"seconds": 1.0}), TEACHER)
