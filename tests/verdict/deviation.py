"""Known deviations: what an assayed torch gets wrong, where, and since when that is known."""

from __future__ import annotations

import itertools
import math
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import simpleeval
import torch
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from reference.format import FORMATS
from reference.tree import single
from tests.subject.mode import FIRST_ORDER, MODES
from tests.verdict.comparison import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reference.op import Op
    from reference.tree import Tree
    from tests.verdict.comparison import Miss

FILE = Path(__file__).parents[1] / "deviations.toml"
"""The deviations of the pinned torch."""

NAMES = ("x", "y", "z")
"""What a region calls the inputs, in order: the names that elementwise entries have."""

FUNCTIONS = {
    "abs": abs,
    "copysign": math.copysign,
    "log": math.log,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
}
"""What a region may call."""

KERNELS = ("DEFAULT", "AVX2", "AVX512")
"""The sets of instructions that torch has CPU kernels for, as `torch.backends.cpu.get_cpu_capability` names them."""

FAULTS = VERDICTS[1:]
"""The verdicts that a deviation may excuse."""


class DeviationError(ValueError):
    """A file of deviations is not valid."""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One wrong gradient of torch, on one dtype, in a region of inputs."""

    op: str
    dtype: str
    verdicts: tuple[str, ...]
    modes: tuple[str, ...] = FIRST_ORDER
    """The modes that show it; all of the first order unless the file says otherwise."""

    device: str
    """The type of device that shows it.

    An entry of the file lists its ``devices``, the CPU alone unless it says otherwise.
    """

    kernels: tuple[str, ...] = KERNELS
    """The sets of instructions for which torch's CPU kernels show it; all of them unless the file says otherwise."""

    torch: str
    """The versions of torch concerned, as a version specifier."""

    region: str
    """A predicate in the inputs x, y, z and the cotangent g; of a tensor op ``True``.

    Examples are ``abs(x) > 256`` and ``x == inf``.
    """

    pinned: Mapping[str, float]
    """An input that must still show it; the elements of a tensor are named x0, x1, ..."""

    cotangent: float = 1.0
    """The cotangent that shows it there: some overflows need one below 1."""

    most_ulp: float = math.inf
    """How far off it may be: what is further off is new."""

    reason: str
    link: str
    """An upstream report, or ``unreported`` and the date it was found."""

    def __str__(self) -> str:
        """Name the deviation as test ids do."""
        at = ",".join(f"{name}={value}" for name, value in self.pinned.items())
        return f"{self.op}-{'-'.join(self.verdicts)}-{self.dtype}-{self.device}-at-{at}"

    def concerns(self, op: str, dtype: str, mode: str, device: str) -> bool:
        """Say whether it is about an op, a dtype, a mode and a device."""
        asked = (op, dtype, device.split(":", maxsplit=1)[0])
        return asked == (self.op, self.dtype, self.device) and mode in self.modes

    def covers(self, miss: Miss) -> bool:
        """Say whether a miss, of what the deviation concerns, is this deviation."""
        return (
            miss.verdict in self.verdicts
            and not miss.ulp > self.most_ulp
            and any(self.holds(dict(zip(NAMES, point, strict=False)), g) for *point, g in _points(miss))
        )

    def holds(self, point: Mapping[str, float], cotangent: float) -> bool:
        """Say whether a point lies in the region."""
        evaluator, parsed = _evaluator(self.region)
        evaluator.names = {**point, "g": cotangent, "inf": math.inf}
        return bool(evaluator.eval(self.region, previously_parsed=parsed))


@cache
def _evaluator(region: str) -> tuple[simpleeval.SimpleEval, Any]:
    return simpleeval.SimpleEval(functions=FUNCTIONS), simpleeval.SimpleEval.parse(region)


def trees_of(op: Op) -> list[Tree]:
    """Return an op on its own inputs: a tensor op at each of its shapes."""
    return [single(op)] if op.elementwise else [single(op, shapes) for shapes in op.shapes]


