"""What the command line asks to be assayed."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.autograd import Function

from reference.case import PROMISES
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.op import InvalidOpError, Op
from tests.subject import binding, device
from tests.subject.mode import MODES
from tests.verdict import deviation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from reference.format import Format
    from tests.subject.mode import Mode
    from tests.verdict.deviation import Deviation

TREE = "tree"
"""The name that trees of ops go by where ops are named: drawn ones, and those of the notebook."""


class ChoiceError(ValueError):
    """The command line names something that does not exist; the message lists what does."""


@dataclass(frozen=True)
class Profile:
    """How much a run asks of torch."""

    op_cases: int
    """Cases of an op, for each of its modes, formats and devices."""

    tree_cases: int
    """Drawn trees, for each mode, format and device."""

    histories: int
    """Histories of up to 50 steps on the tape, for each device."""

    sizes: tuple[int, ...] = (1, 7, 8, 64, 1000, 40_000)
    """The lengths of the vectors in which hard points are repeated.

    They are around the width of a register, some registers long, and past the 32,768 elements that torch gives to one
    thread.
    """

    seconds: float = 30
    """How long one op of a user's own is asked at sizes around blocks; the pace of each size foretells the next."""

    infinite: bool = True
    """Whether infinite inputs are asked for too, whose limits take sympy some seconds."""

    fixed: tuple[str, ...] = tuple(FORMATS)
    """The formats in which every mode is asked, at the same points."""

    samples: bool = True
    """Whether modes that take seconds each are asked for their sample."""

    every_mode: bool = False
    """Whether all modes are asked at drawn points, and not those only that draw in any profile."""

    enumerates: bool = False
    """Whether every finite value of the 16-bit formats is tried on each op of one argument."""


PROFILES = {
    "quick": Profile(
        op_cases=2, tree_cases=15, histories=20, sizes=(), seconds=10, infinite=False, fixed=("float32",), samples=False
    ),
    "default": Profile(op_cases=8, tree_cases=60, histories=150),
    "thorough": Profile(op_cases=80, tree_cases=60, histories=1500, seconds=300, every_mode=True),
    "exhaustive": Profile(op_cases=80, tree_cases=60, histories=1500, seconds=300, enumerates=True),
}
"""The profiles by name; each draws more than the one before it.

The last is the exception: it enumerates rather than drawing for every mode.
"""


@dataclass(frozen=True)
class Choice:
    """The part of the table of ops, modes, formats and devices that is assayed."""

    ops: Mapping[str, Op]
    trees: bool
    modes: Mapping[str, Mode]
    drawing: Mapping[str, Mode]
    """The modes that are asked at drawn points: those that were named, else all or a few as the profile says."""

    forms: Mapping[str, Format]
    devices: Mapping[str, str | None]
    """Each device and why it was refused; None for one that is assayed."""

    profile: Profile
    catalogue: Mapping[str, Op]
    """Every op there is, whether it is assayed or not."""

    deviations: tuple[Deviation, ...]
    inside: str | None
    """The promise that is asked of ops in 16-bit formats; None for what each declares."""

    narrowed: bool
    """Whether ops were named: then tests of anything else are left out."""


def chosen(
    *,
    ops: Sequence[str],
    modes: Sequence[str],
    dtypes: Sequence[str],
    devices: Sequence[str],
    profile: str,
    catalogue: str | None,
    deviations: str | None,
    inside: str | None,
) -> Choice:
    """Read the options of the command line; raises ChoiceError where one is not valid."""
    table = OPS | (own_entries(Path(catalogue)) if catalogue else {})
    variants: dict[str, list[str]] = {}  # an op that is named stands for all of its variants
    for op in table.values():
        variants.setdefault(op.base, []).append(op.name)
    names = [each for name in _split(ops) for each in (name, *variants.get(name, []))]
    picked = _pick("op", names, {**table, TREE: None})
    try:
        known = deviation.read(Path(deviations) if deviations else deviation.FILE, table)
    except deviation.DeviationError as error:
        raise ChoiceError(str(error)) from error
    asked = _pick("mode", _split(modes), MODES)
    amount = next(iter(_pick("profile", [profile], PROFILES).values()))
    return Choice(
        ops={name: op for name, op in picked.items() if op is not None},
        trees=TREE in picked,
        modes=asked,
        drawing={name: mode for name, mode in asked.items() if mode.draws or modes or amount.every_mode},
        forms=_pick("dtype", _split(dtypes), FORMATS),
        devices=_devices(_split(devices)),
        profile=amount,
        catalogue=table,
        deviations=known,
        inside=next(iter(_pick("inside", [inside], dict.fromkeys(PROMISES)))) if inside else None,
        narrowed=bool(names),
    )


