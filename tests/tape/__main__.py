"""Prints what the machine may do to tensors, and what must hold after it."""

from rich import box
from rich.console import Console
from rich.table import Table

from tests.tape.machine import Machine


def main() -> None:
    """Print the transitions and the invariants, and how many there are."""
    rows = list(Machine.listed())
    table = Table("", "name", "what holds", box=box.SIMPLE)
    for kind, name, says in rows:
        table.add_row(kind, name, says)
    console = Console()
    console.print(table)
    kinds = [kind for kind, _, _ in rows]
    console.print(f"{kinds.count('transition')} transitions and {kinds.count('invariant')} invariants")


if __name__ == "__main__":
    main()
