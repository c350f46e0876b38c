"""What the page says, gathered from records, the catalogue, the deviations and a benchmark."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import vl_convert
from markupsafe import Markup

from reference.catalogue import FAMILIES, OPS
from reference.format import FORMATS
from tests.runs.report import along, plots
from tests.runs.report.content import gathered
from tests.runs.report.notebook import edges
from tests.runs.speed.table import duration
from tests.runs.table import kept, short
from tests.subject.mode import MODES
from tests.verdict.choice import TREE
from tests.verdict.comparison import UNSUPPORTED, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.runs.report.content import Content
    from tests.runs.speed.table import Figure
    from tests.verdict.record import Record

TEMPLATE = "page.html.jinja"
MOST_INPUTS = 4
"""Inputs of a point that are shown; the rest is in the record."""

MOST_TOLD = 4
"""Ops with new misses, and ops with known ones, that the first screen names; links lead to the others."""

OWN, DRAWN = "own ops", "drawn graphs"
"""The families of what is not in the catalogue."""

FAMILY = {entry.name: family for family, ops in FAMILIES.items() for op in ops for entry in op.entries} | {TREE: DRAWN}
"""The family of each op; what is not here is somebody's own."""

ORDER = {name: number for number, name in enumerate((*OPS, TREE))}
"""The places of ops in the catalogue; own ops come after."""


@dataclass(frozen=True)
class Row:
    """One op in the table of all ops."""

    op: str
    worst: Mapping[tuple[str, str], Record]
    """The gravest record in each format on each device."""

    promises: Mapping[tuple[str, str], str]
    """The sharpest promise that it kept in each 16-bit format on each device."""

    @property
    def state(self) -> str:
        """The gravest state of the op."""
        return max(map(state, self.worst.values()), key=list(plots.STATES).index)

    @property
    def declared(self) -> str:
        """What its entry declares that it computes in; empty for an elementwise op and an own one."""
        return "" if self.op not in OPS or OPS[self.op].elementwise else OPS[self.op].inside


def state(record: Record) -> str:
    """Say what a record is on the page: ``agrees``, ``unsupported``, ``known`` or ``new``."""
    if record.verdict in {VERDICTS[0], UNSUPPORTED}:
        return record.verdict
    return "new" if record.known is None else "known"


