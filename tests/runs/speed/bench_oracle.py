"""How fast the oracle certifies gradients, beside `torch.autograd.gradcheck` on the same ops and points.

Both sides run in the same test; ``tox -e bench`` prints the table, and a ratio below its floor fails.
"""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from pytest_benchmark.fixture import BenchmarkFixture

from reference import compiler, derivative, evaluation, transform
from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.oracle import answer, answer_cache, certified, in_arrays
from reference.tree import Tree, result_shape, single
from strategies import trees
from strategies.cases import case_in_use
from tests.subject import binding

POINTS = 256
"""Elements of the inputs, of the elementwise ops and of trees."""

ELEMENTWISE = ("tanh", "sin", "exp", "sigmoid", "softplus", "sqrt", "erf", "atan")
CERTIFIED_FLOOR, NARROW_FLOOR, WIDE_FLOOR = 70, 150, 80
"""How many times as fast as gradcheck the oracle must be, on a machine that does other things too.

The floors are those of the certified value in float64, and of answers with their allowance in float32 and float64.
"""

TREE_FLOOR, FIRST_TREE_FLOOR = 15, 5
"""The same for a tree that was just drawn, and for one that is the first with its ops."""

DERIVED_SECONDS = 0.05
"""How long it may take to derive a tensor op at shapes that it has not met."""

IN_USE = {"softmax": 20, "layer_norm": 20, "cross_entropy": 20, "linear": 8}
"""Tensor ops in real use, and how many times torch's float64 forward and backward the oracle may take."""


def drawn(count: int) -> dict[str, Tree]:
    """Draw trees of three different ops and more, the same each time."""
    found: dict[str, Tree] = {}

    @settings(
        max_examples=20 * count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(trees())
    def collect(tree: Tree) -> None:
        if len({node.op for node in tree.applications}) >= 3 and len(found) < count:
            found.setdefault(str(tree), tree)

    collect()
    return found


TREES = drawn(5)


def case_of(tree: Tree, form: str = "float64") -> Case:
    """Return a tree at evenly spread points."""
    # Every other input in reverse, so that no two neighbours are equal.
    spread = np.linspace(0.25, 2, POINTS).astype(form).astype(np.float64)
    return Case(
        tree, FORMATS[form], tuple(spread[:: 1 - 2 * (i % 2)] for i in range(len(tree.leaves))), np.ones(POINTS)
    )


def gradcheck_seconds(case: Case) -> float:
    """Return the seconds that gradcheck takes in its full mode, for which the inputs are in float64."""
    inputs = binding.leaves(replace(case, form=FORMATS["float64"]), "cpu")
    start = perf_counter()
    torch.autograd.gradcheck(binding.function(case.tree), inputs, raise_exception=False)
    return perf_counter() - start


def outpaces(
    benchmark: BenchmarkFixture,
    case: Case,
    work: Callable[[Case], object],
    before: Callable[[], None] = answer_cache.clear,  # the oracle keeps answers, and would look the second one up
    rounds: int = 300,
) -> float:
    """Time some of the oracle's work on a case, and return how many times as fast as gradcheck it is."""
    benchmark.pedantic(work, args=(case,), setup=before, rounds=rounds)
    theirs = min(gradcheck_seconds(case) for _ in range(5))
    assert benchmark.stats is not None
    ours = benchmark.stats.stats.min
    benchmark.extra_info |= {
        "entries_per_second": round(case.entries / ours),
        "times_gradcheck": round(theirs / ours, 1),
    }
    return theirs / ours


def forget_tree(*modules: ModuleType) -> None:
    """Make the oracle derive anew, as it must for a tree that was just drawn; what it knows of its ops stays."""
    answer_cache.clear()
    result_shape.cache_clear()
    for module in (derivative, *modules):
        for cached in vars(module).values():
            if hasattr(cached, "cache_clear") and cached.__module__ == module.__name__:
                cached.cache_clear()


def forget() -> None:
    """Make the oracle derive and compile anew, as it must for the first tree that has some ops."""
    forget_tree(compiler, evaluation, transform)


@pytest.mark.parametrize(
    ("work", "form", "floor"),
    [
        (certified, "float64", CERTIFIED_FLOOR),
        (answer, "float64", WIDE_FLOOR),
        (answer, "float32", NARROW_FLOOR),
    ],
    ids=["certified", "with_allowance", "with_allowance_in_float32"],
)
@pytest.mark.parametrize("op", ELEMENTWISE)
def test_elementwise_outpaces_gradcheck(
    benchmark: BenchmarkFixture, op: str, work: Callable[[Case], object], form: str, floor: int
) -> None:
    """256 entries of an elementwise op are certified much faster than gradcheck checks them.

    They are certified alone and with their allowance.
    """
    case = case_of(single(OPS[op]), form)
    work(case)
    assert outpaces(benchmark, case, work) >= floor


@pytest.mark.parametrize(
    ("before", "floor"), [(forget_tree, TREE_FLOOR), (forget, FIRST_TREE_FLOOR)], ids=["new", "first"]
)
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_tree_outpaces_gradcheck(
    benchmark: BenchmarkFixture, tree: Tree, before: Callable[[], None], floor: int
) -> None:
    """A tree at 256 points is derived and certified with its allowance much faster than gradcheck checks it."""
    case = case_of(tree)
    answer(case)
    assert outpaces(benchmark, case, answer, before, rounds=9) >= floor


@pytest.mark.parametrize("op", [name for name, op in OPS.items() if op.axes])
def test_new_shape_is_derived_at_once(op: str) -> None:
    """A tensor op at shapes that are new to it is derived in less than 50 milliseconds."""
    entry = OPS[op]
    case = case_in_use(entry, FORMATS["float32"], entry.in_use, entry.rows)
    forget()
    start = perf_counter()
    derivative.of_case(case, saved=True)
    assert perf_counter() - start < DERIVED_SECONDS


def torch_seconds(case: Case) -> float:
    """Return the seconds that torch's own forward and backward of a case take in float64, on one core."""
    wide = replace(case, form=FORMATS["float64"])
    inputs, cotangent = binding.leaves(wide, "cpu"), binding.tensor(wide.cotangent, wide.form, "cpu")
    function, threads = binding.function(wide.tree, wide.seed), torch.get_num_threads()
    torch.set_num_threads(1)
    start = perf_counter()
    function(*inputs).backward(cotangent)
    seconds = perf_counter() - start
    torch.set_num_threads(threads)
    return seconds


@pytest.mark.parametrize(("op", "most"), IN_USE.items(), ids=IN_USE)
def test_whole_arrays_take_few_times_as_long_as_torch(benchmark: BenchmarkFixture, op: str, most: int) -> None:
    """The truth with its allowance in float32 takes at most so many times torch's own float64 forward and backward."""
    entry = OPS[op]
    case = case_in_use(entry, FORMATS["float32"], entry.in_use, (4,) if entry.rows == (2,) else entry.rows)
    assert in_arrays(case) is not None
    benchmark.pedantic(in_arrays, args=(case,), rounds=100)
    theirs = min(torch_seconds(case) for _ in range(100))
    assert benchmark.stats is not None
    ours = benchmark.stats.stats.min
    benchmark.extra_info |= {
        "entries_per_second": round(case.entries / ours),
        "times_torch": round(ours / theirs, 1),
    }
    assert ours <= most * theirs
