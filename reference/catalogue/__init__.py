"""The catalogue: an entry for each op, in a module for each family.

Nothing else in the project lists ops: tests, trees, benchmarks and reports follow from this.
"""

from itertools import chain

from reference.catalogue import (
    activations,
    binary,
    contractions,
    elementary,
    losses,
    normalisers,
    reductions,
    shaping,
    special,
)
from reference.op import InvalidOpError, Op

FAMILIES: dict[str, tuple[Op, ...]] = {
    "elementary": elementary.OPS,
    "special": special.OPS,
    "activations": activations.OPS,
    "binary": binary.OPS,
    "reductions": reductions.OPS,
    "contractions": contractions.OPS,
    "normalisers": normalisers.OPS,
    "losses": losses.OPS,
    "shaping": shaping.OPS,
}
"""The entries by family, in the order of the test ids."""


def by_name(ops: tuple[Op, ...]) -> dict[str, Op]:
    """Index entries and their variants by name. Raises InvalidOpError where two have the same."""
    table: dict[str, Op] = {}
    for op in chain.from_iterable(entry.entries for entry in ops):
        if op.name in table:
            message = f"op {op.name!r} is defined twice"
            raise InvalidOpError(message)
        table[op.name] = op
    return table


OPS = by_name(tuple(op for family in FAMILIES.values() for op in family))
"""Every entry by its name."""
