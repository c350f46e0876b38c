"""One assertion for anyone's own tests: a callable's gradient at real tensors, against a formula in plain numpy.

`assert_gradient` makes an entry of the callable and the formula, a case of the tensors, and judges it as the suite
judges its own.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sympy import Expr

from reference.case import PROMISES, Case, repeated_order
from reference.definition import is_defined
from reference.format import FORMATS
from reference.op import InvalidOpError, Op
from reference.oracle import UncertifiedError
from reference.trace import TraceError
from reference.tree import single
from tests.subject import binding
from tests.subject.mode import MODES
from tests.verdict.comparison import VERDICTS, Judgement, judged
from tests.verdict.explanation import DisagreementError
from tests.verdict.isolation import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reference.format import Floats, Format
    from tests.subject.mode import Mode

SEED = 1
"""The seed of cotangents, and of inputs of which only the shape is given: a failure is seen again by the same call."""


class UsageError(ValueError):
    """`assert_gradient` was called with what it does not take; the message says what it does."""


@dataclass(frozen=True)
class Asked:
    """What a call of `assert_gradient` is about: the tensors that vary, and how the callable takes them."""

    op: Op
    """The entry that is made of the callable and its formula, of the tensors that vary alone."""

    tensors: tuple[torch.Tensor, ...]
    wrt: tuple[int, ...]
    """The numbers of the tensors, among those, that are differentiated by."""

    form: Format
    drawn: bool
    """Whether any of the values are drawn, so that rounding errors of a long sum may be taken for independent."""


class Fixed:
    """A formula or a callable of some of its arguments by position, the others fixed."""

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any], varying: Sequence[int]) -> None:
        """Fix the arguments that do not vary."""
        self.source = function
        self.whole = function if len(varying) == len(arguments) else None
        self._function, self._arguments, self._varying = function, list(arguments), list(varying)
        # An entry takes the names of inputs from the signature. A `*args`, or a callable of C, has no names to take.
        names = [f"x{place}" for place in range(len(arguments))]
        for place, name in enumerate(_names(function)[: len(arguments)]):
            names[place] = name
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(names[place], kind) for place in varying])
        owner = getattr(function, "__self__", None)  # `apply` is a method of the autograd.Function that has the name
        named = owner if isinstance(owner, type) else function
        self.title = getattr(named, "__name__", type(function).__name__)
        called = f"{self.title}.{function.__name__}" if isinstance(owner, type) else self.title
        self.__name__ = called if self.title.isidentifier() else "fn"  # of a lambda
        self.__module__ = getattr(named, "__module__", None) or ""

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call with the arguments that vary, in their order; those that come by name follow, in the same order."""
        arguments = list(self._arguments)
        for place, value in zip(self._varying, (*given, *named.values()), strict=True):
            arguments[place] = value
        return self._function(*arguments)


def assert_gradient(
    fn: Callable[..., Any],
    formula: Expr | Callable[..., Any],
    *inputs: Any,
    wrt: Sequence[int] | int | None = None,
    cotangents: Any = None,
    modes: Sequence[str] = ("backward",),
    inside: str = "wide",
    points: Sequence[Sequence[Any]] = (),
) -> Judgement:
    """Assert that the gradient of a callable could have come from correctly rounded steps of a formula.

    `fn` is a torch callable, or a module, whose parameters follow the inputs. `formula` takes the same, as arrays of
    numpy; or it is a sympy expression in x, y and z. `inputs` are tensors, asked with their values, dtype, device and
    strides; a tuple of integers is a shape, of which values are drawn in float32; anything else is passed on as it is.
    `wrt` has the places to differentiate by, every floating tensor unless it is said. `cotangents` is a tensor in the
    shape of the output, or for several outputs one or None for each; unless it is given, one is drawn, and another is
    0 but for the last element. `modes` are names of ways to ask torch, and `inside` is what a kernel in 16 bits
    computes in: wide, operands, saved or format. `points` are further lists of inputs, asked in the same way.

    Returns the judgement. Raises DisagreementError, an AssertionError that explains itself, where the gradient is not
    what it should be; UsageError for what it does not take; UnsupportedError where torch says that it cannot.
    """
    __tracebackhide__ = True  # pytest shows the caller's line, and then what the error says
    if inside not in PROMISES:
        message = f"inside={inside!r}; accepted: {', '.join(PROMISES)}"
        raise UsageError(message)
    if not modes:
        message = f"modes={modes!r}; accepted: some of {', '.join(MODES)}"
        raise UsageError(message)
    chosen = [_mode(name) for name in ([modes] if isinstance(modes, str) else modes)]
    whole = Judgement()
    for each in (inputs, *points):
        asked = _asked(fn, formula, each, wrt)
        device = str(asked.tensors[0].device)
        for mode in chosen:
            for case in _cases(asked, cotangents, mode, inside):
                try:
                    judgement = judged(mode.asks(case), mode, device)
                except UncertifiedError as error:
                    message = f"the formula has no derivative there that can be told ({error}); accepted: other inputs"
                    raise UsageError(message) from error
                if judgement.misses:
                    misses = sorted(judgement.misses, key=lambda miss: VERDICTS.index(miss.verdict), reverse=True)
                    raise DisagreementError(misses, mode, device)
                whole = _together(whole, judgement)
    if not whole.compared:
        message = (
            "no entry of any gradient was compared; accepted: inputs that are not empty, in the range of the dtype"
        )
        raise UsageError(message)
    return whole


