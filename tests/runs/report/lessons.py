"""The pictures of the notebook's page: ``python -m tests.runs.report.lessons docs/notebook`` writes them as SVG."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import vl_convert

from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.oracle import answer, value
from reference.tree import Apply, Leaf, Tree
from tests.runs.report.notebook import POINT, neuron
from tests.runs.report.plots import BLUE, STATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RED = STATES["new"]
WIDTH, HEIGHT = 340, 220
"""Pixels of a picture: it fits a telephone without being scaled, so that its letters can be read there."""

CURVE = 241
"""Points of a curve."""

STEP = 0.1
"""How far the neuron's weights are moved against their gradient: a learning rate."""

LOSSES = (0.5, 1, 2, 3, 4, 5, 6, 7, 8)
"""Losses whose lines are drawn."""


@dataclass(frozen=True)
class Lesson:
    """A function of one number, and the points where a tangent shows its derivative."""

    ops: tuple[str, ...]
    """The ops of the function, the first one first."""

    label: str
    points: tuple[float, ...]
    domain: tuple[float, float]
    reach: float
    """How far a tangent goes to either side, along x."""

    digits: int
    """Digits of a slope after the point."""

    shares: int = 1
    """Of how many functions of one number this is the mean: each has that share of its value."""

    def at(self, points: Sequence[float] | NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the values and the certified slopes at some points."""
        leaf = Leaf("x")
        root: Leaf | Apply = leaf
        for name in self.ops:
            root = Apply(OPS[name], (root,))
        assert isinstance(root, Apply)
        where = np.array(points, dtype=np.float64)
        case = Case(Tree(root, (leaf,)), FORMATS["float64"], (where,), np.ones(len(where)))
        (slopes,) = answer(case)
        values = np.array([float(each) for each in value(case)])
        return values / self.shares, np.array(slopes.centre, dtype=np.float64) / self.shares


LESSONS = {
    "square": Lesson(("square",), "x²", (3.0,), (0, 5), 1.4, 0),
    "sine": Lesson(("square", "sin"), "sin x²", (4.0,), (3.4, 4.6), 0.12, 4),
    "mean": Lesson(("square",), "x² / 3", (1.0, 2.0, 3.0), (-0.5, 4), 0.7, 4, shares=3),
}
"""The functions of the page, by the name of their picture."""


def tangents(lesson: Lesson) -> alt.LayerChart:
    """Draw a function, and its tangents with their slopes."""
    xs = np.linspace(*lesson.domain, CURVE)
    curve = [{"x": a, "y": b} for a, b in zip(xs.tolist(), lesson.at(xs)[0].tolist(), strict=True)]
    values, slopes = (found.tolist() for found in lesson.at(lesson.points))
    marks = [
        {
            "x": at,
            "y": height,
            "from": at - lesson.reach,
            "to": at + lesson.reach,
            "below": height - lesson.reach * slope,
            "above": height + lesson.reach * slope,
            "says": f"slope {slope:.{lesson.digits}f}",
        }
        for at, height, slope in zip(lesson.points, values, slopes, strict=True)
    ]
    x = alt.X("x:Q", title="x", scale=alt.Scale(domain=list(lesson.domain), nice=False), axis=alt.Axis(tickCount=5))
    y = alt.Y("y:Q", title=lesson.label)
    points = alt.Chart(alt.Data(values=marks))
    return alt.layer(
        alt.Chart(alt.Data(values=curve)).mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y),
        points.mark_rule(color=RED, strokeWidth=2).encode(x="from:Q", x2="to:Q", y="below:Q", y2="above:Q"),
        points.mark_point(color=RED, filled=True, opacity=1, size=60).encode(x="x:Q", y="y:Q"),
        points.mark_text(color=RED, align="right", dx=-10, dy=-8, fontSize=14).encode(x="x:Q", y="y:Q", text="says:N"),
    )


def loss() -> alt.LayerChart:
    """Draw lines of equal loss of the neuron by weight and bias, and one step of gradient descent."""
    before, (by_weight, by_bias) = neuron(POINT["w"], POINT["b"])
    moved = POINT["w"] - STEP * by_weight, POINT["b"] - STEP * by_bias
    after, _ = neuron(*moved)
    lines = []
    for each in LOSSES:
        score = math.log(math.expm1(each))  # the loss is log(1 + exp(score)) where 0 is due
        # weight * x + bias = score is a straight line, drawn from the lower border, where the bias is -1, to the upper
        ends = [(score - b) / POINT["x"] for b in (-1, 1)]
        lines.append({"w": ends[0], "w2": ends[1], "b": -1, "b2": 1, "says": f"{each:g}"})
    # borders that hold the point of the notebook, the step and the lines around them
    w = alt.X("w:Q", title="weight w", scale=alt.Scale(domain=[-0.5, 1.5], nice=False), axis=alt.Axis(tickCount=5))
    b = alt.Y("b:Q", title="bias b", scale=alt.Scale(domain=[-1, 1], nice=False), axis=alt.Axis(tickCount=5))
    step = alt.Chart(
        alt.Data(
            values=[
                {"w": POINT["w"], "b": POINT["b"], "w2": moved[0], "b2": moved[1], "turn": _turn(by_weight, by_bias)}
            ]
        )
    )
    ends = alt.Chart(
        alt.Data(
            values=[
                {"w": POINT["w"], "b": POINT["b"], "says": f"loss {before:.4f}"},
                {"w": moved[0], "b": moved[1], "says": f"{after:.4f}"},
            ]
        )
    )
    contours = alt.Chart(alt.Data(values=lines))
    return alt.layer(
        contours.mark_rule(color=BLUE, opacity=0.6, clip=True).encode(x=w, y=b, x2="w2:Q", y2="b2:Q"),
        contours.mark_text(color=BLUE, dy=-8, fontSize=12).encode(x="w2:Q", y="b2:Q", text="says:N"),
        step.mark_rule(color=RED, strokeWidth=2.5).encode(x="w:Q", y="b:Q", x2="w2:Q", y2="b2:Q"),
        step.mark_point(color=RED, shape="triangle-up", filled=True, opacity=1, size=110).encode(
            x="w2:Q", y="b2:Q", angle=alt.Angle("turn:Q", scale=None)
        ),
        ends.mark_text(color=RED, dy=-16, fontSize=14, fontWeight="bold").encode(x="w:Q", y="b:Q", text="says:N"),
    ).properties(height=WIDTH)


def _turn(by_weight: float, by_bias: float) -> float:
    """Return the angle of a step against a gradient, in degrees clockwise from upwards."""
    return math.degrees(math.atan2(-by_weight, -by_bias))


@cache
def drawn() -> dict[str, str]:
    """Return the pictures as SVG, by the names of their files, on a white ground for pages light and dark."""
    charts = {name: tangents(lesson) for name, lesson in LESSONS.items()} | {"neuron": loss()}
    return {f"{name}.svg": _svg(chart) for name, chart in charts.items()}


def _svg(chart: alt.LayerChart) -> str:
    """Return a picture as SVG, in the look that all have, and as high as they are unless it says otherwise."""
    sized = chart if chart.height is not alt.Undefined else chart.properties(height=HEIGHT)
    # letters are larger than Vega's own, since the picture is narrow
    whole = sized.properties(width=WIDTH, background="white", padding=10).configure_axis(
        labelFontSize=13, titleFontSize=14, titleFontWeight="normal", gridColor="#e8ebee"
    )
    return vl_convert.vegalite_to_svg(dict(whole.to_dict(validate=False))) + "\n"


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the notebook's page.")
    parser.add_argument("folder", type=Path, help="where to write the SVG files")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in drawn().items():
        (folder / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
