"""The ways to ask torch for a first derivative, each with the same in plain torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from tests.subject import binding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference.case import Case

MOST_POINTS = 3
"""Points of the batch of a tensor op, where each has a derivative of its own: the truth is found for one at a time."""

Gradients = list[torch.Tensor | None]
"""A gradient for each input that is asked for, in order; None where torch gives none."""


def function_of(case: Case, *, keeps: bool = False) -> Callable[..., torch.Tensor]:
    """Return what is differentiated, as a function of the inputs: the tree, or the sum or mean of it.

    With `keeps` the outputs of the tree are noted in the custody that watches, if any.
    """
    tree = binding.function(case.tree, case.seed, case.silent, keeps=keeps)
    return tree if case.root == "cotangent" else lambda *inputs: getattr(tree(*inputs), case.root)()


def cotangent_of(case: Case, device: str) -> torch.Tensor | None:
    """Return the cotangent of a case; None for a sum or a mean, since a scalar needs none."""
    return binding.cotangent(case, device) if case.root == "cotangent" else None


def plain(case: Case, device: str) -> list[torch.Tensor]:
    """Return the inputs as tensors that do not require grad."""
    return [leaf.detach() for leaf in binding.leaves(case, device)]


def opened(case: Case, device: str) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor]]:
    """Return the function of the inputs that are asked for, and those inputs; the others stand fixed in it.

    `torch.func` differentiates by all that a function takes.
    """
    inputs, function = plain(case, device), function_of(case)

    def of_asked(*asked: torch.Tensor) -> torch.Tensor:
        given = dict(zip(case.asked, asked, strict=True))
        return function(*(given.get(number, fixed) for number, fixed in enumerate(inputs)))

    return of_asked, [inputs[number] for number in case.asked]


def backward(case: Case, device: str) -> Gradients:
    """Run ``output.backward(cotangent)`` and read ``.grad``."""
    return _backward_through(lambda function, *inputs: function(*inputs), case, device, keeps=True)


def _backward_through(call: Callable[..., torch.Tensor], case: Case, device: str, *, keeps: bool = False) -> Gradients:
    """Run backward of the output that `call` makes of the function and its inputs."""
    inputs = binding.leaves(case, device)
    call(function_of(case, keeps=keeps), *inputs).backward(cotangent_of(case, device))
    return [inputs[number].grad for number in case.asked]


def autograd_grad(case: Case, device: str) -> Gradients:
    """Run ``torch.autograd.grad``."""
    inputs = binding.leaves(case, device)
    asked = [inputs[number] for number in case.asked]
    output = function_of(case, keeps=True)(*inputs)
    return list(torch.autograd.grad(output, asked, cotangent_of(case, device), allow_unused=True))


def func_grad(case: Case, device: str) -> Gradients:
    """Run `torch.func.grad` of a scalar, the sum of the output times the cotangent."""
    transform, inputs = _grad_of_weighted(case, device)
    return list(transform(*inputs))


def _grad_of_weighted(case: Case, device: str) -> tuple[Callable[..., tuple[torch.Tensor, ...]], list[torch.Tensor]]:
    """Return `torch.func.grad` of the sum of the output times the cotangent, and the inputs to call it with."""
    (function, inputs), cotangent = opened(case, device), cotangent_of(case, device)

    def scalar(*xs: torch.Tensor) -> torch.Tensor:
        return function(*xs) if cotangent is None else (function(*xs) * cotangent).sum()

    return torch.func.grad(scalar, argnums=tuple(range(len(inputs)))), inputs


def func_vjp(case: Case, device: str) -> Gradients:
    """Run `torch.func.vjp` and pull the cotangent back."""
    function, inputs = opened(case, device)
    output, pull = torch.func.vjp(function, *inputs)[:2]
    cotangent = cotangent_of(case, device)
    return list(pull(torch.ones_like(output) if cotangent is None else cotangent))


def vmap_grad(case: Case, device: str) -> Gradients:
    """Run `torch.func.vmap` of `torch.func.grad`, over all points at once."""
    inputs, dims = plain(case, device), len(case.batch)
    # vmap maps over one axis, so that those of the batch become one
    rows = [x.flatten(0, dims - 1) for x in (*inputs, binding.cotangent(case, device))]

    def at_a_point(*xs: torch.Tensor) -> torch.Tensor:
        return (function_of(case)(*xs[:-1]) * xs[-1]).sum()

    # the cotangent is mapped over like the inputs, but not differentiated by
    found = torch.func.vmap(torch.func.grad(at_a_point, argnums=case.asked))(*rows)
    return [gradient.reshape(shape) for gradient, shape in zip(found, case.asked_shapes, strict=True)]


def checkpointed(case: Case, device: str) -> Gradients:
    """Run backward through `torch.utils.checkpoint`, which computes the forward anew in the backward."""
    return _backward_through(partial(checkpoint, use_reentrant=False), case, device)


def compiled(backend: str, case: Case, device: str) -> Gradients:
    """Run backward through `torch.compile`, as one graph, compiled anew."""
    torch.compiler.reset()  # what is compiled is kept, up to a limit that the cases of a test may pass

    def through(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        _primed(function, inputs)
        result: torch.Tensor = torch.compile(function, backend=backend, fullgraph=True, dynamic=False)(*inputs)
        return result

    return _backward_through(through, case, device)


def _primed(function: Callable[..., object], inputs: Sequence[Any]) -> None:
    """Call a function once, so that contexts are drawn before it is compiled: numpy's draws cannot be in a graph."""
    with torch.no_grad():
        function(*inputs)


