"""The ways to ask torch for a second or third derivative, each with the same in plain torch.

Each gives, for every input, the derivative of the gradient by one input (``case.along``), contracted with
``case.direction``; for a third derivative, of that again, contracted with ``case.last_direction``. The first word of a
name is the transform that is applied last.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tests.subject import binding
from tests.subject.first_order import (
    cotangent_of,
    function_of,
    opened,
    pasted,
    plain,
    printed,
    pushing,
    rows,
    transform_compiled,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference.case import Case
    from tests.subject.first_order import Gradients


def reverse_over_reverse(case: Case, device: str) -> Gradients:
    """Run ``torch.autograd.grad`` of a gradient with a graph; one that requires no grad depends on no input."""
    # The cotangent requires grad, so that the gradient has a graph even where it depends on nothing else, and so that
    # a function that is differentiable once says so in it.
    inputs, asked, number, direction = _leaves(case, device)
    output = function_of(case)(*inputs)
    cotangent = cotangent_of(case, device)
    seed = (torch.ones_like(output) if cotangent is None else cotangent).requires_grad_()
    (gradient,) = torch.autograd.grad(output, asked[number], seed, create_graph=True, materialize_grads=True)
    refuse_once(gradient)
    if not gradient.requires_grad:
        return [torch.zeros_like(x) for x in asked]
    return list(torch.autograd.grad(gradient, asked, direction, materialize_grads=True))


def refuse_once(gradient: torch.Tensor) -> None:
    """Raise RuntimeError where a function that is `once_differentiable` is on the way from a gradient.

    Such a function puts a node into the graph that raises when it is visited, where its cotangent requires grad. But
    torch visits only what leads to the inputs that are asked for: else it leaves out the term, and says nothing.
    """
    unvisited, seen = [gradient.grad_fn], set()
    while unvisited:
        node = unvisited.pop()
        if node is None or node in seen:
            continue
        # what `once_differentiable` puts there; its class has no name in Python
        if node.name() == "torch::autograd::Error":
            message = "trying to differentiate twice a function that was marked with @once_differentiable"
            raise RuntimeError(message)
        seen.add(node)
        unvisited += [following for following, _ in node.next_functions]


def forward_over_reverse(case: Case, device: str) -> Gradients:
    """Push a tangent of one input through `torch.func.vjp`, and return how every gradient changes."""
    (function, inputs), number, direction = opened(case, device), *_direction(case, device)
    cotangent = cotangent_of(case, device)

    def gradients(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output, pull = torch.func.vjp(function, *_with(inputs, number, x))[:2]
        found: tuple[torch.Tensor, ...] = pull(torch.ones_like(output) if cotangent is None else cotangent)
        return found

    return list(torch.func.jvp(gradients, (inputs[number],), (direction,))[1])


def reverse_over_forward(case: Case, device: str) -> Gradients:
    """Pull the cotangent back through `torch.func.jvp` in a direction of one input."""
    (function, inputs), number, direction = opened(case, device), *_direction(case, device)
    output, pull = torch.func.vjp(lambda *xs: _pushed(function, xs, number, direction), *inputs)[:2]
    cotangent = cotangent_of(case, device)
    return list(pull(torch.ones_like(output) if cotangent is None else cotangent))


def forward_over_forward(case: Case, device: str) -> Gradients:
    """Push a tangent of each input in turn through `torch.func.jvp`."""
    (function, inputs), number, direction = opened(case, device), *_direction(case, device)

    def pushed(wrt: int, tangent: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.jvp(
            lambda x: _pushed(function, _with(inputs, wrt, x), number, direction), (inputs[wrt],), (tangent,)
        )[1]
        return found

    return pushing(pushed, case, device)


def hessian(case: Case, device: str) -> Gradients:
    """Run `torch.func.hessian`, and take the rows by the first element of the input ``case.along``.

    The rest would take an answer of the oracle for each element.
    """
    return _hessian(case, device, lambda transform: transform)


def compiled_hessian(case: Case, device: str) -> Gradients:
    """Run `torch.compile` of `torch.func.hessian`, and take the same part."""
    return _hessian(case, device, transform_compiled)


def _hessian(case: Case, device: str, made: Callable[[Any], Any]) -> Gradients:
    inputs, shapes, number = plain(case, device), case.asked_shapes, _direction(case, device)[0]
    transform = torch.func.hessian(function_of(case), argnums=case.asked)
    if case.is_pointwise:
        found = made(torch.func.vmap(transform))(*(x.flatten() for x in inputs))[number]
        return [second.reshape(shape) for second, shape in zip(found, shapes, strict=True)]
    outputs, elements, rank = case.cotangent.size, prod(shapes[number]), case.cotangent.ndim + len(shapes[number])
    # a block has axes of the output, of the input of the first derivative, and of that of the second
    blocks = [block.reshape(outputs, elements, *block.shape[rank:]) for block in made(transform)(*inputs)[number]]
    return [block[:, :1].sum(1) for block in blocks]  # that of an empty batch has no first element


def thrice_reverse(case: Case, device: str) -> Gradients:
    """Run ``torch.autograd.grad`` of a gradient of a gradient, each with a graph.

    The first two are by ``case.along``, the last is by all inputs that are asked for.
    """
    inputs, asked, number, direction = _leaves(case, device)
    derivative = function_of(case)(*inputs)
    for cotangent in (cotangent_of(case, device), direction):
        seed = (torch.ones_like(derivative) if cotangent is None else cotangent).requires_grad_()
        (derivative,) = torch.autograd.grad(derivative, asked[number], seed, create_graph=True, materialize_grads=True)
        refuse_once(derivative)
        if not derivative.requires_grad:
            return [torch.zeros_like(x) for x in asked]
    last = binding.given("last_direction", case.last_direction, case.form, device)
    return list(torch.autograd.grad(derivative, asked, last, materialize_grads=True))


def thrice_forward(case: Case, device: str) -> Gradients:
    """Push a tangent of each input in turn through `torch.func.jvp` of `torch.func.jvp`, both along one direction."""
    (function, inputs), number, direction = opened(case, device), *_direction(case, device)

    def pushed(wrt: int, tangent: torch.Tensor) -> torch.Tensor:
        def once(*xs: torch.Tensor) -> torch.Tensor:
            return _pushed(function, xs, number, direction)

        def twice(*xs: torch.Tensor) -> torch.Tensor:
            changed: torch.Tensor = torch.func.jvp(lambda x: once(*_with(xs, number, x)), (xs[number],), (direction,))[
                1
            ]
            return changed

        found: torch.Tensor = torch.func.jvp(lambda x: twice(*_with(inputs, wrt, x)), (inputs[wrt],), (tangent,))[1]
        return found

    return pushing(pushed, case, device)


def _pushed(
    function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], number: int, tangent: torch.Tensor
) -> torch.Tensor:
    """Return the derivative of the output along a tangent of the input of that number."""
    found: torch.Tensor = torch.func.jvp(lambda x: function(*_with(inputs, number, x)), (inputs[number],), (tangent,))[
        1
    ]
    return found


def _with(inputs: Sequence[torch.Tensor], number: int, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the inputs with another in the place of that number."""
    return [*inputs[:number], x, *inputs[number + 1 :]]


