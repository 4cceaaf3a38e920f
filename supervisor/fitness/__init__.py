"""Whether upstream lets this node serve: rate limits, whose fault a refusal is, half-open probing. Pure, but for the
check that runs in the background (self_check)."""

from supervisor.fitness.blame import Verdict
from supervisor.fitness.decisions import Admission, Admit, Begin, Change, End, Gate, Status
from supervisor.fitness.refused_task import KEPT_FOR, RefusedTasks, after_refusal, nak_delay
from supervisor.fitness.self_check import start_self_check
from supervisor.fitness.state_machine import FitnessStateMachine
from supervisor.fitness.transitions import OUTAGES

__all__ = [
    "KEPT_FOR",
    "OUTAGES",
    "Admission",
    "Admit",
    "Begin",
    "Change",
    "End",
    "FitnessStateMachine",
    "Gate",
    "RefusedTasks",
    "Status",
    "Verdict",
    "after_refusal",
    "nak_delay",
    "start_self_check",
]
