"""One assertion judges a callable at anyone's tensors, explains what is wrong, and says what it does not take."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sympy
import torch

from reference import op
from tests.kernels.formulas import EPSILON, rms_norm
from tests.meta.kernels import KERNELS, kernel
from tests.verdict.assertion import UsageError, assert_gradient
from tests.verdict.comparison import UnsupportedError
from tests.verdict.explanation import DisagreementError

if TYPE_CHECKING:
    from collections.abc import Callable

ONES = torch.ones(3)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Draw a tensor, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def norm(*, faulty: bool) -> Callable[..., Any]:
    """Return the kernel of rms_norm whose last block of columns is 0 where it is faulty."""
    forward, backward, _ = KERNELS["tail"]
    return kernel(forward, backward, faulty=faulty)


def test_sound_kernel_is_accepted() -> None:
    """A fused norm in bfloat16 keeps the promise to compute in float32 inside, at 4,095 columns."""
    found = assert_gradient(norm(faulty=False), rms_norm, drawn(4, 4095, dtype=torch.bfloat16), drawn(4095).bfloat16())
    assert found.compared == 2 * 5 * 4095
    assert "wide" in found.held
    assert 0 < found.worst_share < 1


def test_faulty_kernel_is_explained() -> None:
    """The explanation says where the gradient is wrong, what came, what is due, and how far off that is."""
    with pytest.raises(DisagreementError) as raised:
        assert_gradient(norm(faulty=True), rms_norm, drawn(4, 4095, dtype=torch.bfloat16), drawn(4095).bfloat16())
    said = str(raised.value)
    assert "d kernel(x, weight)/dx" in said
    assert "dx: 124 of 16,380 entries are wrong: columns 4064 on, the last 31; each is 0" in said
    assert "dweight is right" in said
    assert len(said.splitlines()) < 30
    assert "is lost" in said
    assert "def rms_norm(x: Any, weight: Any) -> Any:" in said


def shifted(x: torch.Tensor, by: float = 1) -> torch.Tensor:
    """Return the cube of what is shifted."""
    return (x + by) ** 3


class Shifted(torch.autograd.Function):
    """The square, with the gradient of the cube."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Square."""
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> torch.Tensor:
        """Return 3 x² times the cotangent."""
        (x,) = ctx.saved_tensors
        return 3 * x * x * cotangents[0]


