"""What scripts rely on: options, exit status, ids, records, and what a failure says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reference.catalogue import OPS
from reference.format import FORMATS
from tests.runs import atlas
from tests.subject.mode import MODES
from tests.verdict import record
from tests.verdict.choice import PROFILES, TREE, ChoiceError, chosen

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[2]

OWN = """
import torch
from sympy import tanh
from reference.op import Op, x

class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return {factor} * gradient * x**2

OPS = (
    Op(name="my_cube", torch="{module}.Cube.apply", formula=x**3),
    Op(name="my_tanh", torch="torch.tanh", formula=tanh(x)),
)
"""
FIELDS = (
    "op mode order device dtype compared size inside worst_ulp worst_share verdict at got expected known torch seed"
)
QUICK = [name for name, mode in MODES.items() if not mode.sampled]
"""The modes of the profile `quick`."""

NOTHING: dict[str, Any] = {
    "ops": (),
    "modes": (),
    "dtypes": (),
    "devices": (),
    "profile": "quick",
    "catalogue": None,
    "deviations": None,
    "inside": None,
}


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in the checkout as a user does."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests",
        "-p",
        "no:cacheprovider",
        "--profile",
        "quick",
        "--hypothesis-seed=0",
        *options,
    ]
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "COVERAGE_"))}
    return subprocess.run(command, cwd=ROOT, env=outer, capture_output=True, text=True, check=False, timeout=300)


def own_catalogue(folder: Path, factor: int) -> Path:
    """Write a user's catalogue, whose Cube is right where the factor is 3."""
    path = folder / f"own_{factor}.py"
    path.write_text(OWN.format(factor=factor, module=path.stem))
    return path


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"ops": ["softmin,sin"]}, OPS),
        ({"ops": ["sofmax"]}, ["no such op; the nearest: softmax", *OPS]),
        ({"modes": ["reverse"]}, MODES),
        ({"dtypes": ["float8"]}, FORMATS),
        ({"devices": ["gpu"]}, ["cpu"]),
        ({"devices": ["meta"]}, ["cpu"]),
        ({"profile": "slow"}, PROFILES),
        ({"catalogue": "absent.py"}, ["Python file"]),
        ({"deviations": "absent.toml"}, ["absent.toml"]),
    ],
    ids=["op", "typo", "mode", "dtype", "device", "meta", "profile", "catalogue", "deviations"],
)
def test_unknown_names_are_refused(options: dict[str, Any], accepted: Iterable[str]) -> None:
    """A name that does not exist is refused, and the message lists those that do."""
    with pytest.raises(ChoiceError) as refused:
        chosen(**(NOTHING | options))
    assert all(name in str(refused.value) for name in accepted)


