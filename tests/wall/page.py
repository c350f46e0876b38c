"""The results as tables, for a terminal and for a page in Markdown."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import torch
from rich import box
from rich.table import Table

from tests.runs.table import markdown
from tests.wall.judging import ITSELF, LOOSER, OURS
from tests.wall.plants import DTYPES, EXPLAINED, SOUND, STORIES, WORKLOADS
from tests.wall.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.box import Box

    from tests.wall.judging import Judgements, Results

JUDGES = (*(rule.project for rule in RULES), OURS, LOOSER)
"""The rules of projects, and the oracle twice, in the order of the columns."""

LETTERS = {judge: chr(ord("A") + number) for number, judge in enumerate(JUDGES)}
"""The letter of each at the head of its column."""

GRADCHECK = "torch.autograd.gradcheck"
"""It has a row where the others have one, and no column: it cannot be asked in these dtypes."""

WRONG, PROBED = "x", "o"
"""Written where a judge is wrong, and where the probes alone make it right, of a fault, or wrong, of a sound kernel."""

WIDTH = 120
"""Columns of a line of prose."""


def counts(some: Sequence[Results], judge: str) -> tuple[int, int, int, int, int]:
    """Count the errors of a judge: faults that it accepts, and sound kernels that it rejects.

    The first two are counted with the drawn cotangents alone, the next two with the probes too. The last says how many
    of the sound kernels that are rejected belong to workloads where torch's own gradient is off.
    """
    faults = [fault for each in some for fault in each.faults.values()]
    sound = [(kernel, each.is_reference_off) for each in some for kernel in each.sound.values()]
    rejected = [is_off for kernel, is_off in sound if not kernel.is_accepted(judge)]
    return (
        sum(fault.is_accepted(judge, with_probes=False) for fault in faults),
        sum(not kernel.is_accepted(judge, with_probes=False) for kernel, _ in sound),
        sum(fault.is_accepted(judge) for fault in faults),
        len(rejected),
        sum(rejected),
    )


def summary(results: Sequence[Results], dtype: str, shape: Box) -> Table:
    """Return the table of counts in a dtype: a row for each judge."""
    table = Table("", "project", box=shape)
    columns = ("wrong accepted", "sound rejected", "wrong, probes", "sound, probes", "torch off")
    for column in columns:
        table.add_column(column, justify="right")
    some = [each for each in results if each.dtype == dtype]
    for judge, letter in LETTERS.items():
        table.add_row(letter, judge, *map(str, counts(some, judge)))
    table.add_row("", GRADCHECK, *("cannot" for _ in columns))
    return table


def details(results: Sequence[Results], dtype: str, shape: Box) -> Table:
    """Return the table of one dtype: a row for each fault, a column for each judge by its letter."""
    table = Table("op and fault", *LETTERS.values(), box=shape)
    for each in results:
        if each.dtype == dtype:
            for name, fault in each.faults.items():
                table.add_row(f"{each.workload.op.name}: {name}", *(_accepted(fault, judge) for judge in JUDGES))
    return table


def _accepted(fault: Judgements, judge: str) -> str:
    if fault.is_accepted(judge):
        return WRONG
    return PROBED if fault.is_accepted(judge, with_probes=False) else ""


def soundness(results: Sequence[Results], dtype: str, shape: Box) -> Table:
    """Return the table of one dtype that says who rejects which sound kernels, and which that round inside."""
    table = Table("op and kernel", *LETTERS.values(), box=shape)
    for each in results:
        if each.dtype == dtype:
            for name, kernel in (each.sound | each.others).items():
                table.add_row(f"{each.workload.op.name}: {name}", *(_rejected(kernel, judge) for judge in JUDGES))
    return table


def _rejected(kernel: Judgements, judge: str) -> str:
    if kernel.is_accepted(judge):
        return ""
    return PROBED if kernel.is_accepted(judge, with_probes=False) else WRONG


def rules() -> Table:
    """Return the table of the rules: what they compare with, and when they accept."""
    table = Table("", "project", "reference", *DTYPES, box=box.MARKDOWN)
    for rule in RULES:
        table.add_row(LETTERS[rule.project], rule.project, rule.reference, rule.in_float32, rule.in_bfloat16)
    for judge in (OURS, LOOSER):
        table.add_row(LETTERS[judge], judge, "certified", "what rounding explains", "what rounding explains")
    table.add_row("", GRADCHECK, "differences", "cannot", "cannot")
    return table


def explained(results: Sequence[Results]) -> Iterator[str]:
    """Yield a line for each fault that the oracle accepts, with the reason on file."""
    for each in results:
        for name, fault in each.faults.items():
            if fault.is_accepted(OURS):
                reason = EXPLAINED.get((each.workload.op.name, name), "No reason is on file: look into it.")
                yield f"{each.workload.op.name}, {name}, in {each.dtype}. {reason}"


def surprises(results: Sequence[Results]) -> list[str]:
    """Return what the oracle accepts without a reason on file, and the sound kernels that it rejects."""
    accepted = [
        f"{each.workload.op.name}: {name} is accepted in {each.dtype}"
        for each in results
        for name, fault in each.faults.items()
        if fault.is_accepted(OURS) and (each.workload.op.name, name) not in EXPLAINED
    ]
    rejected = [
        f"{each.workload.op.name}: the sound kernel {name} is rejected in {each.dtype}"
        for each in results
        for name, sound in each.sound.items()
        if not sound.is_accepted(OURS)
    ]
    return accepted + rejected


def bullets(lines: Iterator[str]) -> str:
    """Write a list in Markdown."""
    return "\n".join(fill(f"- {line}", WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def page(results: Sequence[Results]) -> str:
    """Write the page in Markdown: its paragraphs are those of `PAGE`, with blocks and figures filled in."""
    off = " and ".join(f"{each.workload.op.name} in {each.dtype}" for each in results if each.is_reference_off)
    prose = {
        "torch": torch.__version__.split("+")[0],
        "faults": str(sum(len(workload.faults) for workload in WORKLOADS)),
        "sound": str((1 + len(SOUND)) * len(WORKLOADS)),
        "off": off or "no op here",
        "itself": ITSELF,
        "ours": LETTERS[OURS],
        "looser": LETTERS[LOOSER],
    }
    blocks = {
        "SIZES": bullets(f"{workload.op.name}: {workload.size}." for workload in WORKLOADS),
        "STORIES": bullets(f"*{name}*: {story}." for name, story in STORIES.items()),
        "EXPLAINED": bullets(explained(results)) or "- None.",
        "RULES": markdown(rules()),
    }
    for dtype in DTYPES:
        blocks[f"SUMMARY {dtype}"] = markdown(summary(results, dtype, box.MARKDOWN))
        blocks[f"FAULTS {dtype}"] = markdown(details(results, dtype, box.MARKDOWN))
        blocks[f"SOUND {dtype}"] = markdown(soundness(results, dtype, box.MARKDOWN))
    paragraphs = (blocks.get(each) or _filled(each, prose) for each in PAGE.strip().split("\n\n"))
    return "\n\n".join(paragraphs) + "\n"


def _filled(paragraph: str, prose: dict[str, str]) -> str:
    return fill(paragraph.format(**prose), WIDTH, break_on_hyphens=False, break_long_words=False)


PAGE = """
# The wall: wrong gradients, and who accepts them