def _mode(name: str) -> Mode:
    if name not in MODES:
        message = f"modes: {name!r} is no mode; accepted: {', '.join(MODES)}"
        raise UsageError(message)
    return MODES[name]


def _asked(fn: Callable[..., Any], formula: Any, inputs: Sequence[Any], wrt: Sequence[int] | int | None) -> Asked:
    """Tell the tensors that vary from what is fixed, in what a call is given. Raises UsageError."""
    if not callable(fn) or (isinstance(fn, type) and issubclass(fn, torch.nn.Module)):
        message = f"fn={fn!r}; accepted: a callable of tensors, or a torch.nn.Module that is made"
        raise UsageError(message)
    if isinstance(fn, torch.nn.Module):
        inputs, fn = (*inputs, *(p.detach() for p in fn.parameters())), _of_parameters(fn, len(inputs))
    drawn = any(_is_shape(value) for value in inputs)
    given = [_drawn(value) if _is_shape(value) else value for value in inputs]
    floating = [i for i, value in enumerate(given) if isinstance(value, torch.Tensor) and value.is_floating_point()]
    wanted = floating if wrt is None else [wrt] if isinstance(wrt, int) else list(wrt)
    if not wanted or not set(wanted) <= set(floating):
        message = f"wrt={wrt}; accepted: places of floating tensors, of which there are {floating or 'none'}"
        raise UsageError(message)
    dtypes = {given[i].dtype for i in wanted}
    if len(dtypes) > 1 or (name := str(next(iter(dtypes))).removeprefix("torch.")) not in FORMATS:
        said = ", ".join(sorted(map(str, dtypes)))
        message = f"inputs of {said}; accepted: one of {', '.join(FORMATS)} for all that are differentiated (see wrt)"
        raise UsageError(message)
    devices = {given[i].device for i in floating}
    if len(devices) > 1:
        message = f"inputs on {', '.join(sorted(map(str, devices)))}; accepted: all on one device"
        raise UsageError(message)
    _require_values([given[i] for i in floating])
    # A function in numpy is called with the fixed tensors too. A sympy expression has no place to fix one in, so that
    # all of its symbols vary, and `wrt` says which of them are differentiated.
    varying = wanted if not isinstance(formula, Expr) else floating
    op = _entry(Fixed(fn, given, varying), formula, given, varying)
    tensors = tuple(given[i] for i in varying)
    return Asked(op, tensors, tuple(varying.index(i) for i in wanted), FORMATS[name], drawn)


def _require_values(tensors: Sequence[torch.Tensor]) -> None:
    """Refuse tensors that have no values to ask at. Raises UsageError."""
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_meta:
            message = f"an input on {tensor.device}, {tensor.layout}; accepted: tensors that have values and strides"
            raise UsageError(message)
        if bool(tensor.isnan().any()):
            message = f"an input of shape {tuple(tensor.shape)} has NaN in it; accepted: numbers, and infinities"
            raise UsageError(message)


def _entry(fn: Fixed, formula: Any, given: Sequence[Any], varying: Sequence[int]) -> Op:
    """Make the entry of a callable and its formula. Raises UsageError."""
    # the name of an op is an identifier: a lambda's `<lambda>` becomes `lambda`
    name = "".join(c if c.isalnum() else "_" for c in fn.title.lower()).strip("_") or "fn"
    name = name if name[0].isalpha() else f"fn_{name}"
    try:
        if isinstance(formula, Expr):
            op = Op(name=name, torch=fn, formula=formula, composes=False)
            if len(op.inputs) != len(varying):
                message = f"formula={formula}, floating tensors: {len(varying)}; accepted: a symbol for each of them"
                raise UsageError(message)
            return op
        if not callable(formula):
            message = f"formula={formula!r}; accepted: a function in plain numpy, or a sympy expression in x, y and z"
            raise UsageError(message)
        if isinstance(formula, np.ufunc) and formula.nin != len(given):
            message = f"formula={formula!r} of {formula.nin}, inputs: {len(given)}; accepted: one that takes all"
            raise UsageError(message)
        known = [
            v.numpy(force=True) if isinstance(v, torch.Tensor) and i not in varying else v for i, v in enumerate(given)
        ]
        shapes = tuple(tuple(given[i].shape) for i in varying)
        written = Fixed(formula, known, varying)
        return Op(name=name, torch=fn, formula=written, shapes=(shapes,), batched=0, composes=False)
    except InvalidOpError as error:
        raise UsageError(str(error)) from error


