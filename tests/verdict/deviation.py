"""Known deviations: what an assayed torch gets wrong, where, and since when that is known."""

from __future__ import annotations

import itertools
import math
import tomllib
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simpleeval
import torch
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from reference.case import LAYOUTS, Case
from reference.format import FORMATS
from reference.tree import single
from tests.subject import binding
from tests.subject.mode import FIRST_ORDER, MODES
from tests.verdict.comparison import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reference.case import Layout
    from reference.format import Floats, Format
    from reference.op import Op
    from reference.tree import Tree
    from tests.verdict.comparison import Miss

FILE = Path(__file__).parents[1] / "deviations.toml"
"""The deviations of the pinned torch."""

FUNCTIONS = {
    "abs": abs,
    "copysign": math.copysign,
    "log": math.log,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
}
"""What a region may call. A region is text of a file that anyone may have written: simpleeval lets it reach no more."""

INSTRUCTION_SETS = ("DEFAULT", "AVX2", "AVX512")
"""The sets of instructions that torch has CPU kernels for, as `torch.backends.cpu.get_cpu_capability` names them."""

EXCUSABLE = VERDICTS[1:]
"""The verdicts that a deviation may excuse."""

DENSE = next(iter(LAYOUTS))
"""How elements lie where nothing else is said."""


class DeviationError(ValueError):
    """A file of deviations is not valid."""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One wrong gradient of torch, on one dtype, in a region of inputs."""

    op: str
    dtype: str
    verdicts: tuple[str, ...]
    """What its misses are found to be: each of VERDICTS but the first."""

    modes: tuple[str, ...] = FIRST_ORDER
    """The modes that show it; all of the first order unless the file says otherwise."""

    device: str
    """The type of device that shows it.

    An entry of the file lists its ``devices``, the CPU alone unless it says otherwise.
    """

    kernels: tuple[str, ...] = INSTRUCTION_SETS
    """The sets of instructions for which torch's CPU kernels show it; all of them unless the file says otherwise."""

    torch: str
    """The versions of torch concerned, as a version specifier."""

    region: str
    """A predicate in the inputs x, y, z and the cotangent g, such as ``abs(x) > 256`` or ``x == inf``.

    Of a tensor op, or an empty batch, the inputs have the names of its formula, and each stands for an `Extent`:
    ``x.columns >= 4096 and x.is_asked``, ``x.size == 0``.
    """

    pinned: Mapping[str, float]
    """An input that must still show it; the elements of a tensor are named x0, x1, ...

    Nothing is named where it is an empty batch that shows it.
    """

    cotangent: float = 1.0
    """The cotangent that shows it there: some overflows need one below 1."""

    layouts: Mapping[str, str] = field(default_factory=dict)
    """How inputs lie in memory there, by name, where one that lies otherwise does not show it: one of LAYOUTS."""

    wrt: tuple[str, ...] = ()
    """The inputs that require grad there; all that the op differentiates unless the file says otherwise."""

    most_ulp: float = math.inf
    """How far off it may be, in ulps of the truth: a miss that is further off is new."""

    reason: str
    """Why torch is wrong there, for who reads the table of verdicts."""

    link: str
    """An upstream report, or ``unreported`` and the date it was found."""

    def __str__(self) -> str:
        """Name the deviation as test ids do."""
        at = ",".join(f"{name}={value}" for name, value in self.pinned.items()) or "nothing"
        return f"{self.op}-{'-'.join(self.verdicts)}-{self.dtype}-{self.device}-at-{at}"

    def concerns(self, op: str, dtype: str, mode: str, device: str) -> bool:
        """Say whether it is about an op, a dtype, a mode and a device."""
        asked = (op, dtype, device.split(":", maxsplit=1)[0])
        return asked == (self.op, self.dtype, self.device) and not {mode, MODES[mode].eager}.isdisjoint(self.modes)

    def covers(self, miss: Miss) -> bool:
        """Say whether a miss is this deviation, which is known to concern its op, dtype, mode and device."""
        if miss.verdict not in self.verdicts or miss.ulp > self.most_ulp:
            return False
        if not self.pinned or not miss.case.tree.root.op.elementwise:
            return self.holds_for(miss.whole, miss.wrt)
        names = miss.case.tree.root.op.inputs
        return any(self.holds(dict(zip(names, point, strict=True)), g) for *point, g in _points(miss))

    def holds(self, point: Mapping[str, Any], cotangent: Any) -> bool:
        """Say whether inputs and a cotangent lie in the region: numbers, or of a tensor op the extents of its arrays.

        Raises what the region raises, such as ZeroDivisionError or simpleeval.InvalidExpression.
        """
        evaluator, parsed = _evaluator(self.region)
        evaluator.names = {**point, "g": cotangent, "inf": math.inf}
        return bool(evaluator.eval(self.region, previously_parsed=parsed))

    def holds_for(self, case: Case, wrt: str) -> bool:
        """Say whether the inputs of a tensor op lie in the region, for the derivative by one of them."""
        return self.holds(*_extents(case, wrt, case.layouts))


