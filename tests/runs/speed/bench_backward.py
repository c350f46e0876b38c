"""How long torch takes: forwards, backwards, both, and backwards of the backward.

They are shown beside the analytic floor and the bytes that must move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from reference.catalogue import OPS
from reference.format import FORMATS, Format
from tests.runs.speed.floor import floor
from tests.runs.speed.formula import NoFloorError
from tests.runs.speed.network import NETWORKS
from tests.runs.speed.work import TIMED, Graph, Work, chain, fan_out, neuron, of_network, of_op
from tests.runs.speed.worker import timed
from tests.subject.device import synchronized
from tests.verdict.comparison import refusal

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from reference.op import Op

LARGE = 1_000_000
"""Elements of an op, where its kernel is all that counts."""

GROWN = ("exp", "erf", "gelu", "mul", "sum", "matmul", "softmax", "mse_loss")
"""One op of each family, at every size."""

SIZES = tuple(10**power for power in range(8))
DEPTHS = (1, 10, 100, 1000)
GRAPHS = {"chain": chain, "fan-out": fan_out}
FLOOR_SECONDS = 0.05
"""How long a floor is called to find its shortest time."""

OVERHEAD = 0.05
"""The share of a loop by hand that the benchmark may add to it."""


def measure(benchmark: BenchmarkFixture, work: Work, kind: str, device: str, **facts: object) -> None:
    """Time one kind of run of a piece of work, and note its floor beside it."""
    try:
        graph = Graph(work, device)
        run = synchronized(TIMED[kind](graph), device)
        run()
    except RuntimeError as error:
        if said := refusal(error, device):
            pytest.skip(f"torch: {said}")
        if kind == "double" and "does not require grad" in str(error):
            pytest.skip("the gradient is constant: there is no second one")
        raise
    benchmark.extra_info |= {
        "work": work.name,
        "family": work.family,
        "kind": kind,
        "size": work.size,
        "dtype": work.form.name,
        "device": device,
        **facts,
    }
    benchmark(run)
    if kind == "backward":
        note_floor(benchmark, work, graph, device)


def note_floor(benchmark: BenchmarkFixture, work: Work, graph: Graph, device: str) -> None:
    """Time the derivative as plain torch, and a copy that moves as many bytes."""
    try:
        differentiated, moved = floor(work, graph)
    except NoFloorError:
        return
    # It reads half of the bytes and writes the other half, in elements of 4 bytes.
    source = torch.ones(max(moved // 8, 1), dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    benchmark.extra_info |= {
        "floor": timed(synchronized(differentiated, device), FLOOR_SECONDS),
        "bytes": moved,
        "memory": timed(synchronized(lambda: target.copy_(source), device), FLOOR_SECONDS),
    }


@pytest.mark.fixed
@pytest.mark.parametrize("kind", TIMED)
def test_op(benchmark: BenchmarkFixture, op: Op, kind: str, form: Format, device: str) -> None:
    """Every op, on a million elements where it takes so many."""
    measure(benchmark, of_op(op, LARGE, form), kind, device)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["forward", "backward"])
@pytest.mark.parametrize("name", GROWN)
def test_size(benchmark: BenchmarkFixture, name: str, kind: str, size: int, device: str) -> None:
    """One op of each family, on one element to ten million."""
    measure(benchmark, of_op(OPS[name], size, FORMATS["float32"]), kind, device, grows="size")


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", ["forward", "backward", "double"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_depth(benchmark: BenchmarkFixture, graph: str, kind: str, depth: int, device: str) -> None:
    """A chain and a fan-out of 1 to 1,000 ops, on a thousand elements."""
    measure(
        benchmark, GRAPHS[graph](depth, 1000, FORMATS["float32"]), kind, device, grows="depth", depth=depth, of=graph
    )


@pytest.mark.parametrize("kind", TIMED)
@pytest.mark.parametrize(
    "work",
    [
        neuron(1, FORMATS["float32"]),
        neuron(LARGE, FORMATS["float32"]),
        *(of_network(name, FORMATS["float32"]) for name in NETWORKS),
    ],
    ids=str,
)
def test_network(benchmark: BenchmarkFixture, work: Work, kind: str, device: str) -> None:
    """The notebook's neuron, alone and a million times, a perceptron and an attention block."""
    measure(benchmark, work, kind, device)


def test_benchmark_adds_nothing(benchmark: BenchmarkFixture) -> None:
    """The figure for a trivial op is that of a loop by hand, but for a small share."""
    graph = Graph(of_op(OPS["neg"], 1, FORMATS["float32"]), "cpu")
    benchmark.extra_info |= {
        "work": "neg by hand",
        "family": "overhead",
        "kind": "backward",
        "size": 1,
        "dtype": "float32",
        "device": "cpu",
    }
    benchmark(graph.backward)

    def hundred() -> None:
        for _ in range(100):
            graph.backward()

    by_hand = min(timed(hundred, 0.05) for _ in range(20)) / 100
    benchmark.extra_info["by_hand"] = by_hand
    assert benchmark.stats is not None
    assert abs(benchmark.stats.stats.min / by_hand - 1) < OVERHEAD