def compiled_grad(case: Case, device: str) -> Gradients:
    """Run `torch.compile` of `torch.func.grad`: what is compiled is the transform."""
    transform, inputs = _grad_of_weighted(case, device)
    return list(transform_compiled(transform)(*inputs))


def transform_compiled(transform: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a transform of `torch.func` anew, and run it in a thread of its own.

    It is called as it is first: what `torch.func` refuses, such as an `autograd.Function` without `setup_context`, is
    refused here too, whatever the compiler makes of it.

    Where torch's compiler breaks inside a transform it leaves the thread without gradients, and with transforms and a
    level of dual numbers open. All but the last end with the thread.
    """

    def compiled_anew(*inputs: Any) -> Any:
        torch.compiler.reset()
        return torch.compile(transform, backend="aot_eager", dynamic=False)(*inputs)

    def run(*inputs: Any) -> Any:
        _primed(transform, inputs)
        with ThreadPoolExecutor(1) as thread:
            try:
                return thread.submit(compiled_anew, *inputs).result()
            finally:
                while forward_ad._current_level >= 0:  # noqa: SLF001 - there is no other way to ask
                    forward_ad.exit_dual_level()

    return run


class Recomputed(torch.autograd.Function):
    """A user's own function: its backward computes the forward anew, and differentiates that."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """Compute, and save the inputs."""
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Differentiate the function anew at the inputs that were saved, by those that need it."""
        needed = ctx.needs_input_grad[1:]  # the first argument is the function
        inputs = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
        asked = [x for x in inputs if x.requires_grad]
        with torch.enable_grad():
            found = iter(torch.autograd.grad(ctx.function(*inputs), asked, cotangents, allow_unused=True))
        return (None, *(next(found) if need else None for need in needed))


def own_function(case: Case, device: str) -> Gradients:
    """Run backward through a `torch.autograd.Function`, as users write them."""
    return _backward_through(Recomputed.apply, case, device)


def forward(case: Case, device: str) -> Gradients:
    """Run forward-mode with dual numbers: each input in turn is one.

    An output that does not depend on that input is no dual number, and its tangent is zero.
    """
    function, inputs = opened(case, device)

    def pushed(number: int, tangent: torch.Tensor) -> torch.Tensor:
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(x, tangent) if i == number else x for i, x in enumerate(inputs)]
            output = forward_ad.unpack_dual(function(*duals))
            return torch.zeros_like(output.primal) if output.tangent is None else output.tangent

    return pushing(pushed, case, device)


def func_jvp(case: Case, device: str) -> Gradients:
    """Run `torch.func.jvp`: each input in turn has a tangent, and the others have one of zeros."""
    return _jvp(case, device, lambda transform: transform)


def compiled_jvp(case: Case, device: str) -> Gradients:
    """Run `torch.compile` of `torch.func.jvp`, with the same tangents."""
    return _jvp(case, device, transform_compiled)


def _jvp(case: Case, device: str, made: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Gradients:
    """Push a tangent of each input in turn through what is made of `torch.func.jvp`."""
    function, inputs = opened(case, device)

    def transform(primals: tuple[torch.Tensor, ...], tangents: tuple[torch.Tensor, ...]) -> torch.Tensor:
        result: torch.Tensor = torch.func.jvp(function, primals, tangents)[1]
        return result

    def pushed(number: int, tangent: torch.Tensor) -> torch.Tensor:
        tangents = tuple(tangent if i == number else torch.zeros_like(x) for i, x in enumerate(inputs))
        result: torch.Tensor = made(transform)(tuple(inputs), tangents)
        return result

    return pushing(pushed, case, device)


def pushing(pushed: Callable[[int, torch.Tensor], torch.Tensor], case: Case, device: str) -> Gradients:
    """Ask forward-mode how the output changes along the tangent of each input that is asked for, in turn."""
    tangents = [binding.given("tangent", case.tangents[number], case.form, device) for number in case.asked]
    return [pushed(place, tangent) for place, tangent in enumerate(tangents)]


def jacrev(case: Case, device: str) -> Gradients:
    """Run `torch.func.jacrev`."""
    return _jacobian(torch.func.jacrev, case, device)


def jacfwd(case: Case, device: str) -> Gradients:
    """Run `torch.func.jacfwd`."""
    return _jacobian(torch.func.jacfwd, case, device)


def _jacobian(transform: Any, case: Case, device: str) -> Gradients:
    """Run a transform that forms whole Jacobians: of an elementwise op at all points, else a row for each output."""
    inputs, shapes = plain(case, device), case.asked_shapes
    derivative = transform(function_of(case), argnums=case.asked)
    if case.is_pointwise:
        found = torch.func.vmap(derivative)(*(x.flatten() for x in inputs))
        return [gradient.reshape(shape) for gradient, shape in zip(found, shapes, strict=True)]
    return [_of_outputs(block, case) for block in derivative(*inputs)]


def _of_outputs(block: torch.Tensor, case: Case) -> torch.Tensor:
    """Give the outputs of a Jacobian one axis; those of the input stay as they came."""
    return block.reshape(case.cotangent.size, *block.shape[case.cotangent.ndim :])


def spread(case: Case) -> Case:
    """Give every input the whole batch, so that each point has a gradient of its own.

    A case without a batch gets one of 2, so that rows can be mistaken for each other.
    """
    case = _few(case)
    primals = tuple(
        np.broadcast_to(p, (*case.batch, *leaf.shape)).copy()
        for p, leaf in zip(case.primals, case.tree.leaves, strict=True)
    )
    # a layout is that of an input as it was, and may not fit one that was broadcast
    layouts = case.layouts if case.batches == (case.batch,) * len(case.primals) else ()
    direction = (
        None
        if case.direction is None or case.along is None
        else np.broadcast_to(case.direction, primals[case.along].shape).copy()
    )
    whole = replace(case, primals=primals, layouts=layouts, root="cotangent", direction=direction, each=True)
    return whole if case.batch else whole.repeated(2)


def _few(case: Case) -> Case:
    """Return a case with a few points of the batch of a tensor op, as it is where there are no more."""
    if case.is_pointwise or len(case.batch) != 1 or case.point_count <= MOST_POINTS or not case.tree.root.shape:
        return case
    batched = [batch == case.batch for batch in case.batches]
    primals = tuple(p[:MOST_POINTS].copy() if has else p for p, has in zip(case.primals, batched, strict=True))
    direction = case.direction
    if direction is not None and case.along is not None and batched[case.along]:
        direction = direction[:MOST_POINTS].copy()
    return replace(
        case, primals=primals, cotangent=case.cotangent[:MOST_POINTS].copy(), direction=direction, layouts=()
    )


def rows(case: Case) -> Case:
    """Ask for the whole Jacobian: of an elementwise op for its diagonal, else at the first point of the batch.

    Both are the answers to unit cotangents, whatever the cotangent of the case was. That of an empty batch is of the
    whole: there is no point to ask at, or to map over.
    """
    if not case.point_count:
        return replace(case, units=True, root="cotangent")
    case = spread(case)
    if case.is_pointwise:
        return replace(case, cotangent=np.ones_like(case.cotangent))
    one = case.at((0,) * len(case.batch))
    return replace(one, cotangent=np.ones_like(one.cotangent), units=True, each=False)


def unexpanded(case: Case) -> Case:
    """Ask for no expanded layout: torch refuses a tangent to an expanded tensor."""
    return replace(case, layouts=tuple("contiguous" if layout == "expanded" else layout for layout in case.layouts))


def printed(name: str) -> str:
    """Write the line that prints a tensor's exact values."""
    return f"print([float(g).hex() for g in {name}.detach().flatten()])"


def pasted(*lines: str) -> str:
    """Put the lines of a snippet together."""
    return "\n".join(lines)


# What follows are the modes above, in the same order, as `tests.verdict.snippet.snippet` completes them. It writes the
# inputs as leaves that require grad, whose `detach()` is what `plain` returns.

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
COMPILED_GRAD = pasted(
    "transform = torch.func.grad(lambda *xs: (function(*xs) * cotangent).sum(), argnums={numbers})",
    'gradients = torch.compile(transform, backend="aot_eager", dynamic=False)({inputs})',
    GRADIENTS,
)
COMPILED_JVP = pasted(
    "points = tuple(x.detach() for x in ({inputs},))",
    "whole = tuple(tangent if i == {number} else torch.zeros_like(x) for i, x in enumerate(points))",
    "transform = lambda points, tangents: torch.func.jvp(function, points, tangents)[1]",
    printed('torch.compile(transform, backend="aot_eager", dynamic=False)(points, whole)'),
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
    "with forward_ad.dual_level():",
    "    duals = [forward_ad.make_dual(x.detach(), tangent) if i == {number} else x.detach() "
    "for i, x in enumerate(({inputs},))]",
    "    " + printed("forward_ad.unpack_dual(function(*duals)).tangent"),
)
FUNC_JVP = pasted(
    "points = tuple(x.detach() for x in ({inputs},))",
    "whole = tuple(tangent if i == {number} else torch.zeros_like(x) for i, x in enumerate(points))",
    printed("torch.func.jvp(function, points, whole)[1]"),
)
JACOBIAN = pasted("gradients = {mapped}(torch.func.{name}(function, argnums={numbers}))(*points)", GRADIENTS)
