"""What a failing test says: what, where, got, should be, how far, how sure, and how to see it again."""

from __future__ import annotations

import inspect
import math
import textwrap
from dataclasses import replace
from functools import cached_property
from math import prod
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from sympy import Expr

from reference.case import NARROW, PROMISES
from reference.graph import Input
from reference.oracle import answer
from reference.transform import slope
from tests.subject import binding
from tests.verdict.comparison import REPEATS, Miss, UnsupportedError, judged
from tests.verdict.diagnosis import SECONDS, diagnosed, seen
from tests.verdict.isolation import Question
from tests.verdict.pattern import described, labelled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reference.case import Case
    from reference.format import Floats
    from reference.graph import Shape
    from reference.tree import Apply, Node, Tree
    from tests.subject.mode import Mode

LONGEST = 400
"""Characters of a formula that are shown: a derivative of a large tensor op fills pages."""

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


LONGEST_SNIPPET = 4000
"""Characters of a snippet that is printed; a screen or two."""

MOST_SHOWN = 16
"""Entries of a gradient that a snippet prints."""

MOST_VALUES = 8
"""Elements of inputs that a headline has the values of; of more it has the shapes."""

PERIOD = 13
"""Values that are repeated in the place of a large tensor's, to see whether it still misses: a prime, so that they come
at every place of a block."""

LONGEST_PERIOD = 65
"""Values that repeat with a shorter period are written once."""

SIMPLE_BITS = 3
"""Significant bits of values that are tried in the place of others: they are short in decimals."""

MOST_DIGITS = 12
"""Characters of a number that is written in decimals, which are exact; longer ones are hex floats."""

MOST_INTERVALS = 4
"""Intervals of misses that are shown."""


class DisagreementError(AssertionError):
    """A gradient is not what it should be; the explanation is written when it is read."""

    is_brief = False
    """Whether a line is enough, since the same was explained before."""

    def __init__(self, misses: Sequence[Miss], mode: Mode, device: str) -> None:
        """Keep what the explanation needs: the misses of one case, of which the first is explained."""
        super().__init__(misses, mode, device)
        self.miss, self._misses, self._mode, self._device = misses[0], misses, mode, device

    def __str__(self) -> str:
        """Explain the first miss."""
        return self.line if self.is_brief else self._explanation

    @cached_property
    def _explanation(self) -> str:
        return explained(self._misses, self._mode, self._device)

    @property
    def about(self) -> str:
        """The name of the op, or ``tree`` where there are several."""
        tree = self.miss.case.tree
        return tree.root.op.name if tree.is_single else "tree"

    @property
    def line(self) -> str:
        """The verdict, how far off and where, in a line."""
        miss = self.miss
        if miss.verdict == "malformed":
            return f"malformed: {miss.got}"
        at = f" at {list(miss.index)}" if miss.index else ""
        if miss.case.is_pointwise and miss.case.points == 1:
            at = f" at {_point(miss)}"
        far = f", {miss.share:.3g} times the allowance" if np.isfinite(miss.share) else ""
        return f"{miss.verdict}{far}: d{miss.wrt}{at} is {miss.got}, should be {miss.expected}"


def explained(misses: Sequence[Miss], mode: Mode, device: str) -> str:
    """Explain the first of some misses of a case, so that a reader can check it without this project."""
    miss = misses[0]
    tree = miss.case.tree
    shown = reproducing(miss, mode, device)
    along = None if miss.case.along is None else tree.leaves[miss.case.along].name
    is_whole = shown.whole is miss.whole or bool(shown.whole.layouts)
    lines = [*headline(miss, mode, device, is_whole=is_whole), *_distances(miss)]
    if miss.verdict != "malformed":
        lines += _spread([m for m in misses if (m.verdict, m.wrt) == (miss.verdict, miss.wrt)], mode, device)
    lines += ["what is due is what the entry states at this point"] * bool(miss.case.stated)
    lines += ["", *formulas(tree, miss.wrt, along), ""]
    text = snippet(shown.whole, miss.wrt, mode, device, shown.index)
    if shown.overwritten is not None:
        text = _watching(text, shown.overwritten.name)
    again = _asked_again(text, miss.case, mode, device, _simpler(shown, miss))
    return "\n".join([*lines, again])