@dataclass(frozen=True)
class Extent:
    """What a region may say of an array."""

    size: int
    """The number of elements."""

    rank: int
    """The number of axes."""

    columns: int
    """The length of the last axis."""

    largest: float
    """The largest magnitude."""

    smallest: float
    """The smallest magnitude that is not 0."""

    spread: float
    """The largest element less the smallest."""

    zeros: int
    """How many elements are 0."""

    ties: int
    """How many elements are equal to one before them in their row."""

    is_asked: bool
    """Whether the derivative is by this input."""

    requires_grad: bool
    """Whether a gradient is asked for of this input."""

    layout: str
    """How its elements lie in memory: one of LAYOUTS."""

    @classmethod
    def of(cls, values: Floats, *, is_asked: bool, requires_grad: bool, layout: str) -> Extent:
        """Take the extent of an array."""
        sizes = np.abs(values)
        columns = values.shape[-1] if values.ndim else 1
        rows = np.sort(values.reshape(-1, columns), axis=-1) if values.size else values.reshape(0, 1)
        return cls(
            size=values.size,
            rank=values.ndim,
            columns=columns,
            largest=float(sizes.max(initial=0.0)),
            smallest=float(sizes[sizes > 0].min(initial=math.inf)),
            spread=float(values.max() - values.min()) if values.size else 0.0,
            zeros=int((values == 0).sum()),
            ties=int((np.diff(rows, axis=-1) == 0).sum()),
            is_asked=is_asked,
            requires_grad=requires_grad,
            layout=layout,
        )


@cache
def _evaluator(region: str) -> tuple[simpleeval.SimpleEval, Any]:
    """Return an evaluator, and what it parsed of a region: once for each, since a case may have thousands of misses."""
    return simpleeval.SimpleEval(functions=FUNCTIONS), simpleeval.SimpleEval.parse(region)


@lru_cache(maxsize=64)
def _extents(case: Case, wrt: str, layouts: tuple[Layout, ...]) -> tuple[dict[str, Extent], Extent]:
    """Return the extents of the inputs by name, and that of the cotangent.

    The layouts are those of the case: two cases are equal whatever their layouts, so these are a key by themselves.
    """

    def lying(values: Floats, number: int) -> str:
        layout = layouts[number] if number < len(layouts) else DENSE
        return layout if isinstance(layout, str) and binding.applies(layout, values) else DENSE

    extents = {
        leaf.name: Extent.of(
            primal, is_asked=leaf.name == wrt, requires_grad=number in case.asked, layout=lying(primal, number)
        )
        for number, (leaf, primal) in enumerate(zip(case.tree.leaves, case.primals, strict=True))
    }
    layout = lying(case.cotangent, len(case.primals))
    return extents, Extent.of(case.cotangent, is_asked=False, requires_grad=False, layout=layout)


def trees_of(op: Op) -> list[Tree]:
    """Return an op on its own inputs: a tensor op at each of its shapes."""
    if op.elementwise:
        return [single(op)]
    # An op of any size may be pinned with all axes as short as they can be, so that the entry stays short.
    short = [] if op.shapes else [op.shaped(dict.fromkeys(op.letters, op.shortest))]
    return [single(op, shapes) for shapes in (*op.cores, *short)]


