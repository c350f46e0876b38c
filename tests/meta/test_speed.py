"""The floor is the derivative, and the gate of speed closes for what is slower and for nothing else."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import sympy
import torch

from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.op import Op, x
from tests.meta.example import run
from tests.runs.speed import gate, instructions, interleaved, noise, table, worker
from tests.runs.speed.floor import floor
from tests.runs.speed.formula import NoFloorError, back_over_op
from tests.runs.speed.instructions import total
from tests.runs.speed.interleaved import Ratio, judged
from tests.runs.speed.network import NETWORKS
from tests.runs.speed.table import Figure
from tests.runs.speed.work import TIMED, Graph, Work, chain, counted, fan_out, gated, neuron, of_network, of_op
from tests.subject import binding
from tests.verdict.comparison import Judgement, judge_values

if TYPE_CHECKING:
    from pathlib import Path

OF_GAMMA = {"lgamma", "digamma"}
"""The ops whose derivatives have digamma or trigamma in them, which torch is known to get wrong."""

run_gate = partial(run, "tests.runs.speed.gate")
FORM = FORMATS["float64"]
NETS = [of_network(name, FORM) for name in NETWORKS]
ELEMENTWISE = [op for op in OPS.values() if op.elementwise]


def judged_floor(work: Work) -> Judgement:
    """Judge the floor of a piece of work against the certified derivative, as torch's backward is judged."""
    graph = Graph(work, "cpu")
    differentiated, moved = floor(work, graph)
    assert moved >= 8 * sum(leaf.numel() for leaf in graph.leaves)
    assert work.tree is not None
    case = Case(work.tree, FORM, work.primals, np.full(tuple(graph.output.shape), 0.5))
    return judge_values(case, [binding.on_host(gradient) for gradient in differentiated()])


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_floor_is_the_derivative(op: Op) -> None:
    """The floor of an op is within the rounding of its certified derivative.

    The exceptions are made of torch's own digamma and trigamma, which are not.
    """
    work = of_op(op, 50, FORM)
    judgement = judged_floor(work)
    assert judgement.compared + judgement.undecided == sum(primal.size for primal in work.primals)
    if op.name in OF_GAMMA:
        assert {miss.verdict for miss in judgement.misses} == {"inaccurate"}
        assert max(miss.ulp for miss in judgement.misses) < 2**28
    else:
        assert judgement.misses == []


@pytest.mark.parametrize("work", [chain(20, 8, FORM), fan_out(20, 8, FORM), neuron(8, FORM)], ids=str)
def test_floor_of_a_graph_is_the_derivative(work: Work) -> None:
    """The floor of a chain, a fan-out and the neuron is within the rounding of its certified derivative."""
    judgement = judged_floor(work)
    assert work.tree is not None
    assert judgement.compared == 8 * len(work.tree.leaves)
    assert judgement.misses == []


@pytest.mark.parametrize(
    "work", [of_op(OPS["exp"], 4, FORM), of_op(OPS["softmax"], 9, FORM), neuron(4, FORM), *NETS], ids=str
)
def test_every_kind_of_run_runs(work: Work) -> None:
    """Forwards, backwards, both and double give tensors of the inputs' shapes, as often as one likes."""
    graph = Graph(work, "cpu")
    for kind in ("backward", "both", "backward"):
        assert [g.shape for g in TIMED[kind](graph)()] == [leaf.shape for leaf in graph.wanted]
    if work.name != "attention block":  # torch has no second derivative of its fused attention on the CPU
        assert [TIMED["double"](graph)()[0].shape for _ in range(2)] == [graph.leaves[0].shape] * 2


def test_graphs_may_be_deep() -> None:
    """A chain of a thousand ops has its graph and its floor."""
    work = chain(1000, 1, FORM)
    assert work.tree is not None
    assert len(work.tree.applications) == 1000
    judgement = judged_floor(work)
    assert judgement.compared == 1
    assert judgement.misses == []


STEP = 2.0**-26
"""The step of a difference in float64: rounding divided by it is small, and no hidden unit passes its kink."""


@pytest.mark.parametrize("work", NETS, ids=str)
def test_floor_of_a_network_is_the_derivative(work: Work) -> None:
    """The floor of a network is how its values change along a direction in each input and parameter."""
    graph = Graph(work, "cpu")
    torch.manual_seed(0)
    graph.cotangent = torch.randn_like(graph.output)
    differentiated, _ = floor(work, graph)

    def weighted() -> float:
        with torch.no_grad():
            return float((graph.forward() * graph.cotangent).sum())

    for wanted, gradient in zip(graph.wanted, differentiated(), strict=True):
        assert gradient.shape == wanted.shape
        direction = torch.randn_like(wanted)
        values = []
        for step in (STEP, -2 * STEP, STEP):
            wanted.data += step * direction
            values.append(weighted())
        assert (values[0] - values[1]) / (2 * STEP) == pytest.approx(
            float((gradient * direction).sum()), rel=1e-6, abs=1e-5
        )


