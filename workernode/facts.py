"""What is known of a delivery while it runs, and how it ended. Outcome and billing record are made of these. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workernode.call_stats import CallStats
from workernode.errors import UpstreamFault
from workernode.protocol import Decision, FaultInfo, Job
from workernode.task import Task
from workernode.trace_context import TraceContext
from workernode.usage import Estimate


@dataclass(frozen=True, slots=True)
class End:
    """One way a delivery ended: a row of the table in spec 4."""

    status: str  # "answered", "refused", "expired", ...
    decision: Decision
    error: dict[str, Any] | None = None  # an OpenAI error body: the error that the client got, or would have got
    fault: UpstreamFault | FaultInfo | None = None  # the upstream fault, if one decided it
    reason: str = ""  # for the dead letter, and for people
    end_reason: str = ""  # for the record; "": upstream's finish_reason, else the fault's code, else the status
    upstream_answered: bool = False  # upstream answered this task well


@dataclass(slots=True)
class Facts:
    """What is known of a delivery. Filled while it runs, by its one owner. Moments are monotonic seconds."""

    job: Job
    request_id: str = ""  # "" while it is not known
    task: Task | None = None  # None: the message could not be read, or no worker read it
    asked: CallStats = field(default_factory=CallStats)
    answering_since: float | None = None  # from then on the answer, or the error, was on its way to the gateway
    answered_at: float | None = None  # the gateway had all of it
    trace: TraceContext | None = None  # None: nothing of the message could be read
    changed: tuple[str, ...] = ()  # what the operator's guards changed in the chat request, dotted names
    estimate: Estimate | None = None  # of the tokens, where upstream sent no usage and there is a tokenizer
