"""The wall is fair and exact: the oracle sees what it should, the rules say what they say, and the page is complete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.wall.judging import OURS, Results, results
from tests.wall.page import GRADCHECK, JUDGES, LETTERS, WIDTH, surprises
from tests.wall.plants import DTYPES, EXPLAINED, STORIES, WORKLOADS, Workload
from tests.wall.rules import RULES, Compared, Rule

if TYPE_CHECKING:
    from reference.format import Floats

PAGE = (Path(__file__).parents[2] / "docs/wall.md").read_text(encoding="utf-8")
ROWS = [list(map(str.strip, line.split("|")[1:-1])) for line in PAGE.splitlines() if line.startswith("|")]
NAMED = {rule.project: rule for rule in RULES}

LENGTH = 1000
"""Elements of the gradients that rules are tried on."""


def compared(got: float | Floats, due: float = 1.0, *, is_narrow: bool = False, is_norm: bool = False) -> Compared:
    """Return a gradient of equal elements, or of those given, where every reference has the same elements."""
    reference = np.full(LENGTH, due)
    return Compared(got * np.ones(LENGTH), reference, reference, reference, is_narrow, is_norm)


def few(count: int, off: float) -> Floats:
    """Return ones, but for the first few, which are off by a part."""
    return np.where(np.arange(LENGTH) < count, 1 + off, 1.0)


EXAMPLES = [
    ("KernelBench", 1 + 1.9e-4, 1 + 2.1e-4, {}),
    ("KernelBench", 1 + 1.9e-2, 1 + 2.1e-2, {"is_narrow": True}),
    ("BackendBench, older KernelBench", 1 + 1.9e-2, 1 + 2.1e-2, {}),
    ("SOL-ExecBench", few(10, 1.0), few(11, 1.0), {}),
    ("SOL-ExecBench", 0.001, 0.0, {"due": 0.001}),
    ("GPU MODE, cross_entropy", 1 + 1.09e-2, 1 + 1.11e-2, {}),
    ("robust-kbench", 1 + 1.9e-5, 1 + 2.1e-5, {}),
    ("Triton tutorial, layer norm", 100.009, 100.011, {"due": 100.0}),
    ("Liger-Kernel, rms_norm", 1 + 1.00e-4, 1 + 1.02e-4, {}),
    ("Liger-Kernel, rms_norm", 1.21, 1.23, {"is_narrow": True}),
    ("Liger-Kernel, experts", 31.0, 31.1, {}),
    ("Liger-Kernel, experts", 101.0, 101.1, {"is_narrow": True}),
    ("flash-attention", 1 + 0.9e-4, 1 + 1.1e-4, {"is_norm": True}),
    ("flash-attention", 1 + 0.9e-4, 1 + 1.1e-4, {"is_narrow": True}),
    ("flash-attention", 1.049, 1.051, {"is_narrow": True, "is_norm": True}),
    ("flash-linear-attention", 1 + 4.9e-3, 1 + 5.1e-3, {}),
    ("flash-linear-attention in CI", 1.29, 1.31, {}),
    ("flash-linear-attention in CI", 100.9, 101.1, {"due": 100.0}),
    ("TransformerEngine", 1 + 1.12e-5, 1 + 1.14e-5, {}),
    ("TransformerEngine", 1.016, 1.0161, {"is_narrow": True}),
    ("torch_npu", few(1, 1.0), few(2, 1.0) * 1.01, {"is_narrow": True}),
    ("torch_npu", 1 + 0.9e-4, 1 + 1.1e-4, {}),
    ("torch_npu", 1000.09, 1000.11, {"due": 1000.0}),
    ("unsloth", few(1, 0.09), few(1, 0.11), {}),
    ("torchao", 1.09, 1.11, {}),
    ("gpucheck", 1 + 1.9e-4, 1 + 2.1e-4, {}),
    ("gpucheck", 1.09, 1.11, {"is_narrow": True}),
]
"""The name of a rule, a gradient that it accepts and one that it rejects, and what else `compared` is told."""


@pytest.mark.parametrize(("project", "accepted", "rejected", "told"), EXAMPLES)
def test_rule_has_its_edge_where_the_page_says(
    project: str, accepted: Floats, rejected: Floats, told: dict[str, Any]
) -> None:
    """A rule accepts what is a little inside of its tolerance, and rejects what is a little outside."""
    rule = NAMED[project]
    assert rule.accepts(compared(accepted, **told))
    assert not rule.accepts(compared(rejected, **told))


def test_every_rule_has_an_example() -> None:
    """No rule goes untried."""
    assert {project for project, *_ in EXAMPLES} == set(NAMED)


REFERENCES = {"same dtype": "same", "float32": "single", "float64": "double"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.project)
def test_rule_compares_with_its_reference(rule: Rule) -> None:
    """A gradient that equals the reference of a rule is accepted, whatever the others are; one that does not is not."""
    own = REFERENCES[rule.reference]
    ones, others = np.ones(LENGTH), np.full(LENGTH, 1e4)
    values: dict[str, Any] = {name: ones if name == own else others for name in REFERENCES.values()}
    assert rule.accepts(Compared(got=ones, **values))
    values = {name: others if name == own else ones for name in REFERENCES.values()}
    # Its tolerance is twice the error of torch in the same dtype, which is 1e4 here: it has a test of its own.
    assert rule.project == "flash-attention" or not rule.accepts(Compared(got=ones, **values))


def test_flash_attention_allows_twice_the_error_of_torch() -> None:
    """Its tolerance grows with the error of torch's own gradient in the same dtype."""
    reference = np.zeros(LENGTH)
    accepts = NAMED["flash-attention"].accepts
    assert accepts(Compared(reference + 2.0001, reference + 1, reference, reference))
    assert not accepts(Compared(reference + 2.0002, reference + 1, reference, reference))


