"""What a failing test says: what, where, got, should be, how far, how sure, and how to see it again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import sympy

from reference.derivative import symbols
from tests.subject import binding
from tests.subject.comparison import REPEATS, judged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.case import Case
    from reference.format import Floats
    from reference.tree import Node, Tree
    from tests.subject.comparison import Miss
    from tests.subject.mode import Mode

LONGEST = 400
"""Characters of a formula that are shown: a derivative of a large tensor op fills pages."""

LAYOUTS = {
    "contiguous": "{0}",
    "transposed": "{0}.transpose(0, -1).contiguous().transpose(0, -1)",
    "strided": "torch.stack([{0}, torch.zeros_like({0})], dim=-1).flatten(-2)[..., ::2]",
    "offset": "torch.cat([{0}.new_zeros(1), {0}.flatten()])[1:].view({0}.shape)",
    "expanded": "{0}[:1].expand({0}.shape)",
    "channels_last": "{0}.contiguous(memory_format=torch.channels_last)",
}
"""How plain torch lays a tensor out."""


class DisagreementError(AssertionError):
    """A gradient is not what it should be; the explanation is written when it is read."""

    def __init__(self, miss: Miss, mode: Mode, device: str) -> None:
        """Keep what the explanation needs."""
        super().__init__(miss, mode, device)
        self.miss, self._mode, self._device = miss, mode, device

    def __str__(self) -> str:
        """Explain the miss."""
        return explained(self.miss, self._mode, self._device)


def explained(miss: Miss, mode: Mode, device: str) -> str:
    """Explain a miss, so that a reader can check it without this project."""
    tree = miss.case.tree
    at = ", ".join(f"{name}={value.hex()}" for name, value in list(miss.point.items())[:8])
    where = f"[{miss.case.form.name}, {mode.name}, {device}]"
    sure = "" if miss.truth is None else f" (certified to {miss.truth.str(20)})"
    lines = [f"d {tree}/d{miss.wrt} at {at} {where} is {miss.verdict}:", f"got {miss.got}, should be {miss.expected}{sure}"]
    if np.isfinite(miss.ulp):
        lines.append(f"off by {miss.ulp:.3g} ulp, {miss.share:.3g} times the rounding allowance")
    function, derivative = formulas(tree, miss.wrt)
    lines += ["", f"{tree} = {function}", f"d/d{miss.wrt} = {derivative}", "", "To see it in plain torch:", ""]
    return "\n".join(lines) + "\n" + snippet(reproducing(miss, mode, device), miss.wrt, mode, device)


def formulas(tree: Tree, wrt: str) -> tuple[str, str]:
    """Return the function of a tree and its derivative by an input, as sympy writes them."""
    inputs = [symbols(leaf.name, leaf.shape) for leaf in tree.leaves]
    for leaf, array in zip(tree.leaves, inputs, strict=True):
        if not leaf.shape:
            array[()] = sympy.Symbol(leaf.name, real=True)
    outputs = tree.outputs(inputs)
    variable = next(a.flat[0] for leaf, a in zip(tree.leaves, inputs, strict=True) if leaf.name == wrt)
    first = next((e for e in outputs.flat if e.has(variable)), outputs.flat[0])
    return _shortened(str(first)), _shortened(str(sympy.diff(first, variable)))


def _shortened(formula: str) -> str:
    return formula if len(formula) <= LONGEST else f"{formula[:LONGEST]} ... ({len(formula)} characters)"


def reproducing(miss: Miss, mode: Mode, device: str) -> Case:
    """Return the smallest case that still shows a miss: its point, the point repeated, or the whole."""
    for case in _smaller(miss.case):
        if any(other.verdict == miss.verdict and other.wrt == miss.wrt for other in judged(case, mode, device).misses):
            return case
    return miss.whole


def _smaller(case: Case) -> Iterator[Case]:
    if case.batch == ():
        yield case
        yield case.repeated(REPEATS)
    elif case.layouts:
        yield replace(case, layouts=())


def snippet(case: Case, wrt: str, mode: Mode, device: str) -> str:
    """Write a case as plain torch, to be pasted; it prints the gradient by one input."""
    modules = {binding.located(node.op.torch)[0] for node in case.tree.applications}
    lines = [f"import {name}" for name in sorted({"torch"} | {m for m in modules if m.split(".")[0] != "torch"})]
    layouts = case.layouts or ("contiguous",) * len(case.primals)
    for leaf, primal, layout in zip(case.tree.leaves, case.primals, layouts, strict=True):
        lines.append(f"{leaf.name} = {_tensor(primal, case, device)}")
        if binding.applies(layout, primal):
            lines.append(f"{leaf.name} = {LAYOUTS[layout].format(leaf.name)}")
        lines.append(f"{leaf.name} = {leaf.name}.detach().requires_grad_()")
    lines += _calls(case.tree)
    if case.root == "cotangent":
        lines.append(f"cotangent = {_tensor(case.cotangent, case, device)}")
    else:
        lines += [f"output = output.{case.root}()", "cotangent = None"]
    return "\n".join([*lines, mode.snippet.format(wrt=wrt)])


def _tensor(values: Floats, case: Case, device: str) -> str:
    """Write exact values: hex floats where there are few, and runs of equal ones as such."""
    kind = f"dtype=torch.{case.form.name}, device={device!r}"
    if values.size > 1 and len(np.unique(values.view(np.int64))) == 1:
        return f"torch.full({values.shape}, float.fromhex({float(values.flat[0]).hex()!r}), {kind})"
    if not values.ndim:
        return f"torch.tensor(float.fromhex({float(values[()]).hex()!r}), {kind})"
    numbers = ", ".join(repr(float(v).hex()) for v in values.flat)
    return f"torch.tensor([float.fromhex(v) for v in [{numbers}]], {kind}).reshape({values.shape})"


def _calls(tree: Tree) -> list[str]:
    names: dict[Node, str] = {leaf: leaf.name for leaf in tree.leaves}
    lines = []
    for number, node in enumerate(tree.applications):
        name = "output" if node is tree.root else f"t{number}"
        lines += binding.steps(node, name, [names[child] for child in node.children])
        names[node] = name
    return lines
