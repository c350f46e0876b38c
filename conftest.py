"""Hypothesis profiles and the rule that a conformance test compares something."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("gradassay", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("gradassay")
