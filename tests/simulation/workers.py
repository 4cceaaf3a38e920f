"""Simulated worker processes: they take jobs, answer clients, die at any instant, hang, start late.

What they stand in for is workernode.attempt over real sockets; the table of spec 4 on the worker's side is repeated
here in short. Their pipes carry the real bytes, in pieces cut anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

from tests.simulation.outside import Gateway, Upstream
from tests.simulation.schedule import TaskPlan
from tests.simulation.world import Violation, World
from workernode.pipe import pack
from workernode.protocol import (
    AnswerState,
    CallFailed,
    Decision,
    Durations,
    FaultInfo,
    FaultKind,
    Hold,
    Job,
    Outcome,
    RateLimitReport,
    Ready,
    Stop,
    ToWorker,
)  # fmt: skip

EARLIEST_FRAME = 0.1  # seconds after the task was received (spec 1.2)
TRIES = 3  # calls of upstream for one delivery
RETRY_FIRST = 0.2  # seconds
UNKNOWN_FOR = 1.0  # seconds for which a 404 is retried
STATUS = {
    FaultKind.PASSING: "upstream_trouble", FaultKind.RATE_LIMIT: "rate_limited", FaultKind.RAMP: "rate_limited",
    FaultKind.KEY: "key_refused", FaultKind.QUOTA: "quota_used_up",
}  # fmt: skip
ERROR: dict[str, Any] = {"error": {"message": "", "type": "server_error", "param": None, "code": None}}

Attempt = Generator[float, None, None]  # yields how long it waits


class Host(Protocol):
    """What a process needs of the node that it belongs to."""

    name: str
    world: World
    gateway: Gateway
    upstream: Upstream
    plans: dict[str, TaskPlan]
    max_redeliveries: int
    nak_delay: float

    def readable(self) -> None:
        """A pipe or a sentinel has become readable."""

    def block(self, seconds: float, done: Callable[[], bool]) -> None:
        """The main thread waits, while the world goes on."""

    def request_of(self, job: Job) -> TaskPlan:
        """Which task a job is."""


class SimProcess:
    """A worker process (supervisor.workers.pool.Process)."""

    def __init__(self, host: Host, index: int, slots: int, start_takes: float, count: int) -> None:
        self._host = host
        self._world = host.world
        self.name = f"{host.name}.w{index}.{count}"
        self._dice = host.world.dice_for(self.name)
        self.answer_states: list[int] = [0] * slots
        self.pid: int | None = count
        self.tokens = 0.0
        self.is_alive = True
        self.is_ready = False
        self.is_closed = False
        self._hangs_since: float | None = None
        self._ended_at = self._dead_at = float("inf")  # when pipe and sentinel show the death
        self._cause = ""
        self._hold = Hold(0.0)
        self._buffer = bytearray()
        self._attempts: dict[int, Attempt] = {}
        self._jobs: dict[int, Job] = {}
        self._deferred: list[Callable[[], None]] = []
        self._world.after(start_takes, self._start)

    # --- what the pool does (supervisor.workers.pool.Process) ---

    @property
    def pipe(self) -> SimProcess:
        """Itself: the loop asks `pipe_readable`."""
        return self

    @property
    def sentinel(self) -> SimProcess:
        """Itself: the loop asks `sentinel_readable`."""
        return self

    @property
    def beat(self) -> float:
        """Half a second ago, while it moves."""
        if not self.is_ready:
            return 0.0
        if self._hangs_since is not None:
            return self._hangs_since
        return self._world.now - 0.5 if self.is_alive else min(self._dead_at, self._world.now)

    def put(self, message: ToWorker) -> None:
        """The message arrives a moment later, if the process lives then."""
        if self.is_closed:
            raise Violation("nothing is written to a worker that was reaped", self.name)
        self._world.after(self._dice.uniform(0.0001, 0.001), self._do, lambda: self._take(message))

    def read(self) -> bytes:
        """A piece of what was written, cut anywhere; b"" at the end."""
        if self.is_closed:
            return b""
        if not self._buffer:
            if self._world.now < self._ended_at:
                raise Violation("the main loop never waits", f"read from the empty pipe of {self.name}")
            return b""
        size = self._dice.choice((len(self._buffer), self._dice.randint(1, len(self._buffer))))
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    def read_rest(self) -> Iterator[bytes]:
        """What a dead process had still written."""
        while piece := self._buffer:
            self._buffer = bytearray()
            yield bytes(piece)

    def kill(self) -> None:
        """SIGKILL."""
        self.die("killed by SIGKILL")

    def join(self, timeout: float | None = None) -> bool:
        """Wait for its end."""
        if timeout is None and self.is_alive and self._hangs_since is not None:
            raise Violation("the main loop never waits", f"joins {self.name}, which hangs")
        self._host.block(30.0 if timeout is None else timeout, lambda: not self.is_alive)
        return not self.is_alive

    def cause(self) -> str:
        """Why it ended."""
        return self._cause

    def close(self) -> None:
        """The supervisor's ends of the pipes are closed."""
        self.is_closed = True

    # --- what the loop sees ---

    @property
    def pipe_readable(self) -> bool:
        """Something to read, or the end."""
        return bool(self._buffer) or self._world.now >= self._ended_at

    @property
    def sentinel_readable(self) -> bool:
        """It is dead."""
        return self._world.now >= self._dead_at

    # --- what happens to it ---

    def die(self, cause: str) -> None:
        """It is gone this instant. A message that it was writing stays half written."""
        if not self.is_alive:
            return
        self.is_alive = False
        self._cause = self._cause or cause
        for slot, job in self._jobs.items():
            if self.answer_states[slot] == AnswerState.ENDING:
                client = self._host.gateway.clients[self._host.request_of(job).id]
                client.excuses.add("its worker was killed between showing the end and sending it")
            if slot in self._attempts and self._dice.random() < 0.3:
                self._buffer += pack(Ready(0))[: self._dice.randint(1, 9)]
                break
        now = self._world.now
        self._ended_at = now + self._dice.uniform(0.0, 0.003)
        self._dead_at = min(self._dead_at, now + self._dice.uniform(0.0, 0.005))
        self._world.at(self._ended_at, self._host.readable)
        self._world.at(self._dead_at, self._host.readable)

    def orphan(self) -> None:
        """Its forkserver was killed. It lives on for a moment, until its thread in the supervisor kills it."""
        self._world.after(self._dice.uniform(0.0, 0.01), self.die, "exit code 255")

    def hang(self, seconds: float) -> None:
        """It does not move for so long (SIGSTOP), or until it is killed."""
        if self.is_alive and self._hangs_since is None:
            self._hangs_since = self._world.now
            self._world.after(seconds, self._resume)

    def _resume(self) -> None:
        self._hangs_since = None
        deferred, self._deferred = self._deferred, []
        for call in deferred:
            self._do(call)

    def _do(self, call: Callable[[], None]) -> None:
        """Do something as the process, now or when it moves again."""
        if not self.is_alive:
            return
        if self._hangs_since is not None:
            self._deferred.append(call)
        else:
            call()

    def _start(self) -> None:
        def start() -> None:
            self.is_ready = True
            self._write(Ready(1))

        self._do(start)

    def _take(self, message: ToWorker) -> None:
        if isinstance(message, Hold):
            self._hold = message
        elif isinstance(message, Stop):
            self.die("exit code 0")
        elif isinstance(message, Job):
            if message.slot in self._attempts:
                raise Violation("one job a slot", f"{self.name}, slot {message.slot}")
            self._jobs[message.slot] = message
            self._attempts[message.slot] = one = self._attempt(message)
            self._advance(message.slot, one)

    def _advance(self, slot: int, one: Attempt) -> None:
        try:
            delay = next(one)
        except StopIteration:
            return
        self._world.after(delay, self._do, lambda: self._advance(slot, one))

    def _write(self, message: Any) -> None:
        self._buffer += pack(message)
        self._host.readable()

    # --- one task's life ---

    def _attempt(self, job: Job) -> Attempt:
        plan = self._host.request_of(job)
        dice = self._world.dice_for(plan.id, self._host.name, job.number)
        yield dice.uniform(0.0002, 0.002)
        if plan.malformed:
            self._finish(job, plan, Decision.DEAD_LETTER, "malformed", reason="no JSON")
            return
        if job.rejection is not None:
            yield from self._tell(job, plan)
            self._finish(job, plan, job.rejection.decision, job.rejection.status, reason=job.rejection.reason)
            return
        if self._world.now >= job.deadline:
            yield from self._tell(job, plan)
            self._finish(job, plan, Decision.ACK, "expired")
            return
        fault: FaultInfo | None = None
        for count in range(TRIES):
            while self._world.now < min(self._hold.until, job.deadline):
                yield max(0.001, min(self._hold.until, job.deadline) - self._world.now)
            asked = self._world.now
            if self._host.upstream.kills(plan):
                yield dice.uniform(0.0, 0.05)
                self.die("killed by SIGSEGV")
                return
            what, fault = self._host.upstream.ask(plan)
            if fault is None:
                yield from self._answer(job, plan, what, asked, dice)
                return
            yield dice.uniform(0.002, 0.02)
            if fault.kind in (FaultKind.RATE_LIMIT, FaultKind.RAMP):
                self._write(RateLimitReport(self._world.now, fault.kind, asked, fault.retry_after))
            elif fault.kind is not FaultKind.PASSING:
                break
            else:
                self._write(CallFailed(plan.id, asked, fault))
            if self._hold.no_retries:
                break
            pause = RETRY_FIRST * 2**count * dice.uniform(0.5, 1.5)
            if count == TRIES - 1 or self._world.now + pause >= job.deadline:
                break
            yield pause
        assert fault is not None
        yield from self._failed(job, plan, fault)

    def _failed(self, job: Job, plan: TaskPlan, fault: FaultInfo) -> Attempt:
        if fault.kind is FaultKind.CLIENT:
            decision, status = Decision.ACK, "refused"
        elif job.redeliveries >= self._host.max_redeliveries:
            decision, status = Decision.ACK, "gave_up"
        elif self._world.now + self._host.nak_delay >= job.deadline:
            decision, status = Decision.ACK, "expired"
        else:
            error = ERROR if fault.kind in (FaultKind.KEY, FaultKind.QUOTA) else None
            self._finish(job, plan, Decision.NAK, STATUS[fault.kind], fault=fault, client_error=error)
            return
        yield from self._tell(job, plan)
        self._finish(job, plan, decision, status, fault=fault)

    def _answer(self, job: Job, plan: TaskPlan, what: str, asked: float, dice: random.Random) -> Attempt:
        """Upstream answers."""
        seconds = plan.seconds * (5 if what == "slow" else 1)
        report = self._host.upstream.report(asked)
        if report is not None:
            self._write(report)
        if what == "silent":  # until nobody waits any more
            yield max(0.0, job.deadline - self._world.now)
            yield from self._tell(job, plan)
            self._finish(job, plan, Decision.ACK, "expired")
            return
        if plan.stream:
            yield from self._stream(job, plan, what, seconds, asked, dice)
            return
        yield min(seconds, max(0.0, job.deadline - self._world.now))
        self.tokens += plan.chunks
        status = yield from self._post(job, plan, error=False)
        self._finish(job, plan, Decision.ACK, status, upstream_answered=True, asked_at=asked)

    def _stream(
        self, job: Job, plan: TaskPlan, what: str, seconds: float, asked: float, dice: random.Random
    ) -> Attempt:
        gateway = self._host.gateway
        shown = plan.chunks // 2 if what == "cut" else plan.chunks
        for number in range(shown):
            yield seconds / plan.chunks
            if number == 0:
                yield from self._earliest(job)
            while gateway.is_away:
                yield 0.2
                if self._world.now >= job.deadline:
                    self._excuse(plan, "the gateway was away until its time was over")
                    self._finish(job, plan, Decision.ACK, "gateway_unreachable", upstream_answered=True, asked_at=asked)
                    return
            if plan.gateway == "client leaves" and number == plan.chunks - 1:
                self._world.faults["client leaves"] += 1
                gateway.clients[plan.id].is_gone = True
                self._finish(job, plan, Decision.ACK, "client_gone")
                return
            if self.answer_states[job.slot] == AnswerState.NOT_STARTED:
                self.answer_states[job.slot] = AnswerState.STARTED
                yield 0.000002
            self._send(plan, number, False)
            self.tokens += 1
        yield dice.uniform(0.0, 0.01)
        yield from self._earliest(job)
        yield from self._end(job, plan, error=what == "cut")
        status = "broken" if what == "cut" else "answered"
        self._finish(job, plan, Decision.ACK, status, upstream_answered=what != "cut", asked_at=asked)

    def _tell(self, job: Job, plan: TaskPlan) -> Attempt:
        """The client gets an error."""
        if plan.stream:
            yield from self._earliest(job)
            while self._host.gateway.is_away:
                yield 0.2
                if self._world.now >= job.deadline + 5.0:
                    self._excuse(plan, "the gateway was away until its time was over")
                    return
            yield from self._end(job, plan, error=True)
        else:
            yield from self._post(job, plan, error=True)

    def _earliest(self, job: Job) -> Attempt:
        yield max(0.0, job.received_at + EARLIEST_FRAME - self._world.now)

    def _end(self, job: Job, plan: TaskPlan, error: bool) -> Attempt:
        self.answer_states[job.slot] = AnswerState.ENDING
        yield 0.000002
        if error:
            self._send(plan, None, False)
        self._send(plan, -1, True)
        yield 0.003  # the ping behind the end is answered
        self.answer_states[job.slot] = AnswerState.ENDED

    def _send(self, plan: TaskPlan, number: int | None, end: bool) -> None:
        self._world.after(0.0005, self._host.gateway.frame, plan.id, self.name, number, end)

    def _post(self, job: Job, plan: TaskPlan, error: bool) -> Generator[float, None, str]:
        unknown_since: float | None = None
        gateway = self._host.gateway
        while True:
            yield 0.001
            result = "refused" if gateway.is_away else gateway.post(plan.id, error)
            yield 0.001
            if result == "taken":
                self.answer_states[job.slot] = AnswerState.ENDED
                return "answered"
            now = self._world.now
            if result == "unknown":
                unknown_since = now if unknown_since is None else unknown_since
                if now - unknown_since > UNKNOWN_FOR:
                    if plan.gateway == "gone":
                        self._excuse(plan, "the gateway does not know it")
                    return "client_gone"
            elif now >= job.deadline:
                self._excuse(plan, "the gateway was away until its time was over")
                return "gateway_unreachable"
            yield 0.1

    def _excuse(self, plan: TaskPlan, why: str) -> None:
        self._host.gateway.clients[plan.id].excuses.add(why)

    def _finish(self, job: Job, plan: TaskPlan, decision: Decision, status: str, **more: Any) -> None:
        record = f'{{"request_id":"{plan.id}","decision":"{decision.value}","status":"{status}"}}'.encode()
        del self._attempts[job.slot], self._jobs[job.slot]
        asked = more.get("asked_at")
        durations = Durations(upstream=None if asked is None else self._world.now - asked)
        id = "" if plan.malformed else plan.id
        self._write(
            Outcome(
                job.number, id, decision, status, record, stream=plan.stream, durations=durations, prompt_tokens=20,
                completion_tokens=plan.chunks, **more,
            )
        )  # fmt: skip
