"""Whether the node may serve: rate-limit holds, the half-open breaker, and what people are told of it. Pure (spec 5).

Owned by the thread that owns the node's state; every `now` is monotonic seconds. It is told what workers saw
(`limit_seen`, `ended`) and answers what the intake may do (`gate`, `admit`), what all workers must wait for (`hold`),
how many calls there may be at once (`cap`), and what is to be logged and reported (`changes`, `reports`).
docs/fitness.md draws the states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from supervisor.fitness.pacing import Ceiling, Pacer
from supervisor.states import FitnessState, Intake
from workernode.protocol import FaultInfo, FaultKind, Hold, RateLimitReport

FIRST_PROBE = 1.0  # seconds (spec 5)
LAST_PROBE = 60.0  # seconds (spec 5)
PROBE_GROWTH = 2.0
# A probe of which nothing is heard for so long is taken as lost; no task takes as long.
PROBE_LOST = 600.0  # seconds
# A limit that lasts longer makes the node unavailable (spec 5).
LONGEST_LIMIT = 60.0  # seconds
# A 429 that names no wait: this long, doubled with every episode that follows without an answer between.
FIRST_WAIT = 0.5  # seconds
LONGEST_GUESS = 8.0  # seconds
# An unfit node takes fresh tasks slowly, so that fit nodes on the same topic get nearly all of them; a task as old as
# this waits because nobody else comes for it, and is taken without a pause, so that no client waits for its error.
FRESH = 2.0  # seconds since publishing
FRESH_PAUSE = 0.2  # seconds


MOVES = {
    (FitnessState.FIT, "limited"): FitnessState.LIMITED,
    (FitnessState.LIMITED, "lifted"): FitnessState.FIT,
    (FitnessState.LIMITED, "lasted"): FitnessState.UNFIT,
    (FitnessState.FIT, "refused"): FitnessState.UNFIT,
    (FitnessState.LIMITED, "refused"): FitnessState.UNFIT,
    (FitnessState.UNFIT, "answered"): FitnessState.FIT,
}  # a pair that is not here is a bug, and says so


@dataclass(frozen=True, slots=True)
class Gate:
    """What the intake may do now."""

    intake: Intake
    room: int  # tasks that may be taken now, beyond those already taken (the cap still counts); 0 for HOLD
    again_at: float  # monotonic: when to look again, if room is 0 or used up


class Admit(Enum):
    """What to do with a task that was just taken."""

    RUN = "run"  # hand it to a worker
    PROBE = "probe"  # the same, and tell `ended` that it was the probe
    SEND_BACK = "send_back"  # nak it; its redeliveries used up, answer it with the trouble


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to one task."""

    admit: Admit
    trouble: FaultInfo | None = None  # of SEND_BACK: why


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state, for the log."""

    state: FitnessState
    text: str  # a sentence: why, or how long it lasted and what was tried


@dataclass(frozen=True, slots=True)
class Begin:
    """A trouble that will not pass by itself began: report it until its End."""

    key: str
    reason: str  # one of spec 1.3
    message: str


@dataclass(frozen=True, slots=True)
class End:
    """The trouble of this key is over."""

    key: str


@dataclass(frozen=True, slots=True)
class Status:
    """What people see: /readyz, the page, the log."""

    state: FitnessState
    since: float  # monotonic
    reason: str  # a sentence; "" when fit
    tried: int  # probes since it is unfit
    next_probe_at: float | None  # monotonic; None: no probe is due, or one is on its way
    hold_until: float | None  # monotonic; None: no hold


LIMITS = (FaultKind.RATE_LIMIT, FaultKind.RAMP)  # they pass, mostly
BY_PEOPLE = (FaultKind.KEY, FaultKind.QUOTA, FaultKind.MODEL)  # they pass when a person acts
# The reason of the report (spec 1.3).
REASONS = {
    FaultKind.KEY: "AuthenticationError",
    FaultKind.QUOTA: "APIQuotaExceededError",
    FaultKind.MODEL: "ConfigurationError",
    FaultKind.RATE_LIMIT: "APIQuotaExceededError",
    FaultKind.RAMP: "APIQuotaExceededError",
}


class Fitness:
    """The node's fitness. Owned by the main thread."""

    def __init__(self, max_process_num: int, explain: Callable[[FaultInfo], str]) -> None:
        """Start fit.

        Args:
            max_process_num: the most calls at once.
            explain: the sentence for people about a trouble of this node's (supervisor.upstream.FaultMessages).
        """
        self.state = FitnessState.FIT
        self.trouble: FaultInfo | None = None  # what made it LIMITED or UNFIT
        self.hold = Hold(0.0)  # to be told to all workers whenever it changes
        self._explain = explain
        self._pacer = Pacer()
        self._ceiling = Ceiling(max_process_num)
        self._since = 0.0
        self._restored_at = 0.0
        self._refused_at = 0.0  # the newest refusal by a limit
        self._guesses = 0  # episodes without a wait named and without an answer between
        self._tried = 0
        self._probing_until = 0.0  # a probe is on its way; it is taken as lost then
        self._interval = FIRST_PROBE
        self._probe_at = 0.0
        self._pause_until = 0.0
        self._changes: list[Change] = []
        self._reports: list[Begin | End] = []

    # what happened

    def limit_seen(self, now: float, seen: RateLimitReport) -> None:
        """A worker saw upstream's figures, or was refused by a limit."""
        self._pacer.seen(seen)
        asked = seen.at if seen.asked is None else seen.asked
        if seen.kind in LIMITS:
            self._refused(now, seen, asked)
        elif seen.kind is None and self.state is FitnessState.LIMITED and asked > self._refused_at:
            self._lift(now)

    def ended(
        self, now: float, asked_at: float, trouble: FaultInfo | None, *, upstream_answered: bool, was_probe: bool,
        tokens: int = 0,
    ) -> None:
        """A task that `admit` let through ended, however it did (the death of its worker is no trouble of upstream's).

        Args:
            asked_at: monotonic, when its last call was sent; where that is not known, when `admit` let it through.
            tokens: prompt and completion together.
        """
        self._pacer.used(tokens)
        if was_probe:
            self._probed(now, trouble, upstream_answered)
        elif upstream_answered:
            self._succeeded(now, asked_at)
        elif trouble is not None and asked_at >= self._restored_at:
            self.found(now, trouble)

    def found(self, now: float, trouble: FaultInfo) -> None:
        """A trouble was found, by a task or by the check at the start: key, quota and model make the node unfit."""
        if trouble.kind in BY_PEOPLE and self.state is not FitnessState.UNFIT:
            self._fail(now, "refused", trouble)

    def probe_now(self, now: float) -> None:
        """The key or the headers have changed: an unfit node tries the next task at once."""
        if self.state is FitnessState.UNFIT:
            self._interval, self._probing_until = FIRST_PROBE, 0.0
            self._probe_at = self._pause_until = now

    # what may be done

    @property
    def cap(self) -> int:
        """The most calls at once that refusals leave, 1 to MAX_PROCESS_NUM."""
        return self._ceiling.cap

    def gate(self, now: float) -> Gate:
        """Return what the intake may do now."""
        if self.state is FitnessState.UNFIT:
            return Gate(Intake.ONE_AT_A_TIME, int(now >= self._pause_until), max(now, self._pause_until))
        if now < self.hold.until:
            return Gate(Intake.HOLD, 0, self.hold.until)
        room = self._pacer.room(now)
        return Gate(Intake.OPEN, room, now if room else self._pacer.again_at(now))

    def admit(self, now: float, age: float = 0.0) -> Admission:
        """Return what to do with a task that was just taken, and count it as asked if it is let through.

        Args:
            age: seconds since it was published.
        """
        if self.state is not FitnessState.UNFIT:
            self._pacer.sent(now)
            return Admission(Admit.RUN)
        if now >= max(self._probe_at, self.hold.until, self._probing_until):
            self._probing_until = now + PROBE_LOST
            self._tried += 1
            self._pacer.sent(now)
            return Admission(Admit.PROBE)
        if age < FRESH:
            self._pause_until = now + FRESH_PAUSE
        return Admission(Admit.SEND_BACK, self.trouble)

    def next_wakeup(self, now: float) -> float | None:
        """Return when `gate` may say something else without any event, or None."""
        gate = self.gate(now)
        return gate.again_at if gate.room == 0 else None

    # what people are told

    def status(self, now: float) -> Status:
        """Return what people see."""
        probing = now < self._probing_until
        due = max(self._probe_at, self.hold.until) if self.state is FitnessState.UNFIT and not probing else None
        return Status(
            self.state, self._since, self._explain(self.trouble) if self.trouble else "", self._tried, due,
            self.hold.until if now < self.hold.until else None,
        )

    def changes(self) -> list[Change]:
        """Return the changes since the last call, for the log."""
        changes, self._changes = self._changes, []
        return changes

    def reports(self) -> list[Begin | End]:
        """Return what began and what ended since the last call, for the Reporter."""
        reports, self._reports = self._reports, []
        return reports

    # how it moves

    def _refused(self, now: float, seen: RateLimitReport, asked: float) -> None:
        """A limit refused a call: hold, and cut the cap once an episode."""
        first = asked >= self.hold.until
        if first:
            self._ceiling.cut()
            self._guesses += 1
        wait = seen.retry_after
        if wait is None:
            wait = min(FIRST_WAIT * 2 ** min(self._guesses - 1, 10), LONGEST_GUESS)
        until = max(self.hold.until, seen.at + wait)
        self.hold = Hold(until, self._pacer.refused(now, seen, until, first))
        self._refused_at = seen.at
        trouble = FaultInfo(seen.kind or FaultKind.RATE_LIMIT, 429, "rate_limit_exceeded", "", wait)
        if self.state is FitnessState.FIT:
            self._move(now, "limited", trouble, self._explain(trouble))
        if self.state is FitnessState.LIMITED and max(now, until) - self._since > LONGEST_LIMIT:
            self._fail(now, "lasted", trouble)

    def _succeeded(self, now: float, asked_at: float) -> None:
        """A task was answered well; one that was asked before the limit was met says nothing."""
        if asked_at < self._refused_at:
            return
        self._guesses = 0
        self._ceiling.grow()
        if self.state is FitnessState.LIMITED:
            self._lift(now)

    def _probed(self, now: float, trouble: FaultInfo | None, upstream_answered: bool) -> None:
        """The probe came back."""
        self._probing_until = 0.0
        if upstream_answered:
            self._recover(now)
        elif trouble is not None and trouble.kind is not FaultKind.CLIENT:
            if trouble.kind in BY_PEOPLE and self.trouble is not None and trouble.kind is not self.trouble.kind:
                self._reports.append(End(self.trouble.kind.value))
                self._begin(trouble)
            self._interval = min(self._interval * PROBE_GROWTH, LAST_PROBE)
            self._probe_at = now + self._interval
        # Else it says nothing about the node: the next task is the probe.

    def _lift(self, now: float) -> None:
        """The limit lifted."""
        self._move(now, "lifted", None, f"the rate limit lifted after {now - self._since:.1f} s")

    def _fail(self, now: float, event: str, trouble: FaultInfo) -> None:
        """The node cannot serve: half-open from here on."""
        self._probing_until, self._tried, self._interval = 0.0, 0, FIRST_PROBE
        self._probe_at, self._pause_until = now + FIRST_PROBE, now
        self._move(now, event, trouble, self._explain(trouble))
        self._begin(trouble)

    def _recover(self, now: float) -> None:
        """A probe was answered: fit again."""
        if self.state is not FitnessState.UNFIT or self.trouble is None:
            return
        self._guesses = 0
        self._restored_at = now
        self._reports.append(End(self.trouble.kind.value))
        lasted = f"upstream answers again after {now - self._since:.1f} s and {self._tried} probes"
        self._move(now, "answered", None, f"{lasted}; it was: {self._explain(self.trouble)}")

    def _begin(self, trouble: FaultInfo) -> None:
        """This is what the node is unfit for."""
        self.trouble = trouble
        self._reports.append(Begin(trouble.kind.value, REASONS[trouble.kind], self._explain(trouble)))

    def _move(self, now: float, event: str, trouble: FaultInfo | None, text: str) -> None:
        """Take one arrow, and say so. A limit that lasted counts from its first refusal."""
        self.state = MOVES[self.state, event]
        if event != "lasted":
            self._since = now
        self.trouble = trouble
        self._changes.append(Change(self.state, text))