def _asked_again(text: str | None, case: Case, mode: Mode, device: str, simpler: str = "") -> str:
    """Say how to ask again: by a snippet of plain torch, or by the command where there is none short enough."""
    if text is not None and len(text) <= LONGEST_SNIPPET:
        return f"To see it in plain torch{simpler}:\n\n{text}"
    op = case.tree.root.op
    catalogue = f"--catalogue {op.file} " if op.file else ""
    named = f"{catalogue}--op {op.name} --mode {mode.name} --dtype {case.form.name} --device {device}"
    return f"Too large to print{f'; to see it again: pytest tests {named}' if isinstance(op.torch, str) else ''}"


def question(case: Case, mode: Mode | None, device: str) -> Question:
    """Describe what torch is asked before it is: the derivative of a case in a mode, or without one its value."""
    names = [case.tree.leaves[number].name for number in case.asked]
    point = Miss("", names[0], case, case, "").point
    few = ", ".join(f"{name}={value.hex()}" for name, value in list(point.items())[:MOST_WRITTEN])
    if len(point) != 1:
        few = f"inputs {_asked(case)}{f'; {few}' if few else ''}{', ...' if len(point) > MOST_WRITTEN else ''}"
    asked = (
        str(case.tree) if mode is None else _derivative(case, names[0] if len(names) == 1 else f"({', '.join(names)})")
    )
    again = ""
    if mode is not None:
        is_small = sum(primal.size for primal in case.primals) <= LONGEST_SNIPPET  # writing takes long, else
        again = _asked_again(snippet(case, names[0], mode, device) if is_small else None, case, mode, device)
    return Question(
        f"{asked} at {few} {_where_asked(case, mode, device)}",
        {name: value.hex() for name, value in point.items()},
        max(primal.size for primal in case.primals),
        again,
    )


def _where_asked(case: Case, mode: Mode | None, device: str) -> str:
    return f"[{case.form.name}, {'forward' if mode is None else mode.name}, {device}]"


def _derivative(case: Case, wrt: str) -> str:
    """Name the derivative by an input."""
    if case.along is None:
        return f"d {case.tree}/d{wrt}"
    return f"d{case.order} {case.tree}/d{case.tree.leaves[case.along].name}{'2' * (case.order > 2)} d{wrt}"


def _simpler(shown: Miss, miss: Miss) -> str:
    """Say what a snippet of other inputs than those of the miss prints."""
    if (shown.got, shown.expected) == (miss.got, miss.expected) or miss.verdict == "malformed":
        return ""
    at = f" at {list(shown.index)}" if shown.index else ""
    return f", of simpler inputs, where {shown.got} comes{at} and {shown.expected} is due"


def headline(miss: Miss, mode: Mode, device: str, *, is_whole: bool) -> list[str]:
    """Say which derivative is wrong, where and how it was asked for, what came and what is due.

    That of a point has its inputs; where the miss needs the whole case, that has its shapes and layouts.
    """
    tree, case = miss.case.tree, miss.whole if is_whole or not miss.case.is_pointwise else miss.case
    where = _where_asked(case, mode, device)
    if miss.overwritten is not None:
        said = f'; an entry that means to says overwrites=("{miss.overwritten.name}",)'
        is_input = tree.is_single and miss.overwritten.name in tree.root.op.inputs
        return [f"{tree} of {_asked(case)} {where} is malformed:", f"{miss.got}{said * is_input}"]
    elements = sum(primal.size for primal in case.primals)
    if elements <= MOST_VALUES:
        at = "; ".join(filter(None, [_point(miss), _manner(case)]))
    else:
        at = f"{list(miss.index)} of {_asked(case)}" if miss.index else _asked(case)
    sure = "" if miss.truth is None else f" (certified to {miss.truth.str(20)})"
    return [
        f"{_derivative(case, miss.wrt)} at {at} {where} is {miss.verdict}:",
        f"got {miss.got}, should be {miss.expected}{sure}",
    ]


def _point(miss: Miss) -> str:
    return ", ".join(f"{name}={value.hex()}" for name, value in miss.point.items())


def _asked(case: Case) -> str:
    """Say of what shapes the inputs of a case are, how they lie in memory, and how the derivative is asked for."""
    inputs = [
        f"{leaf.name}{list(primal.shape)}{_lying(primal, case, number)}"
        for number, (leaf, primal) in enumerate(zip(case.tree.leaves, case.primals, strict=True))
    ]
    return "; ".join(filter(None, [", ".join(inputs), _manner(case)]))


def _lying(values: Floats, case: Case, number: int) -> str:
    """Say how a tensor lies in memory, where it is not contiguous."""
    layout = case.layout(number)
    if not binding.applies(layout, values):
        return ""
    return f" {layout}" if isinstance(layout, str) else f" with strides {layout[0]}, offset {layout[1]}"


