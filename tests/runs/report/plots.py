"""The pictures, as Vega-Lite specifications made by Altair."""

from __future__ import annotations

import csv
import io
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import altair as alt

from reference.case import PROMISES
from reference.convention import ruled_points
from reference.format import FORMATS
from tests.runs.report.sweep import CEILING
from tests.runs.table import NONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reference.op import Op
    from tests.runs.report.along import Stretch
    from tests.runs.report.notebook import Edge
    from tests.runs.report.sweep import Spot
    from tests.runs.speed.table import Figure

STATES = {"agrees": "#55a06c", "unsupported": "#8a94a0", "known": "#c9820a", "new": "#d64545"}
"""What may be of an op in a mode, the gravest last, and its colour: 3 to 1 or more on white and on near black."""

SIGNS = {"agrees": "", "unsupported": "-", "known": "~", "new": "×"}
"""What says the same to those who do not see the colours."""

BLUE, GREY = "#3f7cb5", "#848e9a"
"""Colours that can be told from white and from near black."""

PAPER, ACCENT, ALARM = (alt.ExprRef(name) for name in ("paper", "accent", "alarm"))
"""Colours of the page, which are others where the reader has a dark scheme."""

CELL, HEADER = 12, 56
"""Pixels of a cell of the matrix, and those that the name of a format above its cells takes at least."""

MOST_CELLS = 20_000
"""Cells of the matrix up to which all are drawn at first, since drawing takes time; of more, those of one format.

The number is arbitrary.
"""

FINEST = 0.1
"""The error in ulps below which the axis is linear at real size: 16-bit results are allowed little more than 0.5."""

ORDERS = ("catalogue", "name", "gravest first", "largest error first")
"""What the reader may sort the matrix by."""

Spec = dict[str, Any]
"""A specification of Vega-Lite, which is written into the page as JSON."""


