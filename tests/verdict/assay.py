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
    """Judges the gradients that one conformance test asks for, and sums them up in the record of that test."""

    def __init__(
        self, name: str, mode: Mode, form: Format, device: str, known: tuple[Deviation, ...], promise: str | None = None
    ) -> None:
        """Start an assay of an op by its name, or of drawn trees.

        `known` has the deviations on file. `promise` is what 16-bit ops are held to; None holds each to its own.
        """
        self._promise = promise
        self._name, self._mode, self._form, self._device = name, mode, form, device
        self._known = known  # those of other ops too, since a tree must leave out every op that deviates
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
        """Ops that drawn trees do without, since torch's value of them is off, or has no kernel."""

        self.unasked: list[str] = []
        """The names of the sizes that there was no time for."""

    def assert_agrees(self, case: Case) -> None:
        """Assert that torch's gradient of a case could have come from correctly rounded steps.

        A miss that a known deviation covers is noted, and passes; so does a case that torch has no kernel for. Raises
        DisagreementError for a miss that is not on file, and UncertifiedError where the formula has no derivative.
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
            elif self._miss is None:  # the record has room for one, and a new miss displaces it below
                self._miss, self._reason = miss, f"{deviation.reason} ({deviation.link})"
        if fresh:
            fresh.sort(key=lambda miss: VERDICTS.index(miss.verdict), reverse=True)
            self._miss, self._reason = fresh[0], None
            raise DisagreementError(fresh, self._mode, self._device)

    def assert_agrees_within(self, seconds: float, cases: Sequence[Sized]) -> None:
        """Assert that each of some cases agrees, the smallest first, for as long as the time allows.

        A case is begun only where the pace of the case before it says that it will end within `seconds`; the names of
        the cases that are left are kept in `unasked`.
        """
        end, pace = time.monotonic() + seconds, 0.0  # in seconds an element: the first case is begun in any event
        for number, case in enumerate(cases):
            start = time.monotonic()
            if start + pace * case.elements > end:
                self.unasked = [each.name for each in cases[number:]]
                return
            self.assert_agrees(case.made())
            pace = (time.monotonic() - start) / case.elements

    def sound(self, ops: Iterable[Op], reached: Callable[[Op, Format], Iterable[Case]]) -> tuple[Op, ...]:
        """Return the ops that a drawn tree may have: those whose faults would not be mistaken for the tree's.

        Ops with known deviations are left out, since a tree that contains one fails for that reason; deviations of the
        first order disturb the second order as well. Deviations at kinks alone do not count, since trees avoid kinks.
        Ops whose values are off are left out too: the op above them would be asked at another point than the oracle's.
        `reached` returns the cases that stand for the points at which a tree asks an op.
        """
        modes = {self._mode.name, *(FIRST_ORDER if self._mode.order > 1 else ())}
        deviant = {
            d.op
            for d in self._known
            for mode in modes
            if d.concerns(d.op, self._form.name, mode, self._device) and d.verdicts != ("convention",)
        }
        taken = [op for op in ops if op.takes(self._form) and (op.composes_forwards or not self._mode.forwards)]
        offered = [op for op in taken if op.name not in deviant]
        self.left_out = [op.name for op in offered if not self._has_right_values(reached(op, self._form))]
        return tuple(op for op in offered if op.name not in self.left_out)

    def _has_right_values(self, cases: Iterable[Case]) -> bool:
        return all(is_within_a_step(case, self._device) for case in cases)

    def _note(self, judgement: Judgement) -> None:
        self._compared += judgement.compared
        # a promise is kept where every case keeps it
        self._held = [promise for promise in self._held if promise in judgement.held]
        self._worst_share = max(self._worst_share, judgement.worst_share)
        if judgement.worst_ulp >= self._worst_ulp:  # not `>`: a test whose errors are all 0 has a point in its record
            self._worst_ulp, self._at = judgement.worst_ulp, judgement.at

    def _deviation(self, miss: Miss) -> Deviation | None:
        return next((d for d in self._own if d.covers(miss)), None)

    @property
    def unsupported(self) -> str | None:
        """What torch said, where it has no kernel for any case of the test; else None."""
        return None if self._compared else self._refusal

    def assert_compared(self) -> None:
        """Assert that an entry was judged, or that torch has no kernel. Raises ComparedNothingError."""
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
        # A test that failed without a new miss broke by itself: its one miss, if any, is on file, and has a reason.
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
