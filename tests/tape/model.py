"""A model of what torch documents about leaves, `.grad` and the graph, which never asks torch.

Values are whole numbers held as float64, so that every gradient is exact; the derivative of each op is sympy's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import sympy

from reference.catalogue import OPS
from reference.elements import elements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Pull = Callable[[Values], Values]
    JetOf = Callable[["Function | Tensor"], "Jet"]

SAVES = {"add": (), "sub": (), "neg": (), "mul": (0, 1), "square": (0,)}
"""The ops of the model, and the numbers of the inputs that are factors in a derivative, which backward needs."""


class TapeError(Exception):
    """The model predicts that torch raises RuntimeError."""


@dataclass(eq=False)
class Version:
    """How often a storage was changed in place; all tensors that share the storage have it."""

    count: int = 0
    is_saved: bool = False
    """Whether a node has saved the values for its backward."""


@dataclass(eq=False)
class Function:
    """A node of the graph, as `grad_fn` is: where gradients go on to from it, and what it has saved for that."""

    inputs: list[tuple[Function | Tensor, Pull]]
    """Each next node, or leaf, and what of the gradient goes there."""

    saved: list[tuple[Version, int]] = field(default_factory=list)
    """What it saved, each with the count that its version had then."""

    saves: bool = False
    """Whether it saves anything, if only a number: once that is freed, it cannot be used again."""

    freed: bool = False
    hooks: list[Pull] = field(default_factory=list)
    """The hooks of its result, in order: what each makes of the gradient."""

    retains: list[Tensor] = field(default_factory=list)
    """The tensors that it made and that retain their gradient."""

    jet: Callable[[JetOf], Jet] | None = None
    """Its first and second derivatives, given those of its inputs; None where the model has no second order."""

    @property
    def is_spent(self) -> bool:
        """Whether what it saved was freed, or was changed in place since."""
        return (self.freed and self.saves) or any(version.count != count for version, count in self.saved)


@dataclass(frozen=True)
class Jet:
    """First and second derivatives of each element of a tensor by all elements of all leaves."""

    first: Values
    """Of the shape of the tensor, and one more axis, with an entry for each element of a leaf."""

    second: Values
    """Of that shape, and two such axes."""

    def mapped(self, linear: Callable[[Values], Values]) -> Jet:
        """Return the jet of a linear function of the tensor."""
        return Jet(linear(self.first), linear(self.second))


@dataclass(eq=False)
class Tensor:
    """A tensor as users see it."""

    data: Values
    version: Version
    requires_grad: bool = False
    function: Function | None = None
    grad: Values | None = None
    retains_grad: bool = False
    was_frozen: bool = False
    """Whether it required grad once and was told not to: what torch does with its history then is not documented."""

    hooks: list[Pull] = field(default_factory=list)
    seen: list[Values] | None = None
    """What its post-accumulate hook saw; None where it has none."""

    is_parameter: bool = False
    base: Tensor | None = None
    """The tensor that it is a differentiable view of."""

    index: slice = field(default_factory=lambda: slice(None))
    """Which elements of its base it is."""

    views: list[Tensor] = field(default_factory=list)
    """The views of it."""

    @property
    def is_leaf(self) -> bool:
        """A tensor that no tracked op made."""
        return self.function is None

    @property
    def target(self) -> Function | Tensor | None:
        """Where a gradient by this tensor goes: to its node, or to itself as a leaf; None where none is required."""
        return self.function or (self if self.requires_grad else None)

    def zero_grad(self, *, to_none: bool) -> None:
        """Do what `zero_grad` of an optimizer or a module does: None, or zeros where there is a gradient."""
        self.grad = None if to_none or self.grad is None else np.zeros(self.data.shape)

    def require_grad(self, *, requires_grad: bool) -> None:
        """Freeze or unfreeze."""
        self.was_frozen |= self.requires_grad and not requires_grad
        self.requires_grad = requires_grad


@cache
def slopes(name: str) -> tuple[Callable[..., Values], ...]:
    """Return sympy's derivative of an op by each input, times the cotangent, as functions of inputs and cotangent."""
    local = elements(OPS[name], ((),) * len(OPS[name].inputs))
    symbols = [a[()] for a in (*local.inputs, local.cotangents)]
    return tuple(sympy.lambdify(symbols, gradient[()], "numpy") for gradient in local.gradients)


@cache
def curvatures(name: str) -> tuple[tuple[Callable[..., Values], ...], ...]:
    """Return sympy's second derivatives of an op by each pair of inputs, as functions of the inputs."""
    local = elements(OPS[name], ((),) * len(OPS[name].inputs))
    symbols = [a[()] for a in local.inputs]

    def second(a: sympy.Symbol, b: sympy.Symbol) -> Callable[..., Values]:
        return sympy.lambdify(symbols, sympy.diff(local.outputs[()], a, b), "numpy")

    return tuple(tuple(map(partial(second, a), symbols)) for a in symbols)