def _manner(case: Case) -> str:
    """Say which inputs require grad, and what the cotangent is, where either is out of the ordinary."""
    said = []
    every = case.tree.root.op.differentiable if case.tree.is_single else tuple(range(len(case.primals)))
    if case.asked != every:
        said.append(f"only {' and '.join(case.tree.leaves[number].name for number in case.asked)} requires grad")
    if case.silent:
        loud = [f"output[{number}]" for number in range(len(case.outputs)) if number not in case.silent]
        said.append(f"{' and '.join(loud)} alone has a cotangent")
    elif case.root != "cotangent":
        said.append(f"of the {case.root}")
    elif case.cotangent.ndim:
        (places,) = np.nonzero(case.cotangent.any(tuple(range(case.cotangent.ndim - 1))))
        is_last = case.cotangent.shape[-1] > 1 and places.tolist() == [case.cotangent.shape[-1] - 1]
        said.append("cotangent of the last element alone" if is_last else "")
    lying = _lying(case.cotangent, case, len(case.primals)) if case.root == "cotangent" else ""
    said.append(f"cotangent{lying}" if lying else "")
    return "; ".join(filter(None, said))


def _distances(miss: Miss) -> list[str]:
    """Say how far off an entry is, and in a 16-bit format how far by each promise."""
    if not np.isfinite(miss.ulp):
        return []
    line = f"off by {miss.ulp:.3g} ulp, {miss.share:.3g} times the rounding allowance"
    case = miss.whole
    if case.form.bits > NARROW or case.is_pointwise or not miss.index:
        return [line]
    place, got = [case.tree.leaves[n].name for n in case.asked].index(miss.wrt), float.fromhex(miss.got)
    shares = []
    for promise in PROMISES:
        found = answer(replace(case, promise=promise))[place]
        off = abs(got - float(found.centre[miss.index]) - float(found.rest[miss.index]))
        allowed = float(found.radius[miss.index] + abs(found.offset[miss.index]))
        share = off / allowed if allowed else np.inf if off else 0.0
        shares.append(f"{share:.3g} by {promise}")
    return [f"{line}: {', '.join(shares)}; {case.inside} is asked of it"]


def _spread(alike: Sequence[Miss], mode: Mode, device: str) -> list[str]:
    """Say of each gradient which of its entries are wrong and what they are instead.

    Of a function of one input it is said in which intervals of those tried.
    """
    miss, case = alike[0], alike[0].whole
    every = seen(case, mode, device)
    if not any(one.wrong.any() for one in every) or all(one.got.size == 1 for one in every):
        return _intervals(alike)
    inputs = {leaf.name: primal for leaf, primal in zip(case.tree.leaves, case.primals, strict=True)}
    shapes = [primal.shape for primal in case.primals]
    contexts = case.tree.root.op.context(shapes, case.seed) if case.tree.is_single else {}
    lines = []
    for one in sorted(every, key=lambda one: one.name != miss.wrt):
        if not one.wrong.any():
            continue
        which = _tried(alike) if len(every) == len(inputs) == 1 and case.is_pointwise else ""
        which = which or (described(one.wrong, inputs) if one.wrong.size > 1 else "")
        line = f"d{one.name}: {int(one.wrong.sum()):,} of {one.wrong.size:,} entries are wrong"
        said = [f"{line}: {which}" if which else line, labelled(one.wrong, contexts), diagnosed(one, every, case)]
        lines.append("; ".join(filter(None, said)))
    right = [f"d{one.name}" for one in every if not one.wrong.any()]
    return [*lines, f"{', '.join(right)} {'is' if len(right) == 1 else 'are'} right"] if right else lines


def _intervals(alike: Sequence[Miss]) -> list[str]:
    """Say how many entries of a case miss alike, and where."""
    case, wrt = alike[0].whole, alike[0].wrt
    if len(alike) == 1:
        return []
    (primal,) = [p for leaf, p in zip(case.tree.leaves, case.primals, strict=True) if leaf.name == wrt]
    line = f"{len(alike):,} of {primal.size:,} entries are {alike[0].verdict}"
    return [f"{line}: {which}" if (which := _tried(alike)) else line]


def _tried(alike: Sequence[Miss]) -> str:
    """Say in which intervals of the values tried a function of one input misses, where that is so of few."""
    case, wrt = alike[0].whole, alike[0].wrt
    if len(case.primals) > 1 or wrt not in alike[0].point or not case.is_pointwise:
        return ""
    tried = np.unique(case.primals[0])
    missed = np.isin(tried, [m.point[wrt] for m in alike])
    edges = np.diff(missed.astype(int), prepend=0, append=0)
    runs = [
        f"[{tried[a]:.6g}, {tried[b - 1]:.6g}]" if b - a > 1 else f"{{{tried[a]:.6g}}}"
        for a, b in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
    ]
    return "" if missed.all() or len(runs) > MOST_INTERVALS else f"{wrt} in {', '.join(runs)}"


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


