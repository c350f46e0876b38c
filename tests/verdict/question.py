"""What torch is asked, in words, and how to ask it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.subject import binding
from tests.verdict.comparison import Miss
from tests.verdict.isolation import Question
from tests.verdict.snippet import snippet

if TYPE_CHECKING:
    from reference.case import Case
    from reference.format import Floats
    from tests.subject.mode import Mode


MOST_WRITTEN = 8
"""Elements of inputs that are written in the line of what was asked. The number is arbitrary."""

LONGEST_SNIPPET = 4000
"""Characters of a snippet that is printed: a screen or two."""


def question(case: Case, mode: Mode | None, device: str) -> Question:
    """Describe what torch is asked before it is: the derivative of a case in a mode, or without one its value."""
    names = [case.tree.leaves[number].name for number in case.asked]
    point = Miss("", names[0], case, case, "").point  # no miss: it is how a miss would name the inputs
    few = ", ".join(f"{name}={value.hex()}" for name, value in list(point.items())[:MOST_WRITTEN])
    if len(point) != 1:
        few = f"inputs {inputs_of(case)}{f'; {few}' if few else ''}{', ...' if len(point) > MOST_WRITTEN else ''}"
    by = names[0] if len(names) == 1 else f"({', '.join(names)})"
    asked = str(case.tree) if mode is None else derivative(case, by)
    again = ""
    if mode is not None:
        # a snippet of more numbers is seldom printed, and writing it takes long
        is_small = sum(primal.size for primal in case.primals) <= LONGEST_SNIPPET
        again = asked_again(snippet(case, names[0], mode, device) if is_small else None, case, mode, device)
    return Question(
        f"{asked} at {few} {where_asked(case, mode, device)}",
        {name: value.hex() for name, value in point.items()},
        max(primal.size for primal in case.primals),
        again,
    )


def asked_again(text: str | None, case: Case, mode: Mode, device: str, simpler: str = "") -> str:
    """Say how to ask again: by a snippet of plain torch, or by a command where there is none that is short enough.

    `simpler` says what the snippet prints where its inputs are simpler than those that were asked.
    """
    if text is not None and len(text) <= LONGEST_SNIPPET:
        return f"To see it in plain torch{simpler}:\n\n{text}"
    op = case.tree.root.op
    catalogue = f"--catalogue {op.file} " if op.file else ""
    # a callable without a dotted path is that of `assert_gradient`, which no command knows
    named = f"{catalogue}--op {op.name} --mode {mode.name} --dtype {case.form.name} --device {device}"
    return f"Too large to print{f'; to see it again: pytest tests {named}' if isinstance(op.torch, str) else ''}"


def where_asked(case: Case, mode: Mode | None, device: str) -> str:
    """Name the format, the mode, and the device; a value, which no mode asks for, is of the mode ``forward``."""
    return f"[{case.form.name}, {'forward' if mode is None else mode.name}, {device}]"


def derivative(case: Case, wrt: str) -> str:
    """Name the derivative by an input: ``d f/dx``, or of a higher order ``d2 f/dx dy`` and ``d3 f/dx2 dy``."""
    if case.along is None:
        return f"d {case.tree}/d{wrt}"
    return f"d{case.order} {case.tree}/d{case.tree.leaves[case.along].name}{'2' * (case.order > 2)} d{wrt}"


def point_of(miss: Miss) -> str:
    """Write the inputs at which a miss happened, as hex floats."""
    return ", ".join(f"{name}={value.hex()}" for name, value in miss.point.items())


def inputs_of(case: Case) -> str:
    """Say of what shapes the inputs of a case are, how they lie in memory, and how the derivative is asked for."""
    inputs = [
        f"{leaf.name}{list(primal.shape)}{_lying(primal, case, number)}"
        for number, (leaf, primal) in enumerate(zip(case.tree.leaves, case.primals, strict=True))
    ]
    return "; ".join(filter(None, [", ".join(inputs), manner(case)]))


def _lying(values: Floats, case: Case, number: int) -> str:
    """Say how a tensor lies in memory, where it is not contiguous."""
    layout = case.layout(number)
    if not binding.applies(layout, values):
        return ""
    return f" {layout}" if isinstance(layout, str) else f" with strides {layout[0]}, offset {layout[1]}"


def manner(case: Case) -> str:
    """Say which inputs require grad, and what the cotangent is, where either is out of the ordinary."""
    said = []
    # what an entry says that it differentiates by is in the ordinary
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
