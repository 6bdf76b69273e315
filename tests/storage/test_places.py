"""Files that packages and Python ship, by names that hold on any machine."""

import json
from pathlib import Path

import pytest

from storage.errors import DataError
from storage.places import is_shipped, locate
from storage.sources import resolve


def test_a_file_of_a_package_is_found_without_importing_it():
    assert Path(locate("package://pytest/__init__.py")) == Path(pytest.__file__)
    assert Path(locate("package://pytest")) == Path(pytest.__file__).parent


def test_a_file_of_the_standard_library_is_found():
    assert Path(locate("stdlib://json/__init__.py")).samefile(json.__file__)


@pytest.mark.parametrize("name", ["no_such_package", "this", ""])
def test_a_package_that_is_not_there_is_said(name):
    with pytest.raises(DataError, match=f"the package '{name}' is not installed"):
        locate(f"package://{name}/model.onnx")


def test_a_source_may_be_such_a_file(tmp_path):
    found = resolve("stdlib://json/*.py", tmp_path)
    assert found.endswith("/json/*.py")
    assert Path(found).is_absolute()
    assert not is_shipped(found)