def reproducing(miss: Miss, mode: Mode, device: str) -> Miss:
    """Return a miss of the same kind in the smallest case that still shows one.

    It is the point, the point repeated, one of fewer rows or simpler values, or the whole.
    """
    until = monotonic() + SECONDS
    for case in _smaller(miss):
        if monotonic() > until:
            break
        try:
            misses = judged(case, mode, device).misses
        except UnsupportedError:
            continue
        for other in misses:
            if (other.verdict, other.wrt, _told(other)) == (miss.verdict, miss.wrt, _told(miss)):
                return other
    return miss


def _told(miss: Miss) -> str | None:
    return None if miss.overwritten is None else miss.overwritten.name


def _smaller(miss: Miss) -> Iterator[Case]:
    """Yield cases that are shorter to print, the shortest first."""
    case, whole = miss.case, miss.whole
    found = [replace(case, layouts=())] if case.batch == () or case.layouts else []
    if case.is_pointwise and case.batch == ():
        found.append(case.repeated(REPEATS))
    found += [rows for count in (1, 2, 16) if (rows := _rows(whole, count)) is not None]
    for each in (*found, whole):
        if each.is_pointwise and each.points == 1:
            yield each
        elif each.along is None and each.tree.is_single:
            yield _periodic(each, SIMPLE_BITS)
            yield _periodic(each, each.form.precision)
        if not (each.is_pointwise and each.points == 1) and each is not whole:
            yield each


def _rows(case: Case, count: int) -> Case | None:
    """Return the first rows of a case whose batch has one dimension, and more of them."""
    if len(case.batch) != 1 or case.batch[0] <= count or any(b not in {(), case.batch} for b in case.batches):
        return None
    primals = tuple(p[:count] if batch else p for p, batch in zip(case.primals, case.batches, strict=True))
    cotangent = case.cotangent[:count] if case.root == "cotangent" else case.cotangent
    named = all(isinstance(layout, str) for layout in case.layouts)
    return replace(case, primals=primals, cotangent=cotangent, layouts=case.layouts if named else ())


def _periodic(case: Case, bits: int) -> Case:
    """Repeat the first values of each tensor, of so many bits, which are then written once.

    A cotangent of few elements stays as it is.
    """

    def repeated(values: Floats) -> Floats:
        mantissa, exponent = np.frexp(np.resize(values.ravel()[:PERIOD], values.shape))
        rounded: Floats = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
        return rounded

    is_probe = np.count_nonzero(case.cotangent) * 2 < case.cotangent.size
    cotangent = case.cotangent if is_probe or case.root != "cotangent" else repeated(case.cotangent)
    return replace(case, primals=tuple(map(repeated, case.primals)), cotangent=cotangent, independent=False)


def _watching(text: str, name: str) -> str:
    """Have a snippet say how many elements of a tensor have changed, where that has a name in it."""
    lines = text.splitlines()
    made = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
    if not made:
        return text
    kept = f"given = {name}.detach().clone()"
    changed = f"print((given != {name}.detach()).sum().item(), 'elements of {name} have changed')"
    return "\n".join([*lines[: made[-1] + 1], kept, *lines[made[-1] + 1 :], changed])


def snippet(case: Case, wrt: str, mode: Mode, device: str, index: Shape = ()) -> str:
    """Write a case as plain torch, to be pasted; it prints the gradient by one input.

    Of a large gradient it prints the entry of an index, where the mode gives the gradient in its own shape.

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
    is_large = prod(case.primals[case.asked[number]].shape) > MOST_SHOWN
    if index and is_large and mode.word == "r" and not mode.whole and not case.each:
        asked = asked.replace(".detach().flatten()", f".detach()[{', '.join(map(str, index))}].flatten()")
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
    shown = values.ravel()[:period].tolist()
    if any(len(repr(v)) > MOST_DIGITS or not math.isfinite(v) for v in shown):
        numbers = f"[float.fromhex(v) for v in [{', '.join(repr(v.hex()) for v in shown)}]]"
    else:
        numbers = repr(shown)
    often = "" if period == values.size else f".repeat({-(-values.size // period)})[:{values.size}]"
    return f"torch.tensor({numbers}, {kind}){often}.reshape({values.shape})"


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
