"""Hypothesis' profile: derandomised, so that a gate gives the same code the same answer."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("gradassay", deadline=None, derandomize=True, max_examples=25, print_blob=True)
settings.load_profile("gradassay")
