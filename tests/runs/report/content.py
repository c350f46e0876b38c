"""What a page is made of: the records of a run, and what is computed anew for it, since no record has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy
from latex2mathml import converter
from markupsafe import Markup

from reference.catalogue import OPS
from reference.elements import elements
from reference.format import FORMATS
from tests.runs.findings import pinned_miss, right_bits
from tests.runs.report import along, plots
from tests.runs.report.sweep import spots
from tests.subject.device import passing, probed
from tests.subject.mode import MODES
from tests.verdict import deviation
from tests.verdict.comparison import VERDICTS
from tests.verdict.explanation import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reference.op import Op
    from tests.verdict.deviation import Deviation
    from tests.verdict.record import Record

LONGEST = 60
"""Operations of a formula that is typeset: that of a normaliser fills pages. The number is arbitrary."""


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
    """Bits of the significand of that format."""

    region: str
    reason: str
    link: str
    text: str
    """The failure it would be, with plain torch that shows it."""


@dataclass(frozen=True)
class Content:
    """A run, with the findings, formulas and pictures of its ops."""

    records: Sequence[Record]
    findings: Sequence[Finding]
    """The worst first."""

    formulas: Mapping[str, Sequence[tuple[str, Markup]]]
    """The function of each op of the catalogue and its derivatives, typeset, with what each is called."""

    pictures: Mapping[str, plots.Spec]
    """The errors of the gradients of each op that has any on the devices at hand."""


def gathered(records: Sequence[Record], progress: Callable[[str], None] = lambda _: None) -> Content:
    """Judge anew what the page shows of the ops of some records: the findings, and the errors at many inputs.

    What is asked on devices that are not at hand is left out. `progress` is called with what is computed next.
    """
    here = passing(probed())
    # Dictionaries without values are sets that keep their order. Own ops have no entry to compute anything of.
    asked: dict[str, dict[tuple[str, str], None]] = {r.op: {} for r in records if r.op in OPS}
    for r in records:
        if r.op in asked and r.device in here:
            asked[r.op][r.dtype, r.device] = None
    types = {device.split(":")[0] for places in asked.values() for _, device in places}
    known = [d for d in deviation.read(deviation.FILE, OPS) if d.device in types]
    progress("findings")
    found = findings([d for d in known if d.op in asked])
    pictures = {}
    for name, places in asked.items():
        progress(f"errors of {name}")
        if picture := _errors(OPS[name], list(places), known):
            pictures[name] = picture
    return Content(records, found, {name: formulas(OPS[name]) for name in asked}, pictures)


def typeset(expression: sympy.Expr) -> Markup:
    """Write a formula in MathML, which browsers typeset by themselves."""
    if sympy.count_ops(expression) > LONGEST:
        return Markup("a formula of {} operations").format(sympy.count_ops(expression))
    return Markup(converter.convert(sympy.latex(expression)))  # noqa: S704 - ElementTree writes it, and escapes


def formulas(op: Op) -> list[tuple[str, Markup]]:
    """Return the function of an op and its derivatives, typeset, each with what it is called.

    Of a tensor op they are those of the first element of the output, by the first of each input, at its first shape.
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
    """Return what torch shows of the known deviations, those of several formats together, the worst first."""
    groups: dict[tuple[str, ...], list[Deviation]] = {}
    for each in known:
        groups.setdefault((each.op, each.device, each.reason, *each.verdicts, *each.modes), []).append(each)
    found = []
    for alike in groups.values():  # each group differs in its formats, and in what depends on them
        first = next((d for d in alike if d.dtype == "float32"), alike[0])  # the format that most readers use
        mode = MODES[first.modes[0]]
        miss = pinned_miss(first, OPS[first.op], mode)
        if miss is not None:  # else torch no longer shows it, which is for `tests/test_deviations.py` to say
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
    return sorted(found, key=_gravity)


def _gravity(finding: Finding) -> tuple[float, int, int, int, str]:
    """Return what sorts findings, the worst first.

    It is by the share of right bits, then by order, by verdict, and by how many formats and modes show it.
    """
    order = min(MODES[mode].order for mode in finding.modes)
    breadth = len(finding.dtypes) * len(finding.modes)
    return finding.right / finding.precision, order, VERDICTS.index(finding.verdict), -breadth, finding.op


def _errors(op: Op, asked: Sequence[tuple[str, str]], known: Sequence[Deviation]) -> plots.Spec | None:
    """Draw how far off the gradients of an op are: along its input line, or along the axes of tensors of real size."""
    if op.elementwise:
        points = [spot for dtype, device in asked for spot in spots(op, FORMATS[dtype], device, known)]
        return plots.errors(op, points) if points else None
    formats = [(FORMATS[dtype], device) for dtype, device in asked if dtype in along.DTYPES]
    found = [each for form, device in formats for each in along.stretches(op, form, device, known)]
    return plots.along(op, found) if found else None
