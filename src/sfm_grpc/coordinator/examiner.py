"""Where matrices are examined: small ones at once, most on the admission threads, the few that take long in a lane of their own.

A refused or clamped matrix of n = 2000 needs its eigenvalues: seconds of a core. Without a lane of their own a handful of
them would keep every commit waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from sfm_grpc.coordinator.sent import AdmissionRules, Form, SentMatrix, examine, promised_bytes
from sfm_grpc.density.admission import Admitted, TakesLong
from sfm_grpc.errors import DeadlineExceeded, LimitExceeded, Overloaded
from sfm_grpc.model import Matrix

# Together: examining them takes less time than handing them to another thread and back (0.3 ms).
_SMALL_BYTES = 40 * 1024
_SMALL_DIMENSION = 128
_SLOW_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A matrix that wants to be committed."""

    key: str
    field: str
    """Where it stands in the request."""
    sent: SentMatrix
    previous: Matrix | None
    """What the key holds now, to measure the step from."""


class Examiner:
    """Examines what is sent; see `sent.examine`."""

    def __init__(self, rules: AdmissionRules, threads: Executor, slow_threads: Executor, *, slow_max: int) -> None:
        self._rules = rules
        self._threads = threads
        self._slow_threads = slow_threads
        self._slow_max = slow_max
        self._slow = 0

    async def examine(self, candidates: Sequence[Candidate], *, now_us: int, deadline: float) -> list[Admitted]:
        """Every matrix examined, side by side; the first refusal in the request's order is the one that is told.

        Raises what `sent.examine` raises; LimitExceeded for envelopes that promise too much together, Overloaded when too many
        matrices that take long are waiting, DeadlineExceeded for work that begins too late.
        """
        self._check_promises(candidates)
        if _is_small(candidates):
            return [self._examine(c, now_us, deadline) for c in candidates]
        jobs = [asyncio.ensure_future(self._on_threads(c, now_us, deadline)) for c in candidates]
        done = await asyncio.gather(*jobs, return_exceptions=True)
        refused = next((d for d in done if isinstance(d, BaseException)), None)
        if refused is not None:
            raise refused
        return [job.result() for job in jobs]

    async def _on_threads(self, candidate: Candidate, now_us: int, deadline: float) -> Admitted:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._examine, candidate, now_us, deadline, False)
        except TakesLong:
            if self._slow >= self._slow_max:
                raise Overloaded(
                    limit="slow_admissions_max", value=self._slow, maximum=self._slow_max, retry_after_s=_SLOW_RETRY_S
                ) from None
        self._slow += 1
        try:
            return await loop.run_in_executor(self._slow_threads, self._examine, candidate, now_us, deadline)
        finally:
            self._slow -= 1

    def _examine(self, candidate: Candidate, now_us: int, deadline: float, patient: bool = True) -> Admitted:
        if time.monotonic() > deadline:
            raise DeadlineExceeded
        return examine(
            candidate.sent,
            key=candidate.key,
            field=candidate.field,
            rules=self._rules,
            previous=candidate.previous,
            now_us=now_us,
            patient=patient,
        )

    def _check_promises(self, candidates: Sequence[Candidate]) -> None:
        """A commit may not become more than a message may be by being inflated. Raises LimitExceeded, MatrixMalformed."""
        if not any(c.sent.form is Form.ENVELOPE for c in candidates):
            return
        total = sum(promised_bytes(c.sent, key=c.key, field=c.field, dimension_max=self._rules.dimension_max) for c in candidates)
        # What is wrong with a single one is told when it is opened.
        if total > self._rules.matrix_bytes_max and len(candidates) > 1:
            raise LimitExceeded(limit="message_bytes_max", value=total, maximum=self._rules.matrix_bytes_max, field="updates")


def _is_small(candidates: Sequence[Candidate]) -> bool:
    sent = [c.sent for c in candidates]
    before = [c.previous for c in candidates if c.previous]
    return (
        sum(len(s.body) for s in sent) + sum(len(m.numbers) for m in before) <= 2 * _SMALL_BYTES
        and not any(s.form is Form.ENVELOPE or max(s.shape, default=0) > _SMALL_DIMENSION for s in sent)
        and not any(max(m.shape) > _SMALL_DIMENSION for m in before)
    )
