"""How fast the oracle certifies gradients, beside `torch.autograd.gradcheck` on the same ops and points.

Both sides run in the same test; ``tox -e bench`` prints the table, and a ratio below its floor fails.
"""

from time import perf_counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from reference.case import Case
from reference.catalogue import OPS
from reference.chain import allowance_program, gradient_program
from reference.format import FORMATS
from reference.oracle import answer, contributions, kept
from reference.tree import Tree, jacobian, rule, single
from strategies import trees
from tests.subject import binding

POINTS = 256
ELEMENTWISE = ("tanh", "sin", "exp", "sigmoid", "softplus", "sqrt", "erf", "atan")
CERTIFIED_FLOOR, ALLOWANCE_FLOOR, TREE_FLOOR = 60, 10, 3
"""How many times as fast as gradcheck the oracle must be, on a machine that does other things too."""


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


def case_of(tree) -> Case:
    """Return a tree at evenly spread points."""
    primals = tuple(np.linspace(0.25, 2, POINTS)[:: 1 - 2 * (i % 2)] for i in range(len(tree.leaves)))
    return Case(tree, FORMATS["float64"], primals, np.ones(POINTS))


def gradcheck_seconds(case: Case) -> float:
    """Return how long gradcheck takes in its full mode."""
    inputs = binding.leaves(case, "cpu")
    start = perf_counter()
    torch.autograd.gradcheck(binding.function(case.tree), inputs, raise_exception=False)
    return perf_counter() - start


def outpaces(benchmark, case: Case, work, before=kept.cache_clear, rounds: int = 300) -> float:
    """Time some of the oracle's work on a case, and return how many times as fast as gradcheck it is."""
    benchmark.pedantic(work, args=(case,), setup=before, rounds=rounds)
    theirs = min(gradcheck_seconds(case) for _ in range(5))
    ours = benchmark.stats.stats.min
    benchmark.extra_info |= {
        "entries_per_second": round(case.entries / ours),
        "times_gradcheck": round(theirs / ours, 1),
    }
    return theirs / ours


def forget() -> None:
    """Make the oracle derive and compile anew, as it must for a tree that was just drawn."""
    for cached in (gradient_program, allowance_program, rule, jacobian, kept):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("work", "floor"),
    [(contributions, CERTIFIED_FLOOR), (answer, ALLOWANCE_FLOOR)],
    ids=["certified", "with_allowance"],
)
@pytest.mark.parametrize("op", ELEMENTWISE)
def test_elementwise_outpaces_gradcheck(benchmark, op: str, work, floor: int) -> None:
    """256 entries of an elementwise op are certified much faster than gradcheck checks them.

    They are certified alone and with their allowance.
    """
    case = case_of(single(OPS[op]))
    work(case)
    assert outpaces(benchmark, case, work) >= floor


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_tree_outpaces_gradcheck(benchmark, tree) -> None:
    """A tree at 256 points is derived, compiled and certified 3 times as fast as gradcheck checks it."""
    assert outpaces(benchmark, case_of(tree), answer, forget, rounds=9) >= TREE_FLOOR
