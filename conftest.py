"""What the battery's runs have: options, profiles, parametrisation, header, records and the verdict table."""

from __future__ import annotations

import math
import secrets
import sys
from collections import Counter
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from reference.case import PROMISES
from reference.catalogue import OPS
from reference.convention import clause, infinite_points, ruled_points
from reference.format import FORMATS
from reference.op import Op
from strategies import sized_cases
from tests.runs import gravest, progress, table
from tests.runs.folding import Folding
from tests.subject.device import exact, passing
from tests.subject.mode import as_it_is
from tests.verdict import isolation
from tests.verdict.assay import Assay
from tests.verdict.choice import PROFILES, TREE, ChoiceError, chosen
from tests.verdict.deviation import Deviation
from tests.verdict.question import question
from tests.verdict.record import Record, Writer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from reference.convention import Point
    from reference.format import Format
    from tests.subject.mode import Mode
    from tests.verdict.choice import Choice

pytest_plugins = ("tests.plugin",)

CHOICE = pytest.StashKey["Choice"]()
FIRST = ("float32", *FORMATS)
"""The formats in which a user's own op is compiled, and asked at many sizes: the first of them that it takes.

Float32 comes first, since every device has it.
"""

MARKERS = (
    "fixed: in every mode, of the formats that the profile has for that",
    "plainly: in the first mode alone",
    "own: only on ops of a user's own that have any size, in one format",
    "stated: in modes of the first order that ask with a cotangent as it is",
    "any_order: in modes of the second order too",
    "kernels: only on elementwise ops, in the first mode: what may differ is the kernel",
    "enumerated(arguments, bits): only in the exhaustive profile, on ops of so many arguments, 0 for tensor ops",
)
FILTERS = (
    # torch's own set-up code, outside of any gradient
    "ignore::DeprecationWarning:torch.*",
    # vmap of log_sigmoid's second derivative, which is right
    "ignore:An output with one or more elements was resized:UserWarning",
    # vmap of an op without a batching rule: slow, and asked for here
    "ignore:There is a performance drop because we have not yet implemented the batching rule:UserWarning",
    # inductor, of complex steps, which it leaves to eager mode
    "ignore:Torchinductor does not support code generation for complex operators:UserWarning",
)
"""Warnings that are no errors, where the project that pytest runs in makes errors of them."""


class Recorder:
    """Keeps the record of each conformance test, whether it ran here or on a worker of xdist."""

    def __init__(self, path: Path | None) -> None:
        """Open the file of records, if a path is given; raises OSError where it cannot be written."""
        self._path = path
        self._records: list[Record] = []
        self._left_out: set[str] = set()
        self._writer = None if path is None else Writer(path)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a record as soon as its test has ended."""
        for name, line in report.user_properties:
            if name == "record" and report.when == "call":
                self._records.append(Record.parsed(str(line)))
                if self._writer is not None:
                    self._writer.write(self._records[-1])
            if name == "left_out" and report.when == "call":
                self._left_out.add(str(line))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the verdict table."""
        if self._records:
            terminalreporter.section("verdicts")
            path = None if self._path is None else str(self._path)
            parts = [*table.counts(self._records), "", *gravest.digest(self._records, path)]
            encoding = getattr(sys.stdout, "encoding", None)  # a capture may have put a file there that has none
            terminalreporter.write(table.printed(parts, color=terminalreporter.hasmarkup, encoding=encoding))
        for line in sorted(self._left_out):
            terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        """Close the file of records."""
        if self._writer is not None:
            self._writer.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose what is assayed, beside those of the plugin."""
    group = parser.getgroup("gradassay", "what is assayed: options repeat or take commas")
    group.addoption(
        "--op",
        action="append",
        default=[],
        metavar="NAME",
        help=f"an op of the catalogue, or {TREE} for drawn trees; leaves out every other test",
    )
    group.addoption("--mode", action="append", default=[], metavar="M", help="a way to ask torch for a derivative")
    group.addoption("--dtype", action="append", default=[], metavar="T", help="float16, bfloat16, float32 or float64")
    group.addoption(
        "--device",
        action="append",
        default=[],
        metavar="D",
        help="a device that must be there; every device found without it",
    )
    group.addoption("--profile", default="default", metavar="P", help=f"how much is drawn: {', '.join(PROFILES)}")
    group.addoption(
        "--inside",
        metavar="P",
        help=f"what ops of 16-bit formats must compute in, instead of what they promise: {', '.join(PROMISES)}",
    )
    isolation.add_options(group)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Have pytest-xdist, which reads its options next, start a worker where tests are isolated, and replace any."""
    if config.option.isolate and not hasattr(config, "workerinput"):
        isolation.start_workers(config.option, has_xdist=config.pluginmanager.hasplugin("xdist"))
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options; whatever is not valid is a usage error, which says what is."""
    option = config.option
    exact()  # before anything is computed, and in each worker
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    for line in FILTERS:
        config.addinivalue_line("filterwarnings", line)
    try:
        choice = chosen(
            ops=option.op,
            modes=option.mode,
            dtypes=option.dtype,
            devices=option.device,
            profile=option.profile,
            catalogue=option.catalogue,
            deviations=option.deviations,
            inside=option.inside,
        )
        if not hasattr(config, "workerinput"):  # workers of xdist send their records to the process that started them
            config.pluginmanager.register(Recorder(Path(option.records) if option.records else None), "recorder")
    except ChoiceError as error:
        raise pytest.UsageError(str(error)) from None
    except OSError as error:
        message = f"--records {option.records}: {error.strerror}; accepted: a file that can be written"
        raise pytest.UsageError(message) from None
    config.pluginmanager.register(Folding(), "folding")
    config.stash[CHOICE] = choice
    isolation.prepare(config, question)
    if option.hypothesis_seed is None:  # so that the header can name the seed
        option.hypothesis_seed = str(secrets.randbits(32))
    _load_profiles(choice)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Show what is asked while it is, where a person watches."""
    progress.show(session.config)


