"""Plant mutants in the backward of every op and count who is caught: ``python -m tests.mutation [PART ...]``."""

from __future__ import annotations

import argparse

from tests.mutation import elementwise, tensor

PARTS = {"elementwise": elementwise.report, "tensor": tensor.report}


def main() -> None:
    """Print the tables of each part, or of those that are named."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Plant mutants in backwards, and count who catches them."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all unless named")
    named = parser.parse_args().parts
    if unknown := [part for part in named if part not in PARTS]:
        parser.error(f"{', '.join(unknown)}: no such part; accepted: {', '.join(PARTS)}")
    for part in named or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
