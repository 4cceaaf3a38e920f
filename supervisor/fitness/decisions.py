"""What fitness answers: values only. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from supervisor.states import FitnessState, Intake
from workernode.protocol import FaultInfo


@dataclass(frozen=True, slots=True)
class Gate:
    """What the intake may do now."""

    intake: Intake
    allowed: int  # tasks that may be taken now, beyond those already taken (the cap still counts); 0 for HOLD
    again_at: float  # monotonic: when to ask again, if `allowed` is 0 or used up


class Admit(Enum):
    """What to do with a task that was just taken."""

    RUN = "run"  # hand it to a worker
    PROBE = "probe"  # the same; `ended` is then called with was_probe=True
    SEND_BACK = "send_back"  # nak it; its redeliveries used up, its client gets an error


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to one task."""

    admit: Admit
    fault: FaultInfo | None = None  # for SEND_BACK: why


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state, for the log."""

    state: FitnessState
    text: str  # a sentence: why, or how long it lasted and what was tried


@dataclass(frozen=True, slots=True)
class Begin:
    """A fault that will not pass by itself began: report it until its End."""

    key: str
    reason: str  # one of spec 1.3
    message: str


@dataclass(frozen=True, slots=True)
class End:
    """The fault with this key is over."""

    key: str


@dataclass(frozen=True, slots=True)
class Status:
    """What people see: /readyz, the page, the log."""

    state: FitnessState
    since: float  # monotonic
    reason: str  # a sentence; "" when fit
    tried: int  # probes since upstream is away, or the node unfit
    next_probe_at: float | None  # monotonic; None: no probe is due, or one is on its way
    hold_until: float | None  # monotonic; None: no hold
