"""The assay of one test: every conformance test ends in `assert_agrees`."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from reference.case import PROMISES
from reference.oracle import UncertifiedError
from tests.subject.mode import FIRST_ORDER
from tests.verdict.comparison import UNSUPPORTED, VERDICTS, Miss, UnsupportedError, judged
from tests.verdict.explanation import DisagreementError
from tests.verdict.question import question
from tests.verdict.record import Record
from tests.verdict.value import is_within_a_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from reference.case import Case, Sized
    from reference.format import Format
    from reference.op import Op
    from tests.subject.mode import Mode
    from tests.verdict.comparison import Judgement
    from tests.verdict.deviation import Deviation


class ComparedNothingError(AssertionError):
    """A conformance test ended without a comparison: it would have passed whatever torch does."""


class Assay:
    """Judges the gradients of one test, and remembers what its record says."""

    def __init__(
        self, name: str, mode: Mode, form: Format, device: str, known: tuple[Deviation, ...], promise: str | None = None
    ) -> None:
        """Start an assay of an op, or of drawn trees, by name; a promise is asked for in the place of the op's own."""
        self._promise = promise
        self._name, self._mode, self._form, self._device = name, mode, form, device
        self._known = known
        self._own = [d for d in known if d.concerns(name, form.name, mode.name, device)]
        self._compared = 0
        self._size = 0
        self._held = list(PROMISES)
        self._worst_ulp = 0.0
        self._worst_share = 0.0
        self._at: dict[str, str] = {}
        self._miss: Miss | None = None
        self._reason: str | None = None
        self._refusal: str | None = None
        self.left_out: list[str] = []
        """The ops that trees could have but for their values, which are off or have no kernel."""

        self.unasked: list[str] = []
        """The sizes for which there was no time."""

    def assert_agrees(self, case: Case) -> None:
        """Assert that torch's gradient of a case could have come from correctly rounded steps.

        A miss that a known deviation covers is noted and passes; so is that torch has no kernel.
        """
        asked = replace(self._mode.asks(case), promise=self._promise)
        try:
            judgement = judged(asked, self._mode, self._device)
        except UnsupportedError as error:
            self._refusal = str(error)
            return
        except UncertifiedError as error:
            message = (
                f"{question(asked, self._mode, self._device).name}: {error}: the formula has no derivative there, or "
                "none that can be told; accepted: an entry whose `domain` or `where` leaves that out"
            )
            raise UncertifiedError(message) from error
        self._size = max(self._size, *(primal.size for primal in asked.primals))
        self._note(judgement)
        fresh = []
        for miss in judgement.misses:
            deviation = self._deviation(miss)
            if deviation is None:
                fresh.append(miss)
            elif self._miss is None:
                self._miss, self._reason = miss, f"{deviation.reason} ({deviation.link})"
        if fresh:
            fresh.sort(key=lambda miss: VERDICTS.index(miss.verdict), reverse=True)
            self._miss, self._reason = fresh[0], None
            raise DisagreementError(fresh, self._mode, self._device)

    def assert_agrees_within(self, seconds: float, cases: Sequence[Sized]) -> None:
        """Assert so of cases of growing size, until one would last longer than what is left of some seconds."""
        end, pace = time.monotonic() + seconds, 0.0
        for number, case in enumerate(cases):
            start = time.monotonic()
            if start + pace * case.elements > end:
                self.unasked = [each.name for each in cases[number:]]
                return
            self.assert_agrees(case.made())
            pace = (time.monotonic() - start) / case.elements

    def sound(self, ops: Iterable[Op], reached: Callable[[Op, Format], Iterable[Case]]) -> tuple[Op, ...]:
        """Return the ops without a known deviation here, kinks and infinities apart.

        A tree of others would show theirs, those of the first order in the second too. Nor does a tree have ops whose
        values are off in the cases that stand for how it reaches them.
        """
        modes = {self._mode.name, *(FIRST_ORDER if self._mode.order > 1 else ())}
        deviant = {
            d.op
            for d in self._known
            for mode in modes
            if d.concerns(d.op, self._form.name, mode, self._device) and d.verdicts != ("convention",)
        }
        offered = [op for op in ops if op.name not in deviant and (op.composes_forwards or not self._mode.forwards)]
        self.left_out = [
            op.name
            for op in offered
            if not all(is_within_a_step(case, self._device) for case in reached(op, self._form))
        ]
        return tuple(op for op in offered if op.name not in self.left_out)

    def _note(self, judgement: Judgement) -> None:
        self._compared += judgement.compared
        self._held = [promise for promise in self._held if promise in judgement.held]
        self._worst_share = max(self._worst_share, judgement.worst_share)
        if judgement.worst_ulp >= self._worst_ulp:
            self._worst_ulp, self._at = judgement.worst_ulp, judgement.at

    def _deviation(self, miss: Miss) -> Deviation | None:
        return next((d for d in self._own if d.covers(miss)), None)

    @property
    def unsupported(self) -> str | None:
        """What torch said where it has no kernel for any of it."""
        return None if self._compared else self._refusal

    def assert_compared(self) -> None:
        """Assert that something was judged, or refused."""
        if not self._compared and self._refusal is None:
            message = f"{self._name}: no entry of any gradient was compared, so this test could not fail"
            raise ComparedNothingError(message)

    def _verdict(self, miss: Miss | None, *, broke: bool) -> str:
        if broke:
            return "error"
        if self.unsupported:
            return UNSUPPORTED
        return VERDICTS[0] if miss is None else miss.verdict

    def record(self, seed: int, *, passed: bool) -> Record:
        """Return the record of the test."""
        miss = self._miss
        broke = not passed and (miss is None or self._reason is not None)
        ulp, share = (self._worst_ulp, self._worst_share) if miss is None else (miss.ulp, miss.share)
        return Record(
            op=self._name,
            mode=self._mode.name,
            order=self._mode.order,
            device=self._device,
            dtype=self._form.name,
            compared=self._compared,
            size=self._size,
            inside=None if broke or self.unsupported or not self._held else self._held[0],
            worst_ulp=ulp if math.isfinite(ulp) else None,
            worst_share=share if math.isfinite(share) else None,
            verdict=self._verdict(miss, broke=broke),
            at=self._at if miss is None else {name: value.hex() for name, value in miss.point.items()},
            got=self.unsupported if miss is None else miss.got,
            expected=None if miss is None else miss.expected,
            known=None if broke else self._reason,
            torch=torch.__version__,
            seed=seed,
        )