@cache
def value(name: str) -> Callable[..., Values]:
    """Return an op as a function of its inputs."""
    local = elements(OPS[name], ((),) * len(OPS[name].inputs))
    return sympy.lambdify([a[()] for a in local.inputs], local.outputs[()], "numpy")


def unbroadcast(gradient: Values, shape: tuple[int, ...]) -> Values:
    """Sum a gradient to the shape of an input that was broadcast."""
    if gradient.shape == shape:
        return gradient
    return np.asarray(gradient.sum()) if shape == () else gradient.sum(axis=0, keepdims=True)


class Tape:
    """The grad modes that are entered, and what each operation does under the innermost of them."""

    def __init__(self) -> None:
        """Start with grad mode on."""
        self.modes: list[bool] = [True]

    @property
    def enabled(self) -> bool:
        """Whether results are tracked, as `torch.is_grad_enabled()` says."""
        return self.modes[-1]

    def _function(self, name: str, inputs: Sequence[Tensor | float], shape: tuple[int, ...]) -> Function | None:
        """Return the node of an op with a result of this shape, or None where nothing is tracked."""
        tensors = [t for t in inputs if isinstance(t, Tensor)]
        if not (self.enabled and any(t.requires_grad for t in tensors)):
            return None
        # Copies, since a tensor may change in place before backward: where that matters, its version tells.
        values = [t.data.copy() if isinstance(t, Tensor) else np.asarray(float(t)) for t in inputs]
        targets = [t.target if isinstance(t, Tensor) else None for t in inputs]
        node = Function([], jet=partial(_chained, name, values, targets, shape))
        for number, t in enumerate(inputs):
            if isinstance(t, Tensor) and t.target is not None:
                slope = slopes(name)[number]
                node.inputs.append((t.target, partial(_sloped, slope, values, shape, t.data.shape)))
        for number in SAVES[name]:
            # A factor of a product is saved for the gradient of the other factor, if that is wanted; x² needs x itself.
            others = [t for at, t in enumerate(inputs) if at != number] or [inputs[number]]
            if any(isinstance(t, Tensor) and t.requires_grad for t in others):
                node.saves = True
                if isinstance(saved := inputs[number], Tensor):
                    node.saved.append((saved.version, saved.version.count))
                    saved.version.is_saved = True
        return node

    def apply(self, name: str, *inputs: Tensor | float) -> Tensor:
        """Apply an op out of place."""
        data = np.array(value(name)(*(t.data if isinstance(t, Tensor) else t for t in inputs)), dtype=float)
        node = self._function(name, inputs, data.shape)
        return Tensor(data, Version(), requires_grad=node is not None, function=node)

    def apply_in_place(self, name: str, tensor: Tensor, other: Tensor | float) -> None:
        """Apply an op in place; through a view, to a part of its base.

        Raises TapeError for a leaf that requires grad, or a view of one.
        """
        whole = tensor.base or tensor
        tracked = self.enabled and (tensor.requires_grad or (isinstance(other, Tensor) and other.requires_grad))
        if self.enabled and whole.is_leaf and whole.requires_grad:
            raise TapeError
        node = self._function(name, (tensor, other), tensor.data.shape)
        data = value(name)(tensor.data, other.data if isinstance(other, Tensor) else other)
        if tracked and node is not None:
            # Of what the op overwrites torch saves a copy, so that its version does not tell of a later change.
            node.saved = [(version, count) for version, count in node.saved if version is not tensor.version]
            whole.function = self._spliced(whole, tensor, node) if tensor.base is not None else node
            whole.requires_grad = True
        tensor.data[...] = data
        tensor.version.count += 1
        for view in whole.views:
            if whole.requires_grad:
                view.function, view.requires_grad = _viewed(whole, view.index), True

    @staticmethod
    def _spliced(whole: Tensor, view: Tensor, node: Function) -> Function:
        """Return the node of a base of which a view was changed in place by another node.

        The elements of the view have their gradient from that node, and all others pass theirs on to what the base was.
        """
        inputs: list[tuple[Function | Tensor, Pull]] = []
        mine = view.function  # the gradient by the view as it was belongs to the base as it was

        def rest(gradient: Values, pulls: list[Pull]) -> Values:
            out = gradient.copy()
            out[view.index] = sum((pull(gradient[view.index]) for pull in pulls), np.zeros_like(gradient[view.index]))
            return out

        through = [pull for target, pull in node.inputs if target is mine]
        if whole.target is not None:
            inputs.append((whole.target, lambda g: rest(g, through)))
        inputs += [(target, partial(_at, pull, view.index)) for target, pull in node.inputs if target is not mine]
        return Function(inputs, node.saved, saves=True)  # it keeps the op itself, until it is freed

    def view(self, base: Tensor, index: slice) -> Tensor:
        """Return a differentiable view of a base."""
        made = Tensor(base.data[index], base.version, base=base, index=index)
        if self.enabled and base.requires_grad:
            made.function, made.requires_grad = _viewed(base, index), True
        base.views.append(made)
        return made

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum all elements."""
        made = Tensor(np.asarray(tensor.data.sum()), Version())
        if self.enabled and tensor.target is not None:
            axes = tuple(range(tensor.data.ndim))
            pull = partial(_broadcast, tensor.data.shape)
            made.function = _linear(tensor.target, pull, lambda d: d.sum(axis=axes))
            made.requires_grad = True
        return made

    def clone(self, tensor: Tensor) -> Tensor:
        """Copy the values; the gradient passes."""
        made = Tensor(tensor.data.copy(), Version())
        if self.enabled and tensor.target is not None:
            made.function, made.requires_grad = _linear(tensor.target, lambda g: g, lambda d: d), True
        return made

    @staticmethod
    def detach(tensor: Tensor) -> Tensor:
        """Share the values; no gradient passes."""
        return Tensor(tensor.data, tensor.version)

    def gradients(
        self, root: Tensor, cotangent: Values | None, targets: Sequence[Tensor] | None, *, retain: bool
    ) -> dict[int, Values]:
        """Run backward; return the gradient that arrives at each node on a path to a target, or to any leaf, by `id`.

        Raises TapeError where the root requires no grad, the cotangent does not fit, or a node on the way is spent.
        """
        if (
            not root.requires_grad
            or (cotangent is None and root.data.size != 1)
            or (cotangent is not None and cotangent.shape != root.data.shape)
        ):
            raise TapeError
        wanted = None if targets is None else {id(t.target) for t in targets}
        start = root.target
        order = _ordered(start)
        needed = {id(node) for node in order if wanted is None or _reaches(node, wanted)}

        def leads_on(node: Function) -> bool:
            return any(id(target) in needed for target, _ in node.inputs)

        # A node runs only if something needed lies behind it; the others may be spent, and are not freed.
        run = [node for node in order if isinstance(node, Function) and leads_on(node)]
        if any(node.is_spent for node in run):
            raise TapeError
        arrived = _passed(order, np.ones_like(root.data) if cotangent is None else cotangent, needed, run)
        for node in run:
            node.freed = node.freed or not retain
        return arrived

    def backward(
        self,
        root: Tensor,
        cotangent: Values | None = None,
        inputs: Sequence[Tensor] | None = None,
        *,
        retain: bool = False,
    ) -> None:
        """Accumulate into the `.grad` of the leaves, or of the given inputs. Raises TapeError as `gradients` does."""
        arrived = self.gradients(root, cotangent, inputs, retain=retain)
        into = [n for n in _ordered(root.target) if isinstance(n, Tensor)] if inputs is None else inputs
        for tensor in into:
            gradient = arrived.get(id(tensor.target)) if tensor.requires_grad else None
            if gradient is not None and not tensor.retains_grad:  # what is retained was kept on the way
                tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient
                if tensor.seen is not None:
                    tensor.seen.append(tensor.grad)

    @staticmethod
    def reaches(root: Tensor, leaf: Tensor) -> bool:
        """Say whether a gradient of a root comes to a leaf."""
        return leaf in _ordered(root.target)

    @staticmethod
    def second(root: Tensor, by: Tensor, then: Tensor) -> Values | None:
        """Return the gradient by leaf `then` of the sum of the gradient by leaf `by` of the sum of a root.

        It is None where the model has no second order: with hooks, retained gradients, changes in place through a
        view, or a node that is spent.
        """
        order = _ordered(root.target)
        leaves = [node for node in order if isinstance(node, Tensor)]
        nodes = [node for node in order if isinstance(node, Function)]
        if (
            by not in leaves
            or any(node.hooks for node in order)
            or any(node.retains or node.jet is None or node.is_spent for node in nodes)
        ):
            return None
        if then not in leaves:
            return np.zeros(then.data.shape)
        # The elements of all leaves stand in one row, each leaf from its start on; each is a direction.
        starts = np.cumsum([0, *(leaf.data.size for leaf in leaves)])
        jets: dict[int, Jet] = {}
        for leaf, start in zip(leaves, starts, strict=False):
            unit = np.eye(starts[-1])[start : start + leaf.data.size].reshape((*leaf.data.shape, starts[-1]))
            jets[id(leaf)] = Jet(unit, np.zeros((*unit.shape, starts[-1])))
        for node in reversed(order):  # inputs first
            if isinstance(node, Function) and node.jet is not None:
                jets[id(node)] = node.jet(lambda target: jets[id(target)])
        hessian = jets[id(order[0])].second.reshape(-1, starts[-1], starts[-1]).sum(axis=0)
        rows, columns = (slice(starts[n], starts[n + 1]) for n in (leaves.index(by), leaves.index(then)))
        return np.asarray(hessian[rows, columns].sum(axis=0).reshape(then.data.shape))


def _linear(target: Function | Tensor | None, pull: Pull, push: Callable[[Values], Values]) -> Function:
    """Return the node of a linear function, which pushes values forward and pulls gradients back."""
    assert target is not None
    return Function([(target, pull)], jet=lambda jet_of: jet_of(target).mapped(push))


def _chained(
    name: str,
    values: Sequence[Values],
    targets: Sequence[Function | Tensor | None],
    shape: tuple[int, ...],
    jet_of: JetOf,
) -> Jet:
    """Return the jet of an op at some values by the chain rule, given the jets of its inputs."""
    jets = {number: jet_of(target) for number, target in enumerate(targets) if target is not None}

    # A slope takes a cotangent, of 1 here; a constant one is a scalar, which must have the shape of the result.
    def at(derivative: Callable[..., Values], *more: float) -> Values:
        return np.broadcast_to(np.asarray(derivative(*values, *more), dtype=float), shape)

    first = sum(at(slopes(name)[i], 1.0)[..., None] * jet.first for i, jet in jets.items())
    second = sum(at(slopes(name)[i], 1.0)[..., None, None] * jet.second for i, jet in jets.items())
    for i, one in jets.items():
        for j, other in jets.items():
            second = (
                second
                + at(curvatures(name)[i][j])[..., None, None] * one.first[..., :, None] * other.first[..., None, :]
            )
    return Jet(np.asarray(first), np.asarray(second))


def _passed(
    order: Sequence[Function | Tensor], cotangent: Values, needed: set[int], run: Sequence[Function]
) -> dict[int, Values]:
    """Pass a cotangent on through the nodes in order, hooks first; return what arrives at each, by `id`."""
    arriving: dict[int, Values] = {id(order[0]): cotangent}
    for node in order:
        # The hooks of the root run in any case: it is given the cotangent, whatever is wanted.
        if id(node) not in arriving or (id(node) not in needed and node is not order[0]):
            continue
        for hook in node.hooks:
            arriving[id(node)] = hook(arriving[id(node)])
        if isinstance(node, Function):
            for tensor in node.retains:
                tensor.grad = arriving[id(node)] if tensor.grad is None else tensor.grad + arriving[id(node)]
            for target, pull in node.inputs if node in run else ():
                if id(target) in needed:
                    arriving[id(target)] = arriving.get(id(target), 0) + pull(arriving[id(node)])
    return arriving


def _sloped(
    slope: Callable[..., Values],
    values: Sequence[Values],
    shape: tuple[int, ...],
    wanted: tuple[int, ...],
    gradient: Values,
) -> Values:
    return unbroadcast(np.broadcast_to(np.asarray(slope(*values, gradient), dtype=float), shape), wanted)


def _at(pull: Pull, index: slice, gradient: Values) -> Values:
    return pull(gradient[index])


def _broadcast(shape: tuple[int, ...], gradient: Values) -> Values:
    return np.broadcast_to(gradient, shape).copy()


def _viewed(base: Tensor, index: slice) -> Function:
    shape = base.data.shape

    def pull(gradient: Values) -> Values:
        out = np.zeros(shape)
        out[index] = gradient
        return out

    return _linear(base.target, pull, lambda d: d[index])


def _ordered(start: Function | Tensor | None) -> list[Function | Tensor]:
    """Return the nodes that a gradient passes in topological order: each before those that it goes on to."""
    seen: set[int] = set()
    found: list[Function | Tensor] = []

    def visit(node: Function | Tensor) -> None:
        if id(node) not in seen:
            seen.add(id(node))
            for target, _ in node.inputs if isinstance(node, Function) else ():
                visit(target)
            found.append(node)

    if start is not None:
        visit(start)
    return found[::-1]


def _reaches(node: Function | Tensor, wanted: set[int]) -> bool:
    return id(node) in wanted or (
        isinstance(node, Function) and any(_reaches(target, wanted) for target, _ in node.inputs)
    )
