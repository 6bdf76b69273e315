"""What all tests share: how hypothesis searches, and which tests come last."""

from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "softlabel",
    deadline=None,  # a shared machine is slow at times
    derandomize=True,  # a failure in CI is the same failure here
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("softlabel")

FLOWS = Path(__file__).parent / "flows"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of flows come last: Prefect's threads draw from `random`, which hypothesis watches."""
    items.sort(key=lambda item: FLOWS in item.path.parents)
