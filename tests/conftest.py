"""What all tests share: how hypothesis searches."""

import hypothesis

hypothesis.settings.register_profile(
    "softlabel",
    deadline=None,  # a shared machine is slow at times
    derandomize=True,  # a failure in CI is the same failure here
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("softlabel")
