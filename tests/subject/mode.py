"""Modes: the ways to ask torch for a derivative."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tests.subject import first_order as first
from tests.subject import second_order as second

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reference.case import Case
    from tests.subject.first_order import Gradients


def as_it_is(case: Case) -> Case:
    """Ask a case as it is."""
    return case


@dataclass(frozen=True, repr=False)
class Mode:
    """One way to ask torch for the derivative of a case."""

    name: str
    order: int
    """How often the function is differentiated."""

    gradients: Callable[[Case, str], Gradients]
    """Differentiate a case on a device; the second argument names the device."""

    snippet: str
    """The same in plain torch, for people to paste: prints the gradient by the input ``{wrt}``.

    See `tests.verdict.explanation.snippet` for what else it may name.
    """

    asks: Callable[[Case], Case] = as_it_is
    """Put a case in the form that the mode can ask for: forward-mode has no sums over inputs that were broadcast."""

    draws: bool = False
    """Whether it is asked at drawn points whatever the profile.

    The others are asked at the same hard points, unless they are named.
    """

    forwards: bool = False
    """Whether tangents are pushed through the function."""

    sampled: Mapping[str, str] = field(default_factory=dict)
    """Where a test takes seconds, the few ops it is asked for, each in a format.

    It is asked for all of them in the profile thorough, or where the mode is named.
    """

    def __repr__(self) -> str:
        """Name the mode."""
        return f"<{self.name}>"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:  # noqa: FBT001 - the protocol of IPython, which Hypothesis prints arguments by
        printer.text(repr(self))


SAMPLE = MappingProxyType(
    {
        "gelu": "bfloat16",
        "tanh": "float32",
        "atan2": "float64",
        "softmax": "float16",
        "matmul": "float32",
        "maximum": "float32",
    }
)
"""What is compiled in the profile default: an op of each kind, in a format."""

MODES = {
    mode.name: mode
    for mode in (
        Mode("backward", 1, first.backward, first.LEAF, draws=True),
        Mode("grad", 1, first.autograd_grad, first.GRAD, draws=True),
        Mode("func_grad", 1, first.func_grad, first.FUNC_GRAD),
        Mode("func_vjp", 1, first.func_vjp, first.FUNC_VJP),
        Mode("vmap_grad", 1, first.vmap_grad, first.VMAP_GRAD, asks=first.spread),
        Mode("checkpoint", 1, first.checkpointed, first.CHECKPOINT),
        Mode("function", 1, first.own_function, first.FUNCTION),
        Mode("aot_eager", 1, partial(first.compiled, "aot_eager"), first.COMPILE, sampled=SAMPLE),
        Mode("inductor", 1, partial(first.compiled, "inductor"), first.COMPILE, sampled=SAMPLE),
        Mode("forward", 1, first.forward, first.FORWARD, asks=first.columns, forwards=True),
        Mode("func_jvp", 1, first.func_jvp, first.FUNC_JVP, asks=first.columns, forwards=True),
        Mode("jacrev", 1, first.jacrev, first.JACOBIAN, asks=first.rows),
        Mode("jacfwd", 1, first.jacfwd, first.JACOBIAN, asks=first.pushed_rows, forwards=True),
        Mode("rr", 2, second.reverse_over_reverse, second.RR),
        Mode("fr", 2, second.forward_over_reverse, second.FR, asks=first.unexpanded, forwards=True),
        Mode("rf", 2, second.reverse_over_forward, second.RF, asks=first.unexpanded, forwards=True),
        Mode("ff", 2, second.forward_over_forward, second.FF, asks=first.columns, forwards=True),
        Mode("hessian", 2, second.hessian, second.HESSIAN, asks=second.entries, forwards=True),
    )
}
"""The modes by name; ``grad`` is `torch.autograd.grad`, ``rr`` reverse over reverse."""

FIRST_ORDER = tuple(name for name, mode in MODES.items() if mode.order == 1)