@pytest.mark.parametrize("fn", [shifted, Shifted.apply], ids=["function", "apply"])
def test_snippet_imports_the_callable(fn: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """What is to be pasted runs as it is, and prints what the failure says."""
    with pytest.raises(DisagreementError) as raised:
        assert_gradient(fn, lambda x: x * x, drawn(1))
    said = str(raised.value)
    exec(said[said.index("import torch") :], {})  # noqa: S102 - that the text runs is what is tested
    comes = re.search(r"simpler inputs, where (\S+) comes", said)
    assert comes is not None
    assert comes[1] in capsys.readouterr().out


@pytest.mark.parametrize(("fn", "given"), [(lambda x: x**3, ()), (shifted, (2.0,))], ids=["lambda", "fixed"])
def test_snippet_says_what_it_cannot_import(fn: Callable[..., Any], given: tuple[float, ...]) -> None:
    """A callable that cannot be imported, or whose other arguments are fixed, is named as what was asked."""
    with pytest.raises(DisagreementError, match=r"# (fn|shifted) is what was asked, of these inputs"):
        assert_gradient(fn, lambda x, *_: x * x, drawn(3), *given)


def test_promise_is_asked_for() -> None:
    """A sum over rows that is rounded to bfloat16 at each step is explained by `format`, and not by `wide`."""
    forward, backward, _ = KERNELS["half"]
    faulty = kernel(forward, backward, faulty=True)
    inputs = drawn(256, 8, dtype=torch.bfloat16), drawn(8).bfloat16()
    with pytest.raises(DisagreementError, match="weight"):
        assert_gradient(faulty, rms_norm, *inputs)
    assert "wide" not in assert_gradient(faulty, rms_norm, *inputs, inside="format").held


def test_strides_are_asked_as_they_are() -> None:
    """A kernel that reads its input in the order of memory is right where that is dense, and wrong where it is not."""
    forward, backward, _ = KERNELS["wave"]
    faulty = kernel(forward, backward, faulty=True)
    assert_gradient(faulty, np.sin, drawn(4, 5))
    with pytest.raises(DisagreementError, match=r"x|as_strided"):
        assert_gradient(faulty, np.sin, drawn(4, 5).T)


@pytest.mark.parametrize("mode", ["backward", "forward", "func_vjp", "rr", "ff"])
def test_expression_of_sympy(mode: str) -> None:
    """A formula may be an expression, and modes are those of the suite."""
    assert assert_gradient(torch.tanh, sympy.tanh(op.x), drawn(3, 5), modes=(mode,)).compared


def test_module_has_its_parameters_after_the_inputs() -> None:
    """The parameters of a module are inputs of the formula."""
    module = torch.nn.Linear(5, 3)
    assert assert_gradient(module, lambda x, weight, bias: x @ weight.T + bias, drawn(7, 5)).compared == 2 * (
        35 + 15 + 3
    )


def test_what_is_not_differentiated_is_passed_on() -> None:
    """Integer tensors and numbers reach the callable and the formula as they are; `wrt` leaves floating ones out."""

    def loss(scores: Any, target: Any, scale: Any) -> Any:
        logarithms = scores * scale - np.log(np.sum(np.exp(scores * scale), axis=-1, keepdims=True))
        return -np.mean(logarithms[np.arange(len(target)), target])

    def called(scores: torch.Tensor, target: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(scores * scale, target)

    target = torch.tensor([1, 0, 3, 3])
    assert assert_gradient(called, loss, drawn(4, 5), target, 0.5).compared == 20
    assert assert_gradient(torch.mul, np.multiply, drawn(4), drawn(4), wrt=(1,)).compared == 2 * 4


def test_outputs_have_each_a_cotangent_or_none() -> None:
    """A callable of several outputs is asked with a cotangent for each, and with those that are given."""

    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 2 * x, (x * x).sum(-1)

    def formula(x: Any) -> Any:
        return 2 * x, np.sum(x * x, axis=-1)

    assert assert_gradient(both, formula, drawn(3, 4)).compared == 2 * 12
    assert assert_gradient(both, formula, drawn(3, 4), cotangents=(None, drawn(3))).compared == 12


def test_shapes_and_further_points() -> None:
    """A tuple stands for a drawn tensor, and `points` are further inputs."""
    assert assert_gradient(torch.sin, np.sin, (3, 4), points=[(drawn(2),), (torch.zeros(5),)]).compared == 2 * (
        12 + 2 + 5
    )


def test_refusal_is_no_disagreement() -> None:
    """What can be differentiated once says so in second order."""
    with pytest.raises(UnsupportedError, match="once_differentiable"):
        assert_gradient(norm(faulty=False), rms_norm, drawn(2, 3), drawn(3), modes=("rr",))


def by_rows(x: Any) -> Any:
    """Write element by element into an array of numpy, as a loop does."""
    found = np.zeros(3)
    for number in range(3):
        found[number] = x[number]
    return found


def assigning(x: Any) -> Any:
    """Change an element of the input."""
    x[0] = 0
    return x


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((3, np.sin, ONES), {}, "fn=3; accepted: a callable"),
        ((torch.sin, 3, ONES), {}, "formula=3; accepted: a function in plain numpy"),
        ((torch.sin, np.sin), {}, "accepted: places of floating tensors"),
        ((torch.sin, np.sin, torch.ones(3, dtype=torch.int64)), {}, "of which there are none"),
        ((torch.sin, np.sin, torch.ones(3, dtype=torch.complex64)), {}, "of which there are none"),
        ((torch.sin, np.sin, ONES), {"wrt": (1,)}, r"of which there are \[0\]"),
        ((torch.sin, np.sin, ONES), {"wrt": ()}, "accepted: places"),
        ((torch.sin, np.sin, ONES), {"inside": "narrow"}, "accepted: wide, operands, saved, format"),
        ((torch.sin, np.sin, ONES), {"modes": ("back",)}, "'back' is no mode; accepted: backward"),
        ((torch.sin, np.sin, ONES), {"cotangents": torch.ones(4)}, r"accepted: one of each of \[\(3,\)\]"),
        ((torch.sin, np.sin, ONES), {"cotangents": (ONES, ONES)}, r"accepted: one of each of \[\(3,\)\]"),
        ((torch.add, np.add, ONES, ONES.double()), {}, "inputs of torch.float32, torch.float64; accepted: one of"),
        ((torch.sin, np.sin, torch.ones(3, dtype=torch.float8_e4m3fn)), {}, "accepted: one of float16"),
        ((torch.sin, np.sin, torch.ones(0)), {}, "no entry of any gradient was compared"),
        ((torch.sum, np.sin, ONES), {}, r"fn returns \(\), the formula \(3,\); accepted: the same shapes"),
        ((torch.sin, np.sum, ONES), {}, r"fn returns \(3,\), the formula \(\)"),
        ((lambda x: (x, x), np.sin, ONES), {}, r"fn returns \(3,\), \(3,\), the formula \(3,\)"),
        ((lambda x: x.tolist(), np.sin, ONES), {}, "accepted: a tensor, or a tuple of tensors"),
        ((torch.sin, lambda x: x if x > 0 else -x, ONES), {}, r"accepted: np.where"),
        ((torch.sin, lambda x: float(x[0]), ONES), {}, "the value of an array is asked for"),
        ((torch.sin, np.fft.fft, ONES), {}, "np.fft cannot be traced; accepted: "),
        ((torch.sin, np.linalg.svd, ONES), {}, "np.svd cannot be traced; accepted: "),
        ((torch.sin, lambda x, y: x + y, ONES), {}, "missing 1 required positional argument: 'y'"),
        ((torch.add, lambda x: x, ONES, ONES), {}, "takes 1 positional argument but 2 were given"),
        ((torch.sin, lambda x: x @ x.T @ x[:2], ONES), {}, "accepted: "),
        ((torch.sin, lambda x: x[7], ONES), {}, "accepted: "),
        ((torch.sin, repr, ONES), {}, "the formula returns .*; accepted: an array"),
        ((torch.sin, lambda x: (x, None), ONES), {}, "the formula returns .*None"),
        ((torch.sin, torch.sin, ONES), {}, "accepted: "),
        ((torch.sin, 0.1 * op.x, ONES), {}, r"exact numbers: Rational\(1, 10\)"),
        ((torch.sin, sympy.Integer(3), ONES), {}, "the symbols x; x and y"),
        ((torch.sin, sympy.Symbol("q"), ONES), {}, "the symbols x; x and y"),
        ((torch.sin, op.x * op.y, ONES), {}, "accepted: a symbol for each"),
        ((torch.sin, np.sin, ONES, ONES), {}, "'sin'> of 1, inputs: 2"),
        ((torch.add, np.add, ONES), {}, "'add'> of 2, inputs: 1"),
        ((torch.nn.Linear, np.sin, ONES), {}, "a torch.nn.Module that is made"),
        ((torch.sin, np.sin, torch.ones(3, device="meta")), {}, "accepted: tensors that have values"),
        ((torch.sin, np.sin, torch.eye(3).to_sparse()), {}, "accepted: tensors that have values"),
        ((torch.mul, np.multiply, ONES, torch.ones(3, device="meta")), {}, "accepted: all on one device"),
        ((torch.sin, np.sin, ONES * math.nan), {}, "has NaN in it"),
        ((torch.exp, np.exp, ONES * math.inf), {}, "no derivative there that can be told"),
        ((torch.log, np.log, -ONES), {}, "the formula has no finite value at an input"),
        ((torch.sin, np.sin, (-3,)), {}, "of which there are none"),
        ((torch.sin, np.sin, np.ones(3)), {}, "of which there are none"),
        ((torch.sin, np.sin, ONES), {"modes": ()}, "accepted: some of backward"),
        ((torch.sin, np.sin, ONES), {"wrt": ("x",)}, "accepted: places"),
        ((torch.mul, np.multiply, ONES, ONES.int()), {"wrt": 1}, r"of which there are \[0\]"),
        ((torch.sin, np.sin, ONES), {"cotangents": ONES.double()}, "accepted: tensors of float32"),
        ((torch.sin, np.sin, ONES), {"cotangents": np.ones(3)}, "accepted: tensors of float32"),
        ((torch.sin, np.sin, ONES), {"cotangents": ONES * math.nan}, "without NaN"),
        ((torch.sin, np.sin, ONES), {"points": [(ONES, ONES)]}, "'sin'> of 1, inputs: 2"),
        ((torch.sin, lambda x: np.multiply(x, 2, out=x), ONES), {}, "an array is overwritten; accepted: a new one"),
        ((torch.sin, by_rows, ONES), {}, "accepted: numpy's functions of whole arrays"),
        ((torch.sin, assigning, ONES), {}, "elements of an array are assigned to; accepted: np.where"),
        ((torch.sin, lambda x: x / 0 * (1 // 0), ONES), {}, "accepted: "),
        ((torch.sin, "sin(x)", ONES), {}, "formula='sin"),
    ],
    ids=map(str, range(56)),
)
def test_what_it_does_not_take_is_a_usage_error(arguments: tuple[Any, ...], options: dict[str, Any], said: str) -> None:
    """A mistake of the caller is an error that says what is accepted, and no disagreement."""
    with pytest.raises(UsageError, match=said) as raised:
        assert_gradient(*arguments, **options)
    assert "accepted: " in str(raised.value)


def test_epsilon_is_exact() -> None:
    """A float in a formula is what it is: the kernel of these tests has the same one."""
    assert EPSILON.hex() == "0x1.0000000000000p-16"
