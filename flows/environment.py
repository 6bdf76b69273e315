"""What the process's environment must say before Prefect and torch are imported.

Prefect reads its settings and sets up logging while it is imported, so `prepare` comes first. It
imports nothing but `os` and takes no time. A variable that is already set stays as it is: the
user decides.
"""

import os

_DEFAULTS = {
    # No telemetry of the server, of Prefect's own code, or of Ray below it.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The terminal belongs to softlabel; the runs' logs still reach the API and so the UI. A flow
    # that fails is logged with its traceback at ERROR, hence CRITICAL.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",
    # A logger that is used outside of a run would warn on every line.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLI_PROMPT": "false",
    # A machine that trains with others and loses them says so in one line, and not in C++ traces.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def prepare() -> None:
    """Set the variables that keep Prefect and torch quiet; call it before importing them."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
