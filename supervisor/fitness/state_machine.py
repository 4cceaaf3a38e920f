"""Whether the node may serve: its states, what moves it between them, and what the intake may do. Pure (spec 5).

Owned by the thread that owns the node's state; every `now` is monotonic seconds. In: what workers saw
(`limit_seen`, `ended`). Out: what the intake may do (`gate`, `admit`), what all workers must wait for (`hold`),
how many calls there may be at once (`cap`), what becomes of a refused task (`verdict`), and what is to be logged and
reported (`changes`, `reports`). docs/fitness.md draws the states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from supervisor.events import SelfChecked
from supervisor.fitness.blame import Blame, Verdict
from supervisor.fitness.current_state import CurrentState
from supervisor.fitness.decisions import Admission, Admit, Begin, Change, End, Gate, Status
from supervisor.fitness.half_open import Probing
from supervisor.fitness.outage import Outage
from supervisor.fitness.rate_limit import RateLimit
from supervisor.fitness.transitions import LIMITS, OUTAGES, replaces_reason
from supervisor.states import FitnessState, Intake
from workernode.protocol import (
    LONGEST_WAIT_FOR_UPSTREAM,
    NODE_KINDS,
    CallFailed,
    FaultInfo,
    FaultKind,
    Hold,
    RateLimitReport,
)

# While upstream is away, tasks wait in the broker. After this share of TASK_TIMEOUT they are taken and sent back, so
# that their clients get an error while they still wait; and after the time that a task's own retries and redeliveries
# take, so that nobody waits longer for an error than without this state.
CLOSED_SHARE, LONGEST_CLOSED = 0.25, 15.0  # of TASK_TIMEOUT; seconds
LONGEST_INTERVAL_AWAY = 10.0  # seconds: the longest interval of probes before the node is unfit
CHECK_INTERVAL = 0.25  # seconds between two `tick` while the node is suspect


class FitnessStateMachine:
    """The node's fitness. Owned by the main thread."""

    def __init__(
        self, max_process_num: int, explain: Callable[[FaultInfo], str], task_timeout: float = 300.0,
        can_check: bool = False,
    ) -> None:
        """Start fit.

        Args:
            max_process_num: the most calls at once.
            explain: the sentence for people about a fault (supervisor.upstream.FaultMessages).
            task_timeout: seconds that a client waits (TASK_TIMEOUT).
            can_check: a self-check is made whenever `takes_self_check` returns True.
        """
        self._current = CurrentState(explain)
        self._closed_for = min(task_timeout * CLOSED_SHARE, LONGEST_CLOSED)
        self._limit = RateLimit(max_process_num)
        self._blame = Blame(can_check)
        self._outage = Outage(can_check)
        self._probing = Probing()

    @property
    def state(self) -> FitnessState:
        """The state that the node is in."""
        return self._current.state

    @property
    def fault(self) -> FaultInfo | None:
        """Why the state is not FIT."""
        return self._current.fault

    # what happened

    def limit_seen(self, now: float, seen: RateLimitReport) -> None:
        """A worker saw upstream's figures, or was refused by a limit."""
        self._limit.pacer.seen(seen)
        asked = seen.at if seen.asked is None else seen.asked
        if seen.kind in LIMITS:
            self._limit_refused(now, seen, asked)
        elif seen.kind is None and self.state is FitnessState.LIMITED and asked > self._limit.refused_at:
            self._lift(now)

    def ended(
        self, now: float, asked_at: float, fault: FaultInfo | None, *, upstream_answered: bool, was_probe: bool,
        tokens: int = 0, request_id: str = "",
    ) -> None:
        """A task that `admit` let through ended, however it did (the death of its worker is no fault of upstream's).

        Args:
            asked_at: monotonic, when its last call was sent; where that is not known, when `admit` let it through.
            tokens: prompt and completion together.
        """
        self._limit.pacer.used(tokens)
        self._blame.ended(request_id)
        # If the node is open already, the probe's answer has begun before, or another call was answered.
        was_probe = was_probe and self._current.is_closed
        if upstream_answered:
            self._answered(now, asked_at, was_probe)
        elif was_probe:
            self._probe_failed(now, asked_at, fault, request_id)
        elif fault is not None:
            self._failed(now, asked_at, fault, request_id)
        self._follow_blame(now)

    def call_failed(self, now: float, seen: CallFailed, running: int) -> None:
        """A call failed; its worker may ask again. Most tasks must fail: some providers fail one call in three.

        Args:
            running: tasks at workers.
        """
        if not self._current.is_closed:
            self._outage.call_failed(seen.request_id, seen.asked, seen.fault, running)

    def answer_begun(self, now: float, asked_at: float) -> None:
        """A stream has begun well: upstream serves this node, whatever becomes of the stream.

        Args:
            asked_at: monotonic, when its call was sent.
        """
        self._upstream_serves(now, asked_at)
        self._follow_blame(now)

    def self_checked(self, now: float, seen: SelfChecked) -> None:
        """A self-check has ended: at the start, or because `takes_self_check` asked for it."""
        self._blame.self_checked(now, seen)
        self._follow_blame(now)
        away = self._outage.self_checked(seen)
        if away is not None and not self._current.is_closed:
            self._close(now, away)
        is_there = seen.fault is not None and seen.fault.kind is FaultKind.CLIENT and self.state is FitnessState.AWAY
        if self._current.is_closed and (seen.fault is None or is_there):
            self._upstream_serves(now, seen.asked_at)

    def probe_now(self, now: float) -> None:
        """The key or the headers have changed: an unfit node tries the next task at once."""
        if self._current.is_closed:
            self._probing.make_due(now)

    def upstream_started(self, now: float) -> None:
        """The local model server is ready: earlier calls that failed do not count any more."""
        self._outage.answered(now)
        if self.fault is not None and self.fault.kind in OUTAGES:
            self._recover(now)

    def tick(self, now: float) -> None:
        """Time has passed: decide what waits for it."""
        self._blame.tick(now)
        self._follow_blame(now)
        fault, has_lasted = self.fault, now - self._current.since > LONGEST_WAIT_FOR_UPSTREAM
        if self.state is FitnessState.AWAY and fault is not None and has_lasted:
            self._current.move(now, "lasted", fault)
            self._current.report(fault)

    # what may be done

    @property
    def hold(self) -> Hold:
        """What all workers must wait for; they are sent it whenever it changes."""
        if self.state is FitnessState.FIT and not self._outage.has_failures:
            return self._limit.hold
        return replace(self._limit.hold, no_retries=self._current.is_closed, reports_begun=True)

    @property
    def cap(self) -> int:
        """The most calls at once that refusals by a rate limit leave, 1 to MAX_PROCESS_NUM."""
        return self._limit.call_cap.cap

    def gate(self, now: float) -> Gate:
        """Return what the intake may do now."""
        if self._current.is_closed:
            return self._probing.gate(now, self._current.since + self._closed_for * (self.state is FitnessState.AWAY))
        if self._limit.is_held(now):
            return Gate(Intake.HOLD, 0, self._limit.hold.until)
        allowed = self._limit.pacer.allowed(now)
        again_at = now if allowed else self._limit.pacer.again_at(now)
        if self.state is FitnessState.SUSPECT and allowed > (trials := self._blame.trials(now)):
            allowed, again_at = trials, now + CHECK_INTERVAL
        return Gate(Intake.OPEN, allowed, again_at)

    def may_ask(self, now: float) -> bool:
        """Return False if a task that was taken must wait for the pace; `admit` decides what becomes of the others."""
        return self._current.is_closed or self._limit.pacer.allowed(now) > 0

    def admit(self, now: float, age: float = 0.0, request_id: str = "") -> Admission:
        """Return what to do with a task that was just taken, and count it as asked if it is let through.

        Args:
            age: seconds since it was published.
        """
        if self._current.is_closed:
            if not self._probing.is_due(now) or self._limit.is_held(now):
                self._probing.sent_back(now, age)
                return Admission(Admit.SEND_BACK, self.fault)
            self._probing.sent(now)
            self._limit.pacer.sent(now)
            return Admission(Admit.PROBE)
        self._limit.pacer.sent(now)
        self._blame.asked(now, request_id)
        return Admission(Admit.RUN)

    def verdict(self, request_id: str) -> Verdict:
        """Return whose fault the refusal of a task is."""
        return Verdict.NODE if self.state is FitnessState.UNFIT else self._blame.verdict(request_id)

    def takes_self_check(self, now: float) -> bool:
        """Return whether a self-check should be made now; if so, take it as begun."""
        if self._current.is_closed:
            is_begun = self._probing.is_check_due(now) and self._blame.begins_check(now)
            if is_begun:
                self._probing.check_begun(now)
            return is_begun
        if self._outage.suspected is not None and self._blame.begins_check(now):
            return True
        return self.state is FitnessState.SUSPECT and self._blame.takes_self_check(now)

    def next_tick(self, now: float) -> float:
        """Return when `tick` has something to do without any event."""
        if self.state is FitnessState.AWAY:
            return self._current.since + LONGEST_WAIT_FOR_UPSTREAM
        return now + CHECK_INTERVAL if self.state is FitnessState.SUSPECT else float("inf")

    # what people see

    def status(self, now: float) -> Status:
        """Return what people see."""
        is_probing = self._current.is_closed and not self._probing.is_on_its_way(now)
        hold_until = self._limit.hold.until
        return Status(
            self.state, self._current.since, self._current.reason, self._probing.tried,
            max(self._probing.next_at(), hold_until) if is_probing else None,
            hold_until if self._limit.is_held(now) else None,
        )

    def changes(self) -> list[Change]:
        """Return the changes since the last call, for the log."""
        return self._current.changes()

    def reports(self) -> list[Begin | End]:
        """Return what began and what ended since the last call, for the Reporter."""
        return self._current.reports()

    # how it moves

    def _limit_refused(self, now: float, seen: RateLimitReport, asked: float) -> None:
        """A limit refused a call."""
        fault = self._limit.refused(now, seen, asked)
        if self.state is FitnessState.FIT:
            self._current.move(now, "limited", fault)
        if self.state is not FitnessState.LIMITED:
            return
        if (fault.retry_after or 0.0) > LONGEST_WAIT_FOR_UPSTREAM:
            self._close(now, fault)
        elif max(now, self._limit.hold.until) - self._current.since > LONGEST_WAIT_FOR_UPSTREAM:
            self._fail(now, "lasted", fault)

    def _answered(self, now: float, asked_at: float, was_probe: bool) -> None:
        """A task was answered well."""
        was_open = not self._current.is_closed
        self._upstream_serves(now, asked_at, was_probe)
        if was_open and asked_at >= self._limit.refused_at:
            self._limit.answered()

    def _upstream_serves(self, now: float, asked_at: float, was_probe: bool = False) -> None:
        """Upstream serves this node: a call that was asked then is answered, or its answer has begun."""
        self._blame.answered(asked_at)
        self._outage.answered(asked_at)
        if was_probe or (self._current.is_closed and asked_at > self._current.since):
            self._recover(now)
        elif self.state is FitnessState.LIMITED and asked_at >= self._limit.refused_at:
            self._lift(now)

    def _failed(self, now: float, asked_at: float, fault: FaultInfo, request_id: str) -> None:
        """A task failed that was no probe."""
        if fault.kind in NODE_KINDS:
            self._blame.refused(now, request_id, asked_at, fault)
        if not self._current.is_closed and self._outage.failed(request_id, asked_at, fault):
            self._close(now, fault)

    def _probe_failed(self, now: float, asked_at: float, fault: FaultInfo | None, request_id: str) -> None:
        """The probe failed, or ended without an answer from upstream."""
        if fault is None or fault.kind is FaultKind.CLIENT:
            self._probing.inconclusive()
        elif self.state is FitnessState.AWAY and fault.kind in NODE_KINDS:
            self._recover(now)  # upstream is there: whose fault the refusal is, is another question
            self._blame.refused(now, request_id, asked_at, fault)
        else:
            if self.state is FitnessState.UNFIT and self.fault and replaces_reason(fault.kind, self.fault.kind):
                self._current.end_report()
                self._current.report(fault)
            self._probing.failed(now, *([LONGEST_INTERVAL_AWAY] if self.state is FitnessState.AWAY else []))

    def _follow_blame(self, now: float) -> None:
        """Change the state by what the evidence shows."""
        fault, suspicion = self._blame.node_fault, self._blame.suspicion(now)
        if fault is not None:
            if self.state is not FitnessState.UNFIT:
                self._fail(now, "refused", fault)
            self._blame.reset()
        elif suspicion is not None and self.state in (FitnessState.FIT, FitnessState.LIMITED):
            self._current.move(now, "suspected", suspicion)
        elif suspicion is None and self.state is FitnessState.SUSPECT:
            self._current.end(now, "cleared", f"the node is well: the refusal was the task's own, or it passed "
                       f"(after {now - self._current.since:.1f} s)")  # fmt: skip

    def _lift(self, now: float) -> None:
        """The limit lifted."""
        self._current.end(now, "lifted", f"the rate limit lifted after {now - self._current.since:.1f} s")

    def _close(self, now: float, fault: FaultInfo) -> None:
        """Upstream is away: close the intake, and probe."""
        self._probing.begin(now)
        self._current.move(now, "failed", fault)

    def _fail(self, now: float, event: str, fault: FaultInfo) -> None:
        """The node cannot serve: half-open from here on."""
        self._probing.begin(now)
        self._current.move(now, event, fault)
        self._current.report(fault)

    def _recover(self, now: float) -> None:
        """Upstream answered a probe: fit again."""
        if not self._current.is_closed or self.fault is None:
            return
        self._limit.answered()
        self._blame.reset()
        self._outage.answered(now)
        if self.state is FitnessState.UNFIT:
            self._current.end_report()
        lasted = f"upstream answers again after {now - self._current.since:.1f} s and {self._probing.tried} probes"
        self._current.end(now, "answered", f"{lasted}; it was: {self._current.reason}")