def _points(miss: Miss) -> Iterator[tuple[float, ...]]:
    """Return every point and cotangent that may have contributed.

    Sums over a broadcast axis have many; a region of a tensor op has no names.
    """
    if not miss.case.tree.root.op.elementwise:
        yield (1.0,)
        return
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
    found = [
        each for number, entry in enumerate(table.get("deviation", []), 1) for each in _entry(path, number, entry, ops)
    ]
    return tuple(each for each in found if _concerns(each))


def _concerns(deviation: Deviation) -> bool:
    """Say whether a deviation is of the installed torch, on this machine."""
    here = deviation.device != "cpu" or torch.backends.cpu.get_cpu_capability() in deviation.kernels
    return here and SpecifierSet(deviation.torch).contains(torch.__version__.split("+")[0], prereleases=True)


def _entry(path: Path, number: int, entry: Mapping[str, Any], ops: Mapping[str, Op]) -> Iterator[Deviation]:
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
        given = (
            shared
            | {name: value for name, value in where.items() if name not in {"got", "truth"}}
            | {"dtype": dtype, "device": device}
        )
        _refuse_fields(place, given)
        try:
            given["pinned"] = {name: float.fromhex(value) for name, value in given["pinned"].items()}
            given |= {name: tuple(given[name]) for name in ("verdicts", "modes", "kernels") if name in given}
            deviation = Deviation(**given)
            _validate(deviation, ops)
        except (ValueError, TypeError, AttributeError, InvalidSpecifier) as error:
            message = f"{place}, {dtype}: {error}"
            raise DeviationError(message) from error
        yield deviation


def _refuse_fields(place: str, given: Mapping[str, Any]) -> None:
    accepted = {each.name for each in fields(Deviation)}
    due = accepted - {"modes", "kernels", "cotangent", "most_ulp"}
    unknown, missing = sorted(set(given) - accepted), sorted(due - set(given))
    if unknown or missing:
        said = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [f"missing: {', '.join(missing)}"] * bool(missing)
        message = f"{place}: {'; '.join(said)}; accepted: devices, {', '.join(sorted(accepted - {'device'}))}"
        raise DeviationError(message)


def _validate(deviation: Deviation, ops: Mapping[str, Op]) -> None:
    accepted = {"op": ops, "dtype": FORMATS, "verdicts": FAULTS, "modes": MODES, "kernels": KERNELS}
    for name, names in accepted.items():
        value = getattr(deviation, name)
        unknown = set(value if isinstance(value, tuple) else (value,)) - set(names)
        if unknown or not value:
            message = f"{name}={value!r}; accepted: {', '.join(names)}"
            raise ValueError(message)
    SpecifierSet(deviation.torch)
    if not deviation.most_ulp > 0:
        message = f"most_ulp={deviation.most_ulp}; accepted: a number above 0"
        raise ValueError(message)
    accepted_pins = [tree.elements for tree in trees_of(ops[deviation.op])]
    inputs = accepted_pins[0] if ops[deviation.op].elementwise else ()
    if not any(set(deviation.pinned) == set(names) for names in accepted_pins):
        choices = "; or of ".join(", ".join(names) for names in accepted_pins)
        message = f"pinned={dict(deviation.pinned)}; accepted: a hex float for each of {choices}"
        raise ValueError(message)
    try:
        held = deviation.holds(deviation.pinned if inputs else {}, deviation.cotangent)
    except (simpleeval.InvalidExpression, SyntaxError, ArithmeticError) as error:
        message = (
            f"region={deviation.region!r}: {error}; "
            f"accepted: a predicate in {', '.join(inputs)} and g with {', '.join(FUNCTIONS)}"
        )
        raise ValueError(message) from error
    if not held:
        message = f"region={deviation.region!r} does not hold the pinned input"
        raise ValueError(message)
