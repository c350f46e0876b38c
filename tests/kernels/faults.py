"""Each kernel with one line of it wrong, as people get it wrong, and what the failure says.

``python -m tests.kernels.faults NAME FOLDER`` writes the module with the fault into the folder, and prints the failure.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from reference.format import FORMATS
from strategies import fixed_cases, manner_cases
from tests.subject.mode import MODES
from tests.verdict.assay import Assay

if TYPE_CHECKING:
    from reference.format import Format
    from reference.op import Op

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fault:
    """A part of a line of a module here, and what stands in its place."""

    module: str
    """The name of the module, without its package."""

    sound: str
    """The text, which must stand there exactly once."""

    faulty: str

    def planted(self, op: Op, folder: Path) -> Op:
        """Write the module with its fault into a folder that Python imports from; return the entry that uses it.

        Raises ValueError where the sound text is not there once.
        """
        assert isinstance(op.torch, str)
        source = (HERE / f"{self.module}.py").read_text()
        if source.count(self.sound) != 1:
            message = f"{self.module}: {self.sound!r} stands there {source.count(self.sound)} times; accepted: once"
            raise ValueError(message)
        name = f"faulty_{op.name}"
        (folder / f"{name}.py").write_text(source.replace(self.sound, self.faulty))
        importlib.invalidate_caches()  # Python may have listed the folder before
        return replace(op, torch=op.torch.replace(f"tests.kernels.{self.module}", name))


FAULTS = {
    # The mean that is taken off has the cotangent without the weight in it.
    "plain_rms_norm": Fault(
        "plain", "normal * (inner * normal).mean(-1, keepdim=True)", "normal * (given * normal).mean(-1, keepdim=True)"
    ),
    # A row whose label is ignored has no loss, but a gradient.
    "plain_linear_cross_entropy": Fault("plain", "* kept / count", "/ count"),
    # Of the query heads that a key head serves, one counts.
    "plain_attention": Fault(
        "plain", "by_key = (by_scores.mT @ q).sum(-3)", "by_key = (by_scores.mT @ q)[..., 0, :, :]"
    ),
    # Of the tiles that a program walks through, the last one counts.
    "triton_rms_norm": Fault("norm", "by_weight += tl.sum(", "by_weight = tl.sum("),
    "triton_linear_cross_entropy": Fault("loss", "share = tl.where(counts, 1.0, 0.0) /", "share = 1.0 /"),
    "triton_attention": Fault("attention", "* group + member", "* group"),
}
"""The fault of each kernel, by the name of its entry."""


def assert_agrees(op: Op, form: Format) -> None:
    """Assay an op in the mode `backward` on the CPU, at the cases that every profile asks. Raises DisagreementError."""
    assay = Assay(op.name, MODES["backward"], form, "cpu", ())
    for case in chain(fixed_cases(op, form), manner_cases(op, form)):
        assay.assert_agrees(case)
    assay.assert_compared()


def main(name: str, folder: str) -> None:
    """Plant the fault of a kernel, and print the failure."""
    written = "plain" if name.startswith("plain") else "fused"
    (op,) = (op for op in importlib.import_module(f"tests.kernels.{written}").OPS if op.name == name)
    sys.path.insert(0, folder)
    try:
        assert_agrees(FAULTS[name].planted(op, Path(folder)), FORMATS["float32"])
    except AssertionError as error:
        print(error)  # noqa: T201 - what the command is for


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=FAULTS, help="the entry of a kernel")
    parser.add_argument("folder", help="where the module with the fault is written")
    main(**vars(parser.parse_args()))
