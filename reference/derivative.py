"""The derivative that a case asks for, as a graph: the function, transformed by each letter of a word in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import sympy

from reference.graph import Constant, Input, constant, mapped, summed
from reference.transform import pullback, pushforward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.case import Case
    from reference.format import Floats
    from reference.graph import Shape, Step
    from reference.tree import Tree

X = sympy.Symbol("x", real=True)


@dataclass(frozen=True, eq=False)
class TracedFunction:
    """A tree, as steps of a graph, at given shapes of its inputs."""

    inputs: tuple[Input, ...]
    output: Step


@dataclass(frozen=True, eq=False)
class Derivative:
    """A derivative of a function, as steps of a graph."""

    function: TracedFunction
    """The function that was differentiated."""

    results: tuple[Step, ...]
    """The derivative by each input: in the input's shape where a cotangent was pulled back, else in the output's."""

    before: tuple[Step, ...]
    """The derivatives of lower order that it was made of, lowest first."""


@lru_cache(maxsize=256)
def function(tree: Tree, shapes: tuple[Shape, ...], root: str, seed: int) -> TracedFunction:
    """Return a tree as steps, with the sum or mean at its root if that is asked for.

    `shapes` have batch dimensions in front, `root` is one of `reference.case.ROOTS`, and `seed` is that of contexts.
    Raises TraceError where an op does not take such inputs.
    """
    inputs = tuple(Input((), shape, f"x{number}") for number, shape in enumerate(shapes))
    output = tree.traced(inputs, seed)[tree.root]
    if root != "cotangent":  # a sum has a cotangent of 1, which `given` provides
        count = output.size
        output = summed(output, range(len(output.shape)))
        if root == "mean" and count:  # the mean of nothing stays 0, as its gradient is
            output = mapped(X / count, [X], [output])
    return TracedFunction(inputs, output)


def of_case(case: Case, *, saved: bool) -> Derivative:
    """Return the derivative that a case asks for, by each input that it asks for.

    It is the textbook's, or with `saved` the one that torch composes, in the values that it saved.
    """
    shapes = tuple(primal.shape for primal in case.primals)
    whole = _derivative(case.tree, shapes, case.root, case.seed, case.word, case.along, saved=saved)
    return replace(whole, results=tuple(whole.results[number] for number in case.asked))


def value_of(case: Case) -> TracedFunction:
    """Return the function of a case, before the sum or mean at its root."""
    return function(case.tree, tuple(primal.shape for primal in case.primals), "cotangent", case.seed)


@lru_cache(maxsize=256)
def _derivative(
    tree: Tree, shapes: tuple[Shape, ...], root: str, seed: int, word: str, along: int | None, *, saved: bool
) -> Derivative:
    whole = function(tree, shapes, root, seed)
    """Apply the letters of a word, the last one first; all but the first letter differentiate along one input."""
    inputs, current, before = whole.inputs, whole.output, []
    cotangent: Step = Input((), current.shape, "cotangent")
    number = along or 0
    is_gradient = False  # whether `current` is a gradient, in the shape of an input, or has the shape of the output
    for step, letter in enumerate(reversed(word[1:])):
        seed_of_step = Input((), inputs[number].shape, f"direction{step}")
        if letter == "f":
            (found,) = pushforward([current], {inputs[number]: seed_of_step}, saved=saved)
        else:
            # the output is weighted by the cotangent, and a gradient by a direction
            found = pullback([current], [seed_of_step if is_gradient else cotangent], inputs, saved=saved)[number]
        shape = inputs[number].shape if letter == "r" or is_gradient else current.shape
        is_gradient |= letter == "r"  # from here on: a pushed tangent keeps the shape of what it is pushed through
        current = zeros(shape) if found is None else found
        before.append(current)
    results = _last(word, current, whole, number, cotangent, is_gradient=is_gradient, saved=saved)
    due = [x.shape if word[0] == "r" or is_gradient else current.shape for x in inputs]
    return Derivative(
        whole, tuple(zeros(s) if r is None else r for r, s in zip(results, due, strict=True)), tuple(before)
    )


def _last(
    word: str, current: Step, whole: TracedFunction, number: int, cotangent: Step, *, is_gradient: bool, saved: bool
) -> Sequence[Step | None]:
    """Differentiate once more, by every input: the first letter of a word, which is applied last."""
    inputs = whole.inputs
    direction = Input((), inputs[number].shape, f"direction{len(word) - 1}")
    if word[0] == "r":
        return pullback([current], [direction if is_gradient else cotangent], inputs, saved=saved)
    if word == "fr":
        # the tangent of one input is pushed through the gradients by all of them
        gradients = pullback([whole.output], [cotangent], inputs, saved=saved)
        return pushforward(
            [zeros(x.shape) if g is None else g for g, x in zip(gradients, inputs, strict=True)],
            {inputs[number]: direction},
            saved=saved,
        )
    return [
        pushforward([current], {x: Input((), x.shape, f"tangent{i}")}, saved=saved)[0] for i, x in enumerate(inputs)
    ]


def zeros(shape: Shape) -> Constant:
    """Return a step of a shape that is 0 everywhere."""
    return constant(np.zeros(shape))


def given(case: Case) -> dict[str, Floats]:
    """Return the value of every `Input` that a derivative of a case may have, by its name.

    ``x0`` is the first primal, ``tangent0`` its tangent, and ``direction1`` the seed of the second letter of a word.
    """
    values = {f"x{number}": primal for number, primal in enumerate(case.primals)}
    values["cotangent"] = case.cotangent if case.root == "cotangent" else np.ones(())
    if "f" in case.word:
        values |= {f"tangent{number}": tangent for number, tangent in enumerate(case.tangents)}
    if case.along is not None and case.direction is not None:
        values |= {f"direction{n}": case.last_direction if n > 1 else case.direction for n in range(case.order)}
    return values
