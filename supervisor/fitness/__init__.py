"""Whether upstream lets this node serve: rate limits, whose fault a refusal is, half-open probing. Pure, but for the
question that is asked in the background (own_question)."""

from supervisor.fitness.blame import Verdict
from supervisor.fitness.breaker import OUTAGES, Fitness
from supervisor.fitness.decisions import Admission, Admit, Begin, Change, End, Gate, Status
from supervisor.fitness.own_question import ask_model_list
from supervisor.fitness.refused_task import KEPT_FOR, RefusedTasks, after_refusal, nak_delay

__all__ = [
    "KEPT_FOR",
    "OUTAGES",
    "Admission",
    "Admit",
    "Begin",
    "Change",
    "End",
    "Fitness",
    "Gate",
    "RefusedTasks",
    "Status",
    "Verdict",
    "after_refusal",
    "ask_model_list",
    "nak_delay",
]
