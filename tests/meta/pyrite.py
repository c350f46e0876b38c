"""Pyrite, a device that exists to be broken: it shines like one, and its kernels are the CPU's.

It registers as torch's notes for out-of-tree devices say, under PrivateUse1, and wraps tensors on the
host. As a plugin, ``pytest -p tests.meta.pyrite --device pyrite``, it is assayed like any other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import pytest
import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "pyrite"

Strike = Callable[[torch.Tensor, tuple[Any, ...]], torch.Tensor]
"""Returns what a broken kernel gives, from what the sound one gives and its arguments, all on the host."""

STRIKES: dict[str, Strike] = {}
"""What is wrong with each broken kernel, by its name, such as ``aten::cos``."""

STRAYS: set[str] = set()
"""Kernels whose result is left on the host."""


class Pyrite(torch.Tensor):
    """A tensor of the device, around one on the host."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls: type[Self], raw: torch.Tensor) -> Self:
        """Wrap a tensor of the host."""
        made = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001 - the way to make a subclass without data, public in torch's own notes only
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(f"{NAME}:0"),
        )
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001 - as above

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub leaves the operator out
        cls, func: Any, _: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the CPU's kernel, and what is wrong with it."""
        kwargs = kwargs or {}
        name = func._schema.name  # noqa: SLF001 - an operator has no other name that is public
        arguments = tree_map(_on_host, args)
        result = func(*arguments, **tree_map(_on_host, kwargs))
        if name in STRIKES:
            result = STRIKES[name](result, arguments)
        # What is asked for on the host stays there: a conversion to the CPU, and a copy into a tensor of the host.
        if (
            name in STRAYS
            or kwargs.get("device") == torch.device("cpu")
            or (name == "aten::copy_" and not isinstance(args[0], cls))
        ):
            return result
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(torch.Tensor, _on_device, result))


def _on_host(value: Any) -> Any:
    if isinstance(value, Pyrite):
        return value.raw
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _on_device(raw: torch.Tensor) -> torch.Tensor:
    return raw if isinstance(raw, Pyrite) else Pyrite(raw)


@contextmanager
def broken(name: str, strike: Strike | None) -> Iterator[None]:
    """Break a kernel for a while; without a strike its result is left on the host."""
    if strike is None:
        STRAYS.add(name)
    else:
        STRIKES[name] = strike
    try:
        yield
    finally:
        STRAYS.discard(name)
        STRIKES.pop(name, None)


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return Pyrite(torch.empty(size, dtype=dtype, device="cpu"))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return Pyrite(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _zeros(size: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return Pyrite(torch.zeros(size, dtype=dtype, device="cpu"))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:  # noqa: FBT001, FBT002 - torch's signature
    _on_host(target).copy_(_on_host(source), non_blocking)
    return target


@cache
def register() -> torch.library.Library:
    """Register the device, once in a process, with the kernels that torch calls without an argument on the device."""
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in {
        "empty.memory_format": _empty,
        "empty_strided": _empty_strided,
        "_efficientzerotensor": _zeros,
        "_copy_from": _copy_from,
    }.items():
        library.impl(name, kernel, "PrivateUse1")
    return library


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Register the device before the suite looks for devices, and break the kernel that the environment names."""
    register()
    if kernel := os.environ.get("PYRITE_BROKEN"):
        STRIKES[kernel] = lambda result, _: result * 2
