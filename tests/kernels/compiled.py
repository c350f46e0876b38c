"""Compile each kernel for compute capability 9.0, without a GPU: the interpreter takes what a compiler may not.

``TRITON_INTERPRET=0 python -m tests.kernels.compiled`` prints the size of each.
"""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.kernels import attention, loss, norm

TARGET = GPUTarget("cuda", 90, 32)
"""Compute capability 9.0, with 32 threads in a warp."""

INTEGERS = {"labels_ptr": "*i64", "count_ptr": "*i64", "mask_ptr": "*i8"}
"""The types of pointers to integers."""

WIDE = {"scale_ptr", "partial_ptr", "logits_ptr", "loss_ptr", "output_ptr", "normaliser_ptr", "inner_ptr"}
"""The pointers to float32, whatever the format of the inputs."""

KERNELS: tuple[tuple[Any, dict[str, int]], ...] = (
    (norm._forward, {"ROWS": 4, "COLUMNS": 256}),
    (norm._backward, {"ROWS": 4, "COLUMNS": 256}),
    (loss._rows, {"BLOCK": 1024}),
    *(
        (kernel, {"BLOCK": 32, "WIDTH": 64, "ROUNDS": rounds})
        for kernel in (attention._forward, attention._by_query, attention._by_key)
        for rounds in (False, True)
    ),
)
"""Each kernel, and its arguments that are constants when it is compiled."""


def signature(kernel: Any, known: dict[str, int]) -> dict[str, str]:
    """Return the type of each argument for inputs in float16."""
    types = dict.fromkeys(known, "constexpr") | {"epsilon": "fp32", "scale": "fp32"} | INTEGERS
    pointers = {name: "*fp32" if name in WIDE else "*fp16" for name in kernel.arg_names if name.endswith("_ptr")}
    return {name: types.get(name, pointers.get(name, "i32")) for name in kernel.arg_names}


if __name__ == "__main__":
    for kernel, known in KERNELS:
        binary = triton.compile(ASTSource(kernel, signature(kernel, known), constexprs=known), target=TARGET)
        print(f"{kernel.__module__}.{kernel.__name__}: {len(binary.asm['cubin'])} bytes")  # noqa: T201 - a command
