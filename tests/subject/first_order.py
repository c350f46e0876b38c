"""The ways to ask torch for a first derivative, each with the same in plain torch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from reference.chain import elements
from tests.subject import binding

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.case import Case

Gradients = list[torch.Tensor | None]


def function_of(case: Case) -> Callable[..., torch.Tensor]:
    """Return what is differentiated, as a function of the inputs: the tree, or the sum or mean of it."""
    tree = binding.function(case.tree)
    return tree if case.root == "cotangent" else lambda *inputs: getattr(tree(*inputs), case.root)()


def cotangent_of(case: Case, device: str) -> torch.Tensor | None:
    """Return the cotangent; a scalar needs none."""
    return binding.tensor(case.cotangent, case.form, device) if case.root == "cotangent" else None


def plain(case: Case, device: str) -> list[torch.Tensor]:
    """Return the inputs as tensors that do not require grad."""
    return [leaf.detach() for leaf in binding.leaves(case, device)]


def backward(case: Case, device: str) -> Gradients:
    """Run ``output.backward(cotangent)`` and read ``.grad``."""
    return _backward_through(lambda function, *inputs: function(*inputs), case, device)


def _backward_through(call: Callable[..., torch.Tensor], case: Case, device: str) -> Gradients:
    """Run backward of an output that is called for in some way: with the function and its inputs."""
    inputs = binding.leaves(case, device)
    call(function_of(case), *inputs).backward(cotangent_of(case, device))
    return [leaf.grad for leaf in inputs]


def autograd_grad(case: Case, device: str) -> Gradients:
    """Run ``torch.autograd.grad``."""
    inputs = binding.leaves(case, device)
    return list(torch.autograd.grad(function_of(case)(*inputs), inputs, cotangent_of(case, device), allow_unused=True))


def func_grad(case: Case, device: str) -> Gradients:
    """Run `torch.func.grad` of the scalar that the output makes with the cotangent."""
    inputs, function, cotangent = plain(case, device), function_of(case), cotangent_of(case, device)

    def scalar(*xs: torch.Tensor) -> torch.Tensor:
        return function(*xs) if cotangent is None else (function(*xs) * cotangent).sum()

    return list(torch.func.grad(scalar, argnums=tuple(range(len(inputs))))(*inputs))


def func_vjp(case: Case, device: str) -> Gradients:
    """Run `torch.func.vjp` and pull the cotangent back."""
    output, pull = torch.func.vjp(function_of(case), *plain(case, device))[:2]
    cotangent = cotangent_of(case, device)
    return list(pull(torch.ones_like(output) if cotangent is None else cotangent))


def vmap_grad(case: Case, device: str) -> Gradients:
    """Run `torch.func.vmap` of `torch.func.grad`, over all points at once."""
    inputs, dims = plain(case, device), len(case.batch)
    rows = [x.flatten(0, dims - 1) for x in (*inputs, binding.tensor(case.cotangent, case.form, device))]

    def at_a_point(*xs: torch.Tensor) -> torch.Tensor:
        return (function_of(case)(*xs[:-1]) * xs[-1]).sum()

    found = torch.func.vmap(torch.func.grad(at_a_point, argnums=tuple(range(len(inputs)))))(*rows)
    return [gradient.reshape(x.shape) for gradient, x in zip(found, inputs, strict=True)]


def checkpointed(case: Case, device: str) -> Gradients:
    """Run backward through `torch.utils.checkpoint`, which computes the forward anew."""
    return _backward_through(partial(checkpoint, use_reentrant=False), case, device)


def compiled(backend: str, case: Case, device: str) -> Gradients:
    """Run backward through `torch.compile`, as one graph, compiled anew."""
    torch.compiler.reset()

    def through(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.compile(function, backend=backend, fullgraph=True, dynamic=False)(*inputs)
        return result

    return _backward_through(through, case, device)


class Recomputed(torch.autograd.Function):
    """A user's own function: its backward computes the forward anew, and differentiates that."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """Compute without a graph."""
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Differentiate the function of what was saved."""
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            return (None, *torch.autograd.grad(ctx.function(*inputs), inputs, cotangents, allow_unused=True))


def own_function(case: Case, device: str) -> Gradients:
    """Run backward through a `torch.autograd.Function`."""
    return _backward_through(Recomputed.apply, case, device)


def forward(case: Case, device: str) -> Gradients:
    """Run forward-mode with dual numbers: each input in turn is one.

    An output that does not depend on it is none, and its tangent zero.
    """

    def pushed(inputs: list[torch.Tensor], number: int, tangent: torch.Tensor) -> torch.Tensor:
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(x, tangent) if i == number else x for i, x in enumerate(inputs)]
            output = forward_ad.unpack_dual(function_of(case)(*duals))
            return torch.zeros_like(output.primal) if output.tangent is None else output.tangent

    return pushing(pushed, case, device)


def func_jvp(case: Case, device: str) -> Gradients:
    """Run `torch.func.jvp`: each input in turn has a tangent, the others one of zeros."""

    def pushed(inputs: list[torch.Tensor], number: int, tangent: torch.Tensor) -> torch.Tensor:
        tangents = tuple(tangent if i == number else torch.zeros_like(x) for i, x in enumerate(inputs))
        result: torch.Tensor = torch.func.jvp(function_of(case), tuple(inputs), tangents)[1]
        return result

    return pushing(pushed, case, device)


def pushing(
    pushed: Callable[[list[torch.Tensor], int, torch.Tensor], torch.Tensor], case: Case, device: str
) -> Gradients:
    """Ask forward-mode for the Jacobian, a column at a time; pointwise, for the cotangent times the derivative."""
    inputs = plain(case, device)
    if case.is_pointwise:
        cotangent = binding.tensor(case.cotangent, case.form, device)
        return [pushed(inputs, number, cotangent) for number in range(len(inputs))]
    point = [x[0] for x in inputs]
    gradients: Gradients = []
    for number, x in enumerate(point):
        units = torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(-1, *x.shape)
        gradients.append(
            torch.stack([pushed(point, number, unit) for unit in units], dim=-1).reshape(inputs[number].shape)
        )
    return gradients


def jacrev(case: Case, device: str) -> Gradients:
    """Run `torch.func.jacrev`."""
    return _jacobian(torch.func.jacrev, case, device)


def jacfwd(case: Case, device: str) -> Gradients:
    """Run `torch.func.jacfwd`."""
    return _jacobian(torch.func.jacfwd, case, device)


def _jacobian(transform: Any, case: Case, device: str) -> Gradients:
    inputs = plain(case, device)
    derivative = transform(function_of(case), argnums=tuple(range(len(inputs))))
    if not case.is_pointwise:
        found = derivative(*(x[0] for x in inputs))
    else:
        found = torch.func.vmap(derivative)(*(x.flatten() for x in inputs))
    return [gradient.reshape(x.shape) for gradient, x in zip(found, inputs, strict=True)]


def spread(case: Case) -> Case:
    """Give every input the whole batch, so that each point has a gradient of its own.

    The batch gets a dimension of at least 2, so that rows can be mistaken.
    """
    primals = tuple(
        np.broadcast_to(p, (*case.batch, *leaf.shape)).copy()
        for p, leaf in zip(case.primals, case.tree.leaves, strict=True)
    )
    layouts = case.layouts if case.batches == (case.batch,) * len(case.primals) else ()
    direction = (
        None
        if case.direction is None or case.along is None
        else np.broadcast_to(case.direction, primals[case.along].shape).copy()
    )
    whole = replace(case, primals=primals, layouts=layouts, root="cotangent", direction=direction)
    return whole if case.batch else whole.repeated(2)


def rows(case: Case) -> Case:
    """Ask for the rows of the Jacobian.

    Pointwise they are asked for each derivative, else at the first point, with each unit cotangent.
    """
    case = spread(case)
    if case.is_pointwise:
        return replace(case, cotangent=np.ones_like(case.cotangent))
    if not case.points:
        return case
    count = elements(case.tree.root)
    one = case.at((0,) * len(case.batch))
    return replace(one.repeated(count), cotangent=np.eye(count).reshape((count, *case.tree.root.shape)))


def unexpanded(case: Case) -> Case:
    """Expand no input: torch refuses a tangent to an expanded tensor."""
    return replace(case, layouts=tuple("contiguous" if layout == "expanded" else layout for layout in case.layouts))


def columns(case: Case) -> Case:
    """Ask pointwise for the cotangent times each derivative, else for the Jacobian."""
    case = replace(unexpanded(spread(case)), forwards=True)
    return case if case.is_pointwise else rows(case)


def pushed_rows(case: Case) -> Case:
    """Ask for the rows of the Jacobian, by forward-mode."""
    return replace(rows(case), forwards=True)


def printed(name: str) -> str:
    """Write the line that prints a tensor's exact values."""
    return f"print([float(g).hex() for g in {name}.detach().flatten()])"


