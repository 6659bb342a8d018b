"""Hypothesis as these tests want it: the same examples in every run, and no clock."""

from hypothesis import settings

# A run that fails must fail again.  A busy machine must not fail a slow example.
settings.register_profile("pure", derandomize=True, database=None, deadline=None)
settings.load_profile("pure")
