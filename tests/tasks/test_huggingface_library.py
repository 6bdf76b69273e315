"""The libraries are asked for by name, and say nothing of their own."""

import logging
import sys
import warnings

import pytest

from storage.errors import ModelError
from tasks.huggingface_library import library, quiet


def test_a_missing_library_says_what_to_install():
    with pytest.raises(ModelError, match=r"^teacher: .* 'no_such_library', .*softlabel\[hugging"):
        library("no_such_library.part", "teacher")


def test_nothing_is_said_inside_and_all_is_as_before_after_it(capfd):
    logger = logging.getLogger("transformers")
    before = (logger.level, logger.propagate, logger.disabled)
    with quiet():
        print("out")
        print("error", file=sys.stderr)
        warnings.warn("warning", stacklevel=1)
        logger.warning("logged")
    assert capfd.readouterr() == ("", "")
    assert (logger.level, logger.propagate, logger.disabled) == before
    print("again")
    assert capfd.readouterr().out == "again\n"