def pasted(*lines: str) -> str:
    """Put the lines of a snippet together."""
    return "\n".join(lines)


LEAF = pasted("output.backward(cotangent)", printed("{wrt}.grad"))
GRAD = pasted("(gradient,) = torch.autograd.grad(output, [{wrt}], cotangent)", printed("gradient"))
GRADIENTS = printed("gradients[{number}]")
FUNC_GRAD = pasted(
    "gradients = torch.func.grad(lambda *xs: (function(*xs) * cotangent).sum(), argnums={numbers})({inputs})",
    GRADIENTS,
)
FUNC_VJP = pasted("gradients = torch.func.vjp(function, {inputs})[1](cotangent)", GRADIENTS)
VMAP_GRAD = pasted(
    "def weighted(*xs): return (function(*xs[:-1]) * xs[-1]).sum()",
    "rows = [x.flatten(0, {dims} - 1) for x in ({inputs}, cotangent)]",
    "gradients = torch.func.vmap(torch.func.grad(weighted, argnums={numbers}))(*rows)",
    GRADIENTS,
)
CHECKPOINT = pasted(
    "from torch.utils.checkpoint import checkpoint",
    "output = checkpoint(function, {inputs}, use_reentrant=False)",
    LEAF,
)
COMPILE = pasted(
    'output = torch.compile(function, backend="{name}", fullgraph=True, dynamic=False)({inputs})',
    LEAF,
)
FUNCTION = pasted(
    "class Recomputed(torch.autograd.Function):",
    "    @staticmethod",
    "    def forward(ctx, *inputs):",
    "        ctx.save_for_backward(*inputs)",
    "        return function(*inputs)",
    "    @staticmethod",
    "    def backward(ctx, cotangent):",
    "        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]",
    "        with torch.enable_grad():",
    "            return torch.autograd.grad(function(*inputs), inputs, cotangent)",
    "output = Recomputed.apply({inputs})",
    LEAF,
)
FORWARD = pasted(
    "from torch.autograd import forward_ad",
    "for tangent in tangents:",
    "    with forward_ad.dual_level():",
    "        duals = [forward_ad.make_dual(x, tangent) if i == {number} else x for i, x in enumerate(points)]",
    "        " + printed("forward_ad.unpack_dual(function(*duals)).tangent"),
)
FUNC_JVP = pasted(
    "for tangent in tangents:",
    "    whole = tuple(tangent if i == {number} else torch.zeros_like(x) for i, x in enumerate(points))",
    "    " + printed("torch.func.jvp(function, tuple(points), whole)[1]"),
)
JACOBIAN = pasted("gradients = {mapped}(torch.func.{name}(function, argnums={numbers}))(*points)", GRADIENTS)
