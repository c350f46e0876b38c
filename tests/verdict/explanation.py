"""What a failing test says: what, where, got, should be, how far, how sure, and how to see it again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import sympy

from reference.derivative import slope, symbols
from reference.tree import rule
from tests.subject import binding
from tests.verdict.comparison import REPEATS, judged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reference.case import Case
    from reference.format import Floats
    from reference.op import Array
    from reference.tree import Apply, Node, Tree
    from tests.subject.mode import Mode
    from tests.verdict.comparison import Miss

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


LONGEST_PERIOD = 65
"""Values that repeat with a shorter period are written once."""

MOST_INTERVALS = 4
"""Intervals of misses that are shown."""


class DisagreementError(AssertionError):
    """A gradient is not what it should be; the explanation is written when it is read."""

    def __init__(self, misses: Sequence[Miss], mode: Mode, device: str) -> None:
        """Keep what the explanation needs: the misses of one case, of which the first is explained."""
        super().__init__(misses, mode, device)
        self.miss, self._misses, self._mode, self._device = misses[0], misses, mode, device

    def __str__(self) -> str:
        """Explain the first miss."""
        return explained(self._misses, self._mode, self._device)


def explained(misses: Sequence[Miss], mode: Mode, device: str) -> str:
    """Explain the first of some misses of a case, so that a reader can check it without this project."""
    miss = misses[0]
    tree = miss.case.tree
    at = ", ".join(f"{name}={value.hex()}" for name, value in list(miss.point.items())[:8])
    where = f"[{miss.case.form.name}, {mode.name}, {device}]"
    sure = "" if miss.truth is None else f" (certified to {miss.truth.str(20)})"
    along = None if miss.case.along is None else tree.leaves[miss.case.along].name
    asked = f"d {tree}/d{miss.wrt}" if along is None else f"d2 {tree}/d{along} d{miss.wrt}"
    lines = [f"{asked} at {at} {where} is {miss.verdict}:", f"got {miss.got}, should be {miss.expected}{sure}"]
    if np.isfinite(miss.ulp):
        lines.append(f"off by {miss.ulp:.3g} ulp, {miss.share:.3g} times the rounding allowance")
    lines += _spread([m for m in misses if (m.verdict, m.wrt) == (miss.verdict, miss.wrt)])
    lines += ["", *formulas(tree, miss.wrt, along), "", "To see it in plain torch:", ""]
    return "\n".join(lines) + "\n" + snippet(reproducing(miss, mode, device), miss.wrt, mode, device)


def _spread(alike: Sequence[Miss]) -> list[str]:
    """Say how many entries of a case miss alike and, of a function of one input, in which intervals of those tried."""
    case, wrt = alike[0].whole, alike[0].wrt
    if len(alike) == 1:
        return []
    (primal,) = [p for leaf, p in zip(case.tree.leaves, case.primals, strict=True) if leaf.name == wrt]
    line = f"{len(alike):,} of {primal.size:,} entries are {alike[0].verdict}"
    if len(case.primals) > 1 or wrt not in alike[0].point:
        return [line]
    tried = np.unique(primal)
    missed = np.isin(tried, [m.point[wrt] for m in alike])
    edges = np.diff(missed.astype(int), prepend=0, append=0)
    runs = [
        f"[{tried[a]:.6g}, {tried[b - 1]:.6g}]"
        for a, b in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
    ]
    return [f"{line}: {wrt} in {', '.join(runs[:MOST_INTERVALS])}{', ...' if len(runs) > MOST_INTERVALS else ''}"]


def formulas(tree: Tree, wrt: str, along: str | None = None) -> list[str]:
    """Return the function of a tree and its derivative as sympy writes them.

    Of one op it is by one input, or by that of the derivative along another; of a tree step by step.
    """
    names = _names(tree)
    if tree.is_single:
        return _step(tree.root, str(tree), names, wrt, along)
    return [line for node in tree.applications for line in _step(node, names[node], names)]


def _step(
    node: Apply, head: str, names: Mapping[Node, str], wrt: str | None = None, along: str | None = None
) -> list[str]:
    """Write what one op gives (of a tensor, the first element that has the input), and its derivatives."""
    op = node.op
    local = rule(op, tuple(() if op.elementwise else child.shape for child in node.children))
    inputs = {
        names[child]: _named(names[child], array) for child, array in zip(node.children, local.inputs, strict=True)
    }
    place = {
        symbol: new
        for child, array in zip(node.children, local.inputs, strict=True)
        for symbol, new in zip(array.flat, inputs[names[child]].flat, strict=True)
    }
    outputs = [expression.xreplace(place) for expression in local.outputs.flat]
    variables = {name: array.flat[0] for name, array in inputs.items() if wrt in {None, name}}
    first = next((e for e in outputs if e.has(*variables.values())), outputs[0])
    over = "d" if wrt else f"d{head}"
    if along is not None:
        twice = slope(slope(first, inputs[along].flat[0]), inputs[wrt or along].flat[0])
        return [f"{head} = {_shortened(str(first))}", f"d2/d{along} d{wrt} = {_shortened(str(twice))}"]
    return [
        f"{head} = {_shortened(str(first))}",
        *(f"{over}/d{v} = {_shortened(str(sympy.diff(first, v)))}" for v in variables.values()),
    ]


def _named(name: str, array: Array) -> Array:
    return symbols(name, array.shape) if array.shape else np.array(sympy.Symbol(name, real=True), dtype=object)


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
    """Write a case as plain torch, to be pasted; it prints the gradient by one input.

    The mode's own lines follow those that make the inputs, the ``function``, its ``output`` and the
    ``cotangent``; for forward-mode the ``points`` too, and the ``tangents`` of the input that is asked for.
    """
    modules = {binding.located(node.op.torch)[0] for node in case.tree.applications}
    lines = [f"import {name}" for name in sorted({"torch"} | {m for m in modules if m.split(".")[0] != "torch"})]
    layouts = case.layouts or ("contiguous",) * len(case.primals)
    for leaf, primal, layout in zip(case.tree.leaves, case.primals, layouts, strict=True):
        lines.append(f"{leaf.name} = {_tensor(primal, case, device)}")
        if binding.applies(layout, primal):
            lines.append(f"{leaf.name} = {LAYOUTS[layout].format(leaf.name)}")
        lines.append(f"{leaf.name} = {leaf.name}.detach().requires_grad_()")
    names = [leaf.name for leaf in case.tree.leaves]
    body = _calls(case.tree) + [f"output = output.{case.root}()"] * (case.root != "cotangent")
    if "function" in mode.snippet:
        lines += [f"def function({', '.join(names)}):", *(f"    {line}" for line in body), "    return output"]
    else:
        lines += body
    lines.append(f"cotangent = {_tensor(case.cotangent if case.root == 'cotangent' else np.ones(()), case, device)}")
    if case.direction is not None:
        lines.append(f"direction = {_tensor(case.direction, case, device)}")
    if "points" in mode.snippet:
        lines += _points(case, names, wrt)
    number, numbers, at = names.index(wrt), tuple(range(len(names))), case.along or 0
    asked = mode.snippet.format(
        wrt=wrt,
        number=number,
        numbers=numbers,
        inputs=", ".join(names),
        dims=len(case.batch),
        name=mode.name,
        mapped="torch.func.vmap" if case.is_pointwise else "",
        at=at,
        along=names[at],
        first="" if case.is_pointwise else "[0]",
        block="" if case.is_pointwise else f".reshape(len(cotangent), {names[at]}[0].numel(), -1)[:, 0]",
    )
    return "\n".join([*lines, asked])


def _points(case: Case, names: Sequence[str], wrt: str) -> list[str]:
    """Write the point, or points, at which forward-mode is asked, and the tangents."""
    if case.is_pointwise:
        return [f"points = [x.detach().flatten() for x in ({', '.join(names)},)]", "tangents = [cotangent.flatten()]"]
    return [
        f"points = [x.detach()[0] for x in ({', '.join(names)},)]",
        f"tangents = torch.eye({wrt}[0].numel(), dtype={wrt}.dtype, device={wrt}.device).reshape(-1, *{wrt}[0].shape)",
    ]


def _tensor(values: Floats, case: Case, device: str) -> str:
    """Write exact values as hex floats, those that repeat once."""
    kind = f"dtype=torch.{case.form.name}, device={device!r}"
    if not values.ndim:
        return f"torch.tensor(float.fromhex({float(values[()]).hex()!r}), {kind})"
    period = next((n for n in range(1, LONGEST_PERIOD) if _repeats(values.ravel(), n)), values.size)
    numbers = ", ".join(repr(float(v).hex()) for v in values.flat[:period])
    often = "" if period == values.size else f".repeat({-(-values.size // period)})[:{values.size}]"
    return f"torch.tensor([float.fromhex(v) for v in [{numbers}]], {kind}){often}.reshape({values.shape})"


def _repeats(values: Floats, period: int) -> bool:
    return period < values.size and values[period:].tobytes() == values[:-period].tobytes()


def _calls(tree: Tree) -> list[str]:
    names = _names(tree)
    return [
        line
        for node in tree.applications
        for line in binding.steps(node, names[node], [names[child] for child in node.children])
    ]


def _names(tree: Tree) -> dict[Node, str]:
    """Name the nodes of a tree: the inputs by their names, the root output."""
    steps = {node: "output" if node is tree.root else f"t{number}" for number, node in enumerate(tree.applications)}
    return {leaf: leaf.name for leaf in tree.leaves} | steps
