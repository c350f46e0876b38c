"""Modes: the ways to ask torch for a derivative."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    """Return a case unchanged, for a mode that can ask for any."""
    return case


@dataclass(frozen=True, repr=False)
class Mode:
    """One way to ask torch for the derivative of a case."""

    name: str
    word: str
    """The derivative, the last letter first: r where a cotangent is pulled back, f where a tangent is pushed."""

    gradients: Callable[[Case, str], Gradients]
    """Differentiate a case on a device; the second argument names the device."""

    snippet: str
    """The same in plain torch, for people to paste: prints the gradient by the input ``{wrt}``.

    See `tests.verdict.snippet.snippet` for what else it may name.
    """

    puts: Callable[[Case], Case] = as_it_is
    """Turn a case into one that the mode can ask for: a Jacobian is that of one point."""

    whole: bool = False
    """Whether a whole Jacobian or Hessian is formed: it is asked of few elements only, as it has their square."""

    draws: bool = False
    """Whether it is asked at drawn points in every profile.

    The others are asked at fixed points, unless they are named or the profile has every mode.
    """

    eager: str = ""
    """The mode of the transform that is compiled: what deviates there is known here."""

    sampled: Mapping[str, str] = field(default_factory=dict)
    """Where a test takes seconds, the few ops that it is asked for, each in a format; empty where it is asked for all.

    In the profile thorough, and where the mode is named, it is asked for all in any case.
    """

    @property
    def order(self) -> int:
        """How often the function is differentiated."""
        return len(self.word)

    @property
    def forwards(self) -> bool:
        """Whether tangents are pushed through the function."""
        return "f" in self.word

    def asks(self, case: Case) -> Case:
        """Return a case as the mode asks for it, with the word of the mode."""
        return replace(self.puts(case), word=self.word)

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
        Mode("backward", "r", first.backward, first.LEAF, draws=True),
        Mode("grad", "r", first.autograd_grad, first.GRAD, draws=True),
        Mode("func_grad", "r", first.func_grad, first.FUNC_GRAD),
        Mode("func_vjp", "r", first.func_vjp, first.FUNC_VJP),
        Mode("vmap_grad", "r", first.vmap_grad, first.VMAP_GRAD, puts=first.spread),
        Mode("checkpoint", "r", first.checkpointed, first.CHECKPOINT),
        Mode("function", "r", first.own_function, first.FUNCTION),
        Mode("aot_eager", "r", partial(first.compiled, "aot_eager"), first.COMPILE, sampled=SAMPLE),
        Mode("inductor", "r", partial(first.compiled, "inductor"), first.COMPILE, sampled=SAMPLE),
        Mode("compiled_grad", "r", first.compiled_grad, first.COMPILED_GRAD, eager="func_grad", sampled=SAMPLE),
        Mode("forward", "f", first.forward, first.FORWARD, puts=first.unexpanded),
        Mode("func_jvp", "f", first.func_jvp, first.FUNC_JVP, puts=first.unexpanded),
        Mode(
            "compiled_jvp",
            "f",
            first.compiled_jvp,
            first.COMPILED_JVP,
            puts=first.unexpanded,
            eager="func_jvp",
            sampled=SAMPLE,
        ),
        Mode("jacrev", "r", first.jacrev, first.JACOBIAN, puts=first.rows, whole=True),
        Mode("jacfwd", "f", first.jacfwd, first.JACOBIAN, puts=first.rows, whole=True),
        Mode("rr", "rr", second.reverse_over_reverse, second.RR),
        Mode("fr", "fr", second.forward_over_reverse, second.FR, puts=first.unexpanded),
        Mode("rf", "rf", second.reverse_over_forward, second.RF, puts=first.unexpanded),
        Mode("ff", "ff", second.forward_over_forward, second.FF, puts=first.unexpanded),
        Mode("hessian", "fr", second.hessian, second.HESSIAN, puts=second.entries, whole=True),
        Mode(
            "compiled_hessian",
            "fr",
            second.compiled_hessian,
            second.COMPILED_HESSIAN,
            puts=second.entries,
            whole=True,
            eager="hessian",
            sampled=SAMPLE,
        ),
        Mode("rrr", "rrr", second.thrice_reverse, second.RRR),
        Mode("fff", "fff", second.thrice_forward, second.FFF, puts=first.unexpanded),
    )
}
"""The modes by name; ``grad`` is `torch.autograd.grad`, ``rr`` reverse over reverse."""

FIRST_ORDER = tuple(name for name, mode in MODES.items() if mode.order == 1)
"""The names of the modes that ask for a gradient, or for how the output changes along a tangent."""