def test_what_torch_lacks_has_no_floor() -> None:
    """Of a function that torch has no name for there is no floor, and it is named."""
    lacking = Op(name="zeta", torch="torch.special.zeta", formula=sympy.zeta(3 + x**2))
    with pytest.raises(NoFloorError, match="torch has no zeta"):
        back_over_op(lacking, ((),))


def test_points_of_works_are_inside_the_domain() -> None:
    """No input of what is timed is outside of its op's domain, where a kernel may take another path."""
    for op in ELEMENTWISE:
        for name, primal in zip(op.inputs, of_op(op, 100, FORM).primals, strict=True):
            assert all(op.interval(name).encloses(value, value) for value in np.unique(primal)), op


def ratio(middle: float, low: float, high: float, pairs: int = interleaved.AGAIN) -> Ratio:
    """Return a ratio as a comparison gives it."""
    return Ratio(middle, low, high, pairs)


@pytest.mark.parametrize(
    ("found", "kinds"),
    [
        (ratio(1.2, 1.1, 1.3), ["slower"]),
        (ratio(0.8, 0.7, 0.9), ["faster"]),
        (ratio(1.04, 1.03, 1.05), []),
        (ratio(1.2, 0.99, 1.3), []),
        (ratio(1.2, 1.1, 1.3, interleaved.FIRST), []),
    ],
)
def test_time_is_judged_by_its_interval(found: Ratio, kinds: list[str]) -> None:
    """Slower is what is above the threshold with an interval above 1, in pairs that were measured again."""
    assert [change.kind for change in gate.of_times({"exp": found})] == kinds


def test_interval_is_of_the_median() -> None:
    """The bootstrap's interval holds the median, and is narrow where the pairs agree."""
    found = judged([0.1, 0.11, 0.09, 0.1, 0.1, 0.12, 0.08, 0.1])
    assert 1.08 < found.low <= found.middle <= found.high < 1.13
    assert found.is_slower
    assert judged([0.3, -0.3, 0.2, -0.2, 0.1, -0.1, 0.12, -0.12]).low < 1


def test_instructions_are_judged_by_their_ratio() -> None:
    """Three in a hundred more close the gate, one in a hundred does not, and fewer are told."""
    changes = gate.of_counts({"a": 100.0, "b": 100.0, "c": 100.0}, {"a": 103.0, "b": 101.0, "c": 90.0})
    assert [(change.kind, change.key[0], change.is_worse) for change in changes] == [
        ("more instructions", "a", True),
        ("fewer instructions", "c", False),
    ]


def test_distance_from_the_floor_is_judged_by_its_near_end() -> None:
    """A ratio whose whole interval is farther than the baseline allows closes the gate."""
    before = {"near": 2.0, "far": 2.0, "closer": 2.0}
    changes = gate.of_floors(
        before, {"near": ratio(3, 2.5, 3.5), "far": ratio(3, 2.7, 3.5), "closer": ratio(1, 0.9, 1.1)}
    )
    assert [(change.kind, change.key[0]) for change in changes] == [("slower", "far"), ("faster", "closer")]


DUMP = """\
events: Ir
ob=(1) /usr/lib/libpython3.11.so.1.0
fn=(1) eval
10 500
ob=(2) /site-packages/torch/lib/libtorch_cpu.so
fn=(2) kernel
12 30
+1 12
cob=(1)
cfn=(1)
calls=1 10
+2 500
* 8
ob=(1)
fn=(1)
* 7
"""


def test_instructions_of_torch_alone_are_counted() -> None:
    """The interpreter's are left out, and what was called counts where it was spent."""
    assert total(DUMP) == 50


