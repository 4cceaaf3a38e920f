"""Whose fault is a refusal: the task's own, or the node's? Decided by how upstream answers other tasks (spec 5). Pure.

A status does not tell: a firewall answers 403 to one prompt, a refused key answers 403 to every prompt. So a refusal
makes the node *suspect* until evidence comes. The node is cleared by an answer to a call that was asked later than the
refused one, or by the list of models. It is blamed if other tasks, or the list, are refused alike.

In: who was refused or answered, and when it was asked. Never any text. Every `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from supervisor.events import ModelListSeen
from workernode.protocol import FaultInfo, FaultKind

# Tasks that must be refused alike, without an answer to any later call, before the fault is the node's.
ENOUGH = 3
MORE_IF_WELL = 2  # so many more, if upstream answered lately
MORE_IF_LISTED = 2  # so many more, if the list of models speaks for the node
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
# The list of models is asked so long after a refusal, if tasks have not decided by then, and again after the pause.
ASK_AFTER = 0.2  # seconds
ASK_PAUSE = 5.0  # seconds
ASK_LOST = 3.0  # seconds: the question gets no answer

# Upstream has named the fault: if nothing else is known, it is believed.
NAMED = (FaultKind.KEY, FaultKind.QUOTA, FaultKind.MODEL, FaultKind.CERTIFICATE)
ABOUT_ACCESS = (FaultKind.KEY, FaultKind.REFUSED)


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

    def __init__(self) -> None:
        self.node_fault: FaultInfo | None = None  # the decision: the node's fault
        self._answered_asked = -math.inf  # when the newest call that was answered had been asked
        self._refusals: OrderedDict[str, _Refusal] = OrderedDict()  # since that answer, by request id
        self._cleared: OrderedDict[str, float] = OrderedDict()  # refused once; the node was found well afterwards
        self._calls: dict[str, float] = {}  # calls under way that were asked while the node was suspect
        self._enough_at: float | None = None  # when enough tasks had been refused
        self._list: ModelListSeen | None = None  # the newest answer to the list of models
        self._list_at = -math.inf
        self._list_was_well = False  # the list of models was shown before
        self._question_at = -math.inf  # when it was asked last

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

    def list_seen(self, now: float, seen: ModelListSeen) -> None:
        """The list of models was asked, in the background."""
        self._list, self._list_at = seen, now
        self.tick(now)
        self._list_was_well = self._list_was_well or seen.fault is None

    def reset(self) -> None:
        """The decision was taken, or the node is well again: what was refused before counts no more."""
        self.node_fault = self._enough_at = None
        self._list = None
        self._refusals.clear()
        self._calls.clear()

    # what follows

    def is_suspect(self, now: float) -> bool:
        """Return whether a refusal is undecided."""
        return self.suspicion(now) is not None

    def suspicion(self, now: float) -> FaultInfo | None:
        """Return the fault of the oldest undecided refusal."""
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

    def takes_question(self, now: float) -> bool:
        """Return whether the list of models should be asked now; if so, take it as asked."""
        undecided = self._undecided(now)
        first = min((refusal.at for refusal in undecided.values()), default=math.inf)
        is_due = now >= max(first + ASK_AFTER, self._question_at + ASK_PAUSE)
        if is_due:
            self._question_at = now
        return is_due

    def tick(self, now: float) -> None:
        """Decide what can be decided by now."""
        for request_id, refusal in list(self._refusals.items()):
            if now - refusal.at > MEMORY:
                del self._refusals[request_id]
        undecided = self._undecided(now)
        for kind in {refusal.fault.kind for refusal in undecided.values()}:
            if self._is_the_nodes(now, kind):
                self._blame_node(kind)
                return
        for refusal in undecided.values():
            if refusal.times > 1 and not self._is_list_awaited(now):
                refusal.verdict = self._second_refusal(now, refusal.fault.kind)
                if refusal.verdict is Verdict.NODE:
                    self._blame_node(refusal.fault.kind)
                    return

    # how it is decided

    def _undecided(self, now: float) -> dict[str, _Refusal]:
        return {
            request_id: refusal for request_id, refusal in self._refusals.items()
            if refusal.verdict is Verdict.OPEN and now - refusal.at < LONGEST_SUSPICION
        }  # fmt: skip

    def _is_the_nodes(self, now: float, kind: FaultKind) -> bool:
        """Enough tasks were refused alike, and no call that is under way can still speak for the node."""
        if kind is FaultKind.CERTIFICATE or (self._list_was_well and self._is_list_alike(now, kind)):
            return True
        needed = ENOUGH + MORE_IF_WELL * self.was_well_lately(now) + MORE_IF_LISTED * self._is_list_contrary(now, kind)
        if self._refused_alike(kind) + self._list_weight(now, kind) < needed:
            return False
        if self._enough_at is None:
            self._enough_at = now
        return not self._calls or now - self._enough_at >= WAIT_FOR_CALLS

    def _second_refusal(self, now: float, kind: FaultKind) -> Verdict:
        """Decide about a task that was refused twice, while too few others were."""
        if self.was_well_lately(now) or self._is_list_contrary(now, kind):
            return Verdict.TASK
        if kind in NAMED or self._is_list_alike(now, kind) or self._refused_alike(kind) > 1:
            return Verdict.NODE
        return Verdict.TASK

    def _blame_node(self, kind: FaultKind) -> None:
        alike = [refusal for refusal in self._refusals.values() if refusal.fault.kind is kind]
        self.node_fault = alike[-1].fault
        for refusal in self._refusals.values():
            if refusal.verdict is Verdict.OPEN:
                refusal.verdict = Verdict.NODE

    def _refused_alike(self, kind: FaultKind) -> int:
        return sum(refusal.fault.kind is kind for refusal in self._refusals.values())

    def _list_weight(self, now: float, kind: FaultKind) -> int:
        """For how many refused tasks the list counts. One that was always refused says nothing beside answers."""
        if not self._is_list_alike(now, kind) or self.was_well_lately(now):
            return 0
        return 2 if self._list is not None and self._list.fault is not None and self._list.fault.kind in NAMED else 1

    def _is_list_fresh(self, now: float) -> bool:
        return now - self._list_at <= LATELY

    def _is_list_alike(self, now: float, kind: FaultKind) -> bool:
        fault = self._list.fault if self._list is not None and self._is_list_fresh(now) else None
        return fault is not None and (fault.kind is kind or {fault.kind, kind} == set(ABOUT_ACCESS))

    def _is_list_contrary(self, now: float, kind: FaultKind) -> bool:
        seen = self._list
        if seen is None or seen.fault is not None or not self._is_list_fresh(now):
            return False
        match kind:
            case FaultKind.KEY | FaultKind.REFUSED:
                return seen.needs_key
            case FaultKind.ADDRESS:
                return seen.is_list
            case FaultKind.MODEL:
                return seen.has_model
            case _:
                return False

    def _is_list_awaited(self, now: float) -> bool:
        return self._list_at < self._question_at and now - self._question_at < ASK_LOST

    def _remember_cleared(self, request_id: str, at: float) -> None:
        self._cleared[request_id] = at
        while len(self._cleared) > MOST_REMEMBERED:
            self._cleared.popitem(last=False)
