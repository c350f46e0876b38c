"""Formulas in plain numpy, traced to a graph: a function is called with arrays that record what is done to them.

`Traced` implements numpy's protocols `__array_ufunc__` and `__array_function__`, so that a formula such as
``np.exp(x) / np.sum(np.exp(x), axis=-1, keepdims=True)`` makes steps of a graph. Nothing is computed, and no value is
known: a formula that asks for one is told what to write instead.
"""

from __future__ import annotations

import inspect
import linecache
import traceback
from functools import lru_cache
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from numpy.lib import mixins
from sympy import Expr, Rational, SympifyError

from reference import graph
from reference.domain import NON_NEGATIVE
from reference.graph import (
    Constant,
    Detached,
    Map,
    Select,
    Shift,
    Step,
    Through,
    constant,
    contracted,
    gathered,
    mapped,
    reshaped,
    summed,
    transposed,
)
from reference.op import Op
from reference.scalars import SCALARS, UFUNCS, exact, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sympy import Symbol

    from reference.graph import Shape


MOST_FACTORS = 16
"""The most factors of np.prod.

A kernel that multiplies 16 of them one after the other rounds 15 times, and the tree of products has 4 levels, each of
which allows four roundings. Of 32 it would allow 20, where 31 may be needed.
"""


class TraceError(TypeError):
    """A formula cannot be traced; the message says where, what, and what is accepted."""