def _split(given: Iterable[str]) -> list[str]:
    """Return the names in options, each of which may have several with commas between them."""
    return [name.strip() for value in given for name in value.split(",")]


def _pick(kind: str, names: Sequence[str], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a table that is named, in the table's order; all of it where nothing is."""
    unknown = [name for name in names if name not in table]
    if unknown:
        near = {name: None for wrong in unknown for name in get_close_matches(wrong, table)}
        meant = f"; the nearest: {', '.join(near)}" if near else ""
        message = f"--{kind} {', '.join(unknown)}: no such {kind}{meant}; accepted: {', '.join(table)}"
        raise ChoiceError(message)
    return {name: value for name, value in table.items() if not names or name in names}


def _devices(names: Sequence[str]) -> dict[str, str | None]:
    """Return devices, each with why it is refused: all that torch can name, or those named, none of which may refuse.

    Raises ChoiceError.
    """
    if not names:
        return device.probed()  # of these the refusals are only told in the header
    refusals = {name: device.probe(name) for name in names}
    lines = [f"--device {name}: {refusal}" for name, refusal in refusals.items() if refusal]
    if lines:
        message = f"{'; '.join(lines)}; accepted: {', '.join(device.passing(device.probed()))}"
        raise ChoiceError(message)
    return refusals


def own_entries(path: Path) -> dict[str, Op]:
    """Import a user's catalogue, a Python file with a sequence `OPS`.

    The file is imported under its own name, with its folder on the path, so that an entry may name a
    function of the file itself: ``torch="my_ops.fast_gelu"`` in ``my_ops.py``. Raises ChoiceError.
    """
    module = _imported(path)
    entries = getattr(module, "OPS", None)
    if not isinstance(entries, tuple | list) or not entries or not all(isinstance(op, Op) for op in entries):
        message = f"--catalogue {path}: OPS={entries!r}; accepted: OPS = (Op(...), ...), a sequence of gradassay.Op"
        raise ChoiceError(message)
    table: dict[str, Op] = {}
    # an entry with variants is an op for each of them
    for op in chain.from_iterable(entry.entries for entry in entries):
        if op.name in OPS or op.name in table or op.name == TREE:
            message = f"--catalogue {path}: op {op.name!r} exists already; accepted: a name that is not taken"
            raise ChoiceError(message)
        if op.inside not in PROMISES:
            message = f"--catalogue {path}: op {op.name!r}: inside={op.inside!r}; accepted: {', '.join(PROMISES)}"
            raise ChoiceError(message)
        try:
            target = binding.resolve(op.torch)
        except binding.BindingError as error:
            message = f"--catalogue {path}: op {op.name!r}: {error}"
            raise ChoiceError(message) from error
        if isinstance(target, type) and issubclass(target, Function):
            message = f"--catalogue {path}: op {op.name!r}: torch={op.torch!r} is a class; accepted: '{op.torch}.apply'"
            raise ChoiceError(message)
        table[op.name] = replace(op, file=str(path))
    return table


def _imported(path: Path) -> Any:
    """Import a file of Python under its own name, and return the module. Raises ChoiceError, whatever the file does."""
    name = path.stem
    if path.suffix != ".py" or not path.is_file() or not name.isidentifier() or name in sys.modules:
        message = f"--catalogue {path}: accepted: an existing Python file, named as no other module is"
        raise ChoiceError(message)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # for what lies beside the file, and is imported there
    sys.modules[name] = module  # before it runs, so that a dotted path to it resolves to this module and no second one
    try:
        spec.loader.exec_module(module)
    except InvalidOpError as error:
        message = f"--catalogue {path}: {error}"
        raise ChoiceError(message) from error
    except (Exception, SystemExit) as error:  # a user's file may raise anything: one usage error, which quotes it
        lines = [f", line {f.lineno}" for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        said = f"{type(error).__name__}: {error}{lines[-1] if lines else ''}"
        message = f"--catalogue {path}: does not import: {said}; accepted: a file that `python {path}` runs"
        raise ChoiceError(message) from error
    return module
