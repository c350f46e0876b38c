"""Devices, found by probing: allocate, differentiate, read back."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Mapping


def _candidates() -> list[str]:
    """Return the names of all devices that torch might have here: of an accelerator that it has several of, each."""
    names = ["cpu"]
    # Torch has no list of its types of devices that are for computing: others, such as meta, hold no values.
    accelerators = {"cuda", "mps", "xpu", "xla", "mtia", "hpu", "npu"}
    accelerators.add(torch._C._get_privateuse1_backend_name())  # noqa: SLF001 - torch has no public name for it
    for name in sorted(accelerators):
        module = getattr(torch, name, None)
        count = module.device_count() if module is not None and hasattr(module, "device_count") else 1
        names += [name] if count <= 1 else [f"{name}:{i}" for i in range(count)]
    return names


def exact() -> None:
    """Have torch compute products of float32 in float32, on devices that could take fewer bits (TF32)."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def probe(name: str) -> str | None:
    """Return why a device cannot be assayed, in a line; None where it can."""
    # A device may be named and absent, or lack autograd, or compute wrongly: only a gradient that is read back tells.
    try:
        leaf = torch.ones(3, device=name, requires_grad=True)
        (leaf * leaf).sum().backward()
        assert leaf.grad is not None
        correct = leaf.grad.cpu().tolist() == [2.0, 2.0, 2.0]
    except (RuntimeError, NotImplementedError, AssertionError, ImportError, ValueError) as error:
        # torch's refusals go on for a screen; their first sentence says what is missing
        return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
    return None if correct else "the gradient of x*x at 1 read back is not 2"


@lru_cache(maxsize=1)
def probed() -> dict[str, str | None]:
    """Return every device that torch can name and why it is refused, or None."""
    return {name: probe(name) for name in _candidates()}


def passing(probes: Mapping[str, str | None]) -> list[str]:
    """Return the names of the devices that were not refused."""
    return [name for name, refusal in probes.items() if refusal is None]


def parsed_with_plugins(parser: ArgumentParser) -> Namespace:
    """Read the command line of a parser with pytest's option `-p`, and import the packages that it names.

    They register devices, and must be imported before a device is probed. One that is not there is a usage error.
    """
    parser.add_argument(
        "-p",
        dest="plugins",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package that registers a device, to be imported first",
    )
    options = parser.parse_args()
    for plugin in options.plugins:
        try:
            importlib.import_module(plugin)
        except ImportError as error:
            parser.error(f"-p {plugin}: {error}; accepted: a package of this environment that registers a device")
    return options


def synchronized(run: Callable[[], Any], device: str) -> Callable[[], Any]:
    """Return a call that waits until the device has done what it was told to; the CPU always has."""
    kind = torch.device(device).type
    synchronize = getattr(getattr(torch, kind, None), "synchronize", None)
    if kind == "cpu" or synchronize is None:
        return run

    def finished() -> Any:
        result = run()
        synchronize()
        return result

    return finished