Kernels' gradients are accepted today by rules with typed tolerances. Here gradients that are known to be wrong, and
some that are known to be sound, are shown to those rules and to this project's oracle, on the same inputs, at the
sizes that people train with.

`python -m tests.wall docs/wall.md`, or `tox -e wall`, makes this page again, in about a minute and a half.

## The result

In each dtype there are {faults} wrong gradients and {sound} sound ones. The first two numbers of a row are with a
drawn cotangent, as the projects' own tests have it: how many wrong gradients are accepted, and how many sound ones are
rejected. The next two are with two more cotangents, which are this project's probes: ones in the last column and zero
elsewhere, and a single one in the last entry. A rule rejects a kernel if it rejects its answer to any of them. The last
number says how many of the sound gradients that are rejected are at places where torch's own gradient, which the
rule compares with, is off itself.

In float32:

SUMMARY float32

In bfloat16:

SUMMARY bfloat16

`torch.autograd.gradcheck` compares with finite differences, for which it needs float64. In these dtypes differences are
rounding error for the most part, so it cannot be asked whether a kernel for them is right.

Rounding explains some of the faults: they are inside of what a sound kernel is allowed. {ours} accepts these, and no
other.

EXPLAINED

## What was planted

Inputs and cotangents are standard normal; cross_entropy is differentiated with a cotangent of 1, and so has no probes.
Every value is one of the dtype.

SIZES

Each kernel is a backward written by hand, in float32 inside, with the fault, and each of its results is rounded once to
the dtype. It shares no code with the oracle, which derives the backward from the formula. No fault is made by editing
the truth, except that unwritten columns stay zero and that two faults are factors.

STORIES

Three kernels are sound: the certified gradient, correctly rounded; the same backward with sums taken *in pairs*; and
with sums taken *in order*, one term after the other.

## The rules

They were read in the projects' own test files between July and September 2026. g is the gradient under test, r the
reference, which is torch's own gradient in the dtype that the table names, and p torch's own in the same dtype.
allclose(a, b) is that abs(g - r) is at most a + b abs(r) for every element; dist is the largest absolute difference.
A rule that a project has for one op is applied to all of them, which is not how the project uses it. Where an op has
several gradients, a rule accepts a kernel if it accepts each of them.

RULES

{ours} and {looser} are this project: `reference.oracle.answer` and `judge_values` of `tests.verdict.comparison`. They
have no tolerance. {ours} holds a kernel to the promise `wide`, that it computes in float32 and rounds each result once;
{looser} to `operands`, that what enters a product of matrices may be rounded too. In float32 they are the same. The
inputs are drawn, so a sum of n terms is allowed the probabilistic bound on its rounding errors.

The torch here is {torch} on the CPU. It accumulates some gradients in bfloat16 itself, and is off by more than 5e-3 of
the root mean square in {off}. A rule that compares with it rejects sound kernels there, and accepts those that
go wrong in the same way. Kernel projects compare with torch on an accelerator, which may do better: `--device` names
one.

## Every fault

A letter is that of the rule. `x`: the wrong gradient is accepted. `o`: it is accepted with the drawn cotangent, and
rejected with a probe. Blank: it is rejected with the drawn cotangent.

In float32:

FAULTS float32

In bfloat16:

FAULTS bfloat16

## Every sound kernel

`x`: the gradient is rejected with the drawn cotangent. `o`: it is rejected with a probe only. Other kernels stand below
the sound ones, and are not counted above. *{itself}* is torch's own gradient in the dtype. Kernels that round inside
by design, as those for tensor cores do with the operands of products, do not keep the promise `wide`, and {ours}
rejects them. Who accepts that in a kernel asks for `operands`: see {looser}.

In float32:

SOUND float32

In bfloat16:

SOUND bfloat16
"""