def _load_profiles(choice: Choice) -> None:
    """Register a profile of Hypothesis for each kind of drawn test, and load that of ops for all others."""
    suppressed = [
        HealthCheck.function_scoped_fixture,  # an assay sums up the examples of its test
        HealthCheck.large_base_example,  # an op of six inputs, each of many points
        HealthCheck.too_slow,  # a machine may be loaded
    ]
    # Explaining traces every line, for minutes, and a failure explains itself; the first call compiles.
    phases = [phase for phase in Phase if phase is not Phase.explain]
    shared = settings(deadline=None, print_blob=True, phases=phases, suppress_health_check=suppressed)
    settings.register_profile("ops", shared, max_examples=choice.profile.op_cases)
    settings.register_profile("trees", shared, max_examples=choice.profile.tree_cases)
    # these are asked in each of some twenty modes; the fourth part is arbitrary
    settings.register_profile("fewer_trees", shared, max_examples=choice.profile.tree_cases // 4)
    settings.register_profile("histories", shared, max_examples=choice.profile.histories, stateful_step_count=50)
    settings.load_profile("ops")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is assayed, what was refused and why, and how to draw the same again."""
    choice = config.stash[CHOICE]
    build = f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"
    return [
        f"gradassay: {build}, devices: {', '.join(passing(choice.devices))}, profile: {config.option.profile}",
        "gradassay: float32 is computed in float32: TF32 is off; kernels need not be deterministic",
        f"gradassay: {len(choice.deviations)} known deviations of this torch are on file",
        f"gradassay: to draw the same inputs again: --hypothesis-seed={config.option.hypothesis_seed}",
        *(
            shorten(f"gradassay: device {name} refused: {refusal}", table.width())
            for name, refusal in choice.devices.items()
            if refusal
        ),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each conformance test its table: ids read ``softplus-backward-float32-cpu``."""
    marks = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    own: set[str] = set()  # what the test has rows of its own for
    for names in marks:
        own.update([names] if isinstance(names, str) else names)
    marked = {mark.name for mark in metafunc.definition.iter_markers()}
    choice = metafunc.config.stash[CHOICE]
    devices = passing(choice.devices)
    types = {name.split(":")[0] for name in devices}  # cuda:1 shows what is on file of cuda
    tables = {
        "op": choice.ops,
        "pool": {TREE: tuple(choice.catalogue.values())},
        "mode": choice.modes if "fixed" in marked else choice.drawing,
        "form": choice.forms,
        "device": {name: name for name in devices},
        "deviation": _named(d for d in choice.deviations if d.device in types),
    }
    if "kinks" in metafunc.fixturenames and "kinks" not in own:
        kinks = {
            name: (op, ruled)
            for op in choice.ops.values()
            for name, ruled in _ruled(op, infinite=choice.profile.infinite)
        }
        metafunc.parametrize(("op", "kinks"), kinks.values(), ids=kinks)
        own |= {"op"}
    if "stated" in metafunc.fixturenames:
        points = {
            f"{op.name}-at-{number}": (op, point)
            for op in choice.ops.values()
            for number, point in enumerate(op.points)
        }
        metafunc.parametrize(("op", "stated"), points.values(), ids=points)
        own |= {"op"}
    for name, rows in tables.items():
        if name in metafunc.fixturenames and name not in own:
            metafunc.parametrize(name, rows.values(), ids=rows)


def _named(deviations: Iterable[Deviation]) -> dict[str, Deviation]:
    """Name deviations as test ids do; where several of one op have the same pinned input, the others get a number."""
    named: dict[str, Deviation] = {}
    count: Counter[str] = Counter()
    for each in deviations:
        name = str(each)
        count[name] += 1
        named[name if count[name] == 1 else f"{name}-{count[name]}"] = each
    return named


def _ruled(op: Op, *, infinite: bool) -> Iterator[tuple[str, list[Point]]]:
    """Name the points at which torch's rule is needed, with the clause that decides.

    Each finite point is a row of its own, and those with an infinite input are one row together.
    """
    for place in ruled_points(op):
        yield f"{op.name}-at-{','.join(map(str, place))}-{clause(op, place)}", [place]
    if infinite and (ends := infinite_points(op)):  # limits, which take sympy seconds
        yield f"{op.name}-at-infinity-{clause(op, ends[0])}", ends


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for."""
    choice = config.stash[CHOICE]
    left_out = {item for item in items if not _is_chosen(item, choice)}
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_chosen(item: pytest.Item, choice: Choice) -> bool:
    """Say whether a test is part of a run, by its marks, its parameters, and what the command line asks for."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    # An assay is one mode's, and each test says by its marks which modes it asks in; what has no assay is no such test.
    if "assay" in getattr(item, "fixturenames", ()) and not _asks(item, params, choice):
        return False
    first = params.get("mode") is next(iter(choice.modes.values()))
    if item.get_closest_marker("plainly") and not first:
        return False
    if item.get_closest_marker("fixed") and params["form"].name not in _fixed(params, choice):
        return False
    if not _is_askable(item, params, choice):
        return False
    if isinstance(params.get("op"), Op) and "mode" in params and params["mode"].order > params["op"].orders:
        return False
    if "op" in params and "mode" in params:
        op, listed = params["op"], item.get_closest_marker("enumerated")
        fits = isinstance(op, Op) and (
            item.get_closest_marker("kernels") is None or (op.elementwise and first and bool(choice.profile.sizes))
        )
        return fits and (listed is None or _is_enumerated(op, params["form"], choice, **listed.kwargs))
    if isinstance(params.get("op"), Op):
        return not choice.narrowed or params["op"].name in choice.ops
    if "pool" in params:
        return choice.trees
    if isinstance(params.get("deviation"), Deviation):
        known = params["deviation"]
        ordinary = choice.profile.infinite or all(map(math.isfinite, known.pinned.values()))
        return ordinary and known.op in choice.ops and known.dtype in choice.forms and bool(_showing(known, choice))
    return not choice.narrowed


def _is_askable(item: pytest.Item, params: Mapping[str, Any], choice: Choice) -> bool:
    """Say whether a test that is of some can be asked: formats that an op takes, stated points, own ops of any size."""
    if isinstance(params.get("op"), Op) and "form" in params and not params["op"].takes(params["form"]):
        return False
    if item.get_closest_marker("stated"):
        return bool(params["mode"].word == "r" and params["mode"].puts is as_it_is)
    if item.get_closest_marker("own") is None:
        return True
    return _is_own(params, choice) and bool(sized_cases(params["op"], params["form"]))


def _fixed(params: Mapping[str, Any], choice: Choice) -> Sequence[str]:
    """Return the formats in which every mode is asked: those of the profile, or the first where none is asked for."""
    taken = _taken(params, choice)
    return [name for name in taken if name in choice.profile.fixed] or taken[:1]


def _taken(params: Mapping[str, Any], choice: Choice) -> list[str]:
    """Return the formats that are asked for and that an op takes, float32 first."""
    op = params.get("op")
    return [n for n in FIRST if n in choice.forms and (not isinstance(op, Op) or op.takes(FORMATS[n]))]


def _asks(item: pytest.Item, params: Mapping[str, Any], choice: Choice) -> bool:
    """Say whether a conformance test asks in a mode.

    A test asks in modes of the second order where it can, and in those that take seconds each where it is fixed.
    """
    mode = params["mode"]
    if mode.order > 1 and not item.get_closest_marker("any_order"):
        return False
    return not mode.sampled or (item.get_closest_marker("fixed") is not None and _is_sampled(params, choice))


def _showing(deviation: Deviation, choice: Choice) -> list[Mode]:
    """Return the modes in which a deviation must show: all that it names.

    In the profile quick it must show in the first of them alone. A mode that takes seconds is left out, unless it is
    asked for everything.
    """
    named = [
        mode
        for name, mode in choice.modes.items()
        if name in deviation.modes and (not mode.sampled or name in choice.drawing)
    ]
    # the profile quick is the one that asks in every mode in some formats only
    return named if set(choice.profile.fixed) == set(FORMATS) else named[:1]


def _is_sampled(params: Mapping[str, Any], choice: Choice) -> bool:
    """Say whether a mode that takes seconds for each test is asked for the op and format of these parameters.

    It is asked for every op where it is named or the profile has every mode; else for its sample, and for a user's own
    op in one format.
    """
    mode = params["mode"]
    if mode.name in choice.drawing:
        return True
    if _is_own(params, choice):
        return True
    return choice.profile.samples and "op" in params and mode.sampled.get(params["op"].name) == params["form"].name


def _is_own(params: Mapping[str, Any], choice: Choice) -> bool:
    """Say whether parameters are of a user's own op, in the one format in which it is asked for what takes long."""
    op = params.get("op")
    if not isinstance(op, Op) or op.name in OPS:
        return False
    return params["form"].name == next(iter(_taken(params, choice)), None)


def _is_enumerated(op: Op, form: Format, choice: Choice, *, arguments: tuple[int, ...], bits: tuple[int, ...]) -> bool:
    """Say whether the marker `enumerated` with these arguments includes an op in a format, and the profile has it."""
    count = len(op.inputs) if op.elementwise else 0
    return choice.profile.enumerates and count in arguments and form.bits in bits


@pytest.fixture(scope="session")
def catalogue(request: pytest.FixtureRequest) -> Mapping[str, Op]:
    """Return every op there is, by name."""
    return request.config.stash[CHOICE].catalogue


@pytest.fixture
def showing(request: pytest.FixtureRequest, deviation: Deviation) -> list[Mode]:
    """Return the modes in which a deviation must show."""
    return _showing(deviation, request.config.stash[CHOICE])


@pytest.fixture(scope="session")
def sizes(request: pytest.FixtureRequest) -> tuple[int, ...]:
    """Return the lengths of the vectors in which hard points are repeated."""
    return request.config.stash[CHOICE].profile.sizes


@pytest.fixture(scope="session")
def budget(request: pytest.FixtureRequest) -> float:
    """Return for how many seconds one op may be asked at many sizes."""
    return request.config.stash[CHOICE].profile.seconds


@pytest.fixture
def assay(request: pytest.FixtureRequest, mode: Mode, form: Format, device: str) -> Assay:
    """Return the assay of this test, which its record is made of."""
    params = request.node.callspec.params
    name = params["op"].name if "op" in params else TREE
    choice = request.config.stash[CHOICE]
    return Assay(name, mode, form, device, choice.deviations, choice.inside)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a conformance test that compared nothing; skip one that torch has no kernel for."""
    assay = pyfuncitem.funcargs.get("assay")
    if isinstance(assay, Assay):
        isolation.begin(lambda: assay.record(int(pyfuncitem.config.option.hypothesis_seed), passed=False))
    result = yield
    if isinstance(assay, Assay):  # a test that failed does not come here
        assay.assert_compared()
        if assay.unsupported:
            pytest.skip(f"torch: {assay.unsupported}")
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the record along with the report of a conformance test."""
    assay = getattr(item, "funcargs", {}).get("assay")
    if call.when == "call" and isinstance(assay, Assay):
        record = assay.record(
            int(item.config.option.hypothesis_seed),
            passed=call.excinfo is None or call.excinfo.errisinstance(pytest.skip.Exception),
        )
        item.user_properties.append(("record", record.line()))
        if assay.unasked:
            said = f"{record.op} in {record.dtype} on {record.device} was not asked, for want of time: "
            item.user_properties.append(("left_out", said + "; ".join(assay.unasked)))
        if assay.left_out:
            said = (
                f"trees in {record.dtype} on {record.device} are without ops whose values are further off than "
                f"rounding explains, or have no kernel: {', '.join(assay.left_out)}"
            )
            item.user_properties.append(("left_out", said))
    return (yield)