def _of_parameters(module: torch.nn.Module, count: int) -> Callable[..., Any]:
    """Return a module as a function of its inputs, of which there are `count`, followed by its parameters."""
    names = [name for name, _ in module.named_parameters()]

    def called(*values: Any) -> Any:
        return torch.func.functional_call(module, dict(zip(names, values[count:], strict=True)), values[:count])

    return called


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(n, int) and n >= 0 for n in value)


def _drawn(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(SEED).standard_normal(shape), dtype=torch.float32)


def _names(function: Callable[..., Any]) -> list[str]:
    """Return what a function calls its arguments, up to a `*args`; nothing where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL]


def _cases(asked: Asked, cotangents: Any, mode: Mode, inside: str) -> Iterator[Case]:
    """Yield the cases of a call: one for each cotangent, and of a higher order one for each input that comes first.

    Raises UsageError where the formula cannot be traced, has no finite value, or has other shapes than the callable.
    """
    op, form = asked.op, asked.form
    primals = tuple(binding.on_host(tensor) for tensor in asked.tensors)
    shapes = tuple(tuple(primal.shape) for primal in primals)
    try:
        tree = single(op, None if op.elementwise else shapes)
        outputs = (np.broadcast_shapes(*shapes),) if op.elementwise else tree.root.outputs
        shape = outputs[0] if op.elementwise else tree.root.shape
    except (TraceError, ValueError) as error:
        message = f"formula: {error}"
        raise UsageError(message) from error
    _require_shapes(asked, outputs)
    strides = tuple((tuple(tensor.stride()), int(tensor.storage_offset())) for tensor in asked.tensors)
    for cotangent, silent in _cotangents(cotangents, outputs, shape, form):
        case = Case(
            tree,
            form,
            primals,
            cotangent,
            layouts=strides,
            wrt=asked.wrt,
            silent=silent,
            independent=asked.drawn,
            promise=inside,
        )
        if not is_defined(case).all():
            message = "the formula has no finite value at an input; accepted: inputs at which it has"
            raise UsageError(message)
        yield from [case] if mode.order == 1 else repeated_order(case, mode.word)


def _require_shapes(asked: Asked, outputs: Sequence[tuple[int, ...]]) -> None:
    """Refuse a callable that returns other shapes than the formula; an exception of its own is let through."""
    with torch.no_grad(), waiting():
        found = binding.resolve(asked.op.torch)(*asked.tensors)
    several = tuple(found) if isinstance(found, tuple | list) else (found,)
    if not all(isinstance(each, torch.Tensor) for each in several):
        message = f"fn returns {found!r}; accepted: a tensor, or a tuple of tensors"
        raise UsageError(message)
    if [tuple(each.shape) for each in several] != list(outputs):
        said = ", ".join(str(tuple(each.shape)) for each in several)
        message = f"fn returns {said}, the formula {', '.join(map(str, outputs))}; accepted: the same shapes"
        raise UsageError(message)


def _cotangents(
    given: Any, outputs: Sequence[tuple[int, ...]], shape: tuple[int, ...], form: Format
) -> Iterator[tuple[Floats, tuple[int, ...]]]:
    """Yield cotangents, with the outputs that have none: the given one, or one drawn and one of the last element."""
    if given is None:
        yield form.values(form.ordinals(np.random.default_rng(SEED).standard_normal(shape))), ()
        if shape:
            # Kernels forget the last elements of a row, whose errors are lost in a sum with a drawn cotangent.
            probe = np.zeros(shape)
            probe[..., -1:] = 1.0
            yield probe, ()
        return
    several = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not all(each is None or _is_cotangent(each, form) for each in several):
        message = f"cotangents={given!r}; accepted: tensors of {form.name} without NaN, or None in the place of one"
        raise UsageError(message)
    have = [None if each is None else tuple(each.shape) for each in several]
    if len(have) != len(outputs) or any(h not in {None, o} for h, o in zip(have, outputs, strict=True)):
        message = f"cotangents of shapes {have}; accepted: one of each of {list(outputs)}, or None in its place"
        raise UsageError(message)
    # a case has one cotangent: that of several outputs lies one behind the other, as `binding.joined` puts the outputs
    flat = [np.zeros(o) if each is None else binding.on_host(each) for each, o in zip(several, outputs, strict=True)]
    values = flat[0] if len(flat) == 1 else np.concatenate([each.ravel() for each in flat])
    yield values, tuple(number for number, each in enumerate(several) if each is None)


def _is_cotangent(value: Any, form: Format) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == binding.dtype(form) and not bool(value.isnan().any())


def _together(one: Judgement, other: Judgement) -> Judgement:
    """Return two judgements as one."""
    worst = max(one, other, key=lambda each: each.worst_ulp)
    return Judgement(
        compared=one.compared + other.compared,
        undecided=one.undecided + other.undecided,
        overflowed=one.overflowed + other.overflowed,
        worst_ulp=worst.worst_ulp,
        worst_share=max(one.worst_share, other.worst_share),
        at=worst.at,
        held=tuple(promise for promise in one.held if promise in other.held),
    )
