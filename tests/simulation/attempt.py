"""What a simulated worker does with one task: asks upstream, answers the client, reports the outcome.

Stands in for workernode.attempt over real sockets; the table of spec 4 on the worker's side is repeated here in short.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tests.simulation.client_reply import ClientReply
from tests.simulation.stream_claim import ClaimLost, StreamClaim
from tests.simulation.world import Waits
from workernode.protocol import (
    NODE_KINDS,
    AnswerBegun,
    CallFailed,
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

TRIES = 3  # calls of upstream for one delivery
RETRY_FIRST = 0.2  # seconds
SHORTEST_OFFER = 3.0  # seconds for which an answer is offered that comes late
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


class Attempt:
    """One job at a worker."""

    def __init__(self, process: SimProcess, job: Job) -> None:
        self._process, self._host, self._world = process, process.host, process.host.world
        self.job, self.plan = job, process.host.request_of(job)
        self._dice = self._world.dice_for(self.plan.id, process.host.name, job.number)
        self._claim = StreamClaim(process, job)
        self._reply = ClientReply(process, job, self.plan, self._claim)

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
            yield from self._reply.send_error()
            self._finish(self.job.rejection.decision, self.job.rejection.status, reason=self.job.rejection.reason)
            return
        if self._world.now >= self.job.deadline:
            yield from self._reply.send_error()
            self._finish(Decision.ACK, "expired")
            return
        yield from self._ask(dice)

    def _ask(self, dice: random.Random) -> Waits:
        """Ask upstream, and answer the client."""
        fault: FaultInfo | None = None
        if self.plan.stream:
            self._claim.note_upstream_asked()
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
        yield from self._reply.send_error()
        self._finish(decision, status, fault=fault)

    def _answer(self, what: str, asked: float, dice: random.Random) -> Waits:
        """Upstream answers."""
        seconds = self.plan.seconds * (5 if what == "slow" else 1)
        report = self._host.upstream.report(asked)
        if report is not None:
            self._process.write(report)
        if what == "silent":  # until nobody waits any more
            yield max(0.0, self.job.deadline - self._world.now)
            yield from self._reply.send_error()
            self._finish(Decision.ACK, "expired")
            return
        if self.plan.stream:
            yield from self._stream(what, seconds, asked, dice)
            return
        yield min(seconds, max(0.0, self.job.deadline - self._world.now))
        self._process.tokens += self.plan.chunks
        result = yield from self._reply.post(error=False)
        self._finish(Decision.ACK, STATUS_OF[result], upstream_answered=True, asked_at=asked)

    def _offer_again(self, kept: Kept) -> Waits:
        """The gateway has not got the answer yet."""
        if not kept.parts:
            self._reply.undelivered = (not self._reply.is_away, ())
            self._finish(Decision.ACK, "gateway_unreachable")
            return
        if self.plan.stream:
            self._reply.held = list(kept.parts)
            result = yield from self._reply.end()
        else:
            result = yield from self._reply.post(kept.parts[0] == b"E")
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
                yield from self._reply.wait_for_earliest()
            if self.plan.gateway == "client leaves" and number == self.plan.chunks - 1:
                self._world.faults["client leaves"] += 1
                self._host.gateway.clients[self.plan.id].is_gone = True
                self._finish(Decision.ACK, "client_gone")
                return
            self._reply.held.append(b"%d" % number)
            self._process.tokens += 1
            if not self._reply.is_away:
                yield from self._reply.flush()
            elif self._reply.has_begun:
                yield from self._reply.end_over_new_connection()
                self._finish(Decision.ACK, "connection_lost")
                return
        yield dice.uniform(0.0, 0.01)
        result = yield from self._reply.end(error=what == "cut")
        status = "broken" if what == "cut" else STATUS_OF[result]
        self._finish(Decision.ACK, status, upstream_answered=what != "cut", asked_at=asked)

    def _kept(self, decision: Decision, status: str, more: dict[str, Any]) -> Kept | None:
        """What is to be offered again, as workernode.undelivered has it."""
        now, before = self._world.now, self.job.kept
        until = before.until if before else max(self.job.deadline, now + SHORTEST_OFFER)
        if self._reply.undelivered is None or decision is Decision.NAK or now >= until:
            return None
        client = self._host.gateway.clients[self.plan.id]
        is_reached, parts = self._reply.undelivered
        if before is None or (parts and not before.parts):  # before the task was run there was nothing to offer
            client.kept_at = now
        client.kept_until = until
        self._world.faults["answer waits for its gateway" if parts else "gateway is tried before a task is run"] += 1
        status = "" if more.get("upstream_answered") else status
        return Kept(
            f"http://{self.plan.server}", is_reached, until, parts, None, status, decision, fault=more.get("fault"),
            reason=more.get("reason", ""),
        )  # fmt: skip

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
