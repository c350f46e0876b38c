"""From an entry, a tree and a case to torch: the callables, the tensors, and the same in plain torch to be pasted."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reference.case import LAYOUTS
from tests.subject import custody

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from reference.case import Case, Layout
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
    # from the longest module on, since a package need not have its modules as attributes until they are imported
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


def resolve(path: str | Callable[..., Any]) -> Callable[..., Any]:
    """Return the callable at a dotted path, or one itself; raises BindingError where there is none."""
    return located(path)[1] if isinstance(path, str) else path


def call(op: Op, seed: int = 0, *, keeps: bool = False) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    """Return the call that an entry describes, as a function of the list of its inputs.

    The seed is that of the contexts, the tensors that are not differentiated. With `keeps` they are noted in the
    custody that watches, if any: only outside of a transform, inside of which tensors have no values to compare.
    """
    target = resolve(op.torch)
    drawn: dict[tuple[Shape, ...], dict[str, Any]] = {}

    def called(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        shapes = tuple(tuple(x.shape) for x in inputs)
        known = drawn.get(shapes)
        if known is None:
            known = {name: _given(value, inputs[0]) for name, value in op.known(shapes, seed).items()}
            for name in op.contexts if keeps else ():
                custody.keep(name, known[name])
            # Compiled functions must not draw, so that they are called once before, without a graph, and what is drawn
            # then is kept. Tensors that are made inside a transform cannot leave it.
            if not torch.is_grad_enabled():
                drawn[shapes] = known
        # torch refuses to overwrite a leaf that requires grad
        taken = [x.clone() if name in op.overwrites else x for name, x in zip(op.inputs, inputs, strict=True)]
        positional, named = op.arranged(taken, known, shapes)
        result: torch.Tensor = target(*positional, **named)
        return result

    return called


def _given(value: Any, beside: torch.Tensor) -> Any:
    """Return what a formula takes besides the inputs as torch takes it: an array as a tensor beside the inputs.

    An array of floats has the dtype of the inputs, any other its own.
    """
    if not isinstance(value, np.ndarray):
        return value
    return torch.tensor(value, device=beside.device, dtype=beside.dtype if value.dtype.kind == "f" else None)


def written(op: Op, inputs: Sequence[str], shapes: Sequence[Shape], seed: int) -> str:
    """Write the call that `call` makes, with these names for the inputs, which have these shapes."""
    given = [
        Written(f"{name}.clone()" if own in op.overwrites else name)
        for own, name in zip(op.inputs, inputs, strict=True)
    ]
    known = {name: _written(value, inputs[0]) for name, value in op.known(shapes, seed).items()}
    positional, named = op.arranged(given, known, shapes)
    arguments = [*map(repr, positional), *(f"{name}={value!r}" for name, value in named.items())]
    return f"{op.path}({', '.join(arguments)})"


class Written(str):
    """Code, which stands in a snippet as it is, where a string would stand in quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _written(value: Any, beside: str) -> Any:
    """Write what `_given` makes of a value, with the name of the input that it lies beside."""
    if not isinstance(value, np.ndarray):
        return value
    dtype = f", dtype={beside}.dtype" if value.dtype.kind == "f" else ""
    return Written(f"torch.tensor({value.tolist()!r}, device={beside}.device{dtype})")


def in_place(node: Apply) -> str | None:
    """Return the name of torch's method that applies a node in place; None where none is asked for or there."""
    name = node.op.path.removeprefix("torch.")
    return f"{name}_" if node.manner != "call" and "." not in name and hasattr(torch.Tensor, f"{name}_") else None


def applied(node: Apply, seed: int, *, keeps: bool = False) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    """Return a node's call in the manner that it asks for: plain, in place, or in place through a view of its base.

    What is overwritten is a copy of the input, so that other uses of this keep its values.
    """
    method, kwargs = in_place(node), node.op.kwargs
    if method is None:
        return call(node.op, seed, keeps=keeps)

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


