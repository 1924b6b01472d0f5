"""Tests that train do so on one core."""

from toy import one_core  # noqa: F401  # a fixture, used by name