def pinned(known: Deviation, op: Op) -> Case:
    """Return the pinned input of a deviation, at the shapes that have as many elements as it names."""
    if not known.pinned:
        return _empty(op, FORMATS[known.dtype])
    tree = next(tree for tree in trees_of(op) if set(tree.elements) == set(known.pinned))
    primals = tuple(
        np.array([known.pinned[name] for name in leaf.elements]).reshape(leaf.shape) for leaf in tree.leaves
    )
    names = [leaf.name for leaf in tree.leaves]
    at = [p for p in op.points if all(map(np.array_equal, (p.inputs[name] for name in names), primals))]
    return Case(
        tree,
        FORMATS[known.dtype],
        primals,
        np.full(tree.root.shape, known.cotangent),
        layouts=tuple(known.layouts.get(name, DENSE) for name in names) if known.layouts else (),
        wrt=tuple(sorted(map(names.index, known.wrt))) or None,
        stated=at[0].of(op, known.cotangent) if at else (),
    )


def _empty(op: Op, form: Format) -> Case:
    """Return an op at an empty batch; of inputs that have no batch, all elements are 1."""
    (tree, *_) = trees_of(op)
    count = len(tree.leaves) if op.elementwise else op.batched
    shapes = [(0, *leaf.shape) if number < count else leaf.shape for number, leaf in enumerate(tree.leaves)]
    return Case(tree, form, tuple(map(np.ones, shapes)), np.ones((0, *tree.root.shape)))


def _points(miss: Miss) -> Iterator[tuple[float, ...]]:
    """Return every point and cotangent that may have contributed: sums over a broadcast axis have many.

    They are all combinations of the values, so that a region may cover a miss by one that was not asked.
    """
    yield from itertools.product(
        *(sorted(set(values.ravel().tolist())) for values in (*miss.case.primals, miss.case.cotangent))
    )


def read(path: Path, ops: Mapping[str, Op]) -> tuple[Deviation, ...]:
    """Read the deviations of the installed torch from a TOML file.

    Raises DeviationError, which names what is accepted, for a file that is not valid: an entry for an
    op or dtype that does not exist would excuse nothing.
    """
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"deviations {path}: {error}"
        raise DeviationError(message) from error
    unknown = set(table) - {"deviation"}
    if unknown or not isinstance(table.get("deviation", []), list):
        message = f"deviations {path}: has {', '.join(sorted(unknown or table))}; accepted: a list of [[deviation]]"
        raise DeviationError(message)
    entries = enumerate(table.get("deviation", []), 1)
    # all entries are read before those of another torch are left out, so that none of them goes stale unseen
    found = [each for number, entry in entries for each in _entry(path, number, entry, ops)]
    return tuple(each for each in found if _is_here(each))


def _is_here(deviation: Deviation) -> bool:
    """Say whether a deviation is of the installed torch, on this machine."""
    # What is behind the `+` of a version names a build, such as `+cpu`. Specifiers leave nightlies out unless told to.
    here = deviation.device != "cpu" or torch.backends.cpu.get_cpu_capability() in deviation.kernels
    return here and SpecifierSet(deviation.torch).contains(torch.__version__.split("+")[0], prereleases=True)


def _entry(path: Path, number: int, entry: Mapping[str, Any], ops: Mapping[str, Op]) -> Iterator[Deviation]:
    """Yield the deviations of one entry, one for each of its devices and formats. Raises DeviationError."""
    shared = {name: value for name, value in entry.items() if name != "dtypes"}
    place = f"deviations {path}: entry {number} ({entry.get('op', 'without op')})"
    if not isinstance(entry.get("dtypes"), dict):
        message = f"{place}: dtypes is missing; accepted: a table of {', '.join(FORMATS)}"
        raise DeviationError(message)
    devices = shared.pop("devices", ["cpu"])
    if not isinstance(devices, list) or not devices:
        message = f"{place}: devices={devices!r}; accepted: a list of types of devices"
        raise DeviationError(message)
    for device, (dtype, where) in itertools.product(devices, entry["dtypes"].items()):
        # What torch gives there and what is true are for readers; the run finds both anew.
        own = {name: value for name, value in where.items() if name not in {"got", "truth"}}
        given = shared | own | {"dtype": dtype, "device": device}
        _refuse_fields(place, given)
        try:
            given["pinned"] = {name: float.fromhex(value) for name, value in given["pinned"].items()}
            given |= {name: tuple(given[name]) for name in ("verdicts", "modes", "kernels", "wrt") if name in given}
            deviation = Deviation(**given)
            _validate(deviation, ops)
        except (ValueError, TypeError, AttributeError, InvalidSpecifier) as error:
            message = f"{place}, {dtype}: {error}"
            raise DeviationError(message) from error
        yield deviation


