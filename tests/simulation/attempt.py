"""What a simulated worker does with one task: asks upstream, answers the client, reports the outcome.

Stands in for workernode.attempt over real sockets; the table of spec 4 on the worker's side is repeated here in short.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from workernode.protocol import (
    NODE_KINDS,
    AnswerBegun,
    AnswerState,
    CallFailed,
    ClaimAsked,
    Decision,
    Durations,
    FaultInfo,
    FaultKind,
    Job,
    Kept,
    Outcome,
    RateLimitReport,
)  # fmt: skip

if TYPE_CHECKING:
    from tests.simulation.workers import SimProcess

EARLIEST_FRAME = 0.1  # seconds after the task was received (spec 1.2)
DEAD = 1.0  # seconds: what a dead process would do next is never done
TRIES = 3  # calls of upstream for one delivery
RETRY_FIRST = 0.2  # seconds
UNKNOWN_FOR = 1.0  # seconds for which a 404 is retried
OFFER_TIME = 1.0  # seconds for which a worker offers an answer; then its supervisor keeps it
SHORTEST_OFFER = 3.0  # seconds for which an answer is offered that comes late
CLAIM_GRACE = 10.0  # seconds for which a claim is waited for, even after the time of the task
SOON = 1.0  # seconds to a first chunk; the streams after one that came so soon ask for their claims ahead
RECONNECT_TIME = 5.0  # seconds for telling a client that the connection broke amid its stream
STATUS_OF = {
    "taken": "answered", "unknown": "client_gone", "refused": "gateway_unreachable", "away": "gateway_unreachable",
    "lost": "connection_lost",
}  # fmt: skip
STATUS = {
    FaultKind.PASSING: "upstream_trouble", FaultKind.RATE_LIMIT: "rate_limited", FaultKind.RAMP: "rate_limited",
    FaultKind.KEY: "key_refused", FaultKind.QUOTA: "quota_used_up", FaultKind.MODEL: "model_unknown",
    FaultKind.CERTIFICATE: "certificate_refused", FaultKind.REFUSED: "access_refused",
}  # fmt: skip
ERROR: dict[str, Any] = {"error": {"message": "", "type": "server_error", "param": None, "code": None}}

Waits = Generator[float, None, None]  # yields how long it waits


class ClaimLost(Exception):
    """Another node has the task: nothing may be sent any more."""


class Attempt:
    """One job at a worker."""

    def __init__(self, process: SimProcess, job: Job) -> None:
        self._process, self._host, self._world = process, process.host, process.host.world
        self.job, self.plan = job, process.host.request_of(job)
        self._dice = self._world.dice_for(self.plan.id, process.host.name, job.number)
        self._held: list[bytes] = []  # frames that have not left: a chunk's number, or b"E" for an error
        self._is_begun_claim = self._is_ended_claim = not job.is_claimed or not process.asks_claims
        self._lapses = 0
        self._upstream_asked_at: float | None = None
        self._has_asked = False  # for the claim, ahead
        self._claim_until = max(job.deadline, self._world.now) + CLAIM_GRACE
        self._undelivered: tuple[bool, tuple[bytes, ...]] | None = None  # is the gateway reached; what it has not got

    def run(self) -> Waits:
        """Run the task from its message to its outcome."""
        self._process.lost.discard(self.job.number)
        try:
            yield from self._run()
        except ClaimLost:
            self._finish(Decision.NAK, "taken_over")

    def _run(self) -> Waits:
        dice = self._dice
        yield dice.uniform(0.0002, 0.002)
        if self.plan.malformed:
            self._finish(Decision.DEAD_LETTER, "malformed", reason="no JSON")
            return
        if self.job.kept is not None:
            yield from self._offer_again(self.job.kept)
            return
        if self.job.rejection is not None:
            yield from self._tell()
            self._finish(self.job.rejection.decision, self.job.rejection.status, reason=self.job.rejection.reason)
            return
        if self._world.now >= self.job.deadline:
            yield from self._tell()
            self._finish(Decision.ACK, "expired")
            return
        yield from self._ask(dice)

    def _ask(self, dice: random.Random) -> Waits:
        """Ask upstream, and answer the client."""
        fault: FaultInfo | None = None
        self._upstream_asked_at = self._world.now
        if self.plan.stream and self._process.asks_ahead and not self._is_begun_claim:
            self._ask_for_claim(is_end=False)
            self._has_asked = True
            self._world.faults["claim asked for ahead"] += 1
        for count in range(TRIES):
            while self._world.now < min(self._process.hold.until, self.job.deadline):
                yield max(0.001, min(self._process.hold.until, self.job.deadline) - self._world.now)
            asked = self._world.now
            if self._host.upstream.kills(self.plan):
                yield dice.uniform(0.0, 0.05)
                self._process.die("killed by SIGSEGV")
                return
            what, fault = self._host.upstream.ask(self.plan, self._process.key)
            if fault is None:
                yield from self._answer(what, asked, dice)
                return
            yield dice.uniform(0.002, 0.02)
            if fault.kind in (FaultKind.RATE_LIMIT, FaultKind.RAMP):
                self._process.write(RateLimitReport(self._world.now, fault.kind, asked, fault.retry_after))
            elif fault.kind is not FaultKind.PASSING:
                break
            else:
                self._process.write(CallFailed(self.plan.id, asked, fault))
            if self._process.hold.no_retries:
                break
            pause = RETRY_FIRST * 2**count * dice.uniform(0.5, 1.5)
            if count == TRIES - 1 or self._world.now + pause >= self.job.deadline:
                break
            yield pause
        assert fault is not None
        yield from self._failed(fault)

    def _failed(self, fault: FaultInfo) -> Waits:
        if fault.kind is FaultKind.CLIENT:
            decision, status = Decision.ACK, "refused"
        elif self.job.redeliveries >= self._host.max_redeliveries and not self.job.has_tries:
            decision, status = Decision.ACK, "gave_up"
        elif self._world.now + self._host.nak_delay >= self.job.deadline:
            decision, status = Decision.ACK, "expired"
        else:
            error = ERROR if fault.kind in NODE_KINDS else None
            self._finish(Decision.NAK, STATUS[fault.kind], fault=fault, client_error=error)
            return
        yield from self._tell()
        self._finish(decision, status, fault=fault)

    def _answer(self, what: str, asked: float, dice: random.Random) -> Waits:
        """Upstream answers."""
        seconds = self.plan.seconds * (5 if what == "slow" else 1)
        report = self._host.upstream.report(asked)
        if report is not None:
            self._process.write(report)
        if what == "silent":  # until nobody waits any more
            yield max(0.0, self.job.deadline - self._world.now)
            yield from self._tell()
            self._finish(Decision.ACK, "expired")
            return
        if self.plan.stream:
            yield from self._stream(what, seconds, asked, dice)
            return
        yield min(seconds, max(0.0, self.job.deadline - self._world.now))
        self._process.tokens += self.plan.chunks
        result = yield from self._post(error=False)
        self._finish(Decision.ACK, STATUS_OF[result], upstream_answered=True, asked_at=asked)

    def _offer_again(self, kept: Kept) -> Waits:
        """The gateway has not got the answer yet."""
        if not kept.parts:
            self._undelivered = (not self._is_away, ())
            self._finish(Decision.ACK, "gateway_unreachable")
            return
        if self.plan.stream:
            self._held = list(kept.parts)
            result = yield from self._end()
        else:
            result = yield from self._post(kept.parts[0] == b"E")
        if kept.status:
            self._finish(kept.decision, kept.status, fault=kept.fault, reason=kept.reason)
        else:
            self._finish(Decision.ACK, STATUS_OF[result], upstream_answered=True)

    def _stream(self, what: str, seconds: float, asked: float, dice: random.Random) -> Waits:
        shown = self.plan.chunks // 2 if what == "cut" else self.plan.chunks
        for number in range(shown):
            yield seconds / self.plan.chunks
            if self._world.now >= self.job.deadline:  # upstream is stopped, and the client gets an error
                what = "cut"
                break
            if number == 0:
                if self._process.hold.reports_begun:
                    self._process.write(AnswerBegun(asked))
                yield from self._earliest()
            if self.plan.gateway == "client leaves" and number == self.plan.chunks - 1:
                self._world.faults["client leaves"] += 1
                self._host.gateway.clients[self.plan.id].is_gone = True
                self._finish(Decision.ACK, "client_gone")
                return
            self._held.append(b"%d" % number)
            self._process.tokens += 1
            if not self._is_away:
                yield from self._flush()
            elif self._has_begun:
                yield from self._end_over_new_connection()
                self._finish(Decision.ACK, "connection_lost")
                return
        yield dice.uniform(0.0, 0.01)
        result = yield from self._end(error=what == "cut")
        status = "broken" if what == "cut" else STATUS_OF[result]
        self._finish(Decision.ACK, status, upstream_answered=what != "cut", asked_at=asked)

    def _tell(self) -> Waits:
        """The client gets an error."""
        if self._host.upstream.kills_telling(self.plan):
            self._process.die("killed by SIGSEGV")
            yield DEAD
        if self.plan.stream:
            yield from self._end(error=True)
        else:
            yield from self._post(error=True)

    def _earliest(self) -> Waits:
        yield max(0.0, self.job.received_at + EARLIEST_FRAME - self._world.now)

    @property
    def _is_away(self) -> bool:
        return self._host.gateway.is_away(self.plan)

    @property
    def _has_begun(self) -> bool:
        return self._process.answer_states[self.job.slot] != AnswerState.NOT_STARTED

    def _wait_for_claim(self, is_end: bool) -> Waits:
        """Ask whether the first frame, or the end, may leave (workernode.stream_claim)."""
        if self._is_ended_claim or (self._is_begun_claim and not is_end):
            return
        if not is_end and self._upstream_asked_at is not None:
            self._process.asks_ahead = self._world.now <= self._upstream_asked_at + SOON
        if is_end or not self._has_asked:
            self._ask_for_claim(is_end)
        yield from self._wait_for_grant(is_end)
        self._is_begun_claim, self._is_ended_claim = True, is_end

    def _ask_for_claim(self, is_end: bool) -> None:
        self._process.grants.discard((self.job.number, is_end))
        self._lapses = self._process.lease.lapses
        self._process.write(ClaimAsked(self.job.number, is_end))

    def _wait_for_grant(self, is_end: bool) -> Waits:
        pause = 0.003
        while not self._is_granted(is_end):
            yield pause
            pause = min(0.25, pause * 1.3)

    def _is_granted(self, is_end: bool) -> bool:
        is_granted = (self.job.number, is_end) in self._process.grants
        if self.job.number in self._process.lost or (not is_granted and self._world.now >= self._claim_until):
            raise ClaimLost
        return is_granted

    def _wait_for_lease(self) -> Waits:
        while self.job.is_claimed and self._process.asks_claims:
            if self._process.lease.lapses != self._lapses:
                self._ask_for_claim(is_end=False)
                yield from self._wait_for_grant(is_end=False)
            elif self._world.now >= self._process.lease.until:
                self._is_granted(is_end=False)
                yield 0.05
            else:
                return

    def _begin(self) -> Waits:
        yield from self._wait_for_claim(is_end=False)
        if not self._has_begun:
            self._process.answer_states[self.job.slot] = AnswerState.STARTED
            yield 0.000002

    def _flush(self) -> Waits:
        if not self._held:
            return
        yield from self._begin()
        yield from self._wait_for_lease()
        frames, self._held = self._held, []
        self._send_frames(frames)

    def _send_frames(self, frames: list[bytes]) -> None:
        for frame in frames:
            self._send(None if frame == b"E" else int(frame), False)

    def _end(self, error: bool = False) -> Generator[float, None, str]:
        if error:
            self._held.append(b"E")
        yield from self._earliest()
        if self._has_begun and self._is_away:
            yield from self._end_over_new_connection()
            return "lost"
        give_up_at = self._world.now + OFFER_TIME
        while self._is_away or (self._host.gateway.is_refusing and not self._has_begun):
            if self._world.now + 0.2 >= give_up_at:
                self._undelivered = (not self._is_away, tuple(self._held))
                return "away" if self._is_away else "refused"
            yield 0.2
        last = [self._held.pop()] if self._held else []  # it may be an error, and leaves together with the end
        if last:
            yield from self._begin()
        yield from self._flush()
        yield from self._send_end(last)
        return "taken"

    def _end_over_new_connection(self) -> Waits:
        self._held = []
        until = self._world.now + RECONNECT_TIME
        while self._is_away:
            if self._world.now + 0.2 >= until:
                self._excuse("the gateway was away for long, amid the stream")
                return
            yield 0.2
        yield from self._send_end([b"E"])

    def _send_end(self, last: list[bytes]) -> Waits:
        yield from self._wait_for_claim(is_end=True)
        self._process.answer_states[self.job.slot] = AnswerState.ENDING
        yield 0.000002
        yield from self._wait_for_lease()
        self._send_frames(last)
        self._send(-1, True)
        yield 0.003  # the ping behind the end is answered
        self._process.answer_states[self.job.slot] = AnswerState.ENDED
        yield from self._die_after_end()

    def _die_after_end(self) -> Waits:
        if self.plan.dies_after_end and self._host.upstream.kills_after_end(self.plan):
            self._process.die("killed by SIGSEGV")
            yield DEAD

    def _send(self, number: int | None, end: bool) -> None:
        self._world.after(0.0005, self._host.gateway.frame, self.plan.id, self._process.name, number, end)

    def _post(self, error: bool) -> Generator[float, None, str]:
        unknown_since: float | None = None
        gateway, give_up_at = self._host.gateway, self._world.now + OFFER_TIME
        while True:
            yield 0.001
            result = "away" if self._is_away else gateway.post(self.plan.id, error)
            yield 0.001
            now = self._world.now
            if result == "taken":
                self._process.answer_states[self.job.slot] = AnswerState.ENDED
                yield from self._die_after_end()
                return result
            if result == "unknown":
                unknown_since = now if unknown_since is None else unknown_since
                if now - unknown_since > UNKNOWN_FOR:
                    if self.plan.gateway == "gone":
                        self._excuse("the gateway does not know it")
                    return result
            elif now + 0.1 >= give_up_at:
                self._undelivered = (result == "refused", (b"E" if error else b"answer",))
                return result
            yield 0.1

    def _kept(self, decision: Decision, status: str, more: dict[str, Any]) -> Kept | None:
        """What is to be offered again, as workernode.undelivered has it."""
        now, before = self._world.now, self.job.kept
        until = before.until if before else max(self.job.deadline, now + SHORTEST_OFFER)
        if self._undelivered is None or decision is Decision.NAK or now >= until:
            return None
        client = self._host.gateway.clients[self.plan.id]
        is_reached, parts = self._undelivered
        if before is None or (parts and not before.parts):  # before the task was run there was nothing to offer
            client.kept_at = now
        client.kept_until = until
        self._world.faults["answer waits for its gateway" if parts else "gateway is tried before a task is run"] += 1
        status = "" if more.get("upstream_answered") else status
        return Kept(
            f"http://{self.plan.server}", is_reached, until, parts, None, status, decision, fault=more.get("fault"),
            reason=more.get("reason", ""),
        )  # fmt: skip

    def _excuse(self, why: str) -> None:
        self._host.gateway.clients[self.plan.id].excuses.add(why)

    def _finish(self, decision: Decision, status: str, **more: Any) -> None:
        record = f'{{"request_id":"{self.plan.id}","decision":"{decision.value}","status":"{status}"}}'.encode()
        self._process.ended(self.job.slot)
        asked = more.get("asked_at")
        durations = Durations(upstream=None if asked is None else self._world.now - asked)
        id = "" if self.plan.malformed else self.plan.id
        kept = self._kept(decision, status, more)
        self._process.write(
            Outcome(
                self.job.number, id, decision, status, record, stream=self.plan.stream, durations=durations,
                prompt_tokens=20, completion_tokens=self.plan.chunks, kept=kept, **more,
            )
        )  # fmt: skip
