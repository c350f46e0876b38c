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
"""Inputs of a point that are shown; the rest is in the record. The number is arbitrary."""

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
    """Return the gravest record of each op, mode, format and device, as rows of the matrix.

    The fields are what the matrix shows, filters by and sorts by: `number` is the place of the op in the catalogue,
    and `letter` that in the order of the alphabet.
    """
    names = sorted({r.op for r in records})
    letters = {name: number for number, name in enumerate(names)}
    promises = kept(records)
    worst: dict[tuple[str, ...], Record] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    for record in records:
        # several tests ask one op in one mode: drawn, fixed, at kinks
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
            # it sorts: what was not judged comes last, and what is not finite first, which JSON cannot write
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
    """Return the worst error of a record in ulps, which sorts records."""
    return math.inf if record.worst_ulp is None else record.worst_ulp


def _ulps(record: Record) -> str:
    """Write the worst error of a record in ulps."""
    return "not finite" if record.worst_ulp is None else f"{record.worst_ulp:.3g}"


def _point(at: Mapping[str, str]) -> str:
    """Write the first inputs of a point in decimals."""
    named = [f"{name} = {short(value)}" for name, value in list(at.items())[:MOST_INPUTS]]
    return ", ".join(named) + (", ..." if len(at) > MOST_INPUTS else "")


def by_op(records: Sequence[Record]) -> dict[str, list[tuple[Record, list[str]]]]:
    """Return the rows of each op, in the order of the catalogue: a record, and the modes that found the same.

    Records are one row where they differ in their modes and numbers only, and the one with the largest error is shown.
    """
    rows: dict[tuple[str | None, ...], list[Record]] = {}
    for record in records:
        # what is not known differs in what came: words of torch that are the same are the same refusal
        key = (record.op, record.dtype, record.device, record.verdict, record.known or record.got)
        rows.setdefault(key, []).append(record)
    table: dict[str, list[tuple[Record, list[str]]]] = {}
    for alike in rows.values():
        worst = max(alike, key=_size)
        table.setdefault(worst.op, []).append((worst, list(dict.fromkeys(r.mode for r in alike))))
    return dict(sorted(table.items(), key=lambda item: (ORDER.get(item[0], len(ORDER)), item[0])))


def families(records: Sequence[Record]) -> dict[str, list[Row]]:
    """Return a row for each op, by the families that have any, in the order of the catalogue."""
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
    """Write records, and a benchmark where there is one, as one HTML page that needs nothing else.

    `progress` is called with what is computed next, which may take minutes.
    """
    return written(gathered(records, progress), figures)


def written(content: Content, figures: Sequence[Figure] = ()) -> str:
    """Write what was gathered, and a benchmark where there is one, as one HTML page."""
    records = content.records
    devices = list(dict.fromkeys(r.device for r in records))
    asked = {r.mode for r in records}
    specs: dict[str, plots.Spec] = {"neuron": plots.chain(edges())}
    if records:
        specs["matrix"] = plots.matrix(cells(records), devices, [mode for mode in MODES if mode in asked])
    specs |= {f"errors-{name}": picture for name, picture in content.pictures.items()} | dict(_speeds(figures))
    states = Counter(map(state, records))
    ops_in: dict[str, set[str]] = {name: set() for name in plots.STATES}
    for record in records:
        ops_in[state(record)].add(record.op)
    tables = by_op(records)
    fresh = [row for rows in tables.values() for row in rows if state(row[0]) == "new"]
    fresh.sort(key=lambda row: -_size(row[0]))
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
            concerned={name: len(ops) for name, ops in ops_in.items()},
            most=MOST_TOLD,
            fresh=fresh,
            findings=content.findings,
            families=families(records),
            ops=[_section(name, rows, content, figures) for name, rows in tables.items()],
            specs={name: _packed(spec) for name, spec in specs.items()},
            # a browser takes the first `</script` for the end, in a string of the program too
            library=Markup(vl_convert.javascript_bundle().replace("</script", "<\\/script")),  # type: ignore[call-arg]  # noqa: S704 - Vega's own code; its stub asks for a snippet
        )
    )


def _section(
    name: str, rows: Sequence[tuple[Record, list[str]]], content: Content, figures: Sequence[Figure]
) -> tuple[Any, ...]:
    """Return what the page says of one op: its name, entry, formulas and rows, its findings, and its times."""
    findings = [finding for finding in content.findings if finding.op == name]
    times = [(figure, duration(figure.seconds)) for figure in figures if figure.work == name and not figure.grows]
    return name, OPS.get(name), content.formulas.get(name, []), rows, findings, times


def _packed(spec: plots.Spec) -> str:
    """Compress a picture: a page would be mostly pictures otherwise. Browsers inflate it when it is drawn."""
    return base64.b64encode(zlib.compress(json.dumps(spec, separators=(",", ":")).encode(), 9)).decode()


def _speeds(figures: Sequence[Figure]) -> Iterator[tuple[str, plots.Spec]]:
    """Yield the pictures of a benchmark that it has figures for, with their names."""
    if any(f.kind == "backward" and f.times_floor and not f.grows for f in figures):
        yield "speeds", plots.speeds(figures)
    for variable in ("size", "depth"):
        if any(f.grows == variable for f in figures):
            yield f"growth-{variable}", plots.growth(figures, variable)


def _environment() -> jinja2.Environment:
    """Return what the template is read with, which escapes all that is not `Markup`, and the filters that it uses."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # a name that the template misspells is an error, above, and not an empty place
    environment.filters |= {"number": short, "point": _point, "state": state, "ulps": _ulps}
    environment.globals |= {"colours": plots.STATES, "signs": plots.SIGNS, "most_places": along.MOST}
    return environment
