"""Settings of Hypothesis for these tests: the same examples in every run, and no clock."""

from hypothesis import HealthCheck, settings

# A run that fails must fail again.  A busy machine must not fail a slow example.
settings.register_profile(
    "pure",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pure")