class Traced(mixins.NDArrayOperatorsMixin):
    """An array in a formula, of which numpy's functions make steps of a graph.

    Its attributes and methods are numpy's, as far as they can be traced; docstrings say what differs. What cannot be
    traced raises TraceError.
    """

    def __init__(self, step: Step) -> None:
        """Stand for the result of a step."""
        self.step = step

    @property
    def shape(self) -> Shape:
        """The shape, which is known though no value is."""
        return self.step.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.step.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.step.size

    @property
    def T(self) -> Traced:  # noqa: N802 - numpy's name
        """The array with its axes reversed."""
        return Traced(transposed(self.step, range(self.ndim)[::-1]))

    def __len__(self) -> int:
        """Return the length of the first axis."""
        return self.shape[0]

    def __repr__(self) -> str:
        """Say that it stands for an array of a shape."""
        return f"<an array of shape {self.shape}, traced>"

    def __bool__(self) -> bool:
        """Refuse: a formula that branches would be traced along one branch only."""
        message = (
            "a truth value of an array is asked for, in an `if`, `and` or `or`; accepted: np.where(condition, a, b)"
        )
        raise TraceError(message)

    def __float__(self) -> float:
        """Refuse: no value is known."""
        message = "the value of an array is asked for; accepted: numpy's functions of whole arrays"
        raise TraceError(message)

    __int__ = __index__ = __float__

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Refuse: no value is known."""
        self.__float__()

    def _sympy_(self) -> Any:
        """Refuse sympy's protocol: a number of sympy on the left of an operator then leaves that to the array."""
        message = "an array is no number of sympy; accepted: + - * / ** with a number, and numpy's functions"
        raise SympifyError(message)

    def __getitem__(self, key: Any) -> Traced:
        """Take elements by slices, integers, masks and arrays of integers."""
        return _moved(self, lambda numbers: numbers[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        """Refuse: steps never change once they are made."""
        message = "elements of an array are assigned to; accepted: np.where(condition, a, b), or np.stack of the parts"
        raise TraceError(message)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Apply a universal function, or a reduction by one."""
        # np.add.reduce and its like take the first axis by default, where np.sum takes all
        if method == "reduce" and ufunc in REDUCTIONS:
            return _called(f"{ufunc.__name__}.reduce", REDUCTIONS[ufunc], inputs, {"axis": 0} | kwargs)
        # the operator @ comes here as well
        if ufunc is np.matmul and method == "__call__" and not kwargs:
            return matmul(*inputs)
        if "out" in kwargs:  # as `x += 1` passes it too
            message = "an array is overwritten; accepted: a new one, `x = 2 * x` in the place of `x *= 2`"
            raise TraceError(message)
        if method != "__call__" or ufunc.__name__ not in UFUNCS or kwargs:
            extra = f" with {', '.join(kwargs)}" if kwargs else "" if method == "__call__" else f".{method}"
            message = f"np.{ufunc.__name__}{extra} cannot be traced; accepted: {', '.join(sorted(UFUNCS))}, matmul"
            raise TraceError(message)
        return _elementwise(UFUNCS[ufunc.__name__], *inputs, rule=ufunc.__name__ if ufunc.__name__ in RULED else "")

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        """Apply a function of arrays."""
        name = function.__name__
        if name not in ARRAY_FUNCTIONS:
            message = f"np.{name} cannot be traced; accepted: {', '.join(sorted({*ARRAY_FUNCTIONS, *UFUNCS}))}"
            raise TraceError(message)
        return _called(name, ARRAY_FUNCTIONS[name], args, kwargs)

    def apply(self, op: Op, *arrays: Any) -> Traced:
        """Apply an op of the catalogue, which a formula may call as a function: one step, or those of its formula."""
        return Traced(applied(op, [step_of(array) for array in arrays], 0))

    def sum(self, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Add elements up."""
        return total(self, axis, keepdims=keepdims)

    def mean(self, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Average elements."""
        return mean(self, axis, keepdims=keepdims)

    def max(self, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Return the largest element; equal elements share its derivative."""
        return extreme(-1)(self, axis, keepdims=keepdims)

    def min(self, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Return the smallest element; equal elements share its derivative."""
        return extreme(0)(self, axis, keepdims=keepdims)

    def prod(self, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Multiply elements, at most MOST_FACTORS of them."""
        return product(self, axis, keepdims=keepdims)

    def cumsum(self, axis: Any = None) -> Traced:
        """Return partial sums."""
        return cumsum(self, axis)

    def reshape(self, *shape: Any) -> Traced:
        """Give the elements another shape."""
        return _moved(self, lambda numbers: numbers.reshape(*shape))

    def transpose(self, *axes: Any) -> Traced:
        """Permute axes."""
        return _moved(self, lambda numbers: numbers.transpose(*axes))

    def swapaxes(self, one: int, other: int) -> Traced:
        """Exchange two axes."""
        return _moved(self, lambda numbers: numbers.swapaxes(one, other))

    def ravel(self) -> Traced:
        """Lay the elements out in one row."""
        return self.reshape(-1)

    def squeeze(self, axis: Any = None) -> Traced:
        """Remove axes of length 1."""
        return _moved(self, lambda numbers: np.squeeze(numbers, axis=axis))


def traced(formula: Any, arrays: Sequence[Any], name: str, known: Mapping[str, Any] | None = None) -> list[Step]:
    """Call a formula with arrays, in order, and with what else it takes, by name; return the step of each output.

    `name` is that of the op. Raises TraceError, which names it, the line of the formula, and what is accepted.
    """
    try:
        result = _call(formula, arrays, known or {})
    except (TraceError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        if isinstance(error.__cause__, TraceError):  # numpy raises its own where an element is assigned to its array
            error = error.__cause__
        extra = (
            "" if "accepted: " in str(error) else "; accepted: numpy's functions of whole arrays, as numpy takes them"
        )
        message = f"{name}: {_place(formula, error)}{error}{extra}"
        raise TraceError(message) from error
    outputs = result if isinstance(result, tuple | list) else (result,)
    if not outputs or not all(isinstance(each, Traced | int | float | Expr | np.ndarray) for each in outputs):
        message = f"{name}: {start(formula)}the formula returns {result!r}; accepted: an array, or a tuple of arrays"
        raise TraceError(message)
    # a number among the outputs is an array that depends on no input
    return [step_of(each) for each in outputs]


def _call(formula: Callable[..., Any], arrays: Sequence[Any], known: Mapping[str, Any]) -> Any:
    """Call a formula: by keyword where it takes an array by keyword only, or `known` arguments between its arrays."""
    parameters = [each for each in inspect.signature(formula).parameters.values() if each.name not in known]
    by_name = [each for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    if (known or by_name) and len(arrays) <= len(parameters):
        return formula(**{each.name: array for each, array in zip(parameters, arrays, strict=False)}, **known)
    return formula(*arrays, **known)


def _place(formula: Callable[..., Any], error: Exception) -> str:
    """Say at which line of the file that has the formula an exception arose; nothing where it has no code."""
    code = getattr(formula, "__code__", None)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if code is not None and f.filename == code.co_filename
    ]
    # the last one is the innermost line that its author wrote
    return f"line {frames[-1].lineno}, `{frames[-1].line}`: " if frames else ""


def start(formula: Callable[..., Any]) -> str:
    """Say at which line of its file a formula begins; nothing where it has no code."""
    code = getattr(formula, "__code__", None)
    if code is None:
        return ""
    return f"line {code.co_firstlineno}, `{linecache.getline(code.co_filename, code.co_firstlineno).strip()}`: "


def _called(name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call what stands for a function of numpy; refuse arguments that it does not take."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        message = f"np.{name}: {error}; accepted: {', '.join(signature.parameters)}"
        raise TraceError(message) from error
    return function(*args, **kwargs)


def step_of(value: Any) -> Step:
    """Return as a step what a formula may use as an array: one that is traced, a number, or an array of numpy."""
    if isinstance(value, Traced):
        return value.step
    if isinstance(value, Expr):
        return Map((), (), value, ())
    if isinstance(value, int | float | bool | np.generic):
        return Map((), (), exact(value), ())
    return constant(value)


RULED = {"absolute", "fabs", "maximum", "minimum", "clip", "sqrt"}
"""numpy's functions with kinks or an edge, at which torch's rule gives the derivative.

`where` is none of them: its author chose the branches, and the derivative is that of the branch taken.
"""


@lru_cache(maxsize=4096)
def _ruled(name: str, expression: Expr, variables: tuple[Symbol, ...]) -> Op | None:
    """Return a function of numpy as an op, to whose kinks and edges the rule applies; None where it has none."""
    edged = {variables[0].name: NON_NEGATIVE} if name == "sqrt" else {}
    if expression.free_symbols != set(variables) or not (edged or turns(expression)):
        return None
    kinks = turns(expression)
    return Op(name=name, torch=f"numpy.{name}", formula=expression, symbols=variables, kinks=kinks, domain=edged)


def _elementwise(function: Callable[..., Any], *inputs: Any, rule: str = "") -> Traced:
    """Apply a function of expressions to arrays, as one map; numbers become part of its expression.

    `rule` is the name of the function if it is one of RULED. Raises TraceError where the shapes do not broadcast.
    """
    steps = [step_of(value) for value in inputs]
    arguments = [_number(step) for step in steps]
    names = [sympy.Symbol(f"x{i}", real=True) for i in range(len(steps))]
    # numbers are no sources: the expression of 2 * x has one variable
    used = [(name, step) for name, step, number in zip(names, steps, arguments, strict=True) if number is None]
    expression = sympy.sympify(
        function(*(name if number is None else number for name, number in zip(names, arguments, strict=True))),
        strict=True,
    )
    shapes, variables = [step.shape for step in steps], tuple(name for name, _ in used)
    op = _ruled(rule, expression, variables) if rule and used else None
    try:
        return Traced(mapped(expression, variables, [step for _, step in used], op=op))
    except ValueError as error:
        message = f"arrays of shapes {', '.join(map(str, shapes))}; accepted: shapes that broadcast"
        raise TraceError(message) from error


def _number(step: Step) -> Expr | None:
    """Return the exact number that a step is; None where it is an array, or depends on one."""
    if isinstance(step, Map) and not step.sources and not step.shape:
        return step.expression
    if isinstance(step, Constant) and not step.shape:
        return exact(step.values[()])
    return None


def applied(op: Op, sources: Sequence[Step], seed: int) -> Step:
    """Apply an op to arrays; several outputs are laid one behind the other along the last axis.

    `seed` is that of the op's contexts. Raises TraceError where the op does not take such arrays.
    """
    return joined(results(op, sources, seed), len(sources[0].shape) - len(op.cores[0][0]))


def joined(outputs: Sequence[Step], batch: int) -> Step:
    """Lay several outputs one behind the other along the last axis, each flat but for `batch` axes in front."""
    if len(outputs) == 1:
        return outputs[0]
    flat = [reshaped(each, (*each.shape[:batch], prod(each.shape[batch:]))) for each in outputs]
    return concatenate([Traced(each) for each in flat], -1).step


def results(op: Op, sources: Sequence[Step], seed: int) -> list[Step]:
    """Apply an op to arrays, and return each output.

    An elementwise op is one step, with its kinks and what torch saves of it. Raises TraceError where the op does not
    take such arrays.
    """
    if isinstance(op.formula, Expr):
        try:
            return [mapped(op.formula, op.symbols, sources, op=op, saved=op.saving)]
        except ValueError as error:
            message = f"{op.name}: {error}; accepted: shapes that broadcast"
            raise TraceError(message) from error
    # the formula of a tensor op is traced, and its steps become part of this graph
    known = op.known([source.shape for source in sources], seed)
    arrays = [Traced(source) for source in sources]
    outputs = traced(op.formula, arrays, op.name, known)
    if not callable(op.saved):
        return outputs
    # of one input and one output: the op is applied again, to the input that `saved` makes of what torch saved
    (result,), (source,) = outputs, sources
    (value,) = outputs if op.saves is None else traced(op.saves, arrays, op.name)
    at = step_of(op.saved(*arrays, Traced(value)))
    (again,) = traced(op.formula, [Traced(at)], op.name, known)
    return [Through((result, source), result.shape, again, (at,))]


def _moved(array: Traced, move: Callable[[Any], Any]) -> Traced:
    """Move elements as numpy moves their flat indices: reshape and transpose where that is all, else a table."""
    source = array.step
    try:
        table = np.asarray(move(graph.flat_indices(source.shape)))
    except (ValueError, TypeError) as error:  # not IndexError: it ends a loop over an array
        message = f"{error}, of an array of shape {source.shape}; accepted: what numpy takes for that shape"
        raise TraceError(message) from error
    # moves that need no table are recognised by what they do to the indices
    if table.size == source.size and np.array_equal(table.ravel(), np.arange(source.size)):
        return Traced(reshaped(source, table.shape))
    if table.size == source.size and (axes := _permutation(source.shape, table)) is not None:
        return Traced(transposed(source, axes))
    return Traced(gathered(source, table))


def _permutation(shape: Shape, table: Any) -> tuple[int, ...] | None:
    """Return the permutation of axes that makes a table, if an exchange of two axes or the reversal of all is one."""
    rank = len(shape)
    if table.ndim != rank:
        return None
    identity = list(range(rank))
    candidates = []
    for i, j in combinations(identity, 2):
        exchanged = identity.copy()
        exchanged[i], exchanged[j] = j, i
        candidates.append(exchanged)
    candidates.append(identity[::-1])
    numbers = graph.flat_indices(shape)
    return next((tuple(axes) for axes in candidates if np.array_equal(numbers.transpose(axes), table)), None)


def _axes(array: Traced, axis: Any) -> tuple[int, ...]:
    """Return the numbers, from 0, of the axes that numpy's `axis` names: None names all."""
    if axis is None:
        return tuple(range(array.ndim))
    several = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    if any(not -array.ndim <= a < array.ndim for a in several):
        message = f"axis={axis} of an array of shape {array.shape}; accepted: from {-array.ndim} to {array.ndim - 1}"
        raise TraceError(message)
    if len({a % array.ndim for a in several}) < len(several):
        message = f"axis={axis} of an array of shape {array.shape}; accepted: each axis once"
        raise TraceError(message)
    return tuple(a % array.ndim for a in several)


def _kept(array: Traced, result: Step, axes: tuple[int, ...], *, keepdims: bool) -> Traced:
    """Return what a reduction made of an array, with the reduced axes of length 1 if these are to be kept."""
    shape = tuple(1 if i in axes else n for i, n in enumerate(array.shape))
    return Traced(reshaped(result, shape) if keepdims else result)


def total(a: Traced, axis: Any = None, *, keepdims: bool = False) -> Traced:
    """Add elements up."""
    axes = _axes(a, axis)
    return _kept(a, summed(a.step, axes), axes, keepdims=keepdims)


def mean(a: Traced, axis: Any = None, *, keepdims: bool = False) -> Traced:
    """Average elements."""
    count = np.prod([a.shape[i] for i in _axes(a, axis)], dtype=int)
    # times an exact reciprocal, which a map takes into its expression: one step that rounds, as a division is
    return total(a, axis, keepdims=keepdims) * Rational(1, int(count))


def var(a: Traced, axis: Any = None, *, ddof: int = 0, keepdims: bool = False) -> Traced:
    """Average squared deviations from the mean, dividing by `ddof` less than their number."""
    count = np.prod([a.shape[i] for i in _axes(a, axis)], dtype=int)
    deviation = a - mean(a, axis, keepdims=True)
    return total(deviation**2, axis, keepdims=keepdims) * Rational(1, int(count) - ddof)


def product(a: Traced, axis: Any = None, *, keepdims: bool = False) -> Traced:
    """Multiply elements, as a tree of products: its derivative divides by nothing, so that zeros are ordinary.

    Raises TraceError for more than MOST_FACTORS.
    """
    axes = _axes(a, axis)
    rest = tuple(i for i in range(a.ndim) if i not in axes)
    kept = tuple(1 if i in axes else n for i, n in enumerate(a.shape)) if keepdims else tuple(a.shape[i] for i in rest)
    count = prod(a.shape[i] for i in axes)
    if count > MOST_FACTORS:
        message = f"np.prod of {count} elements; accepted: at most {MOST_FACTORS}"
        raise TraceError(message)
    # all axes that are reduced become one, the last
    row = a.transpose((*rest, *axes)).reshape((*(a.shape[i] for i in rest), count))
    while row.shape[-1] > 1:
        half = row.shape[-1] // 2
        products = row[..., :half] * row[..., half : 2 * half]
        # an odd one waits for the next level
        row = concatenate([products, row[..., 2 * half :]], -1) if row.shape[-1] % 2 else products
    return row.reshape(kept)


def cumsum(a: Traced, axis: Any = None) -> Traced:
    """Return partial sums along an axis: the product with a triangle of ones.

    A scan by doubling would take fewer steps. But it rounds log n times, and a kernel that adds one after the other
    n - 1 times, which a sum may: rounding would not explain what that gives.
    """
    a, at = (a.ravel(), 0) if axis is None else (a, _axes(a, axis)[0])
    letters = "".join(chr(ord("a") + i) for i in range(a.ndim))
    triangle = constant(np.triu(np.ones((a.shape[at], a.shape[at]))))
    return Traced(contracted([letters, letters[at] + "z"], letters.replace(letters[at], "z"), [a.step, triangle]))


def extreme(rank: int) -> Callable[..., Traced]:
    """Return np.min for a rank of 0, np.max for one of -1: functions whose derivative equal elements share."""

    def found(a: Traced, axis: Any = None, *, keepdims: bool = False) -> Traced:
        """Sum the elements with the weights of those of the rank, over all axes to be reduced laid out as one."""
        axes = _axes(a, axis)
        rest = tuple(i for i in range(a.ndim) if i not in axes)
        count = prod(a.shape[i] for i in axes)
        row = a.transpose((*rest, *axes)).reshape((*(a.shape[i] for i in rest), count)).step
        weights = Select((row,), row.shape, len(rest), rank, shares=True)
        letters = "".join(chr(ord("a") + i) for i in range(len(rest) + 1))
        # one weight is 1, or those of equal elements share it, so that nothing is lost in the sum
        result = contracted([letters, letters], letters[:-1], [weights, row], terms=1)
        return _kept(a, result, axes, keepdims=keepdims)

    return found


def shift(a: Any, axis: int = -1) -> Any:
    """Return a value near the largest along an axis, kept with length 1, to subtract before exponentials are taken.

    The formula as a whole must not depend on it, since it has no derivative here.
    """
    (at,) = _axes(a, axis)
    shape = tuple(1 if i == at else n for i, n in enumerate(a.shape))
    return Traced(Shift((a.step,), shape, at))


def detached(a: Any, *, tangents: bool = False) -> Any:
    """Return an array through which no gradient goes, for where torch documents that and mathematics has another.

    With `tangents`, tangents pass nevertheless, as torch pushes that of an embedding's padding row.
    """
    step = step_of(a)
    return Traced(Detached((step,), step.shape, pushes=tangents))


def matmul(a: Any, b: Any) -> Traced:
    """Multiply matrices, or stacks of them that broadcast; a vector is a row on the left, a column on the right."""
    left, right = (value if isinstance(value, Traced) else Traced(step_of(value)) for value in (a, b))
    if not left.ndim or not right.ndim or left.shape[-1] != right.shape[-2 if right.ndim > 1 else 0]:
        accepted = "the last length of the one is the last but one of the other"
        message = f"matmul of shapes {left.shape} and {right.shape}; accepted: {accepted}"
        raise TraceError(message)
    rank = max(left.ndim, right.ndim, 2) - 2
    letters = "".join(chr(ord("a") + i) for i in range(rank))
    # stacks broadcast from the right, so that the shorter one has the last of the letters
    ours = letters[rank - max(left.ndim - 2, 0) :]
    theirs = letters[rank - max(right.ndim - 2, 0) :]
    # a contraction does not broadcast along an axis that both have: that is done before
    if any(n != m for n, m in zip(left.shape[-3::-1], right.shape[-3::-1], strict=False)):
        whole = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        left, right = (broadcast_to(v, (*whole, *v.shape[-2:])) for v in (left, right))
        ours = theirs = letters
    rows, columns = "x" * (left.ndim > 1), "z" * (right.ndim > 1)
    return Traced(
        contracted([f"{ours}{rows}y", f"{theirs}y{columns}"], letters[:rank] + rows + columns, [left.step, right.step])
    )


def dot(a: Any, b: Any) -> Traced:
    """Multiply vectors or matrices; a number is a factor."""
    if np.ndim(a) > 1 and np.ndim(b) > 2:
        message = f"np.dot of shapes {np.shape(a)} and {np.shape(b)}; accepted: a matrix as the second, or np.matmul"
        raise TraceError(message)
    return a * b if not np.ndim(a) or not np.ndim(b) else matmul(a, b)


def inner(a: Any, b: Any) -> Traced:
    """Multiply along the last axes, of which one array at most has more."""
    if np.ndim(a) > 1 and np.ndim(b) > 1:
        message = f"np.inner of shapes {np.shape(a)} and {np.shape(b)}; accepted: a vector as one of them, or np.einsum"
        raise TraceError(message)
    return total(a * b, -1 if np.ndim(a) and np.ndim(b) else ())


def einsum(equation: str, *operands: Any, optimize: Any = None) -> Traced:
    """Sum products of elements over named axes; of more than two arrays, the first two are contracted first."""
    del optimize  # an order of contraction, which mathematics does not depend on
    arrows = equation.replace(" ", "").split("->")
    labels = arrows[0].split(",")
    if len(arrows) != 2 or "." in equation or len(labels) != len(operands) or any(len(set(n)) < len(n) for n in labels):
        message = f"einsum({equation!r}); accepted: an equation with ->, without ..., each axis of an array named apart"
        raise TraceError(message)
    if len(set(arrows[1])) < len(arrows[1]) or not set(arrows[1]) <= {c for names in labels for c in names}:
        message = f"einsum({equation!r}); accepted: a result with axes of the arrays, each once"
        raise TraceError(message)
    steps = [step_of(operand) for operand in operands]
    # of the first two, axes are kept that the result or a later array has
    while len(steps) > 2:
        later = arrows[1] + "".join(labels[2:])
        inner = "".join(sorted(set(labels[0] + labels[1]) & set(later)))
        steps[:2], labels[:2] = [contracted(labels[:2], inner, steps[:2])], [inner]
    return Traced(contracted(labels, arrows[1], steps))


def broadcast_to(array: Any, shape: Any) -> Traced:
    """Repeat an array along axes that it lacks or has of length 1."""
    whole = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    if np.broadcast_shapes(array.shape, whole) != whole:
        message = f"broadcast_to of shape {array.shape} to {whole}; accepted: a shape that it broadcasts to"
        raise TraceError(message)
    return Traced(graph.broadcast(step_of(array), whole))


def concatenate(arrays: Sequence[Any], axis: int = 0) -> Traced:
    """Join arrays along an axis: each is gathered to its range of that, with zeros elsewhere, and all are added."""
    steps = [step_of(array) for array in arrays]
    rank = len(steps[0].shape)
    if axis is None or not -rank <= axis < rank or any(len(step.shape) != rank for step in steps):
        message = (
            f"concatenate of shapes {[s.shape for s in steps]} along axis {axis}; accepted: from {-rank} to {rank - 1}"
        )
        raise TraceError(message)
    axis %= rank
    lengths = [step.shape[axis] for step in steps]
    tables = [np.full((*s.shape[:axis], sum(lengths), *s.shape[axis + 1 :]), -1) for s in steps]
    ends = np.cumsum([0, *lengths])
    # in each table -1 stands for a 0 but in the range of its own array
    for step, table, start, end in zip(steps, tables, ends, ends[1:], strict=False):
        np.moveaxis(table, axis, 0)[start:end] = np.moveaxis(graph.flat_indices(step.shape), axis, 0)
    if len({table.shape for table in tables}) > 1:
        message = f"concatenate of shapes {[s.shape for s in steps]} along axis {axis}; accepted: equal other lengths"
        raise TraceError(message)
    return Traced(_joined([gathered(step, table) for step, table in zip(steps, tables, strict=True)]))


def _joined(parts: Sequence[Step]) -> Step:
    """Add arrays of which at most one has an element that is not 0 at the same index: no sum rounds."""
    names = [sympy.Symbol(f"part{i}", real=True) for i in range(len(parts))]
    return mapped(sympy.Add(*names), names, parts, exact=True)


def stack(arrays: Sequence[Any], axis: int = 0) -> Traced:
    """Join arrays along a new axis."""
    return concatenate([expand_dims(array, axis) for array in arrays], axis)


def expand_dims(array: Any, axis: Any) -> Traced:
    """Add axes of length 1."""
    return _moved(Traced(step_of(array)), lambda numbers: np.expand_dims(numbers, axis))


MOVING = ("constant", "edge", "reflect", "symmetric", "wrap")
"""Modes of np.pad that repeat elements or put zeros, which flat indices can be padded with as well."""


def pad(array: Traced, width: Any, mode: str = "constant", **kwargs: Any) -> Traced:
    """Put zeros, or repeated elements, around an array."""
    if mode not in MOVING or (kwargs and (mode != "constant" or kwargs != {"constant_values": 0})):
        message = (
            f"np.pad with mode={mode!r}, {kwargs}; accepted: zeros, or mode={', '.join(MOVING[1:])} with nothing else"
        )
        raise TraceError(message)
    kwargs = {"constant_values": -1} if mode == "constant" else {}  # the number that a table has for a 0
    return _moved(array, lambda numbers: np.pad(numbers, width, mode, **kwargs))  # type: ignore[call-overload]  # its overloads name each mode


def where(condition: Any, a: Any, b: Any) -> Traced:
    """Take elements of one array where a condition holds, and of another elsewhere."""
    return _elementwise(SCALARS["where"], condition, a, b)


def clip(a: Any, a_min: Any, a_max: Any) -> Traced:
    """Keep elements between bounds."""
    return _elementwise(SCALARS["clip"], a, a_min, a_max, rule="clip")


def norm(a: Traced, ord: Any = None, axis: Any = None, *, keepdims: bool = False) -> Traced:  # noqa: A002 - numpy's name
    """Return the Euclidean norm along an axis, or of a vector. Raises TraceError for any other norm."""
    if ord not in {None, 2} or (axis is None and a.ndim > 1) or (ord == 2 and len(_axes(a, axis)) > 1):
        message = f"np.linalg.norm with ord={ord}, axis={axis}; accepted: the Euclidean norm along an axis"
        raise TraceError(message)
    root: Traced = np.sqrt(total(a * a, axis, keepdims=keepdims))  # type: ignore[assignment]  # by the protocol
    return root


REDUCTIONS = {np.add: total, np.multiply: product, np.maximum: extreme(-1), np.minimum: extreme(0)}
"""What reductions by universal functions are, as ``np.add.reduce`` and the methods of numpy's arrays call them."""

ARRAY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": total,
    "mean": mean,
    "average": mean,
    "var": var,
    "std": lambda a, axis=None, **kwargs: np.sqrt(var(a, axis, **kwargs)),
    "prod": product,
    "cumsum": cumsum,
    "max": extreme(-1),
    "amax": extreme(-1),
    "min": extreme(0),
    "amin": extreme(0),
    "dot": dot,
    "einsum": einsum,
    "outer": lambda a, b: a.reshape(-1, 1) * b.reshape(1, -1),
    "inner": inner,
    "norm": norm,
    "reshape": lambda a, shape: a.reshape(shape),
    "ravel": lambda a: a.ravel(),
    "transpose": lambda a, axes=None: a.transpose(axes),
    "swapaxes": lambda a, one, other: a.swapaxes(one, other),
    "moveaxis": lambda a, source, to: _moved(a, lambda p: np.moveaxis(p, source, to)),
    "expand_dims": expand_dims,
    "squeeze": lambda a, axis=None: a.squeeze(axis),
    "broadcast_to": broadcast_to,
    "concatenate": concatenate,
    "stack": stack,
    "flip": lambda a, axis=None: _moved(a, lambda p: np.flip(p, axis)),
    "roll": lambda a, by, axis=None: _moved(a, lambda p: np.roll(p, by, axis)),
    "rot90": lambda a, k=1, axes=(0, 1): _moved(a, lambda p: np.rot90(p, k, axes)),
    "take": lambda a, indices, axis=None: _moved(a, lambda p: np.take(p, indices, axis)),
    "take_along_axis": lambda a, indices, axis: _moved(a, lambda p: np.take_along_axis(p, indices, axis)),
    "repeat": lambda a, often, axis=None: _moved(a, lambda p: np.repeat(p, often, axis)),
    "tile": lambda a, often: _moved(a, lambda p: np.tile(p, often)),
    "diagonal": lambda a, *args, **kwargs: _moved(a, lambda p: np.diagonal(p, *args, **kwargs)),
    "trace": lambda a: total(_moved(a, np.diagonal), -1),
    "tril": lambda a, k=0: a * np.tril(np.ones(a.shape), k),
    "triu": lambda a, k=0: a * np.triu(np.ones(a.shape), k),
    "pad": pad,
    "where": where,
    "clip": clip,
    "shape": lambda a: a.shape,
    "ndim": lambda a: a.ndim,
    "size": lambda a: a.size,
}
"""numpy's functions of arrays that can be traced, by name."""
