"""What a simulated worker sends to the client of one task (workernode.client_reply): a stream's frames, or a POST."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from tests.simulation.schedule import TaskPlan
from tests.simulation.stream_claim import StreamClaim
from tests.simulation.world import Waits
from workernode.protocol import AnswerState, Job

if TYPE_CHECKING:
    from tests.simulation.workers import SimProcess

EARLIEST_FRAME = 0.1  # seconds after the task was received (spec 1.2)
DEAD = 1.0  # seconds: what a dead process would do next is never done
UNKNOWN_FOR = 1.0  # seconds for which a 404 is retried
OFFER_TIME = 1.0  # seconds for which a worker offers an answer; then its supervisor keeps it
RECONNECT_TIME = 5.0  # seconds for telling a client that the connection broke amid its stream


class ClientReply:
    """The way back of one job to its client.

    Attributes:
        held: frames that have not left: a chunk's number, or b"E" for an error.
        undelivered: is the gateway reached; what it has not got.
    """

    def __init__(self, process: SimProcess, job: Job, plan: TaskPlan, claim: StreamClaim) -> None:
        self._process, self._host, self._world = process, process.host, process.host.world
        self._job, self._plan, self._claim = job, plan, claim
        self.held: list[bytes] = []
        self.undelivered: tuple[bool, tuple[bytes, ...]] | None = None

    @property
    def is_away(self) -> bool:
        return self._host.gateway.is_away(self._plan)

    @property
    def has_begun(self) -> bool:
        return self._process.answer_states[self._job.slot] != AnswerState.NOT_STARTED

    def wait_for_earliest(self) -> Waits:
        yield max(0.0, self._job.received_at + EARLIEST_FRAME - self._world.now)

    def flush(self) -> Waits:
        """Send what is held."""
        if not self.held:
            return
        yield from self._begin()
        yield from self._claim.wait_for_lease()
        frames, self.held = self.held, []
        self._send_frames(frames)

    def end(self, error: bool = False) -> Generator[float, None, str]:
        """Send what is held, and the end; return what became of it."""
        if error:
            self.held.append(b"E")
        yield from self.wait_for_earliest()
        if self.has_begun and self.is_away:
            yield from self.end_over_new_connection()
            return "lost"
        give_up_at = self._world.now + OFFER_TIME
        while self.is_away or (self._host.gateway.is_refusing and not self.has_begun):
            if self._world.now + 0.2 >= give_up_at:
                self.undelivered = (not self.is_away, tuple(self.held))
                return "away" if self.is_away else "refused"
            yield 0.2
        last = [self.held.pop()] if self.held else []  # it may be an error, and leaves together with the end
        if last:
            yield from self._begin()
        yield from self.flush()
        yield from self._send_end(last)
        return "taken"

    def end_over_new_connection(self) -> Waits:
        """The connection broke amid the stream: the client gets an error and the end."""
        self.held = []
        until = self._world.now + RECONNECT_TIME
        while self.is_away:
            if self._world.now + 0.2 >= until:
                self._excuse("the gateway was away for long, amid the stream")
                return
            yield 0.2
        yield from self._send_end([b"E"])

    def post(self, error: bool) -> Generator[float, None, str]:
        """Offer the answer, or an error, for a while; return what became of it."""
        unknown_since: float | None = None
        gateway, give_up_at = self._host.gateway, self._world.now + OFFER_TIME
        while True:
            yield 0.001
            result = "away" if self.is_away else gateway.post(self._plan.id, error)
            yield 0.001
            now = self._world.now
            if result == "taken":
                self._process.answer_states[self._job.slot] = AnswerState.ENDED
                yield from self._die_after_end()
                return result
            if result == "unknown":
                unknown_since = now if unknown_since is None else unknown_since
                if now - unknown_since > UNKNOWN_FOR:
                    if self._plan.gateway == "gone":
                        self._excuse("the gateway does not know it")
                    return result
            elif now + 0.1 >= give_up_at:
                self.undelivered = (result == "refused", (b"E" if error else b"answer",))
                return result
            yield 0.1

    def send_error(self) -> Waits:
        """The client gets an error."""
        if self._host.upstream.kills_telling(self._plan):
            self._process.die("killed by SIGSEGV")
            yield DEAD
        if self._plan.stream:
            yield from self.end(error=True)
        else:
            yield from self.post(error=True)

    def _begin(self) -> Waits:
        yield from self._claim.wait(is_end=False)
        if not self.has_begun:
            yield from self._claim.wait_for_lease()
            self._process.answer_states[self._job.slot] = AnswerState.STARTED
            yield 0.000002

    def _send_end(self, last: list[bytes]) -> Waits:
        yield from self._claim.wait(is_end=True)
        yield from self._claim.wait_for_lease()
        self._process.answer_states[self._job.slot] = AnswerState.ENDING
        yield 0.000002
        yield from self._claim.wait_for_lease()
        self._send_frames(last)
        self._send(-1, True)
        yield 0.003  # the ping behind the end is answered
        self._process.answer_states[self._job.slot] = AnswerState.ENDED
        yield from self._die_after_end()

    def _send_frames(self, frames: list[bytes]) -> None:
        for frame in frames:
            self._send(None if frame == b"E" else int(frame), False)

    def _send(self, number: int | None, end: bool) -> None:
        self._world.after(0.0005, self._host.gateway.frame, self._plan.id, self._process.name, number, end)

    def _die_after_end(self) -> Waits:
        if self._plan.dies_after_end and self._host.upstream.kills_after_end(self._plan):
            self._process.die("killed by SIGSEGV")
            yield DEAD

    def _excuse(self, why: str) -> None:
        self._host.gateway.clients[self._plan.id].excuses.add(why)