def _direction(case: Case, device: str) -> tuple[int, torch.Tensor]:
    """Return the place of ``case.along`` among the inputs that are asked for, and the direction, in its shape."""
    assert case.along is not None
    assert case.direction is not None
    return case.asked.index(case.along), binding.given("direction", case.direction, case.form, device)


def _leaves(case: Case, device: str) -> tuple[list[torch.Tensor], list[torch.Tensor], int, torch.Tensor]:
    """Return the inputs as leaves, those that are asked for, and what `_direction` returns."""
    inputs = binding.leaves(case, device)
    return inputs, [inputs[number] for number in case.asked], *_direction(case, device)


def entries(case: Case) -> Case:
    """Ask for what `hessian` takes of a Hessian.

    Of an elementwise op that is each second derivative; else, for each output, the row by an input's first element.
    """
    case = rows(case)
    assert case.along is not None
    # the unit vector of the first element, at each point
    direction = np.zeros(case.primals[case.along].shape)
    direction.reshape(max(case.point_count, 1), -1)[:, :1] = 1
    return replace(case, direction=direction)


RR = pasted(
    "cotangent.requires_grad_()",
    "(gradient,) = torch.autograd.grad(output, [{along}], cotangent, create_graph=True, materialize_grads=True)",
    "seconds = [torch.zeros_like({wrt})] if not gradient.requires_grad else "
    "torch.autograd.grad(gradient, [{wrt}], direction, materialize_grads=True)",
    printed("seconds[0]"),
)
FR = pasted(
    "def gradients(moved): return torch.func.vjp(function, "
    "*[moved if i == {at} else other for i, other in enumerate(({inputs},))])[1](cotangent)",
    "seconds = torch.func.jvp(gradients, ({along},), (direction,))[1]",
    printed("seconds[{number}]"),
)
PUSHED = (
    "def pushed(*xs): return torch.func.jvp("
    "lambda moved: function(*xs[:{at}], moved, *xs[{at} + 1:]), (xs[{at}],), (step,))[1]"
)
RF = pasted(
    "step = direction",
    PUSHED,
    "seconds = torch.func.vjp(pushed, {inputs})[1](cotangent)",
    printed("seconds[{number}]"),
)
FF = pasted(
    "step = direction",
    PUSHED,
    "points = tuple(x.detach() for x in ({inputs},))",
    "second = torch.func.jvp("
    "lambda moved: pushed(*points[:{number}], moved, *points[{number} + 1:]), (points[{number}],), (tangent,))[1]",
    printed("second"),
)
HESSIAN = pasted(
    "seconds = {mapped}(torch.func.hessian(function, argnums={numbers}))(*points)[{at}]",
    printed("seconds[{number}]{block}"),
)
COMPILED_HESSIAN = pasted(
    "transform = {mapped}(torch.func.hessian(function, argnums={numbers}))",
    'seconds = torch.compile(transform, backend="aot_eager", dynamic=False)(*points)[{at}]',
    printed("seconds[{number}]{block}"),
)
RRR = pasted(
    "derivative = output",
    "for seed in (cotangent, direction):",
    "    if derivative.requires_grad:",
    "        (derivative,) = torch.autograd.grad("
    "derivative, [{along}], seed.requires_grad_(), create_graph=True, materialize_grads=True)",
    "third = torch.zeros_like({wrt}) if not derivative.requires_grad else "
    "torch.autograd.grad(derivative, [{wrt}], last_direction, materialize_grads=True)[0]",
    printed("third"),
)
FFF = pasted(
    "step = direction",
    PUSHED,
    "def twice(*xs): return torch.func.jvp("
    "lambda moved: pushed(*xs[:{at}], moved, *xs[{at} + 1:]), (xs[{at}],), (step,))[1]",
    "points = tuple(x.detach() for x in ({inputs},))",
    "third = torch.func.jvp("
    "lambda moved: twice(*points[:{number}], moved, *points[{number} + 1:]), (points[{number}],), (tangent,))[1]",
    printed("third"),
)
