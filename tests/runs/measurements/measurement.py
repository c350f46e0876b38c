"""What is measured, by which command, and where the figures are in what it prints or writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.runs.measurements.figures import (
    of_atlas,
    of_backwards,
    of_gate,
    of_imports,
    of_oracle,
    of_records,
    of_sensitivity,
    of_tape_faults,
    of_wall,
    printed_counts,
    printed_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runs.measurements.figures import Rows

# What commands below have in common.
QUICK = "--profile quick --hypothesis-seed=0"
BATTERY = "pytest tests --ignore=tests/meta"
ISOLATED = f"{BATTERY} {QUICK} --op sin,softmax,layer_norm"
NOISE = "python -m tests.runs.speed.noise"
NOISY = r"(?P<closed>\d+) of (?P<comparisons>\d+) comparisons closed the gate; (?P<worse>\d+) of (?P<works>\d+) works"
MODELS = "data-apis/array-api-tests HypothesisWorks/hypothesis HIPS/autograd python-attrs/attrs patrick-kidger/equinox"


@dataclass(frozen=True)
class Measurement:
    """One command, and the figures that it gives."""

    name: str
    """The words of its heading, with hyphens: its anchor on the page."""

    family: str
    """The heading that it stands under."""

    says: str
    """What the figures are, in a sentence."""

    command: str
    """As a reader types it, in the root of a checkout."""

    figures: Callable[[str], Rows]
    """What takes the figures out of the text that the command prints or leaves."""

    reads: str | None = None
    """The file, below the root, that the command leaves its figures in; None where it prints them."""

    may_fail: bool = False
    """Whether an exit status other than 0 is a finding, as that of a gate, and not a failure to measure."""


MEASUREMENTS = {
    each.name: each
    for each in (
        Measurement(
            "profile-quick",
            "runs",
            "What `--profile quick` asks of torch, and what it finds.",
            f"{BATTERY} {QUICK} -n 2 --records assay/quick.jsonl",
            of_records,
            "assay/quick.jsonl",
        ),
        Measurement(
            "profile-default",
            "runs",
            "What a plain run asks of torch, and what it finds.",
            f"{BATTERY} --hypothesis-seed=0 -n 2 --records assay/default.jsonl",
            of_records,
            "assay/default.jsonl",
        ),
        Measurement(
            "coverage",
            "runs",
            "How many of the differentiable elementwise ops in torch's own table have an entry.",
            "python -m tests.runs.coverage",
            printed_counts(
                r"(?P<covered>\d+) of (?P<ops>\d+) differentiable elementwise ops are covered, by (?P<entries>\d+)"
            ),
        ),
        Measurement(
            "atlas",
            "runs",
            "What the atlas judges: every value of the 16-bit formats, and 100,000 of the others.",
            "tox -e atlas",
            of_atlas,
            "tests/atlas.tsv",
        ),
        Measurement(
            "isolated",
            "runs",
            "Three ops in a worker process of their own, with notes of what is asked.",
            f"{ISOLATED} --isolate --records assay/isolated.jsonl",
            of_records,
            "assay/isolated.jsonl",
        ),
        Measurement(
            "not-isolated",
            "runs",
            "The same ops in a worker without notes, to compare with.",
            f"{ISOLATED} -n 1 --records assay/not-isolated.jsonl",
            of_records,
            "assay/not-isolated.jsonl",
        ),
        Measurement(
            "import",
            "runs",
            "How long the installed package takes to be imported, with what it imports.",
            "pip install -q --upgrade --no-deps --target assay/installed . && "
            "PYTHONSAFEPATH=1 PYTHONPATH=assay/installed python -X importtime "
            "-c 'from gradassay import assert_gradient' 2>&1",
            of_imports,
        ),
        Measurement(
            "vulkan",
            "runs",
            "Shaders of Vulkan in float32, on Mesa's software driver.",
            f"tox -e assay-vulkan -- {QUICK}",
            of_records,
            "assay/vulkan.jsonl",
        ),
        Measurement(
            "triton",
            "runs",
            "Three kernels of this project in Triton's interpreter.",
            "tox -e assay-triton",
            of_records,
            "assay/triton.jsonl",
        ),
        Measurement(
            "triton-of-others",
            "runs",
            "Kernels of liger-kernel and flash-linear-attention in Triton's interpreter.",
            "tox -e assay-strangers",
            of_records,
            "assay/strangers.jsonl",
        ),
        Measurement(
            "mutants-of-elementwise-ops",
            "strength",
            "Mutants of the backward of every elementwise op, and how many the default profile's tests catch "
            "in float32, and gradcheck in float64.",
            "python -m tests.mutation elementwise",
            printed_table(),
        ),
        Measurement(
            "mutants-of-tensor-ops-in-float32",
            "strength",
            "Mutants caught of those planted, with axes of 33, 129 and 257, in real use (rows of 4,096, 32,000 "
            "classes, products of 256 × 512 × 128), and by gradcheck in float64 at small sizes.",
            "python -m tests.mutation tensor",
            printed_table(),
        ),
        Measurement(
            "mutants-of-tensor-ops-in-bfloat16",
            "strength",
            "The same in bfloat16, by the promise that each entry declares, and by the sharpest that torch keeps.",
            "python -m tests.mutation tensor",
            printed_table(1),
        ),
        Measurement(
            "sensitivity",
            "strength",
            "The smallest b for which a gradient that is multiplied by 1 + b is noticed in at least 99 of 100 runs, "
            "for the least sensitive of sin, exp, tanh, sigmoid, atan and square.",
            "python -m tests.sensitivity",
            of_sensitivity,
        ),
        Measurement(
            "faults-of-the-tape",
            "strength",
            "Faults planted in `.grad`, hooks, grad modes and graphs, and the programs that show them.",
            "python -m tests.meta.tape_faults",
            of_tape_faults,
        ),
        Measurement(
            "rules-of-the-tape",
            "strength",
            "What the model of the tape may do, and what must hold after it.",
            "python -m tests.tape",
            printed_counts(r"(?P<transitions>\d+) transitions and (?P<invariants>\d+) invariants"),
        ),
        Measurement(
            "histories",
            "strength",
            "Histories on the tape, of up to 50 steps, as many as `--profile thorough` has.",
            "pytest tests/test_tape_model.py --profile thorough --hypothesis-seed=0",
            printed_counts(r"(?P<passed>\d+) passed"),
        ),
        Measurement(
            "wall",
            "strength",
            "What the oracle makes of the wrong and the sound gradients of the wall.",
            "tox -e wall",
            of_wall,
            "docs/wall.md",
        ),
        Measurement(
            "correctly-rounded-truth",
            "false alarms",
            "A stand-in that answers with the correctly rounded truth: what fails there is the suite's own fault.",
            "pytest -p tests.meta.standin tests/test_ops.py tests/test_trees.py --deviations /dev/null "
            "--hypothesis-seed=2 --records assay/standin.jsonl",
            of_records,
            "assay/standin.jsonl",
        ),
        Measurement(
            "ten-seeds",
            "false alarms",
            "Ten plain runs with seeds of their own, of which none may fail.",
            f"for seed in 31 32 33 34 35 36 37 38 39 40; do {BATTERY} -n 2 -q --hypothesis-seed=$seed "
            "--records assay/seed-$seed.jsonl; done; cat assay/seed-*.jsonl > assay/seeds.jsonl",
            of_records,
            "assay/seeds.jsonl",
        ),
        Measurement(
            "oracle",
            "speed",
            "The oracle beside gradcheck in its full mode on the same 256 points, and beside torch's own float64 "
            "forward and backward on one core.",
            "tox -e bench",
            of_oracle,
            "assay/bench.json",
        ),
        Measurement(
            "backwards",
            "speed",
            "Backwards of a million elements beside their analytic floors, and how time grows with the depth.",
            "tox -e bench",
            of_backwards,
            "assay/bench.json",
        ),
        Measurement(
            "gate-of-accuracy",
            "gates",
            "The atlas judged anew, and compared with the one on file.",
            "tox -e gate",
            of_gate,
            "assay/gate.xml",
            may_fail=True,
        ),
        Measurement(
            "gate-of-speed-by-time",
            "gates",
            "A build compared with itself by time: each alarm is a false one.",
            f"{NOISE} time 100",
            printed_counts(NOISY),
        ),
        Measurement(
            "gate-of-speed-by-time-planted-5",
            "gates",
            "The same, with one side's backwards slowed down by 5 %: each alarm is due.",
            f"{NOISE} time 7 --plant 0.05",
            printed_counts(NOISY),
        ),
        Measurement(
            "gate-of-speed-by-time-planted-10",
            "gates",
            "The same, with one side's backwards slowed down by 10 %: each alarm is due.",
            f"{NOISE} time 7 --plant 0.1",
            printed_counts(NOISY),
        ),
        Measurement(
            "gate-of-speed-by-instructions",
            "gates",
            "Counts of a build's instructions compared each with each: each alarm is a false one.",
            f"{NOISE} instructions 16",
            printed_counts(NOISY),
        ),
        Measurement(
            "gate-of-speed-by-instructions-planted-3",
            "gates",
            "The same, with 3 % more calls of each backward on one side: each alarm is due.",
            f"{NOISE} instructions 2 --plant 0.03",
            printed_counts(NOISY),
        ),
        Measurement(
            "upgrade-by-accuracy",
            "gates",
            "The atlas judged with torch 2.14.1, and compared with that of the pinned torch.",
            'sed \'s/"==2.13.\\*"/">=2.13"/\' tests/deviations.toml > assay/deviations.toml; '
            "GRADASSAY_TORCH=torch==2.14.1 tox -e quick --notest; .tox/quick/bin/python -m pytest "
            "tests/test_enumeration.py --profile exhaustive --mode backward -n 2 --deviations assay/deviations.toml "
            "--records assay/other.jsonl; tox -e gate --notest; "
            ".tox/gate/bin/python -m tests.runs.gate assay/other.jsonl tests/atlas.tsv --junit assay/upgrade.xml",
            of_gate,
            "assay/upgrade.xml",
            may_fail=True,
        ),
        Measurement(
            "upgrade-by-speed",
            "gates",
            "The backwards of torch 2.14.1 beside those of the pinned torch, by instructions and by time.",
            "GRADASSAY_OTHER_TORCH=torch==2.14.1 tox -e other; tox -e gate-speed -- --against .tox/other/bin/python",
            of_gate,
            "assay/gate-speed.xml",
            may_fail=True,
        ),
        Measurement(
            "pages",
            "reading",
            "Words of a sentence on each page, and columns of the lines of code.",
            "python -m tests.meta.prose",
            printed_table(),
        ),
        Measurement(
            "code-beside-others",
            "reading",
            "The README and the Python code beside those of projects that this one learned from, at the commits named.",
            f"for name in {MODELS}; do git clone -q --depth 1 https://github.com/$name assay/others/$name; done; "
            "python -m tests.meta.prose assay/others/*/*/",
            printed_table(1),
        ),
    )
}
"""What is measured, by name."""