@pytest.fixture(
    scope="module", params=[(w, d) for w in WORKLOADS for d in DTYPES], ids=lambda x: f"{x[0].op.name}-{x[1]}"
)
def small(request: pytest.FixtureRequest) -> Results:
    """Return the results of a workload in a dtype, at its smaller size."""
    workload, dtype = request.param
    return results(workload, dtype, is_small=True)


def test_oracle_rejects_every_fault(small: Results) -> None:
    """At smaller sizes rounding explains none of the faults."""
    assert not [name for name, fault in small.faults.items() if fault.is_accepted(OURS)]


def test_oracle_accepts_every_sound_kernel(small: Results) -> None:
    """Kernels that round each result once are accepted, however they accumulate."""
    assert len(small.sound) == 3
    assert not surprises([small])


def test_every_judge_is_asked_of_every_kernel(small: Results) -> None:
    """Every judge has said something of every kernel."""
    said = [*small.faults.values(), *small.sound.values(), *small.others.values()]
    assert all(set(each.accepted) == set(JUDGES) for each in said)


def test_every_fault_has_a_story() -> None:
    """The page says what each fault is, and has no story of a fault that is not planted."""
    assert {name for workload in WORKLOADS for name in workload.faults} == set(STORIES)
    assert all(f"- *{name}*: " in PAGE for name in STORIES)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.op.name)
def test_page_has_every_kernel(workload: Workload) -> None:
    """Each fault and each sound kernel has a row in each dtype, with a cell for each rule."""
    rows = [cells for cells in ROWS if len(cells) == 1 + len(JUDGES)]
    for name in (*workload.faults, "correctly rounded", "in pairs", "in order"):
        assert [cells[0] for cells in rows].count(f"{workload.op.name}: {name}") == len(DTYPES)


@pytest.mark.parametrize("judge", [*JUDGES, GRADCHECK])
def test_page_has_every_rule(judge: str) -> None:
    """Each rule has a row where it is stated, and one in each table of counts; gradcheck, which cannot, does too."""
    rows = [cells for cells in ROWS if cells[:2] == [LETTERS.get(judge, ""), judge]]
    assert len(rows) == 1 + len(DTYPES)


def test_page_says_what_rounding_explains() -> None:
    """What the oracle accepts at real sizes is what has a reason on file, in either dtype."""
    column = 1 + JUDGES.index(OURS)
    wrong = [cells[0] for cells in ROWS if len(cells) == 1 + len(JUDGES) and cells[column] == "x"]
    faults = {f"{workload.op.name}: {name}" for workload in WORKLOADS for name in workload.faults}
    assert [name for name in wrong if name in faults] == [f"{op}: {name}" for op, name in EXPLAINED] * len(DTYPES)


def test_page_is_no_wider_than_a_line() -> None:
    """No line of the page is longer than those of the code."""
    assert max(map(len, PAGE.splitlines())) <= WIDTH