def one(fields: str) -> str:
    """Write a catalogue of one entry, of a sine unless it is said."""
    given = {"name": "'zz'", "torch": "'torch.sin'", "formula": "np.sin"}
    written = ", ".join(f"{name}={value}" for name, value in given.items() if f"{name}=" not in fields)
    return f"import numpy as np\nfrom gradassay import Interval, Op\nOPS = (Op({written}, {fields}),)"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("axis='n'", "unexpected keyword argument 'axis', line 3; accepted: a file that"),
        ("formula=__import__('torch').sin", "accepted: a sympy expression, or a function in plain numpy"),
        ("formula=lambda x: __import__('torch').sin(x)", "accepted: a letter for each axis"),
        ("formula=lambda x: x / (x - x)", "accepted: one that has a value"),
        ("formula=lambda x: x, axes='n', sizes=4096", "accepted: a length, or a tuple of lengths, by the letter"),
        ("formula=lambda x: x, axes='n', sizes={'m': 3}", "accepted: a length for each of the axes n"),
        ("formula=lambda x: x, axes='n', batched='1'", "accepted: how many of x"),
        ("formula=lambda x, m: x * m, axes='n', contexts={'m': 3}", "accepted: functions of shapes"),
        ("formula=lambda x: x, axes='n', contexts={'mask': np.zeros}", "by names that the formula takes"),
        ("formula=lambda x: x, shapes=((3,),)", "accepted: tuples of one shape"),
        ("formula=lambda p, q: p * q, frozen='q'", "accepted: a tuple, also of one"),
        ("domain={'x': (0, 1)}", "accepted: an Interval"),
        ("domain={'x': Interval(0, 0.5)}", "accepted: an exact real number"),
        ("inside='float32'", "accepted: wide, operands, saved, format"),
        ("orders=0", "accepted: how often"),
        ("torch='torch.autograd.Function'", r"is a class; accepted: 'torch.autograd.Function.apply'"),
    ],
    ids=map(str, range(16)),
)
def test_broken_entry_is_refused(tmp_path: Path, fields: str, said: str) -> None:
    """A field that does not exist, or has what it does not take, is refused with what is accepted."""
    path = tmp_path / f"{tmp_path.name}.py"
    path.write_text(one(fields))
    with pytest.raises(ChoiceError, match=said):
        chosen(**(NOTHING | {"catalogue": str(path)}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no, line 1; accepted: a file that `python"),
        ("raise SystemExit(2)", "SystemExit: 2, line 1; accepted: "),
        ("OPS = ()", "a sequence of gradassay.Op"),
        ("import nowhere", "ModuleNotFoundError"),
        ("def", "SyntaxError"),
        ("OPS = 3", "a sequence of gradassay.Op"),
        (
            "from reference.op import Op, x\nOPS = (Op(name='sin', torch='torch.sin', formula=x),)",
            "'sin' exists already",
        ),
        ("from reference.op import Op, x\nOPS = (Op(name='s', torch='torch.sin', formula=x * 0.5),)", "Rational"),
        ("from reference.op import Op, x\nOPS = (Op(name='s', torch='torch.sine', formula=x),)", "dotted path"),
    ],
    ids=["raises", "exits", "empty", "import", "syntax", "type", "taken", "float", "path"],
)
def test_broken_catalogue_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """A catalogue that does not import, redefines an op or has an invalid entry is refused with the reason."""
    path = tmp_path / f"{tmp_path.name}.py"
    path.write_text(text)
    with pytest.raises(ChoiceError, match=said):
        chosen(**(NOTHING | {"catalogue": str(path)}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[[deviation]]", "[deviation"), "Expected"),
        (("tanh", "tanhh"), "op='tanhh'"),
        (("lost", "wrong"), "inaccurate, lost, convention, malformed"),
        (("region =", "place ="), "unknown: place"),
        (("abs(x) > 9", "abs(x) > 99"), "does not hold the pinned input"),
        (("abs(x) > 9", "abs(q) > 9"), "region="),
        (("abs(x) > 9", "open(x)"), "region=.*open"),
        (("abs(x) > 9", "x.__class__"), "region=.*__class__"),
        (("==2.13.*", "two"), "two"),
        (('{ x = "0x1.3p+3" }', "{ y = '0x1p+0' }"), "of x; or of nothing, for an empty batch"),
        (("0x1.3p+3", "nine"), "hexadecimal"),
        (("float32", "float99"), "dtype='float99'"),
        (("region =", "most_ulp = 0, region ="), "most_ulp=0; accepted"),
        (
            ("region =", 'layouts = { x = "upside_down" }, region ='),
            "layouts=.*accepted: for some of x contiguous, transposed",
        ),
        (("region =", 'wrt = ["y"], region ='), r"wrt=\('y',\); accepted: some of x"),
    ],
    ids=[
        "toml",
        "op",
        "verdict",
        "field",
        "pinned",
        "region",
        "call",
        "private",
        "torch",
        "elements",
        "hex",
        "dtype",
        "most_ulp",
        "layouts",
        "wrt",
    ],
)
def test_broken_deviations_are_refused(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    """A deviation of nothing, or one that is not complete, is refused with what is accepted."""
    path = tmp_path / "known.toml"
    text = """
    [[deviation]]
    op = "tanh"
    verdicts = ["lost"]
    torch = "==2.13.*"
    reason = "1 - y*y"
    link = "unreported (found 2026-11-23)"
    [deviation.dtypes]
    float32 = { region = "abs(x) > 9", pinned = { x = "0x1.3p+3" } }
    """
    path.write_text(text)
    assert chosen(**(NOTHING | {"deviations": str(path)})).deviations
    path.write_text(text.replace(*change))
    with pytest.raises(ChoiceError, match=said):
        chosen(**(NOTHING | {"deviations": str(path)}))


def test_op_of_one_size_is_not_asked_at_others(tmp_path: Path) -> None:
    """An own op whose shapes are given, and that takes no batch, has no test of other sizes."""
    path = tmp_path / "of_one_size.py"
    path.write_text(
        "from reference.op import Op\n"
        "OPS = (Op(name='zz_sum', torch='torch.sum', formula=lambda x: x.sum(), shapes=(((3,),),), batched=0),\n"
        "       Op(name='zz_sin', torch='torch.sin', formula=lambda x: x.sum(), axes='n', sizes={'n': 8}))\n"
    )
    asked = run("--catalogue", str(path), "--op", "zz_sum,zz_sin", "--dtype", "float32", "--collect-only", "-q").stdout
    assert "test_manners.py::test_gradient_is_within_the_allowance_in_any_manner[zz_sum-" in asked
    assert "at_any_size[zz_sin-" in asked
    assert "at_any_size[zz_sum-" not in asked


def test_op_is_asked_in_the_formats_that_it_takes(tmp_path: Path) -> None:
    """An own op that takes bfloat16 alone is asked in every mode of a profile in it, and in no other format."""
    path = tmp_path / "of_one_format.py"
    path.write_text(one("axes='n', formula=lambda x: x.sum(), torch='torch.sum', dtypes=('bfloat16',)"))
    asked = run("--catalogue", str(path), "--op", "zz", "--profile", "quick", "--collect-only", "-q").stdout
    assert "test_mode_gives_the_derivative[zz-checkpoint-bfloat16-cpu]" in asked
    assert "at_any_size[zz-backward-bfloat16-cpu]" in asked
    assert not any(f"-{name}-" in asked for name in FORMATS if name != "bfloat16")


def test_atlas_has_the_worst_of_each(tmp_path: Path) -> None:
    """Only what is asked of the op is run, and the atlas has one row for it and a format.

    The row sums the inputs of its records, and shows what agrees least.
    """
    records = tmp_path / "records.jsonl"
    done = run("--op", "tanh", "--dtype", "float32,float16", "--records", str(records), "-v")
    ran = [line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line]
    assert ran
    assert all("tanh" in line for line in ran)
    lines = [line.split("\t") for line in written(records, tmp_path / "atlas.tsv").splitlines()]
    assert lines[0] == list(atlas.COLUMNS)
    assert [line[:2] for line in lines[1:]] == [["tanh", "float16"], ["tanh", "float32"]]
    assert int(lines[1][atlas.COLUMNS.index("inputs")]) == sum(
        r.compared for r in record.read(records) if r.dtype == "float16"
    )


def written(records: Path, path: Path) -> str:
    """Run the command that writes the atlas, and return what it wrote."""
    subprocess.run([sys.executable, "-m", "tests.runs.atlas", str(records), str(path)], cwd=ROOT, check=True)
    return path.read_text()


def test_records_name_ops_or_trees(tmp_path: Path) -> None:
    """A test that asks for a tree of several ops, drawn or of the notebook, has `tree` in the place of an op."""
    records = tmp_path / "records.jsonl"
    done = run("-k", "chain_in_every_format or neuron_at_any_point", "--dtype", "float32", "--records", str(records))
    assert done.returncode == 0, done.stdout
    assert {r.op for r in record.read(records)} == {TREE}


def test_options_repeat_and_take_commas() -> None:
    """Names may be given together or apart."""
    choice = chosen(**(NOTHING | {"ops": ["sin,cos", TREE], "dtypes": ["float32", "float16"]}))
    assert set(choice.ops) == {"sin", "cos"}
    assert choice.trees
    assert set(choice.forms) == {"float32", "float16"}


@pytest.mark.parametrize("options", [("--op", "sine"), ("--records", "/dev/null/records.jsonl")])
def test_bad_input_is_a_usage_error(options: tuple[str, str]) -> None:
    """Bad input ends with status 4 and one message, without a traceback."""
    done = run(*options)
    assert done.returncode == 4
    assert "accepted: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_own_op_gets_the_battery(tmp_path: Path) -> None:
    """A user's op that is right passes, one that is not fails with its explanation, and both are recorded."""
    right, wrong = own_catalogue(tmp_path, 3), own_catalogue(tmp_path, 2)
    path = tmp_path / "new" / "records.jsonl"
    passed = run("--catalogue", str(right), "--op", "my_cube", "--records", str(path))
    assert passed.returncode == 0, passed.stdout
    found = {(r.op, r.mode, r.dtype): r.verdict for r in record.read(path)}
    # A function must say how.
    first = {"func_grad", "func_vjp", "vmap_grad", "forward", "func_jvp", "jacrev", "jacfwd"}
    first |= {"compiled_grad", "compiled_jvp"}
    without = first | {"fr", "rf", "ff", "hessian", "compiled_hessian", "fff"}
    assert found == {
        ("my_cube", m, f): "unsupported" if m in without else "agrees"
        for m in MODES
        for f in FORMATS
        if MODES[m].draws or f == "float32"  # compiled, too
    }

    failed = run(
        "--catalogue", str(wrong), "--op", "my_cube", "--dtype", "float32", "--mode", "backward", "--records", str(path)
    )
    assert failed.returncode == 1
    assert "my_cube-backward-float32-cpu" in failed.stdout
    explained = re.search(
        r"\nd my_cube\(x\)/dx at x=\S+ \[float32, backward, cpu\] is inaccurate:\ngot (\S+),", failed.stdout
    )
    assert explained is not None
    assert "dx at x=0x1.0000000000000p+0 is 0x1.0000000000000p+1, should be 0x1.8000000000000p+1" in " ".join(
        failed.stdout.split()
    )
    (fields,) = (
        found
        for line in path.read_text().splitlines()
        if (found := json.loads(line))["at"] == {"x": "0x1.0000000000000p+0"}
    )
    assert list(fields) == FIELDS.split()
    assert (fields["verdict"], fields["known"], fields["seed"]) == ("inaccurate", None, 0)

    shown = failed.stdout[failed.stdout.index("To see it in plain torch:") :].splitlines()[2:]
    code = "\n".join(shown[: 1 + next(i for i, text in enumerate(shown) if text.startswith("print("))])
    python = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert python.stdout.strip() == f"['{explained[1]}']"


def test_records_survive_a_crash(tmp_path: Path) -> None:
    """A run that dies keeps the records of the tests that had ended."""
    path = tmp_path / "dies.py"
    path.write_text(
        "import os, torch\nfrom sympy import sin\nfrom reference.op import Op, x\n"
        "def die(x):\n    os._exit(3)\n"
        "OPS = (Op(name='zz_dies', torch='dies.die', formula=sin(x)),)\n"
    )
    kept = tmp_path / "records.jsonl"
    done = run("--catalogue", str(path), "--op", "sin,zz_dies", "--records", str(kept))
    assert done.returncode == 3
    assert {each.op for each in record.read(kept)} == {"sin"}
