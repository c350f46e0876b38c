"""What the page says, gathered from records, the catalogue, the deviations and a benchmark."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import sympy
import vl_convert
from latex2mathml import converter
from markupsafe import Markup

from reference.catalogue import FAMILIES, OPS
from reference.elements import elements
from reference.format import FORMATS
from tests.runs.findings import right_bits, shown
from tests.runs.report import along, plots
from tests.runs.report.notebook import edges
from tests.runs.report.sweep import spots
from tests.runs.speed.table import duration
from tests.runs.table import beside_declared, kept, short
from tests.subject.device import passing, probed
from tests.subject.mode import MODES
from tests.verdict import deviation
from tests.verdict.comparison import UNSUPPORTED, VERDICTS
from tests.verdict.explanation import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from reference.op import Op
    from tests.runs.speed.table import Figure
    from tests.verdict.deviation import Deviation
    from tests.verdict.record import Record

TEMPLATE = "page.html.jinja"
MOST_INPUTS = 4
"""Inputs of a point that are shown; the rest is in the record."""

LONGEST = 60
"""Operations of a formula that is typeset: that of a normaliser fills pages."""


@dataclass(frozen=True)
class Finding:
    """What the installed torch gets wrong, in the formats that show it alike."""

    op: str
    dtypes: tuple[str, ...]
    device: str
    modes: tuple[str, ...]
    verdict: str
    right: int
    """Bits of the significand that are right at the pinned input."""

    precision: int
    region: str
    reason: str
    link: str
    text: str
    """The failure it would be, with plain torch that shows it."""


def state(record: Record) -> str:
    """Say what a record is on the page: ``agrees``, ``unsupported``, ``known`` or ``new``."""
    if record.verdict in {VERDICTS[0], UNSUPPORTED}:
        return record.verdict
    return "new" if record.known is None else "known"


def cells(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the gravest record of each op, mode, format and device, as rows of the matrix."""
    gravity = list(plots.STATES)
    order = {op.name: number for number, op in enumerate(op for ops in FAMILIES.values() for op in ops)}
    letters = {name: number for number, name in enumerate(sorted({r.op for r in records}))}
    worst: dict[tuple[str, ...], Record] = {}
    counts: dict[tuple[str, ...], int] = {}
    for record in records:
        key = (record.op, record.mode, record.dtype, record.device)
        counts[key] = counts.get(key, 0) + record.compared
        if key not in worst or _rank(record, gravity) > _rank(worst[key], gravity):
            worst[key] = record
    return [
        {
            "op": r.op,
            "number": order.get(r.op, len(order)),
            "letter": letters[r.op],
            "mode": r.mode,
            "dtype": r.dtype,
            "device": r.device,
            "state": state(r),
            "verdict": r.verdict,
            "ulp": -1 if r.verdict == UNSUPPORTED else 1e300 if r.worst_ulp is None else float(f"{r.worst_ulp:.3g}"),
            "error": "not finite" if r.worst_ulp is None else f"{r.worst_ulp:.3g}",
            "share": "" if r.worst_share is None else f"{r.worst_share:.3g}",
            "compared": counts[key],
            "reason": r.known or "",
        }
        for key, r in worst.items()
    ]


def _rank(record: Record, gravity: Sequence[str]) -> tuple[int, float]:
    return gravity.index(state(record)), math.inf if record.worst_ulp is None else record.worst_ulp


def typeset(expression: sympy.Expr) -> Markup:
    """Write a formula in MathML, which browsers typeset by themselves."""
    if sympy.count_ops(expression) > LONGEST:
        return Markup("a formula of {} operations").format(sympy.count_ops(expression))
    return Markup(converter.convert(sympy.latex(expression)))  # noqa: S704 - ElementTree writes it, and escapes


def formulas(op: Op) -> list[tuple[str, Markup]]:
    """Return the function of an op and its derivatives, typeset.

    Of a tensor op it is the first element at its first shape.
    """
    local = elements(op, ((),) * len(op.inputs) if op.elementwise else op.cores[0])
    place = {
        symbol: sympy.Symbol(name if not array.shape else f"{name}_{i}", real=True)
        for name, array in zip(op.inputs, local.inputs, strict=True)
        for i, symbol in enumerate(array.flat)
    }
    first = sympy.sympify(local.outputs.flat[0], strict=True).xreplace(place)
    found = [(op.name if op.elementwise else f"{op.name}, first element", typeset(first))]
    for array in local.inputs:
        variable = place[array.flat[0]]
        found.append((f"d/d{variable}", typeset(sympy.diff(first, variable))))
    return found


def findings(known: Sequence[Deviation]) -> list[Finding]:
    """Return what torch shows of the known deviations, formats that are alike together, the fewest right bits first."""
    groups: dict[tuple[str, ...], list[Deviation]] = {}
    for each in known:
        groups.setdefault((each.op, each.device, each.reason, *each.verdicts, *each.modes), []).append(each)
    found = []
    for alike in groups.values():
        first = next((d for d in alike if d.dtype == "float32"), alike[0])
        mode = MODES[first.modes[0]]
        miss = shown(first, OPS[first.op], mode)
        if miss is not None:
            right, precision = right_bits(miss), miss.case.form.precision
            found.append(
                Finding(
                    first.op,
                    tuple(d.dtype for d in alike),
                    first.device,
                    first.modes,
                    miss.verdict,
                    right,
                    precision,
                    first.region,
                    first.reason,
                    first.link,
                    explained([miss], mode, first.device),
                )
            )
    return sorted(found, key=lambda finding: (finding.right / finding.precision, finding.op))