def _refuse_fields(place: str, given: Mapping[str, Any]) -> None:
    """Refuse an entry that lacks a field, or has one that does not exist. Raises DeviationError."""
    accepted = {each.name for each in fields(Deviation)}
    due = accepted - {"modes", "kernels", "cotangent", "most_ulp", "layouts", "wrt"}
    unknown, missing = sorted(set(given) - accepted), sorted(due - set(given))
    if unknown or missing:
        said = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [f"missing: {', '.join(missing)}"] * bool(missing)
        message = f"{place}: {'; '.join(said)}; accepted: devices, {', '.join(sorted(accepted - {'device'}))}"
        raise DeviationError(message)


def _validate(deviation: Deviation, ops: Mapping[str, Op]) -> None:
    """Refuse a deviation that could excuse nothing, or something else. Raises ValueError, which says what is."""
    accepted = {"op": ops, "dtype": FORMATS, "verdicts": EXCUSABLE, "modes": MODES, "kernels": INSTRUCTION_SETS}
    for name, names in accepted.items():
        value = getattr(deviation, name)
        unknown = set(value if isinstance(value, tuple) else (value,)) - set(names)
        if unknown or not value:
            message = f"{name}={value!r}; accepted: {', '.join(names)}"
            raise ValueError(message)
    SpecifierSet(deviation.torch)  # raises InvalidSpecifier
    if not deviation.most_ulp > 0:  # NaN is not, either
        message = f"most_ulp={deviation.most_ulp}; accepted: a number above 0"
        raise ValueError(message)
    op = ops[deviation.op]
    differentiated = [op.inputs[number] for number in op.differentiable]
    if not set(deviation.wrt) <= set(differentiated):
        message = f"wrt={deviation.wrt!r}; accepted: some of {', '.join(differentiated)}"
        raise ValueError(message)
    if not set(deviation.layouts) <= set(op.inputs) or not set(deviation.layouts.values()) <= set(LAYOUTS):
        message = (
            f"layouts={dict(deviation.layouts)}; accepted: for some of {', '.join(op.inputs)} {', '.join(LAYOUTS)}"
        )
        raise ValueError(message)
    trees = trees_of(op)
    accepted_pins = [tree.elements for tree in trees] + [()] * bool(op.elementwise or op.batched)
    if not any(set(deviation.pinned) == set(names) for names in accepted_pins):
        named = "; or of ".join(", ".join(names) or "nothing, for an empty batch" for names in accepted_pins)
        message = f"pinned={dict(deviation.pinned)}; accepted: a hex float for each of {named}"
        raise ValueError(message)
    try:
        case = pinned(deviation, op)
        wrt = [leaf.name for leaf in case.tree.leaves]
        held = (
            deviation.holds(deviation.pinned, deviation.cotangent)
            if op.elementwise and deviation.pinned
            else any(deviation.holds_for(case, name) for name in wrt)
        )
    except (simpleeval.InvalidExpression, SyntaxError, ArithmeticError, TypeError) as error:
        is_point = op.elementwise and deviation.pinned
        extents = "" if is_point else f", each with {', '.join(each.name for each in fields(Extent))},"
        names = ", ".join(op.inputs)
        message = (
            f"region={deviation.region!r}: {error}; accepted: "
            f"a predicate in {names} and g{extents} with {', '.join(FUNCTIONS)}"
        )
        raise ValueError(message) from error
    if not held:
        message = f"region={deviation.region!r} does not hold the pinned input"
        raise ValueError(message)