def _table(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Return rows as data of a picture; which fields are numbers is told by the first row."""
    return alt.InlineData(
        values=_csv(rows),
        format=alt.CsvDataFormat(
            type="csv", parse={name: "number" for name, value in rows[0].items() if not isinstance(value, str)}
        ),
    )


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, which has each name once, where JSON would have it in every row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _spec(chart: alt.TopLevelMixin) -> Spec:
    """Return the specification of a chart, which is not validated here: tests draw each kind in a browser."""
    return dict(chart.to_dict(validate=False))


def _colour(title: str | None = "") -> alt.Color:
    """Return the colours of states, with a legend above the picture."""
    return alt.Color(
        "state:N",
        title=title,
        scale=alt.Scale(domain=list(STATES), range=list(STATES.values())),
        legend=alt.Legend(orient="top"),
    )


def matrix(rows: Sequence[Mapping[str, Any]], devices: Sequence[str], modes: Sequence[str]) -> Spec:
    """Draw the verdict of each op in each mode and format, on one device at a time; the reader filters and sorts it.

    `rows` are those of `tests.runs.report.page.cells`, and `modes` are named in the order of the columns.
    """
    named = alt.param(
        name="named", value="", bind=alt.binding(input="search", placeholder="part of a name", name="op ")
    )
    device = alt.param(
        name="chosen_device", value=devices[0], bind=alt.binding_select(options=list(devices), name="device ")
    )
    # of a large matrix one format comes first: float32, which most readers use, where it was asked
    first = (
        "all" if len(rows) <= MOST_CELLS else max((row["dtype"] for row in rows), key=lambda name: name == "float32")
    )
    dtype = alt.param(
        name="chosen_dtype", value=first, bind=alt.binding_select(options=["all", *FORMATS], name="dtype ")
    )
    having = alt.param(name="having", value="any", bind=alt.binding_select(options=["any", *STATES], name="ops with "))
    by = alt.param(name="by", value=ORDERS[0], bind=alt.binding_select(options=list(ORDERS), name="order "))
    families = list(dict.fromkeys(row["family"] for row in sorted(rows, key=lambda row: int(row["number"]))))
    family = alt.param(
        name="chosen_family", value="all", bind=alt.binding_select(options=["all", *families], name="family ")
    )
    promise = alt.param(
        name="promise", value="any", bind=alt.binding_select(options=["any", *PROMISES, NONE], name="promise kept ")
    )
    base = alt.Chart().encode(
        x=alt.X(
            "mode:N",
            sort=list(modes),
            title=None,
            scale=alt.Scale(padding=0.08),
            axis=alt.Axis(labelAngle=-90, orient="top", domain=False, ticks=False),
        ),
        y=alt.Y(
            "op:N",
            sort=alt.EncodingSortField(field="rank", op="min"),
            title=None,
            scale=alt.Scale(padding=0.08),
            axis=alt.Axis(domain=False, ticks=False),
        ),
        href="page:N",
        tooltip=[
            "op:N",
            "family:N",
            "mode:N",
            "dtype:N",
            "device:N",
            "verdict:N",
            alt.Tooltip("error:N", title="worst error in ulp"),
            alt.Tooltip("share:N", title="share of the allowance"),
            alt.Tooltip("promise:N", title="promise kept"),
            alt.Tooltip("compared:Q", format=","),
            alt.Tooltip("reason:N", title="why"),
        ],
    )
    cells = base.mark_rect(cursor="pointer").encode(color=_colour())
    signs = (
        base.transform_filter("datum.sign != ''")
        .mark_text(fontSize=11, fontWeight="bold", color="black", cursor="pointer")
        .encode(text="sign:N")
    )
    asked = Counter(dtype for _, dtype in {(row["mode"], row["dtype"]) for row in rows})
    faceted = (
        alt.layer(cells, signs, data=_table(rows))
        .properties(width=alt.Step(CELL), height=alt.Step(CELL))
        .facet(
            column=alt.Column(
                "dtype:N",
                sort=list(FORMATS),
                title=None,
                header=alt.Header(labelOrient="top", labelFontWeight="bold", labelAnchor="start"),
            ),
            spacing=max(8, HEADER - CELL * min(asked.values())),
        )
        .transform_filter(
            "datum.device == chosen_device && (chosen_dtype == 'all' || datum.dtype == chosen_dtype) && "
            "(chosen_family == 'all' || datum.family == chosen_family) && "
            "(named == '' || indexof(lower(datum.op), lower(named)) >= 0)"
        )
        # formulas of Vega, which the browser evaluates anew whenever the reader chooses
        .transform_calculate(
            matches="(having == 'any' || datum.state == having) && (promise == 'any' || datum.promise == promise) "
            "? 1 : 0",
            sign=f"{SIGNS}[datum.state]",
            rank="by == 'catalogue' ? datum.number : "
            f"by == 'gravest first' ? -indexof({list(STATES)!r}, datum.state) : "
            "by == 'largest error first' ? -datum.ulp : datum.letter",
            page="'#op-' + datum.op",
        )
        # an op is shown with all its cells where any of them is what the reader looks for
        .transform_joinaggregate(any="max(matches)", groupby=["op"])
        .transform_filter("datum.any == 1")
    )
    return _spec(
        faceted.add_params(named, family, device, dtype, having, promise, by)
        .resolve_scale(x="independent")
        .properties(
            description="The verdict of each op in each mode and format; the table of all ops says it in words."
        )
    )


def errors(op: Op, spots: Sequence[Spot]) -> Spec:
    """Draw the error in ulps along the input line, what rounding explains as a band, and the kinks.

    Formats and devices stand in the table as numbers, since a page has thousands of rows.
    """
    asked = {spot.dtype for spot in spots}
    formats = tuple(name for name in FORMATS if name in asked)
    devices = tuple(dict.fromkeys(spot.device for spot in spots))
    kinks = [float(place[0]) for place in ruled_points(op)] if len(op.inputs) == 1 else []
    table = _csv(
        [
            {
                "dtype": formats.index(s.dtype),
                "on": devices.index(s.device),
                "x": f"{s.x:.8g}",
                "ulp": f"{s.ulp:g}",
                "allowed": f"{s.allowed:g}",
                "state": s.state,
            }
            for s in spots
        ]
    )
    return _errors(op.inputs[0], formats, devices) | {
        "datasets": {"spots": table, "kinks": [{"kink": kink} for kink in kinks]}
    }


def _ulps(field: str, finest: float, **scale: Any) -> alt.Y:
    """Return the axis of errors: linear below the finest error that matters, and logarithmic above it."""
    return alt.Y(
        field,
        title="error in ulp",
        scale=alt.Scale(type="symlog", constant=finest, domainMin=0, **scale),
        axis=alt.Axis(
            values=[value for value in (0, 0.1, 0.5, 1, 10, 100, 1e3, 1e6, 1e9) if not 0 < value < finest],
            labelOverlap=True,
            labelExpr="datum.value < 1000 ? datum.value : '1e' + round(log(datum.value) / LN10)",
        ),
    )


def _chosen(
    data: alt.NamedData, formats: tuple[str, ...], devices: tuple[str, ...]
) -> tuple[alt.Chart, tuple[alt.Parameter, alt.Parameter]]:
    """Return a chart of the rows of the format and device that the reader chooses, and what that is chosen by."""
    first = "float32" if "float32" in formats else formats[0]
    dtype = alt.param(name="chosen_dtype", value=first, bind=alt.binding_radio(options=formats, name="dtype "))
    device = alt.param(name="chosen_device", value=devices[0], bind=alt.binding_radio(options=devices, name="device "))
    # rows have the numbers of formats and devices in these lists, in the place of their names
    is_chosen = (
        f"datum.dtype == indexof({list(formats)!r}, chosen_dtype) && "
        f"datum.on == indexof({list(devices)!r}, chosen_device)"
    )
    return alt.Chart(data).transform_filter(is_chosen), (dtype, device)


@cache
def _errors(variable: str, formats: tuple[str, ...], devices: tuple[str, ...]) -> Spec:
    """Return what is the same in the pictures of many ops, without the tables: it is made once."""
    data = alt.NamedData(
        name="spots",
        format=alt.CsvDataFormat(type="csv", parse=dict.fromkeys(("dtype", "on", "x", "ulp", "allowed"), "number")),
    )
    x = alt.X(
        "x:Q",
        title=f"{variable}, as powers of ten on both sides of 0",
        scale=alt.Scale(type="symlog", constant=1e-6),
        axis=alt.Axis(
            values=[s * 10.0**p for p in (-4, -2, 0, 2, 4) for s in (-1, 1)] + [0], format="~g", labelOverlap=True
        ),
    )
    y = _ulps("ulp:Q", 1, domainMax=CEILING, clamp=True)
    chosen, by = _chosen(data, formats, devices)
    base = chosen.encode(x=x)
    band = base.mark_area(color=BLUE, opacity=0.15, interpolate="step").encode(
        y=alt.Y("allowed:Q", scale=alt.Scale(type="symlog", constant=1))
    )
    marks = base.mark_point(filled=True, size=28).encode(
        y=y,
        color=_colour(None),
        tooltip=[
            alt.Tooltip("x:Q", title=variable, format=".9g"),
            alt.Tooltip("ulp:Q", title="error in ulp"),
            alt.Tooltip("allowed:Q", title="rounding explains, in ulp"),
            "state:N",
        ],
    )
    kinks = (
        alt.Chart(alt.NamedData(name="kinks"))
        .mark_rule(strokeDash=[4, 3], color=GREY)
        .encode(x="kink:Q", tooltip=[alt.Tooltip("kink:Q", title="kink or edge")])
    )
    return _spec(
        alt.layer(band, marks, kinks)
        .add_params(*by)
        .properties(width="container", height=240, description="The error of the gradient along the input line.")
    )


def speeds(figures: Sequence[Figure]) -> Spec:
    """Draw how many times its analytic floor each backward takes."""
    rows = [
        {
            "op": f.work,
            "family": f.family,
            "times": round(f.times_floor, 3),
            "ms": round(f.seconds * 1e3, 4),
            "size": f.size,
            "dtype": f.dtype,
            "device": f.device,
        }
        for f in figures
        if f.kind == "backward" and f.times_floor and not f.grows
    ]
    family = alt.param(
        name="family",
        value="all",
        bind=alt.binding_select(options=["all", *sorted({str(row["family"]) for row in rows})], name="family "),
    )
    bars = (
        alt.Chart(alt.Data(values=rows))
        .transform_filter("family == 'all' || datum.family == family")
        .mark_point(filled=True, size=50, color=BLUE)
        .encode(
            x=alt.X("times:Q", title="backward, in times its analytic floor", scale=alt.Scale(type="log")),
            y=alt.Y("op:N", sort="-x", title=None),
            tooltip=[
                "op:N",
                "size:Q",
                "dtype:N",
                "device:N",
                alt.Tooltip("times:Q", title="times its floor"),
                alt.Tooltip("ms:Q", title="milliseconds"),
            ],
        )
    )
    # below the floor there should be nothing
    rule = alt.Chart(alt.Data(values=[{"times": 1}])).mark_rule(color=GREY).encode(x="times:Q")
    return _spec(alt.layer(bars, rule).add_params(family).properties(width="container", height=alt.Step(12)))


def along(op: Op, found: Sequence[Stretch]) -> Spec:
    """Draw the errors of each gradient of a tensor op along the last axis, and what rounding explains as a band."""
    asked = {each.dtype for each in found}
    formats = tuple(name for name in FORMATS if name in asked)
    devices = tuple(dict.fromkeys(each.device for each in found))
    differentiated = {each.wrt for each in found}
    names = tuple(name for name in op.inputs if name in differentiated)
    states = list(STATES)
    table = _csv(
        [
            {
                "dtype": formats.index(each.dtype),
                "on": devices.index(each.device),
                "wrt": names.index(each.wrt),
                "place": each.place,
                "ulp": f"{each.ulp:g}",
                "allowed": f"{each.allowed:g}",
                "s": states.index(each.state),
            }
            for each in sorted(found, key=lambda each: each.place)
        ]
    )
    return _along(names, formats, devices) | {"datasets": {"stretches": table}}


@cache
def _along(names: tuple[str, ...], formats: tuple[str, ...], devices: tuple[str, ...]) -> Spec:
    """Return what is the same in the pictures of many ops, without the table, as `_errors` does."""
    numbers = dict.fromkeys(("dtype", "on", "wrt", "place", "ulp", "allowed", "s"), "number")
    data = alt.NamedData(name="stretches", format=alt.CsvDataFormat(type="csv", parse=numbers))
    chosen, by = _chosen(data, formats, devices)
    base = chosen.transform_calculate(state=f"{list(STATES)!r}[datum.s]")
    panels = [_panel(base.transform_filter(f"datum.wrt == {number}"), name) for number, name in enumerate(names)]
    return _spec(
        alt.vconcat(*panels, spacing=12)
        .add_params(*by)
        .properties(description="The errors of the gradients along the last axis.")
    )


def _panel(base: alt.Chart, wrt: str) -> alt.LayerChart:
    """Return the panel with the errors of one gradient, of a chart that has the data."""
    place = alt.X(
        "place:Q",
        title=f"place along the last axis of {wrt}",
        scale=alt.Scale(nice=False, padding=6),
        axis=alt.Axis(format="d", tickMinStep=1),
    )
    here = base.encode(x=place)
    band = here.mark_area(color=BLUE, opacity=0.15, line={"color": BLUE, "opacity": 0.5, "strokeWidth": 1}).encode(
        y=_ulps("allowed:Q", FINEST, nice=False)
    )
    marks = here.mark_point(filled=True, opacity=1).encode(
        size=alt.condition("datum.state == 'agrees'", alt.value(12), alt.value(44)),
        y=_ulps("ulp:Q", FINEST, nice=False),
        color=_colour(None),
        tooltip=[
            alt.Tooltip("place:Q", title="place"),
            alt.Tooltip("ulp:Q", title="error in ulp"),
            alt.Tooltip("allowed:Q", title="rounding explains, in ulp"),
            "state:N",
        ],
    )
    return alt.layer(band, marks).properties(
        width=860, height=150, title=alt.Title(f"gradient by {wrt}", anchor="start", fontSize=12)
    )


def growth(figures: Sequence[Figure], variable: str) -> Spec:
    """Draw time against a variable, ``size`` or ``depth``, forwards and backwards, with floors."""
    rows = [
        {"of": f.series, "kind": f.kind, "n": f.grown, "us": f.seconds * 1e6} for f in figures if f.grows == variable
    ]
    rows += [
        {"of": f.series, "kind": "floor", "n": f.grown, "us": f.floor * 1e6}
        for f in figures
        if f.grows == variable and f.kind == "backward" and f.floor
    ]
    rows = [row | {"us": float(f"{row['us']:.4g}")} for row in rows]  # more digits would only make the page longer
    works = list(dict.fromkeys(row["of"] for row in rows))
    work = alt.param(name=f"of_{variable}", value=works[0], bind=alt.binding_select(options=works, name="of "))
    kinds = ["forward", "backward", "double", "floor"]
    lines = (
        alt.Chart(alt.Data(values=rows))
        .transform_filter(f"datum.of == of_{variable}")
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "n:Q",
                title="elements" if variable == "size" else variable,
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~s"),
            ),
            y=alt.Y("us:Q", title="microseconds", scale=alt.Scale(type="log"), axis=alt.Axis(format="~s")),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=kinds, range=[GREY, BLUE, "#7a4b9d", "#8fc79b"]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=["kind:N", alt.Tooltip("n:Q", format=","), "us:Q"],
        )
    )
    return _spec(lines.add_params(work).properties(width="container", height=240))


def chain(edges: Sequence[Edge]) -> Spec:
    """Draw the notebook's neuron as a graph.

    Each edge has the value that goes forwards above it, and the gradient that comes back below it.
    """
    nodes = {name: place for edge in edges for name, place in ((edge.source, edge.start), (edge.target, edge.end))}
    points = alt.Data(values=[{"name": name, "x": x, "y": y} for name, (x, y) in nodes.items()])
    lines = alt.Data(
        values=[
            {
                "x": e.start[0],
                "y": e.start[1],
                "x2": e.end[0],
                "y2": e.end[1],
                "mx": (e.start[0] + e.end[0]) / 2,
                "my": (e.start[1] + e.end[1]) / 2,
                "value": e.value,
                "gradient": e.gradient,
            }
            for e in edges
        ]
    )
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.3, 5.5]))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-1.5, 1.5]))
    rules = alt.Chart(lines).mark_rule(color=GREY, strokeWidth=1.5).encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    # each text is drawn twice: a rim in the colour of the page parts it from the line that it stands on
    texts = [
        alt.Chart(lines)
        .mark_text(dy=dy, fontSize=12, **look)
        .encode(x=alt.X("mx:Q", axis=None), y=alt.Y("my:Q", axis=None), text=f"{field}:N")
        for field, dy, colour in (("value", -9, ACCENT), ("gradient", 11, ALARM))
        for look in ({"color": PAPER, "stroke": PAPER, "strokeWidth": 5}, {"color": colour})
    ]
    dots = alt.Chart(points).mark_circle(size=1500, color=PAPER, stroke=GREY, opacity=1).encode(x=x, y=y)
    names = alt.Chart(points).mark_text(fontSize=12, fontWeight="bold", color=ACCENT).encode(x=x, y=y, text="name:N")
    return _spec(
        alt.layer(rules, dots, names, *texts)
        .properties(width=860, height=300, description="The neuron as a graph: values forwards, gradients backwards.")
        .configure_view(stroke=None)
    )
