"""Whose fault is a refusal: the task's own, or the node's? Decided by how upstream answers other tasks (spec 5). Pure.

The HTTP status alone does not show it: a firewall answers 403 to one prompt, a refused key answers 403 to every prompt.
So a refusal makes the node *suspect* until evidence comes. The node is cleared by an answer to a call that was asked
later than the refused one: a task's, or that of the self-check, a chat request of the node's own. It is blamed if
upstream refuses the self-check. Refused tasks blame it only where the self-check shows nothing, because several clients
can send requests that upstream refuses.

In: who was refused or answered, and when it was asked. Never any text. Every `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import Enum

from supervisor.events import SelfChecked
from workernode.protocol import NODE_KINDS, FaultInfo, FaultKind

# Tasks that must be refused alike, without an answer to any later call, before the fault is the node's.
ENOUGH = 3
MORE_IF_WELL = 2  # so many more, if upstream answered lately
# Upstream answered lately: a call of so long ago was answered.
LATELY = 60.0  # seconds
# Calls that were asked since the first refusal may speak for the node: so long is waited for them.
WAIT_FOR_CALLS = 2.0  # seconds after enough tasks were refused
# A refusal without any other evidence makes nobody suspect for longer.
LONGEST_SUSPICION = 10.0  # seconds
# A refusal counts for so long, if no later call is answered.
MEMORY = 600.0  # seconds
MOST_REMEMBERED = 1000  # request ids
# A suspect node tries so many tasks at once, and another one for each that is under way for longer than TRIAL: upstream
# seldom takes that long to refuse.
TRIALS = 3
TRIAL = 1.0  # seconds
# A self-check is made so long after a refusal, if tasks have not decided by then; at once if ENOUGH tasks are refused.
CHECK_AFTER = 0.2  # seconds
# The least time between the starts of two self-checks, which bounds what they cost.
CHECK_PAUSE = 2.0  # seconds
CHECK_LOST = 12.0  # seconds: a self-check of which nothing is heard is taken as one that shows nothing

# Upstream has named the fault: if nothing else is known, it is believed.
NAMED = (FaultKind.KEY, FaultKind.QUOTA, FaultKind.MODEL, FaultKind.CERTIFICATE)
# A self-check that is refused as a bad request has passed key, address and model. Money may be asked about later.
PASSED_BY_BAD_REQUEST = (FaultKind.KEY, FaultKind.MODEL, FaultKind.ADDRESS, FaultKind.REFUSED)


class Verdict(Enum):
    """Whose fault a refusal is."""

    OPEN = "open"  # not known yet: the task waits
    AGAIN = "again"  # the node is well: the task is asked once more, because the refusal may have passed
    TASK = "task"  # the task's own: its client gets upstream's error
    NODE = "node"  # the node's: another node may serve the task


@dataclass(slots=True)
class _Refusal:
    asked_at: float
    at: float  # when the newest refusal of this task came
    times: int
    fault: FaultInfo
    verdict: Verdict = Verdict.OPEN


class Blame:
    """The evidence about one node."""

    def __init__(self, can_check: bool = False) -> None:
        """Know nothing yet.

        Args:
            can_check: a self-check is made whenever `takes_self_check` returns True.
        """
        self._can_check = can_check
        self.node_fault: FaultInfo | None = None  # the decision: the node's fault
        self._answered_asked = -math.inf  # when the newest call that was answered had been asked
        self._refusals: OrderedDict[str, _Refusal] = OrderedDict()  # since that answer, by request id
        self._cleared: OrderedDict[str, float] = OrderedDict()  # refused once; the node was found well afterwards
        self._calls: dict[str, float] = {}  # calls under way that were asked while the node was suspect
        self._enough_at: float | None = None  # when enough tasks had been refused
        self._check_began = -math.inf  # when the newest self-check began
        self._check_ended = -math.inf  # when the newest self-check ended
        self._is_check_silent = False  # the newest one that ended showed nothing

    # what happened

    def asked(self, now: float, request_id: str) -> None:
        """A task is handed to a worker."""
        if self.is_suspect(now):
            self._calls[request_id] = now

    def ended(self, request_id: str) -> None:
        """A task that was handed to a worker has ended."""
        self._calls.pop(request_id, None)

    def answered(self, asked_at: float) -> None:
        """A task was answered: the node was well when its call was asked."""
        self._answered_asked = max(self._answered_asked, asked_at)
        for request_id, refusal in list(self._refusals.items()):
            if refusal.asked_at <= asked_at:
                del self._refusals[request_id]
                if refusal.verdict is Verdict.OPEN:
                    self._remember_cleared(request_id, asked_at)
        self._enough_at = None

    def refused(self, now: float, request_id: str, asked_at: float, fault: FaultInfo) -> None:
        """A task was refused with one of NODE_KINDS."""
        known = self._refusals.get(request_id)
        if not self.is_suspect(now):  # a new suspicion: an older self-check shows nothing of it
            self._is_check_silent = False
        if request_id in self._cleared:
            self._refusals[request_id] = _Refusal(asked_at, now, 2, fault, Verdict.TASK)
        elif self._answered_asked >= asked_at:
            self._remember_cleared(request_id, now)
        else:
            times = known.times + 1 if known else 1
            self._refusals[request_id] = _Refusal(asked_at, now, times, fault)
        while len(self._refusals) > MOST_REMEMBERED:
            self._refusals.popitem(last=False)
        self.tick(now)

    def self_checked(self, now: float, seen: SelfChecked) -> None:
        """A self-check has brought a result."""
        fault = seen.fault
        if seen.is_first_refusal:
            if fault is not None and self._most_alike() >= ENOUGH and self._answered_asked < seen.asked_at:
                self._blame_node(fault)
            return
        self._check_ended, self._is_check_silent = now, False
        suspected = {refusal.fault.kind for refusal in self._undecided(now).values()}
        if fault is None or (fault.kind is FaultKind.CLIENT and suspected <= set(PASSED_BY_BAD_REQUEST)):
            self.answered(seen.asked_at)
        elif fault.kind in NODE_KINDS:
            if self._answered_asked < seen.asked_at:
                self._blame_node(fault)
        else:
            self._is_check_silent = True
        self.tick(now)

    def reset(self) -> None:
        """The decision was taken, or the node is well again: what was refused before counts no more."""
        self.node_fault = self._enough_at = None
        self._refusals.clear()
        self._calls.clear()

    # what follows

    def is_suspect(self, now: float) -> bool:
        """Return whether a refusal is undecided."""
        return self.suspicion(now) is not None

    def suspicion(self, now: float) -> FaultInfo | None:
        """Return the fault of the oldest undecided refusal."""
        if not self._refusals:
            return None
        return next((refusal.fault for refusal in self._undecided(now).values()), None)

    def verdict(self, request_id: str) -> Verdict:
        """Return whose fault the refusal of this task is."""
        if request_id in self._refusals:
            return self._refusals[request_id].verdict
        return Verdict.AGAIN if request_id in self._cleared else Verdict.OPEN

    def was_well_lately(self, now: float) -> bool:
        """Return whether a call of the last minute was answered."""
        return now - self._answered_asked <= LATELY

    def trials(self, now: float) -> int:
        """Return how many tasks a suspect node may try now."""
        return max(0, TRIALS - sum(now - since < TRIAL for since in self._calls.values()))

    def takes_self_check(self, now: float) -> bool:
        """Return whether a self-check should be made now; if so, take it as begun."""
        first = min((refusal.at for refusal in self._undecided(now).values()), default=math.inf)
        wait = 0.0 if self._most_alike() >= ENOUGH else CHECK_AFTER
        return now >= first + wait and self.begins_check(now)

    def begins_check(self, now: float) -> bool:
        """Return whether a self-check may be made now; if so, take it as begun."""
        if not self._can_check or self._is_check_awaited(now) or now < self._check_began + CHECK_PAUSE:
            return False
        self._check_began = now
        return True

    def tick(self, now: float) -> None:
        """Decide what can be decided by now."""
        if not self._refusals:  # as nearly always
            return
        for request_id, refusal in list(self._refusals.items()):
            if now - refusal.at > MEMORY:
                del self._refusals[request_id]
        undecided = self._undecided(now)
        if any(refusal.fault.kind is FaultKind.CERTIFICATE for refusal in undecided.values()):
            self._blame_node_for(FaultKind.CERTIFICATE)
        if self._do_tasks_decide(now):
            self._decide_by_tasks(now, undecided)

    # how it is decided

    def _undecided(self, now: float) -> dict[str, _Refusal]:
        return {
            request_id: refusal for request_id, refusal in self._refusals.items()
            if refusal.verdict is Verdict.OPEN and now - refusal.at < LONGEST_SUSPICION
        }  # fmt: skip

    def _do_tasks_decide(self, now: float) -> bool:
        """Stop waiting for a self-check: it cannot show more than the refused tasks do."""
        if not self._can_check or self.was_well_lately(now):
            return not self._is_check_awaited(now)
        return self._is_check_silent and not self._is_check_awaited(now)

    def _decide_by_tasks(self, now: float, undecided: dict[str, _Refusal]) -> None:
        if not self._can_check or self._is_check_silent:
            for kind in {refusal.fault.kind for refusal in undecided.values()}:
                if self._is_the_nodes(now, kind):
                    self._blame_node_for(kind)
                    return
        for refusal in undecided.values():
            if refusal.times > 1:
                refusal.verdict = self._second_refusal(now, refusal.fault.kind)
                if refusal.verdict is Verdict.NODE:
                    self._blame_node_for(refusal.fault.kind)
                    return

    def _is_the_nodes(self, now: float, kind: FaultKind) -> bool:
        """Enough tasks were refused alike, and no call that is under way can still speak for the node."""
        if self._refused_alike(kind) < ENOUGH + MORE_IF_WELL * self.was_well_lately(now):
            return False
        if self._enough_at is None:
            self._enough_at = now
        return not self._calls or now - self._enough_at >= WAIT_FOR_CALLS

    def _second_refusal(self, now: float, kind: FaultKind) -> Verdict:
        """Decide about a task that was refused twice, while too few others were."""
        if self.was_well_lately(now):
            return Verdict.TASK
        return Verdict.NODE if kind in NAMED or self._refused_alike(kind) > 1 else Verdict.TASK

    def _blame_node_for(self, kind: FaultKind) -> None:
        self._blame_node([refusal.fault for refusal in self._refusals.values() if refusal.fault.kind is kind][-1])

    def _blame_node(self, fault: FaultInfo) -> None:
        self.node_fault = fault
        for refusal in self._refusals.values():
            if refusal.verdict is Verdict.OPEN:
                refusal.verdict = Verdict.NODE

    def _refused_alike(self, kind: FaultKind) -> int:
        return sum(refusal.fault.kind is kind for refusal in self._refusals.values())

    def _most_alike(self) -> int:
        """Return how many tasks were refused with the most frequent kind of fault."""
        return max(Counter(refusal.fault.kind for refusal in self._refusals.values()).values(), default=0)

    def _is_check_awaited(self, now: float) -> bool:
        return self._check_ended < self._check_began and now - self._check_began < CHECK_LOST

    def _remember_cleared(self, request_id: str, at: float) -> None:
        self._cleared[request_id] = at
        while len(self._cleared) > MOST_REMEMBERED:
            self._cleared.popitem(last=False)
