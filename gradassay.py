"""The public names: `assert_gradient`, for anyone's own tests, and what a catalogue of one's own is written in.

A name is imported when it is first asked for. The installed package holds the plugin of pytest too, and every run of
pytest imports that, and with it this module: it must cost nothing where gradassay is not used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reference.domain import Interval
    from reference.op import OUTPUT, Op, Stated, Variant, x, y, z
    from reference.trace import detached, shift
    from tests.verdict.assertion import UsageError, assert_gradient
    from tests.verdict.comparison import UnsupportedError
    from tests.verdict.explanation import DisagreementError

__all__ = [
    "OUTPUT",
    "DisagreementError",
    "Interval",
    "Op",
    "Stated",
    "UnsupportedError",
    "UsageError",
    "Variant",
    "assert_gradient",
    "detached",
    "shift",
    "x",
    "y",
    "z",
]

HOMES = {
    "reference.domain": ("Interval",),
    "reference.op": ("OUTPUT", "Op", "Stated", "Variant", "x", "y", "z"),
    "reference.trace": ("detached", "shift"),
    "tests.verdict.assertion": ("UsageError", "assert_gradient"),
    "tests.verdict.comparison": ("UnsupportedError",),
    "tests.verdict.explanation": ("DisagreementError",),
}
"""The public names by the module that each comes from, as the wheel needs them: its build rewrites these strings."""


def __getattr__(name: str) -> Any:
    """Import a public name, as Python asks for one that a module lacks (PEP 562).

    Raises AttributeError for any other name, and ImportError where there is no torch.
    """
    home = next((module for module, names in HOMES.items() if name in names), None)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}; accepted: {', '.join(__all__)}"
        raise AttributeError(message)
    require_torch()
    return globals().setdefault(name, getattr(import_module(home), name))  # Python finds it by itself from now on


def require_torch() -> None:
    """Raise ImportError, which says what to do, where there is no torch: it is no dependency, but the user's choice."""
    if find_spec("torch") is None:
        message = "gradassay judges the torch that is installed, and there is none; install the build that you use"
        raise ImportError(message)