def function(
    tree: Tree, seed: int = 0, silent: Collection[int] = (), *, keeps: bool = False
) -> Callable[..., torch.Tensor]:
    """Return the tree as a function of tensors.

    Several outputs of an op lie one behind the other along the last axis, so that one cotangent is that of all. The
    silent ones are detached, and have none. With `keeps` the outputs and the contexts are noted in the custody that
    watches, if any.
    """
    nodes: list[Node] = [*tree.leaves, *tree.applications]
    places = {node: number for number, node in enumerate(nodes)}  # a node that is shared is computed once
    arguments_of = [[*map(places.__getitem__, node.children)] for node in tree.applications]
    calls = [applied(node, seed, keeps=keeps) for node in tree.applications]

    def evaluate(*inputs: torch.Tensor) -> torch.Tensor:
        values = list(inputs)
        for called, arguments in zip(calls, arguments_of, strict=True):
            values.append(called([values[place] for place in arguments]))
        result: Any = values[-1]
        if keeps:
            _keep_outputs(result)
        if isinstance(result, torch.Tensor):
            return result
        batch = inputs[0].ndim - len(tree.leaves[0].shape)  # inside of vmap there is none
        return joined([each.detach() if i in silent else each for i, each in enumerate(result)], batch)

    return evaluate


def _keep_outputs(result: Any) -> None:
    """Note what an op returned in the custody that watches: one tensor, or several."""
    several = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    for number, each in enumerate(several):
        name = "output" if len(several) == 1 else f"output[{number}]"
        custody.keep(name, each)


def joined(outputs: Sequence[torch.Tensor], batch: int) -> torch.Tensor:
    """Put several outputs one behind the other, each flattened after so many batch dimensions."""
    return torch.cat([each.flatten(batch) if each.ndim > batch else each.unsqueeze(-1) for each in outputs], -1)


def dtype(form: Format) -> torch.dtype:
    """Return torch's dtype of a format."""
    found: torch.dtype = getattr(torch, form.name)
    return found


def given(name: str, values: Floats, form: Format, device: str, layout: Layout = "contiguous") -> torch.Tensor:
    """Return what `tensor` does, noted by a name in the custody that watches that it stays as it is."""
    made = tensor(values, form, device, layout)
    custody.keep(name, made)
    return made


def tensor(values: Floats, form: Format, device: str, layout: Layout = "contiguous") -> torch.Tensor:
    """Return exact values of a format as a tensor whose elements lie in memory as asked.

    A layout that does not apply is left out. `device` is the name of the device.
    """
    # Float64 holds every value of a format, so that the conversion is exact; it is done on the host, since a device may
    # lack float64. Torch takes no array with negative strides, hence the copy.
    dense = torch.tensor(np.array(values), dtype=torch.float64).to(dtype(form)).to(device)
    if not applies(layout, values):
        return dense
    match layout:
        case (strides, offset):
            whole = dense.new_zeros(spanned(values.shape, strides, offset))
            return whole.as_strided(dense.shape, strides, offset).copy_(dense)
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


def spanned(shape: Shape, strides: Sequence[int], offset: int) -> int:
    """Return how many elements of memory a tensor spans that is not empty, with those before its offset."""
    return offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def applies(layout: Layout, values: Floats) -> bool:
    """Say whether a layout changes anything, and can: only equal rows can be expanded from one."""
    if not isinstance(layout, str):
        strides, offset = layout
        # strides of an empty tensor say nothing
        return bool(values.size) and (offset > 0 or strides != torch.empty(values.shape).stride())
    if layout == "contiguous" or not LAYOUTS[layout](values.shape):
        return False
    return layout != "expanded" or bool((values == values[:1]).all())


def leaves(case: Case, device: str) -> list[torch.Tensor]:
    """Return the inputs of a case as leaves, of which those that are asked for require grad.

    They are detached because what lays a tensor out, such as a transpose, must be no part of the graph.
    """
    return [
        given(leaf.name, values, case.form, device, case.layout(number)).detach().requires_grad_(number in case.asked)
        for number, (leaf, values) in enumerate(zip(case.tree.leaves, case.primals, strict=True))
    ]


def cotangent(case: Case, device: str) -> torch.Tensor:
    """Return the cotangent of a case, whose layout stands behind those of the inputs."""
    return given("cotangent", case.cotangent, case.form, device, case.layout(len(case.primals)))


def on_host(tensor: torch.Tensor) -> Floats:
    """Return a tensor's exact values on the host as float64."""
    values: Floats = tensor.detach().cpu().to(torch.float64).numpy(force=True)
    return values
