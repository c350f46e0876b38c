"""What rounding may do: the allowance of sums is sound, notices a term of 4,096, and keeps the order of promises."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reference import derivative
from reference.case import PROMISES
from reference.catalogue import OPS
from reference.evaluation import LAMBDA, Arrays, Rounding, evaluate
from reference.format import FORMATS, precision
from reference.graph import Contract, Input, summed
from reference.oracle import FILTERED_BITS, answer
from strategies.cases import real_cases
from tests.meta.kernels import causal, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference.balls import Balls
    from reference.case import Case
    from reference.format import Format
    from reference.graph import Step

Values = np.ndarray[Any, np.dtype[Any]]

COUNTS = {2: 8192, 3: 8192, 8: 2048, 33: 1024, 128: 1024, 1000: 256, 4096: 128}
"""How many sums there are of each number of terms: a million over all formats, orders and draws of terms."""

DTYPES = {"float16": np.float16, "bfloat16": np.float32, "float32": np.float32, "float64": np.float64}
"""The dtype in which numpy holds values of each format."""


def rounded(values: Values, form: Format) -> Values:
    """Round to nearest, ties to even, in the dtype that holds values of the format.

    A sum of two values of bfloat16 has few bits enough in float32 that it may be rounded twice.
    """
    held = values.astype(DTYPES[form.name])
    if form.name != "bfloat16":
        return held
    bits = held.view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def sequential(terms: Values, form: Format) -> Values:
    """Add rows up one after the other."""
    result = terms[0]
    for row in terms[1:]:
        result = rounded(result + row, form)
    return result


def pairwise(terms: Values, form: Format) -> Values:
    """Add halves, and their halves."""
    while len(terms) > 1:
        half = len(terms) // 2
        sums = rounded(terms[:half] + terms[half : 2 * half], form)
        terms = np.concatenate([sums, terms[2 * half :]])
    return terms[0]


def blocked(terms: Values, form: Format) -> Values:
    """Add blocks of 128 one after the other, then their sums."""
    blocks = [sequential(terms[start : start + 128], form) for start in range(0, len(terms), 128)]
    return sequential(np.stack(blocks), form)


def in_lanes(terms: Values, form: Format, lanes: int = 16) -> Values:
    """Add every sixteenth term in a lane of its own, the lanes by halves, and then what is left over."""
    whole = len(terms) // lanes * lanes
    parts = [sequential(terms[:whole].reshape(-1, lanes, *terms.shape[1:]), form)] if whole else []
    sums = pairwise(parts[0], form)[None] if parts else terms[:0]
    return sequential(np.concatenate([sums, terms[whole:]]), form)


ORDERS: dict[str, Callable[..., Values]] = {
    "sequential": sequential,
    "pairwise": pairwise,
    "blocked": blocked,
    "8 lanes": partial(in_lanes, lanes=8),
    "16 lanes": in_lanes,
}


def normal(rng: np.random.Generator, count: int, sums: int) -> Values:
    """Draw terms about 0."""
    return rng.standard_normal((count, sums))


def positive(rng: np.random.Generator, count: int, sums: int) -> Values:
    """Draw terms between 0 and 1."""
    return rng.uniform(size=(count, sums))


def alternating(rng: np.random.Generator, count: int, sums: int) -> Values:
    """Draw terms between 1/2 and 1 whose signs take turns."""
    return rng.uniform(0.5, 1, (count, sums)) * np.where(np.arange(count) % 2, -1, 1)[:, None]


TERMS = (normal, positive, alternating)
"""How terms are drawn."""


def off(found: Values, terms: Values) -> Values:
    """Return how far sums are from the true ones: those of float64, with what each addition lost added up."""
    # Knuth's TwoSum: what an addition lost is itself a float64.
    high, low = np.zeros(terms.shape[1:]), np.zeros(terms.shape[1:])
    for row in terms.astype(np.float64):
        total = high + row
        part = total - high
        low += (high - (total - part)) + (row - part)
        high = total
    return np.abs(found.astype(np.float64) - high - low)


def enclosed(terms: Values, rounding: Rounding) -> Balls:
    """Return the ball that the graph makes of sums."""
    step = summed(Input((), terms.shape, "terms"), [0])
    assert isinstance(step, Contract)
    assert rounding.steps is not None
    arithmetic = Arrays(rounding, long=rounding.steps.precision > FILTERED_BITS)
    (found,) = evaluate([step], {"terms": terms.astype(np.float64)}, arithmetic)
    return found


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("order", ORDERS)
def test_sums_stay_within_the_allowance(name: str, order: str, record_property: Callable[[str, object], None]) -> None:
    """Sums of drawn terms never leave the allowance of any terms, nor that of drawn ones; some come near it."""
    form, add = FORMATS[name], ORDERS[order]
    rng = np.random.default_rng(sum(map(ord, name + order)))
    nearest, sums = 0.0, 0
    for draw in TERMS:
        for count, often in COUNTS.items():
            terms = rounded(draw(rng, count, often), form)
            error, sizes = off(add(terms, form), terms), np.abs(terms.astype(np.float64)).sum(0)
            sums += often
            for independent in (False, True):
                rounding = Rounding(form, independent=independent)
                share = rounding.roundings(count) * form.unit * sizes
                assert (error <= share * (1 + 2.0**-30)).all()
                assert (enclosed(terms, rounding).rad >= share * (1 - 2.0**-30)).all()
                nearest = max(nearest, float((error / share).max()))
    record_property("nearest", nearest)
    assert sums == len(TERMS) * sum(COUNTS.values())
    assert nearest > 0.4


def test_there_are_a_million_sums() -> None:
    """The tables above come to a million sums."""
    assert len(FORMATS) * len(ORDERS) * len(TERMS) * sum(COUNTS.values()) >= 10**6


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [2, 3, 9, 16])
def test_allowance_of_any_terms_is_reached(name: str, count: int) -> None:
    """Terms of half an ulp that are lost one by one come nearer to the allowance than to one with a rounding less."""
    form = FORMATS[name]
    terms = rounded(np.array([1.0] + [form.unit] * (count - 1))[:, None], form)
    error, sizes = off(sequential(terms, form), terms), np.abs(terms.astype(np.float64)).sum(0)
    assert error == (count - 1) * form.unit
    assert error <= Rounding(form).roundings(count) * form.unit * sizes
    assert error > (Rounding(form).roundings(count) - 1) * form.unit * sizes


@pytest.mark.parametrize("name", FORMATS)
def test_a_narrower_allowance_is_exceeded(name: str) -> None:
    """Drawn terms exceed a thirty-second of the root of their number, where 8 times the root is allowed."""
    form, rng = FORMATS[name], np.random.default_rng(3)
    terms = rounded(normal(rng, 1000, 256), form)
    sizes = np.abs(terms.astype(np.float64)).sum(0)
    error = off(sequential(terms, form), terms)
    drawn = Rounding(form, independent=True).roundings(1000)
    assert drawn == LAMBDA * math.sqrt(1000)
    assert (error > drawn / LAMBDA**2 / 4 * form.unit * sizes).any()


@pytest.mark.parametrize(("count", "due"), [(0, 0), (1, 0), (2, 1), (65, 64), (66, 8 * math.sqrt(66)), (4096, 512)])
def test_roundings_of_drawn_terms_are_the_fewer(count: int, due: float) -> None:
    """Few terms are rounded once less than there are of them, many 8 times the root of their number."""
    assert Rounding(independent=True).roundings(count) == due
    assert Rounding().roundings(count) == max(count - 1, 0)


# ------------------------------------------------------------------------------------- a dropped term


class Forgetful(Arrays):
    """Arithmetic that leaves the last term of every sum out, as a kernel with a wrong bound of its loop does."""

    def step(self, step: Step, sources: Sequence[Balls]) -> Balls:
        """Evaluate a step; the sources of a sum have zeros at the end of the axes that are summed."""
        if isinstance(step, Contract):
            sources = [self.cut(source, names, step.kept) for source, names in zip(sources, step.labels, strict=True)]
        return super().step(step, sources)

    def cut(self, source: Balls, names: str, kept: str) -> Balls:
        """Put zeros where the last term of a sum is."""
        summed_axes = [i for i, name in enumerate(names) if name not in kept]
        if not summed_axes:
            return source
        last = np.ones(source.mid.shape, dtype=bool)
        for axis in summed_axes:
            place = np.arange(source.mid.shape[axis]) == source.mid.shape[axis] - 1
            last &= place.reshape([-1 if i == axis else 1 for i in range(last.ndim)])
        return source.moved(lambda part: np.where(last, 0.0, part))


def probes(name: str, form: Format) -> Case:
    """Return a case in real use that asks for the last element alone: by a cotangent, or of a sum by a tangent."""
    case = real_cases(OPS[name], form)[-1]
    if case.cotangent.shape[-1] > 1:
        return case
    return replace(case, word="f", only_tangent=(0, case.primals[0].size - 1))


def computed(case: Case, arithmetic: Arrays) -> list[Values]:
    """Return the derivative as an arithmetic finds it, with nothing rounded."""
    asked = derivative.of_case(case, saved=True)
    with precision(64), np.errstate(all="ignore"):
        found = evaluate(asked.results, derivative.given(case), arithmetic)
    return [balls.repeated(step.shape).mid for balls, step in zip(found, asked.results, strict=True)]


def is_allowed(case: Case, results: Sequence[Values]) -> bool:
    """Say whether results lie within the allowance of a case."""
    return all(
        (np.abs(result - found.centre - found.offset) <= found.radius).all()
        for result, found in zip(results, answer(case), strict=True)
    )


@pytest.mark.parametrize("form", [f for f in FORMATS.values() if f.bits < 64], ids=lambda form: form.name)
@pytest.mark.parametrize("name", ["sum", "mean", "softmax", "layer_norm", "linear"])
def test_a_dropped_term_is_noticed(name: str, form: Format) -> None:
    """The last of 4,096 terms cannot be left out: where one term is all there is, the allowance of a sum is small.

    Of 16-bit formats this takes the promise that sums are in float32.
    """
    case = replace(probes(name, form), promise="wide")
    assert case.independent
    assert is_allowed(case, computed(case, Arrays()))
    assert not is_allowed(case, computed(case, Forgetful()))


@pytest.mark.parametrize("name", ["sum", "mean", "softmax"])
def test_a_dropped_term_hides_where_every_step_is_rounded(name: str) -> None:
    """The same fault is within the allowance where sums are in bfloat16: 512 roundings are twice all terms together."""
    case = replace(probes(name, FORMATS["bfloat16"]), promise="format")
    assert is_allowed(case, computed(case, Forgetful()))


# ------------------------------------------------------------------------------------------ promises


def softmax_in_float32(case: Case) -> list[Values]:
    """Return the gradient of softmax, every step in float32."""
    (x,), cotangent = (p.astype(np.float32) for p in case.primals), case.cotangent.astype(np.float32)
    exponential = np.exp(x - x.max(-1, keepdims=True))
    y = exponential / exponential.sum(-1, keepdims=True)
    return [y * (cotangent - (cotangent * y).sum(-1, keepdims=True))]


def layer_norm_in_float32(case: Case) -> list[Values]:
    """Return the gradients of layer_norm, every step in float32."""
    x, weight, _ = (p.astype(np.float32) for p in case.primals)
    cotangent = case.cotangent.astype(np.float32)
    deviation = x - x.mean(-1, keepdims=True)
    scale = 1 / np.sqrt((deviation * deviation).mean(-1, keepdims=True) + np.float32(1e-5))
    standard, weighted = deviation * scale, cotangent * weight
    shared = weighted.mean(-1, keepdims=True) + standard * (weighted * standard).mean(-1, keepdims=True)
    return [scale * (weighted - shared), (cotangent * standard).sum(0), cotangent.sum(0)]


WIDE = {"softmax": softmax_in_float32, "layer_norm": layer_norm_in_float32}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", WIDE)
def test_promises_are_in_order(name: str, number: int) -> None:
    """What `wide` allows, `saved` does, and what that allows, `format` does; none allows the same as another.

    Without a product of matrices `operands` is `wide`. Where nothing rounds, the last rounding of results grants them
    the smallest value that there is.
    """
    case = real_cases(OPS[name], FORMATS["bfloat16"])[number]
    wide, operands, saved, whole = (answer(replace(case, promise=promise)) for promise in PROMISES)
    assert all((one.radius == other.radius).all() for one, other in zip(wide, operands, strict=True))
    for sharper, wider in ((wide, saved), (saved, whole)):
        pairs = [(one.radius, other.radius) for one, other in zip(sharper, wider, strict=True)]
        assert all((one <= other + 2 * case.form.smallest_subnormal).all() for one, other in pairs)
        assert any((one < other / 1.5).any() for one, other in pairs)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("form", [FORMATS["float16"], FORMATS["bfloat16"]], ids=lambda form: form.name)
@pytest.mark.parametrize("name", WIDE)
def test_wide_contains_what_is_rounded_once(name: str, form: Format, number: int) -> None:
    """What float32 computes is within `wide` where it is rounded once, not where it is cut and loses an ulp more."""
    case = replace(real_cases(OPS[name], form)[number], promise="wide")
    exact = [np.asarray(result, dtype=np.float64) for result in WIDE[name](case)]
    assert is_allowed(case, [rounded(result, form).astype(np.float64) for result in exact])
    truncated = [form.values(form.ordinals(result)) for result in exact]
    again = [np.sign(t) * np.maximum(np.abs(t) - form.ulp(t), 0) for t in truncated]
    assert not is_allowed(case, again)


def attention_of_operands(case: Case, factor: float = 1.0) -> list[Values]:
    """Return the gradients of attention by query, key and value, times a factor, as tensor cores compute them.

    All is in float32, but what enters a product of matrices has been rounded to the format.
    """
    form = case.form
    q, k, v, cotangent = (p.astype(np.float32) for p in (*case.primals, case.cotangent))
    mask = causal([q.shape, k.shape], np.random.default_rng(0))
    exponential = np.where(mask, np.exp((scores := q @ k.swapaxes(-2, -1)) - scores.max(-1, keepdims=True)), 0)
    weights = exponential / exponential.sum(-1, keepdims=True)
    by_weight = cotangent @ v.swapaxes(-2, -1)
    by_score = weights * (by_weight - (by_weight * weights).sum(-1, keepdims=True))
    weights, by_score = (rounded(each, form).astype(np.float32) for each in (weights, by_score))
    found = [by_score @ k, by_score.swapaxes(-2, -1) @ q, weights.swapaxes(-2, -1) @ cotangent]
    return [rounded(each * np.float32(factor), form).astype(np.float64) for each in found]


@pytest.mark.parametrize("form", [FORMATS["float16"], FORMATS["bfloat16"]], ids=lambda form: form.name)
def test_operands_of_products_are_rounded(form: Format) -> None:
    """Attention on tensor cores is within `operands` and not within `wide`; times 1.05 it is within neither."""
    case = real_cases(entry("attended", faulty=False), form)[0]
    allowing = [p for p in PROMISES if is_allowed(replace(case, promise=p), attention_of_operands(case))]
    assert allowing == ["operands", "saved", "format"]
    assert not is_allowed(replace(case, promise="operands"), attention_of_operands(case, 1.05))


def test_operands_are_not_rounded_where_they_are_given() -> None:
    """What the inputs of linear hold the format has: `operands` is `wide` there, of its weight and its rows."""
    case = real_cases(OPS["linear"], FORMATS["bfloat16"])[0]
    wide, operands = (answer(replace(case, promise=promise)) for promise in PROMISES[:2])
    assert all((one.radius == other.radius).all() for one, other in zip(wide, operands, strict=True))