def _point(at: Mapping[str, str]) -> str:
    named = [f"{name} = {short(value)}" for name, value in list(at.items())[:MOST_INPUTS]]
    return ", ".join(named) + (", ..." if len(at) > MOST_INPUTS else "")


def _by_op(records: Sequence[Record]) -> dict[str, list[tuple[Record, list[str]]]]:
    """Group records by op; those that differ in the mode only are one row."""
    rows: dict[tuple[str | None, ...], list[Record]] = {}
    for record in records:
        rows.setdefault(
            (record.op, record.dtype, record.device, record.verdict, record.known or record.got), []
        ).append(record)
    table: dict[str, list[tuple[Record, list[str]]]] = {}
    for alike in rows.values():
        worst = max(alike, key=lambda r: math.inf if r.worst_ulp is None else r.worst_ulp)
        table.setdefault(worst.op, []).append((worst, list(dict.fromkeys(r.mode for r in alike))))
    return table


def page(
    records: Sequence[Record], figures: Sequence[Figure] = (), progress: Callable[[str], None] = lambda _: None
) -> str:
    """Write records, and a benchmark where there is one, as one HTML page that needs nothing else."""
    devices = list(dict.fromkeys(r.device for r in records))
    here = [device for device in devices if device in passing(probed())]
    known = [d for d in deviation.read(deviation.FILE, OPS) if d.device in {device.split(":")[0] for device in here}]
    tables = _by_op(records)
    progress("findings")
    found = findings([d for d in known if d.op in tables])
    specs: dict[str, plots.Spec] = {"neuron": plots.chain(edges())}
    if records:
        specs["matrix"] = plots.matrix(
            cells(records), devices, [mode for mode in MODES if any(r.mode == mode for r in records)]
        )
    for name, rows in tables.items():
        if name in OPS:
            progress(f"errors of {name}")
            asked = dict.fromkeys((r.dtype, r.device) for r, _ in rows if r.device in here)
            specs |= dict(_errors(OPS[name], list(asked), known))
    specs |= dict(_speeds(figures))
    states = [state(r) for r in records]
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            torch=", ".join(sorted({r.torch for r in records})) or "not run",
            seeds=", ".join(sorted({str(r.seed) for r in records})),
            devices=", ".join(devices),
            tests=len(records),
            compared=sum(r.compared for r in records),
            counts={name: states.count(name) for name in plots.STATES},
            fresh=[(r, modes) for rows in tables.values() for r, modes in rows if state(r) == "new"],
            findings=found,
            promises=_promises(records),
            ops=[
                (
                    name,
                    OPS.get(name),
                    formulas(OPS[name]) if name in OPS else [],
                    rows,
                    [f for f in found if f.op == name],
                    _timings(name, figures),
                )
                for name, rows in tables.items()
            ],
            specs={name: json.dumps(spec, separators=(",", ":")).replace("</", "<\\/") for name, spec in specs.items()},
            library=Markup(vl_convert.javascript_bundle().replace("</script", "<\\/script")),  # type: ignore[call-arg]  # noqa: S704 - Vega's own code; its stub asks for a snippet
        )
    )


def _speeds(figures: Sequence[Figure]) -> Iterator[tuple[str, plots.Spec]]:
    if any(f.kind == "backward" and f.times_floor and not f.grows for f in figures):
        yield "speeds", plots.speeds(figures)
    for variable in ("size", "depth"):
        if any(f.grows == variable for f in figures):
            yield f"growth-{variable}", plots.growth(figures, variable)


def _errors(op: Op, asked: Sequence[tuple[str, str]], known: Sequence[Deviation]) -> Iterator[tuple[str, plots.Spec]]:
    """Draw how far off the gradients of an op are: along its input line, or along the axes of tensors of real size."""
    if op.elementwise:
        if points := [spot for dtype, device in asked for spot in spots(op, FORMATS[dtype], device, known)]:
            yield f"errors-{op.name}", plots.errors(op, points)
        return
    formats = [(FORMATS[dtype], device) for dtype, device in asked if dtype in along.DTYPES]
    if found := [each for form, device in formats for each in along.stretches(op, form, device, known)]:
        yield f"along-{op.name}", plots.along(op, found)


def _promises(records: Sequence[Record]) -> dict[str, dict[tuple[str, str], str]]:
    """Return what each tensor op computes in, in each 16-bit format on each device, beside what its entry declares."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for (op, dtype, device), promise in kept(records).items():
        found.setdefault(op, {})[dtype, device] = beside_declared(op, promise)
    return found


def _timings(name: str, figures: Sequence[Figure]) -> list[tuple[Figure, str]]:
    return [(f, duration(f.seconds)) for f in figures if f.work == name and not f.grows]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": short, "point": _point, "state": state, "json": Markup}
    environment.globals |= {"formats": list(FORMATS)}
    return environment
