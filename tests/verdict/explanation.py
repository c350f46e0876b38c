"""What a failing test says: what, where, got, should be, how far, how sure, and how to see it again."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from sympy import Expr

from reference.graph import Input
from reference.transform import slope
from tests.subject import binding
from tests.verdict.comparison import REPEATS, Miss, judged
from tests.verdict.isolation import Question

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reference.case import Case
    from reference.format import Floats
    from reference.graph import Shape
    from reference.tree import Apply, Node, Tree
    from tests.subject.mode import Mode

LONGEST = 400
"""Characters of a formula that are shown: a derivative of a large tensor op fills pages."""

MOST_PRINTED = 2048
"""Elements of inputs that are printed."""

MOST_WRITTEN = 8
"""Elements of inputs that are written in the line of what was asked."""

MOST_LINES = 12
"""Lines of a formula in numpy that are shown."""

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
    at = ", ".join(f"{name}={value.hex()}" for name, value in list(miss.point.items())[:MOST_WRITTEN])
    sure = "" if miss.truth is None else f" (certified to {miss.truth.str(20)})"
    if any(miss.case.primals[number].size > MOST_PRINTED for number in range(len(miss.case.primals))):
        at = f"entry {list(miss.index)} of inputs {_shapes(miss.whole)}; {at}"
    named = f"{_derivative(miss.case, miss.wrt)} at {at} {_where_asked(miss.case, mode, device)}"
    lines = [f"{named} is {miss.verdict}:", f"got {miss.got}, should be {miss.expected}{sure}"]
    if np.isfinite(miss.ulp):
        lines.append(f"off by {miss.ulp:.3g} ulp, {miss.share:.3g} times the rounding allowance")
    lines += _spread([m for m in misses if (m.verdict, m.wrt) == (miss.verdict, miss.wrt)])
    along = None if miss.case.along is None else tree.leaves[miss.case.along].name
    lines += ["what is due is what the entry states at this point"] * bool(miss.case.stated)
    lines += ["", *formulas(tree, miss.wrt, along), "", _again(reproducing(miss, mode, device), miss.wrt, mode, device)]
    return "\n".join(lines)


def question(case: Case, mode: Mode | None, device: str) -> Question:
    """Describe what torch is asked before it is: the derivative of a case in a mode, or without one its value."""
    names = [case.tree.leaves[number].name for number in case.asked]
    point = Miss("", names[0], case, case, "").point
    few = ", ".join(f"{name}={value.hex()}" for name, value in list(point.items())[:MOST_WRITTEN])
    if len(point) != 1:
        few = f"inputs {_shapes(case)}{f'; {few}' if few else ''}{', ...' if len(point) > MOST_WRITTEN else ''}"
    asked = (
        str(case.tree) if mode is None else _derivative(case, names[0] if len(names) == 1 else f"({', '.join(names)})")
    )
    return Question(
        f"{asked} at {few} {_where_asked(case, mode, device)}",
        {name: value.hex() for name, value in point.items()},
        max(primal.size for primal in case.primals),
        "" if mode is None else _again(case, names[0], mode, device),
    )


def _shapes(case: Case) -> str:
    return ", ".join(str(list(primal.shape)) for primal in case.primals)


def _where_asked(case: Case, mode: Mode | None, device: str) -> str:
    return f"[{case.form.name}, {'forward' if mode is None else mode.name}, {device}]"


def _derivative(case: Case, wrt: str) -> str:
    """Name the derivative by an input."""
    if case.along is None:
        return f"d {case.tree}/d{wrt}"
    return f"d{case.order} {case.tree}/d{case.tree.leaves[case.along].name}{'2' * (case.order > 2)} d{wrt}"


def _again(case: Case, wrt: str, mode: Mode, device: str) -> str:
    """Say how to ask again: in plain torch, or where that is too large to print, by the command."""
    op = case.tree.root.op
    if sum(primal.size for primal in case.primals) <= MOST_PRINTED:
        return f"To see it in plain torch:\n\n{snippet(case, wrt, mode, device)}"
    named = f"--op {op.name} --mode {mode.name} --dtype {case.form.name} --device {device}"
    return f"Too large to print{f'; to see it again: pytest tests {named}' if isinstance(op.torch, str) else ''}"


def _spread(alike: Sequence[Miss]) -> list[str]:
    """Say how many entries of a case miss alike and, of a function of one input, in which intervals of those tried."""
    case, wrt = alike[0].whole, alike[0].wrt
    if len(alike) == 1:
        return []
    (primal,) = [p for leaf, p in zip(case.tree.leaves, case.primals, strict=True) if leaf.name == wrt]
    line = f"{len(alike):,} of {primal.size:,} entries are {alike[0].verdict}"
    if primal.shape and not case.is_pointwise:
        return [line + _where([m.index for m in alike], primal.shape)]
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


def _where(indices: Sequence[Shape], shape: Shape) -> str:
    """Say in which part of an array some entries lie, where that is less than all of it."""
    if any(len(index) != len(shape) for index in indices):
        return ""
    parts = []
    for axis, length in enumerate(shape):
        at = np.unique([index[axis] for index in indices])
        runs = f"{at[0]}" if len(at) == 1 else f"{at[0]}:{at[-1] + 1}" if at[-1] - at[0] + 1 == len(at) else None
        parts.append(":" if len(at) == length else runs or f"{len(at)} of {length}")
    return f": [{', '.join(parts)}]"


def formulas(tree: Tree, wrt: str, along: str | None = None) -> list[str]:
    """Return the function of a tree and its derivative.

    The derivative of one elementwise op is by one input, or by that of the derivative along another; a tree is
    written step by step. A tensor op is written as its entry has it.
    """
    names = _names(tree)
    if tree.is_single:
        return _step(tree.root, str(tree), names, wrt, along)
    return [line for node in tree.applications for line in _step(node, names[node], names)]


def _step(
    node: Apply, head: str, names: Mapping[Node, str], wrt: str | None = None, along: str | None = None
) -> list[str]:
    """Write what one op gives, and the derivatives of an elementwise one."""
    op = node.op
    if not isinstance(op.formula, Expr):
        return [
            f"{head} = {op.name}({', '.join(names[child] for child in node.children)}), where",
            *_source(op.formula),
        ]
    variables = {names[child]: sympy.Symbol(names[child], real=True) for child in node.children}
    places = zip(op.inputs, node.children, strict=True)
    formula = op.formula.xreplace({sympy.Symbol(name, real=True): variables[names[child]] for name, child in places})
    over = "d" if wrt else f"d{head}"
    if along is not None:
        twice = slope(slope(formula, variables[along]), variables[wrt or along])
        return [f"{head} = {_shortened(str(formula))}", f"d2/d{along} d{wrt} = {_shortened(str(twice))}"]
    derivatives = {name: slope(formula, v) for name, v in variables.items() if wrt in {None, name}}
    return [
        f"{head} = {_shortened(str(formula))}",
        *(f"{over}/d{name} = {_shortened(str(derivative))}" for name, derivative in derivatives.items()),
    ]


def _source(formula: Any) -> list[str]:
    """Return the lines of a formula in numpy."""
    try:
        lines = inspect.getsource(getattr(formula, "source", formula)).splitlines()
    except (OSError, TypeError):
        return ["    its formula is not in a file"]
    return textwrap.dedent("\n".join(lines[:MOST_LINES])).splitlines()


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
        yield replace(case, layouts=())
        yield case.repeated(REPEATS)
    elif case.layouts:
        yield replace(case, layouts=())


def snippet(case: Case, wrt: str, mode: Mode, device: str) -> str:
    """Write a case as plain torch, to be pasted; it prints the gradient by one input.

    The mode's own lines follow those that make the inputs, the ``function``, its ``output`` and the
    ``cotangent``; for forward-mode the ``tangent`` of the input that is asked for, for Jacobians the ``points``.
    """
    paths = [node.op.torch for node in case.tree.applications]
    modules = {binding.located(path)[0] for path in paths if isinstance(path, str)}
    lines = [f"import {name}" for name in sorted({"torch"} | {m for m in modules if m.split(".")[0] != "torch"})]
    for number, (leaf, primal) in enumerate(zip(case.tree.leaves, case.primals, strict=True)):
        lines += _laid_out(leaf.name, primal, case, number, device)
        if number in case.asked:
            lines.append(f"{leaf.name} = {leaf.name}.detach().requires_grad_()")
    names = [case.tree.leaves[number].name for number in case.asked]
    body = _calls(case) + [f"output = output.{case.root}()"] * (case.root != "cotangent")
    if "function" in mode.snippet:
        lines += [f"def function({', '.join(names)}):", *(f"    {line}" for line in body), "    return output"]
    else:
        lines += body
    cotangent = case.cotangent if case.root == "cotangent" else np.ones(())
    lines += _laid_out("cotangent", cotangent, case, len(case.primals), device)
    if case.direction is not None:
        lines.append(f"direction = {_tensor(case.direction, case, device)}")
    if "last_direction" in mode.snippet:
        lines.append(f"last_direction = {_tensor(case.last_direction, case, device)}")
    if "tangent" in mode.snippet.replace("cotangent", ""):
        lines.append(f"tangent = {_tensor(case.tangents[case.asked[names.index(wrt)]], case, device)}")
    if "*points" in mode.snippet:
        flat = ".flatten()" if case.is_pointwise else ""
        lines.append(f"points = [x.detach(){flat} for x in ({', '.join(names)},)]")
    number, numbers = names.index(wrt), tuple(range(len(names)))
    at = 0 if case.along is None else case.asked.index(case.along)
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
        block="" if case.is_pointwise else f".reshape(cotangent.numel(), {names[at]}.numel(), -1)[:, 0]",
    )
    return "\n".join([*lines, asked])


def _laid_out(name: str, values: Floats, case: Case, number: int, device: str) -> list[str]:
    """Write a tensor, and how it lies in memory."""
    layout = case.layout(number)
    lines = [f"{name} = {_tensor(values, case, device)}"]
    if not binding.applies(layout, values):
        return lines
    if isinstance(layout, str):
        return [*lines, f"{name} = {LAYOUTS[layout].format(name)}"]
    strides, offset = layout
    memory = f"{name}.new_zeros({binding.spanned(values.shape, strides, offset)})"
    place = f"{memory}.as_strided({values.shape}, {strides}, {offset})"
    return [*lines, f"{name} = {place}.copy_({name})"]


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


def _calls(case: Case) -> list[str]:
    names = _names(case.tree)
    inputs = [Input((), primal.shape, leaf.name) for leaf, primal in zip(case.tree.leaves, case.primals, strict=True)]
    shapes = {node: step.shape for node, step in case.tree.traced(inputs, case.seed).items()}
    lines = [
        line
        for node in case.tree.applications
        for line in binding.steps(
            node,
            names[node],
            [names[child] for child in node.children],
            [shapes[child] for child in node.children],
            case.seed,
        )
    ]
    return lines if len(case.outputs) == 1 else [*lines, _joined(case)]


def _joined(case: Case) -> str:
    """Write how several outputs are put one behind the other, those without a cotangent detached."""
    names = [f"output[{i}]{'.detach()' * (i in case.silent)}" for i in range(len(case.outputs))]
    batch = len(case.batch)
    parts = [
        f"{name}.flatten({batch})" if shape else f"{name}.unsqueeze(-1)"
        for name, shape in zip(names, case.outputs, strict=True)
    ]
    return f"output = torch.cat([{', '.join(parts)}], -1)"


def _names(tree: Tree) -> dict[Node, str]:
    """Name the nodes of a tree: the inputs by their names, the root output."""
    steps = {node: "output" if node is tree.root else f"t{number}" for number, node in enumerate(tree.applications)}
    return {leaf: leaf.name for leaf in tree.leaves} | steps
