"""The state of fitness that the node is in, since when and why; and its changes, for the log and the Reporter. Pure."""

from __future__ import annotations

from collections.abc import Callable

from supervisor.fitness.decisions import Begin, Change, End
from supervisor.fitness.transitions import MOVES, REASONS, describe_suspicion
from supervisor.states import FitnessState
from workernode.protocol import FaultInfo


class CurrentState:
    """The state, and its changes that were not logged or reported yet. FitnessStateMachine owns it, and decides when it
    moves.

    Attributes:
        state: at first FIT.
        since: monotonic; where an outage lasted so long that the node became unfit, when the outage began.
        fault: why the state is not FIT.

    Args:
        explain: the sentence for people about a fault (supervisor.upstream.FaultMessages).
    """

    def __init__(self, explain: Callable[[FaultInfo], str]) -> None:
        self.state = FitnessState.FIT
        self.since = 0.0
        self.fault: FaultInfo | None = None
        self._explain = explain
        self._changes: list[Change] = []
        self._reports: list[Begin | End] = []

    @property
    def is_closed(self) -> bool:
        """Whether nothing but probes goes upstream."""
        return self.state in (FitnessState.UNFIT, FitnessState.AWAY)

    @property
    def reason(self) -> str:
        """A sentence for people: why the state is not FIT; "" if it is."""
        if self.fault is None:
            return ""
        return describe_suspicion(self.fault) if self.state is FitnessState.SUSPECT else self._explain(self.fault)

    def move(self, now: float, event: str, fault: FaultInfo) -> None:
        """Take the arrow of this event (MOVES) to a state that the fault explains."""
        self._take(now, event, fault)
        self._changes.append(Change(self.state, self.reason))

    def end(self, now: float, event: str, text: str) -> None:
        """Take the arrow of this event (MOVES) back to FIT.

        Args:
            text: a sentence for people: how it ended.
        """
        self._take(now, event, None)
        self._changes.append(Change(self.state, text))

    def report(self, fault: FaultInfo) -> None:
        """Report the fault that the node is unfit for; it is the reason of the state from now on."""
        self.fault = fault
        self._reports.append(Begin(fault.kind.value, REASONS[fault.kind], self._explain(fault)))

    def end_report(self) -> None:
        """Report that the fault is over which was reported last."""
        if self.fault is not None:
            self._reports.append(End(self.fault.kind.value))

    def changes(self) -> list[Change]:
        """Return the changes since the last call, for the log."""
        changes, self._changes = self._changes, []
        return changes

    def reports(self) -> list[Begin | End]:
        """Return what began and what ended since the last call, for the Reporter."""
        reports, self._reports = self._reports, []
        return reports

    def _take(self, now: float, event: str, fault: FaultInfo | None) -> None:
        self.state = MOVES[self.state, event]
        if event != "lasted":
            self.since = now
        self.fault = fault
