import sys

import pytest

from storage.errors import RecipeError
from storage.targets import append_import_path, is_target, load_target
from tests.storage.refusal import refused

MODULE = """
limit = 3

def double(value):
    return 2 * value
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder beside a recipe, with a module and a package in it."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "toy_target.py").write_text(MODULE)
    (tmp_path / "toy_package").mkdir()
    (tmp_path / "toy_package" / "inner.py").write_text(MODULE)
    (tmp_path / "toy_broken.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "toy_raising.py").write_text("raise ValueError('two\\nlines')\n")
    append_import_path(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("toy_")]:
        del sys.modules[name]


@pytest.mark.parametrize("text", ["a:b", "a.b:c", "_a.b2:C_d"])
def test_a_target_is_written_as_module_and_name(text):
    assert is_target(text)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a:", ":b", "a:b:c", "a.:b", "a/b:c", "a:b.c", "1a:b", "s3://a", "a.csv", "a b:c"],
)
def test_anything_else_is_not(text):
    assert not is_target(text)
    with refused(RecipeError, repr(text), "package.module:name"):
        load_target(text)


def test_a_function_is_found(folder):
    assert load_target("toy_target:double")(4) == 8


def test_a_function_in_a_package_is_found(folder):
    assert load_target("toy_package.inner:double")(4) == 8


def test_what_is_installed_is_found():
    assert load_target("json:dumps")({}) == "{}"


def test_the_folder_comes_after_what_is_installed(folder):
    (folder / "json.py").write_text(MODULE)
    assert sys.path[-1] == str(folder)
    assert load_target("json:dumps")


def test_the_folder_is_appended_once(folder):
    append_import_path(folder)
    assert sys.path.count(str(folder)) == 1


def test_a_missing_module_is_refused(folder):
    with refused(RecipeError, "'toy_none'", "'toy_none:double'", "beside the recipe"):
        load_target("toy_none:double")


def test_a_missing_package_is_refused(folder):
    with refused(RecipeError, "'toy_none.inner'"):
        load_target("toy_none.inner:double")


@pytest.mark.parametrize("module", ["toy_broken", "toy_raising"])
def test_a_module_that_does_not_import_is_refused(folder, module):
    with refused(RecipeError, module, "Error"):
        load_target(f"{module}:double")


def test_a_missing_name_is_refused(folder):
    with refused(RecipeError, "'triple' is not there", "toy_target.py", "'toy_target:triple'"):
        load_target("toy_target:triple")


def test_a_missing_name_of_a_module_without_a_file_is_refused(folder):
    with refused(RecipeError, "'triple' is not there", "sys"):
        load_target("sys:triple")
    with refused(RecipeError, "'triple' is not there", "toy_package"):
        load_target("toy_package:triple")


def test_what_cannot_be_called_is_refused(folder):
    with refused(RecipeError, "'limit' cannot be called", "'toy_target:limit'"):
        load_target("toy_target:limit")
