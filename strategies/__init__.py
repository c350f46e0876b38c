"""Where to look: Hypothesis strategies for points, shapes, trees and whole cases."""

from strategies.cases import (
    admissible,
    empty_cases,
    fixed_cases,
    manner_cases,
    manners,
    op_cases,
    reached_cases,
    sized_cases,
    tree_cases,
)
from strategies.points import points
from strategies.shapes import batches, layouts
from strategies.trees import trees

__all__ = [
    "admissible",
    "batches",
    "empty_cases",
    "fixed_cases",
    "layouts",
    "manner_cases",
    "manners",
    "op_cases",
    "points",
    "reached_cases",
    "sized_cases",
    "tree_cases",
    "trees",
]
