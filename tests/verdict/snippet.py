"""A case as plain torch, to be pasted: what a reader needs to see a failure without this project."""

from __future__ import annotations

import math
import sys
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from reference.graph import Input
from tests.subject import binding
from tests.verdict.formula import names_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reference.case import Case
    from reference.format import Floats
    from reference.graph import Shape
    from reference.op import Op
    from tests.subject.mode import Mode


LAYOUT_CODE = {
    "contiguous": "{0}",
    "transposed": "{0}.transpose(0, -1).contiguous().transpose(0, -1)",
    "strided": "torch.stack([{0}, torch.zeros_like({0})], dim=-1).flatten(-2)[..., ::2]",
    "offset": "torch.cat([{0}.new_zeros(1), {0}.flatten()])[1:].view({0}.shape)",
    "expanded": "{0}[:1].expand({0}.shape)",
    "channels_last": "{0}.contiguous(memory_format=torch.channels_last)",
}
"""How plain torch lays a tensor out, as `tests.subject.binding.tensor` does."""

FIRST = ".reshape(cotangent.numel(), {along}.numel(), *{wrt}.shape)[:, :1].sum(1)"
"""What is taken of a Hessian: the part by the first element of the input by which it is differentiated first."""

MOST_SHOWN = 16
"""Entries of a gradient up to which a snippet prints all of it. The number is arbitrary."""

LONGEST_PERIOD = 65
"""Values that repeat with a shorter period are written once: `REPEATS` of a point, and those of a `PERIOD`, do."""

MOST_DIGITS = 12
"""Characters of a number that is written in decimals, which are exact; longer ones are hex floats."""


def snippet(case: Case, wrt: str, mode: Mode, device: str, index: Shape = ()) -> str:
    """Write a case as plain torch, to be pasted; it prints the gradient by the input `wrt`.

    Of a large gradient it prints the entry at `index` alone, where the mode gives the gradient in its own shape.

    First come the inputs, the ``function``, its ``output`` and the ``cotangent``, and what else the mode's own lines
    name: the ``tangent`` of the input that is asked for, the ``direction`` and ``last_direction`` of a higher order,
    and for Jacobians the ``points``. Then come those lines.
    """
    lines = _imports(node.op for node in case.tree.applications)
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
    if "tangent" in mode.snippet.replace("cotangent", ""):  # the one word ends in the other
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
        block="" if case.is_pointwise else FIRST.format(along=names[at], wrt=wrt),
    )
    # A Jacobian, and the change along a tangent, have entries of another shape than the input's.
    is_large = prod(case.primals[case.asked[number]].shape) > MOST_SHOWN
    if index and is_large and mode.word == "r" and not mode.whole and not case.each:
        asked = asked.replace(".detach().flatten()", f".detach()[{', '.join(map(str, index))}].flatten()")
    return "\n".join([*lines, asked])


def _imports(ops: Iterable[Op]) -> list[str]:
    """Write what a snippet imports, or that a callable without a path of its own has to be at hand."""
    plain, others = {"import torch"}, set()
    for op in ops:
        if isinstance(op.torch, str):
            module = binding.located(op.torch)[0]
            plain |= {f"import {module}"} if module.split(".")[0] != "torch" else set()
            continue
        module, first = getattr(op.torch, "__module__", ""), op.path.split(".")[0]
        found = None if module == "__main__" else _found(module, op.path)
        is_there = found is not None and found == getattr(op.torch, "whole", op.torch)
        others.add(f"from {module} import {first}" if is_there else f"# {op.path} is what was asked, of these inputs")
    return [*sorted(plain), *sorted(others)]


def _found(module: str, path: str) -> Any:
    """Return what has a path in a module that is imported, or None."""
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def watching(text: str, name: str) -> str:
    """Have a snippet say how many elements of a tensor have changed; as it is where the tensor has no name in it."""
    lines = text.splitlines()
    # a tensor is laid out, detached and so on under one name: it is kept as it is when all of that is done
    made = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
    if not made:
        return text
    kept = f"given = {name}.detach().clone()"
    changed = f"print((given != {name}.detach()).sum().item(), 'elements of {name} have changed')"
    return "\n".join([*lines[: made[-1] + 1], kept, *lines[made[-1] + 1 :], changed])


def _laid_out(name: str, values: Floats, case: Case, number: int, device: str) -> list[str]:
    """Write a tensor by name, and how it lies in memory; `number` is its place among the layouts of the case."""
    layout = case.layout(number)
    lines = [f"{name} = {_tensor(values, case, device)}"]
    if not binding.applies(layout, values):
        return lines
    if isinstance(layout, str):
        return [*lines, f"{name} = {LAYOUT_CODE[layout].format(name)}"]
    strides, offset = layout
    memory = f"{name}.new_zeros({binding.spanned(values.shape, strides, offset)})"
    place = f"{memory}.as_strided({values.shape}, {strides}, {offset})"
    return [*lines, f"{name} = {place}.copy_({name})"]


def _tensor(values: Floats, case: Case, device: str) -> str:
    """Write exact values: short ones in decimals, others as hex floats, and those that repeat once."""
    kind = f"dtype=torch.{case.form.name}, device={device!r}"
    if not values.ndim:
        return f"torch.tensor(float.fromhex({float(values[()]).hex()!r}), {kind})"
    period = next((n for n in range(1, LONGEST_PERIOD) if _repeats(values.ravel(), n)), values.size)
    once = values.ravel()[:period].tolist()
    if any(len(repr(v)) > MOST_DIGITS or not math.isfinite(v) for v in once):
        numbers = f"[float.fromhex(v) for v in [{', '.join(repr(v.hex()) for v in once)}]]"
    else:
        numbers = repr(once)
    # `-(-n // m)` rounds up: the last repetition may be cut off
    often = "" if period == values.size else f".repeat({-(-values.size // period)})[:{values.size}]"
    return f"torch.tensor({numbers}, {kind}){often}.reshape({values.shape})"


def _repeats(values: Floats, period: int) -> bool:
    """Say whether values repeat with a period, bit by bit: so that 0 and -0, which are equal, are told apart."""
    return period < values.size and values[period:].tobytes() == values[:-period].tobytes()


def _calls(case: Case) -> list[str]:
    """Write the calls of a case, from its inputs to the ``output``."""
    names, leaves = names_of(case.tree), case.tree.leaves
    given = [leaf.shape if case.each else primal.shape for leaf, primal in zip(leaves, case.primals, strict=True)]
    inputs = [Input((), shape, leaf.name) for leaf, shape in zip(leaves, given, strict=True)]
    # what some ops take besides their inputs depends on shapes, which follow from those of the leaves
    shapes = {node: step.shape for node, step in case.tree.traced(inputs, case.seed).items()}
    lines = []
    for node in case.tree.applications:
        children = [names[child] for child in node.children]
        lines += binding.steps(node, names[node], children, [shapes[child] for child in node.children], case.seed)
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
