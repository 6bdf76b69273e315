"""The errors that softlabel raises on purpose.

Each message is one clear line: what was expected, what came, where, and what to do. The command
line prints it without a traceback and ends with the class's exit code.
"""


class SoftlabelError(Exception):
    """Base of every error that a user can act upon."""

    exit_code = 1


class RecipeError(SoftlabelError, ValueError):
    """The recipe, or an option on the command line, is wrong; nothing has run."""

    exit_code = 2


class NotBuiltError(RecipeError):
    """The recipe names a value that is planned but not built yet."""


class DataError(SoftlabelError, ValueError):
    """The user's data are not what the recipe says."""


class BadSampleError(DataError):
    """One sample cannot be made of what is there; the message is the reason alone."""


class ModelError(SoftlabelError, ValueError):
    """A teacher or a student does not load, or does not fit the data."""


class NotFiniteError(SoftlabelError, ArithmeticError):
    """A logit, an input or a loss is NaN or infinite where it must not be."""


class StoreError(SoftlabelError, OSError):
    """The store cannot be reached, read or written."""


class SpaceError(StoreError):
    """There is no room for what would be written; nothing was."""


class MissingProductError(SoftlabelError, LookupError):
    """A stage needs a product that the store does not hold."""


class IntegrityError(SoftlabelError, ValueError):
    """A stored file is not what its record says."""


class ServerError(SoftlabelError, RuntimeError):
    """The Prefect server does not start or does not answer."""


class GateError(SoftlabelError, AssertionError):
    """A report does not meet a gate of the recipe."""


def one_line(error: BaseException) -> str:
    """What an exception says, in one line, with its type where it says a word or nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if " " in text else f"{name}: {text}".removesuffix(": ")
