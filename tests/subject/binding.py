"""From an entry, a tree and a case to torch."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reference.case import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference.case import Case
    from reference.format import Floats, Format
    from reference.graph import Shape
    from reference.op import Op
    from reference.tree import Apply, Node, Tree


class BindingError(ValueError):
    """The dotted path of an entry leads nowhere."""


@cache
def located(path: str) -> tuple[str, Callable[..., Any]]:
    """Return the module in which a dotted path lies, and the callable; raises BindingError."""
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part, None)
        if callable(found):
            return module, found
        break
    message = f"torch={path!r}; accepted: the dotted path of something callable"
    raise BindingError(message)


def resolve(path: str) -> Callable[..., Any]:
    """Return the callable at a dotted path; raises BindingError where there is none."""
    return located(path)[1]


def call(op: Op, seed: int = 0) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    """Return the call that an entry describes, as a function of the list of its inputs.

    The seed is that of the tensors that are not differentiated.
    """
    target = resolve(op.torch)

    def called(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        shapes = [tuple(x.shape) for x in inputs]
        context = {k: torch.tensor(v, device=inputs[0].device) for k, v in op.context(shapes, seed).items()}
        named = dict(zip(op.keywords, inputs, strict=True)) if op.keywords else {}
        positional: tuple[Any, ...] = () if op.keywords else (tuple(inputs),) if op.packed else tuple(inputs)
        result: torch.Tensor = target(*op.leading, *positional, **named, **op.settings(shapes), **context)
        return result

    return called


def written(op: Op, inputs: Sequence[str], shapes: Sequence[Shape], seed: int) -> str:
    """Write the call that `call` makes, with names for the inputs, of which it takes the shapes."""
    arguments = [repr(value) for value in op.leading]
    if op.keywords:
        arguments += [f"{k}={name}" for k, name in zip(op.keywords, inputs, strict=True)]
    else:
        arguments += [f"({', '.join(inputs)},)"] if op.packed else inputs
    arguments += [f"{k}={value!r}" for k, value in op.settings(shapes).items()]
    arguments += [
        f"{k}=torch.tensor({np.asarray(v).tolist()!r}, device={inputs[0]}.device)"
        for k, v in op.context(shapes, seed).items()
    ]
    return f"{op.torch}({', '.join(arguments)})"


def in_place(node: Apply) -> str | None:
    """Return torch's method that applies a node in place, where that is asked for and torch has one."""
    name = node.op.torch.removeprefix("torch.")
    return f"{name}_" if node.manner != "call" and "." not in name and hasattr(torch.Tensor, f"{name}_") else None


def applied(node: Apply, seed: int) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    """Return a node's call in the manner it asks for: what is overwritten is a copy."""
    method, kwargs = in_place(node), node.op.kwargs
    if method is None:
        return call(node.op, seed)

    def overwriting(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        result: torch.Tensor = getattr(inputs[0].clone(), method)(**kwargs)
        return result

    def through_view(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        base = inputs[0].clone().unsqueeze(0)
        getattr(base[0], method)(**kwargs)
        return base.squeeze(0)

    return overwriting if node.manner == "in_place" else through_view


def steps(node: Apply, result: str, inputs: Sequence[str], shapes: Sequence[Shape], seed: int) -> list[str]:
    """Write what `applied` does, with a name for the result and for the inputs."""
    method = in_place(node)
    if method is None:
        return [f"{result} = {written(node.op, inputs, shapes, seed)}"]
    call = f"{method}({', '.join(f'{k}={v!r}' for k, v in node.op.kwargs.items())})"
    if node.manner == "in_place":
        return [f"{result} = {inputs[0]}.clone().{call}"]
    return [
        f"{result} = {inputs[0]}.clone().unsqueeze(0)",
        f"{result}[0].{call}",
        f"{result} = {result}.squeeze(0)",
    ]


def function(tree: Tree, seed: int = 0) -> Callable[..., torch.Tensor]:
    """Return the tree as a function of tensors."""
    nodes: list[Node] = [*tree.leaves, *tree.applications]
    places = {node: number for number, node in enumerate(nodes)}
    calls = [(applied(node, seed), [places[child] for child in node.children]) for node in tree.applications]

    def evaluate(*inputs: torch.Tensor) -> torch.Tensor:
        values = list(inputs)
        for called, arguments in calls:
            values.append(called([values[place] for place in arguments]))
        return values[-1]

    return evaluate


def dtype(form: Format) -> torch.dtype:
    """Return torch's dtype of a format."""
    found: torch.dtype = getattr(torch, form.name)
    return found


def tensor(values: Floats, form: Format, device: str, layout: str = "contiguous") -> torch.Tensor:
    """Return exact values of a format as a tensor whose elements lie in memory as asked."""
    dense = torch.tensor(np.array(values), dtype=torch.float64).to(dtype(form)).to(device)
    if not applies(layout, values):
        return dense
    match layout:
        case "transposed":
            return dense.transpose(0, -1).contiguous().transpose(0, -1)
        case "strided":
            return torch.stack([dense, torch.zeros_like(dense)], dim=-1).flatten(-2)[..., ::2]
        case "offset":
            return torch.cat([dense.new_zeros(1), dense.flatten()])[1:].view(dense.shape)
        case "expanded":
            return dense[:1].expand(dense.shape)
        case "channels_last":
            return dense.contiguous(memory_format=torch.channels_last)
        case _:
            return dense


def applies(layout: str, values: Floats) -> bool:
    """Say whether a layout changes anything, and can: only equal rows can be expanded from one."""
    if layout == "contiguous" or not LAYOUTS[layout](values.shape):
        return False
    return layout != "expanded" or bool((values == values[:1]).all())


def leaves(case: Case, device: str) -> list[torch.Tensor]:
    """Return the inputs of a case as leaves that require grad."""
    layouts = case.layouts or ("contiguous",) * len(case.primals)
    return [
        tensor(values, case.form, device, layout).detach().requires_grad_()
        for values, layout in zip(case.primals, layouts, strict=True)
    ]


def read(gradient: torch.Tensor) -> Floats:
    """Return a tensor's exact values on the host as float64."""
    values: Floats = gradient.detach().cpu().to(torch.float64).numpy(force=True)
    return values
