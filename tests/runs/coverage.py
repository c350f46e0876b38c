"""Which of torch's elementwise ops the catalogue covers: ``python -m tests.runs.coverage``.

It compares the catalogue with OpInfo, the table of ops that torch's own tests go through.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from reference.catalogue import OPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reference.op import Op

FURTHER = (
    "addcdiv",
    "addcmul",
    "clamp",
    "lerp",
    "where",
    "nn.functional.binary_cross_entropy",
    "nn.functional.binary_cross_entropy_with_logits",
    "nn.functional.gelu",
    "nn.functional.hardswish",
    "nn.functional.huber_loss",
    "nn.functional.kl_div",
    "nn.functional.l1_loss",
    "nn.functional.leaky_relu",
    "nn.functional.smooth_l1_loss",
)
"""Elementwise ops that torch's table has no mark for: neither as unary nor as binary."""

REASONS = {
    "bfloat16": "casts to another dtype",
    "cdouble": "complex result",
    "cfloat": "complex result",
    "chalf": "complex result",
    "complex": "complex result",
    "double": "casts to another dtype",
    "fill": "constant, so that its gradient has nothing to judge",
    "float": "casts to another dtype",
    "float_power": "computes in float64 whatever the dtype",
    "frexp": "returns two tensors",
    "half": "casts to another dtype",
    "imag": "of complex arguments only",
    "nextafter": "not differentiable",
    "polar": "complex result",
}
"""Why an op of torch's table is not in the catalogue."""


def paths(op: Op) -> tuple[str, ...]:
    """Return the names that torch has for an op, as its table writes them."""
    return tuple(path.removeprefix("torch.").removeprefix("Tensor.") for path in (op.path, *op.aliases))


def elementwise() -> list[str]:
    """Return the names of the differentiable elementwise ops in torch's table, each once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the modules that torch's table imports
        from torch.testing._internal.common_methods_invocations import op_db  # noqa: PLC0415 - a slow import, of this command alone
        from torch.testing._internal.opinfo.core import BinaryUfuncInfo, UnaryUfuncInfo  # noqa: PLC0415
    marked = {
        info.name for info in op_db if isinstance(info, UnaryUfuncInfo | BinaryUfuncInfo) and info.supports_autograd
    }
    return sorted(marked | set(FURTHER))


def coverage() -> Mapping[str, tuple[str, ...]]:
    """Return the entries of the catalogue that cover each op of torch's table, by its name there."""
    covering: dict[str, list[str]] = {}
    for op in OPS.values():
        for path in paths(op):
            covering.setdefault(path, []).append(op.name)
    return {name: tuple(covering.get(name, ())) for name in elementwise()}


def main() -> None:
    """Print the table."""
    found = coverage()
    lines = Table(box=box.SIMPLE)
    for name in ("torch", "entries", "why not"):
        lines.add_column(name, overflow="fold")
    for name, entries in found.items():
        lines.add_row(name, ", ".join(entries), "" if entries else REASONS.get(name, "not yet"))
    console = Console()
    console.print(lines)
    console.print(
        f"{sum(map(bool, found.values()))} of {len(found)} differentiable elementwise ops are covered, "
        f"by {len(OPS)} entries in all"
    )


if __name__ == "__main__":
    main()