class Clock:
    """A clock that stands still but for the calls that move it on, and for a little at each reading."""

    now = 0.0

    def __call__(self) -> float:
        """Read it."""
        self.now += 2**-16
        return self.now


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_planted_slowdown_is_a_share_of_the_call(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """What is planted takes its share longer, and the shortest call is what is returned, whatever others took."""
    clock, durations = Clock(), iter([3.0, 1.0, 2.0] * 2)
    monkeypatch.setattr(worker, "perf_counter", clock)

    def work() -> None:
        clock.now += next(durations)

    assert worker.timed(work, 5.5) == pytest.approx(1, abs=1e-4)
    assert worker.timed(worker.stretched(work, share), 5.5 * (1 + share)) == pytest.approx(1 + share, abs=1e-3)


def test_growth_is_fitted_and_a_faster_backward_found() -> None:
    """A backward that grows as the square beside a linear forward is a finding."""
    figures = [
        Figure(work="w", kind=kind, size=size, grows="size", seconds=1e-9 * size**power)
        for kind, power in (("forward", 1), ("backward", 2))
        for size in (10, 10_000, 100_000, 1_000_000)
    ]
    found = table.growths(figures)
    assert [(growth.kind, round(growth.exponent, 6)) for growth in found] == [("forward", 1), ("backward", 2)]
    assert [backward.of for backward, _ in table.growing_faster(found)] == ["w"]
    assert table.growing_faster(found[:1]) == []


def test_works_are_named() -> None:
    """Each work that is compared has the name it is asked by."""
    for makers in (gated(), counted()):
        assert [make().name for make in makers.values()] == list(makers)


def test_gate_by_time_against_a_planted_slowdown(tmp_path: Path) -> None:
    """Against itself, with every backward half as slow again, the gate closes.

    It says so in every form, and names the work.
    """
    closed = run_gate(
        "exp",
        "--only",
        "time",
        "--against",
        sys.executable,
        "--plant",
        "0.5",
        "--junit",
        tmp_path / "a/gate.xml",
        "--markdown",
        tmp_path / "gate.md",
    )
    assert closed.returncode == 1, closed.stderr
    assert "slower" in closed.stdout
    assert "failure" in (tmp_path / "a/gate.xml").read_text()
    assert "| slower | exp" in (tmp_path / "gate.md").read_text()


@pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="valgrind is not installed; on Debian: apt install valgrind"
)
def test_gate_by_instructions_against_a_planted_slowdown() -> None:
    """Against itself, with 3 % more work in every backward, each work takes more instructions, by that share."""
    closed = run_gate("exp", "sin", "--only", "instructions", "--against", sys.executable, "--plant", "0.03")
    assert closed.returncode == 1, closed.stderr
    assert closed.stdout.count("more instructions") == 2
    shares = [float(line.split()[-1]) for line in closed.stdout.splitlines() if "more instructions" in line]
    assert all(1.027 < share < 1.033 for share in shares)


def test_baseline_is_kept_by_machine(tmp_path: Path) -> None:
    """What is written is read again, and rows of other machines and works stay."""
    path, here = tmp_path / "baseline.tsv", gate.machine()
    other = dict(zip(gate.COLUMNS, ("z80", "exp", gate.INSTRUCTIONS, "5", "2.13.0"), strict=True))
    path.write_text(gate.written([other], here, {gate.INSTRUCTIONS: {"exp": 4.5e6}}))
    path.write_text(gate.written(gate.read(path)[1], here, {gate.FLOOR: {"sin": 1.25}}))
    assert gate.read(path)[0] == {
        ("z80", "exp", gate.INSTRUCTIONS): 5,
        (here, "exp", gate.INSTRUCTIONS): 4.5e6,
        (here, "sin", gate.FLOOR): 1.25,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "accepted: "),
        (["--baseline", "absent.tsv"], "absent.tsv"),
        (["exp", "--against", "absent-python"], "absent-python"),
        (["exp", "--device", "absent"], "accepted: cpu"),
        (["exp", "-pabsent"], "absent"),
        (["MLP", "--only", "instructions"], "nothing to compare"),
    ],
)
def test_bad_input_is_a_usage_error(arguments: list[str], said: str) -> None:
    """A work, a baseline and an interpreter that do not exist are refused."""
    refused = run_gate(*arguments)
    assert refused.returncode == 2
    assert said in refused.stderr


def test_baseline_of_other_machines_is_a_usage_error(tmp_path: Path) -> None:
    """Figures of another kind of machine are not compared with."""
    baseline = tmp_path / "baseline.tsv"
    baseline.write_text("\t".join(gate.COLUMNS) + "\nz80 Python 3.11\texp\tinstructions\t5\t2.13.0\n")
    refused = run_gate("exp", "--baseline", baseline)
    assert refused.returncode == 2
    assert "only of z80 Python 3.11" in refused.stderr


@pytest.mark.parametrize(
    ("measure", "planted", "said"),
    [
        ("time", 0.0, "1 of 2 comparisons closed the gate; 1 of 34 works were worse"),
        ("instructions", 0.0, "0 of 6 comparisons closed the gate; 0 of 744 works were worse"),
        ("instructions", 0.03, "4 of 4 comparisons closed the gate; 496 of 496 works were worse"),
    ],
)
def test_noise_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], measure: str, planted: float, said: str
) -> None:
    """A false alarm is counted as one, each count is compared with each, and what is planted is found."""
    alarms = iter([(1.2, 1.2, 1.2), (1.0, 1.0, 1.0)])
    monkeypatch.setattr(
        interleaved,
        "compared",
        lambda _, __, names: {name: ratio(1, 0.9, 1.1) for name in names} | {"exp": ratio(*next(alarms))},
    )
    monkeypatch.setattr(
        instructions,
        "counts",
        lambda sides, names, _: {side: dict.fromkeys(names, 1000 * (1 + of.plant)) for side, of in sides.items()},
    )
    monkeypatch.setattr(sys, "argv", ["noise", measure, "2" if measure == "time" else "4", "--plant", str(planted)])
    noise.main()
    assert capsys.readouterr().out.splitlines()[-1] == said
