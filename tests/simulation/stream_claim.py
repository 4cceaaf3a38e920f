"""What a stream of a simulated worker waits for before it is sent (workernode.stream_claim): claim and lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.world import Waits
from workernode.protocol import ClaimAsked, Job

if TYPE_CHECKING:
    from tests.simulation.workers import SimProcess

CLAIM_GRACE = 10.0  # seconds for which a claim is waited for, even after the time of the task
SOON = 1.0  # seconds to a first chunk; the streams after one that came so soon ask for their claims ahead


class ClaimLost(Exception):
    """Another node has the task: nothing may be sent any more."""


class StreamClaim:
    """The claim of one job."""

    def __init__(self, process: SimProcess, job: Job) -> None:
        self._process, self._world, self._job = process, process.host.world, job
        self._is_begun = self._is_ended = not job.is_claimed or not process.asks_claims
        self._lapses = 0
        self._upstream_asked_at: float | None = None
        self._has_asked = False  # for the claim, ahead
        self._until = max(job.deadline, self._world.now) + CLAIM_GRACE

    def note_upstream_asked(self) -> None:
        """Upstream is asked now. Ask for the claim ahead where the latest stream got its first chunk soon."""
        self._upstream_asked_at = self._world.now
        if self._process.asks_ahead and not self._is_begun:
            self._ask(is_end=False)
            self._has_asked = True
            self._world.faults["claim asked for ahead"] += 1

    def wait(self, is_end: bool) -> Waits:
        """Ask whether the first frame, or the end, may leave (workernode.stream_claim)."""
        if self._is_ended or (self._is_begun and not is_end):
            return
        if not is_end and self._upstream_asked_at is not None:
            self._process.asks_ahead = self._world.now <= self._upstream_asked_at + SOON
        if is_end or not self._has_asked:
            self._ask(is_end)
        yield from self._wait_for_grant(is_end)
        self._is_begun, self._is_ended = True, is_end

    def wait_for_lease(self) -> Waits:
        """Wait while the lease has ended; ask again where it had run out."""
        while self._job.is_claimed and self._process.asks_claims:
            if self._process.lease.lapses != self._lapses:
                self._ask(is_end=False)
                yield from self._wait_for_grant(is_end=False)
            elif self._world.now >= self._process.lease.until:
                self._is_granted(is_end=False)
                yield 0.05
            else:
                return

    def _ask(self, is_end: bool) -> None:
        self._process.grants.discard((self._job.number, is_end))
        self._lapses = self._process.lease.lapses
        self._until = max(self._until, self._world.now + CLAIM_GRACE)
        self._process.write(ClaimAsked(self._job.number, is_end))

    def _wait_for_grant(self, is_end: bool) -> Waits:
        pause = 0.003
        while not self._is_granted(is_end):
            yield pause
            pause = min(0.25, pause * 1.3)

    def _is_granted(self, is_end: bool) -> bool:
        is_granted = (self._job.number, is_end) in self._process.grants
        if self._job.number in self._process.lost or (not is_granted and self._world.now >= self._until):
            raise ClaimLost
        return is_granted