def cells(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the gravest record of each op, mode, format and device, as rows of the matrix."""
    letters = {name: number for number, name in enumerate(sorted({r.op for r in records}))}
    promises = kept(records)
    worst: dict[tuple[str, ...], Record] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    for record in records:
        key = (record.op, record.mode, record.dtype, record.device)
        counts[key] += record.compared
        worst[key] = max(worst.get(key, record), record, key=_gravity)
    return [
        {
            "op": r.op,
            "family": FAMILY.get(r.op, OWN),
            "number": ORDER.get(r.op, len(ORDER) + letters[r.op]),
            "letter": letters[r.op],
            "mode": r.mode,
            "dtype": r.dtype,
            "device": r.device,
            "state": state(r),
            "verdict": r.verdict,
            "ulp": -1 if r.verdict == UNSUPPORTED else 1e300 if r.worst_ulp is None else float(f"{r.worst_ulp:.3g}"),
            "error": _ulps(r),
            "share": "" if r.worst_share is None else f"{r.worst_share:.3g}",
            "promise": promises.get((r.op, r.dtype, r.device), ""),
            "compared": counts[key],
            "reason": r.known or "",
        }
        for key, r in worst.items()
    ]


def _gravity(record: Record) -> tuple[int, float]:
    """Order records by what they say against torch: the state first, then the error."""
    return list(plots.STATES).index(state(record)), _size(record)


def _size(record: Record) -> float:
    return math.inf if record.worst_ulp is None else record.worst_ulp


def _ulps(record: Record) -> str:
    return "not finite" if record.worst_ulp is None else f"{record.worst_ulp:.3g}"


def _point(at: Mapping[str, str]) -> str:
    named = [f"{name} = {short(value)}" for name, value in list(at.items())[:MOST_INPUTS]]
    return ", ".join(named) + (", ..." if len(at) > MOST_INPUTS else "")


def by_op(records: Sequence[Record]) -> dict[str, list[tuple[Record, list[str]]]]:
    """Group records by op, in the order of the catalogue; those that differ in the mode only are one row."""
    rows: dict[tuple[str | None, ...], list[Record]] = {}
    for record in records:
        rows.setdefault(
            (record.op, record.dtype, record.device, record.verdict, record.known or record.got), []
        ).append(record)
    table: dict[str, list[tuple[Record, list[str]]]] = {}
    for alike in rows.values():
        worst = max(alike, key=_size)
        table.setdefault(worst.op, []).append((worst, list(dict.fromkeys(r.mode for r in alike))))
    return dict(sorted(table.items(), key=lambda item: (ORDER.get(item[0], len(ORDER)), item[0])))


def families(records: Sequence[Record]) -> dict[str, list[Row]]:
    """Return the ops of each family, each with its gravest record and the promise it kept wherever it was asked."""
    worst: dict[str, dict[tuple[str, str], Record]] = {}
    for record in records:
        own = worst.setdefault(record.op, {})
        place = record.dtype, record.device
        own[place] = max(own.get(place, record), record, key=_gravity)
    promises: dict[str, dict[tuple[str, str], str]] = {}
    for (op, dtype, device), promise in kept(records).items():
        promises.setdefault(op, {})[dtype, device] = promise
    found: dict[str, list[Row]] = {family: [] for family in (*FAMILIES, OWN, DRAWN)}
    for op in sorted(worst, key=lambda name: (ORDER.get(name, len(ORDER)), name)):
        found[FAMILY.get(op, OWN)].append(Row(op, worst[op], promises.get(op, {})))
    return {family: rows for family, rows in found.items() if rows}


def page(
    records: Sequence[Record], figures: Sequence[Figure] = (), progress: Callable[[str], None] = lambda _: None
) -> str:
    """Write records, and a benchmark where there is one, as one HTML page that needs nothing else."""
    return written(gathered(records, progress), figures)


def written(content: Content, figures: Sequence[Figure] = ()) -> str:
    """Write what was gathered."""
    records = content.records
    devices = list(dict.fromkeys(r.device for r in records))
    specs: dict[str, plots.Spec] = {"neuron": plots.chain(edges())}
    if records:
        specs["matrix"] = plots.matrix(cells(records), devices, [m for m in MODES if any(r.mode == m for r in records)])
    specs |= {f"errors-{name}": picture for name, picture in content.pictures.items()} | dict(_speeds(figures))
    states = Counter(map(state, records))
    tables = by_op(records)
    fresh = sorted(
        ((r, modes) for rows in tables.values() for r, modes in rows if state(r) == "new"),
        key=lambda row: -_size(row[0]),
    )
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            torch=", ".join(sorted({r.torch for r in records})),
            seeds=", ".join(sorted({str(r.seed) for r in records})),
            devices=", ".join(devices),
            places=list(dict.fromkeys((name, r.device) for name in FORMATS for r in records if r.dtype == name)),
            tests=len(records),
            compared=sum(r.compared for r in records),
            counts={name: states[name] for name in reversed(plots.STATES)},
            concerned={name: len({r.op for r in records if state(r) == name}) for name in plots.STATES},
            most=MOST_TOLD,
            fresh=fresh,
            findings=content.findings,
            families=families(records),
            ops=[
                (
                    name,
                    OPS.get(name),
                    content.formulas.get(name, []),
                    rows,
                    [f for f in content.findings if f.op == name],
                    [(f, duration(f.seconds)) for f in figures if f.work == name and not f.grows],
                )
                for name, rows in tables.items()
            ],
            specs={name: _packed(spec) for name, spec in specs.items()},
            library=Markup(vl_convert.javascript_bundle().replace("</script", "<\\/script")),  # type: ignore[call-arg]  # noqa: S704 - Vega's own code; its stub asks for a snippet
        )
    )


def _packed(spec: plots.Spec) -> str:
    """Compress a picture, which is most of a page otherwise; browsers inflate it when it is drawn."""
    return base64.b64encode(zlib.compress(json.dumps(spec, separators=(",", ":")).encode(), 9)).decode()


def _speeds(figures: Sequence[Figure]) -> Iterator[tuple[str, plots.Spec]]:
    if any(f.kind == "backward" and f.times_floor and not f.grows for f in figures):
        yield "speeds", plots.speeds(figures)
    for variable in ("size", "depth"):
        if any(f.grows == variable for f in figures):
            yield f"growth-{variable}", plots.growth(figures, variable)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": short, "point": _point, "state": state, "ulps": _ulps}
    environment.globals |= {"colours": plots.STATES, "signs": plots.SIGNS, "most_places": along.MOST}
    return environment
