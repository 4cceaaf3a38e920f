"""The node's state at one moment, as the status server shows it.

A leaf: the overview makes snapshots, the page and the metrics read them. All moments are monotonic seconds; who shows
one converts it into a time of day.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from supervisor.readings import Gpu

# What the intake does: the answer to "why does the backlog stay in the broker?"
INTAKES = {
    "open": "takes tasks as they come",
    "full": "as many tasks as the cap allows are in flight; more wait in the broker",
    "asleep": "the local model is stopped because it was idle; the next task starts it",
    "held": "waits until the rate limit of upstream lifts; tasks wait in the broker",
    "one_at_a_time": "unfit: takes one task at a time, and tries one upstream now and then",
    "closed": "takes no tasks: the node is starting or draining, the broker is not connected, "
    "upstream is away, or the local model is not ready",
}


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What stays the same while the node runs."""

    node: str  # its id: host name and a random part
    model: str  # MODEL_NAME
    node_type: str  # "remote" or "local"
    version: str


@dataclass(frozen=True, slots=True)
class Upcoming:
    """Something that will happen without anybody's help."""

    what: str  # "a task is tried upstream as a probe"
    at: float | None = None  # monotonic; None: the moment is not known


@dataclass(frozen=True, slots=True)
class Notice:
    """A report, or a fault in the log. What came again is one notice."""

    at: float  # monotonic: the last time
    what: str  # a report's reason (spec 1.3), or a log line's event
    text: str
    times: int = 1  # how often it came


class MessageTotals(NamedTuple):
    """How many messages were taken since the start, and how many of them left the node in which way."""

    taken: int = 0
    acked: int = 0
    nakked: int = 0
    dead_lettered: int = 0

    @property
    def in_flight(self) -> int:
        """Messages taken that have not left the node."""
        return self.taken - self.acked - self.nakked - self.dead_lettered


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The node at one moment. Made once a second, and at once when what /readyz answers changes."""

    at: float  # monotonic
    state: str = "starting"  # a value of supervisor.states.NodeState
    why: tuple[str, ...] = ("the node is starting",)  # why it is not ready, a sentence each; empty: it is ready
    next: tuple[Upcoming, ...] = ()  # the next probe, the end of a rate limit, the model server's next start
    broker_connected: bool = False
    fitness: str = "fit"  # a value of supervisor.states.FitnessState
    fitness_why: str = ""  # a sentence; "" when fit
    # Tasks.
    intake: str = "closed"  # a key of INTAKES
    in_flight: int = 0  # messages at this node that have not been acked, nak'd or dead-lettered
    cap: int = 0  # the most that may be in flight
    cap_code: str = "start"  # why: a key of supervisor.states.CAP_REASONS
    cap_reason: str = ""  # why, in words
    slots: int = 0  # of workers that take tasks
    totals: MessageTotals = field(default_factory=MessageTotals)
    tokens: float = 0.0  # that came from upstream since the start, counted as they come
    cost: str = ""  # of the last hour, with its currency; "": there are no prices
    records_held: int = 0  # decided tasks whose record is not stored yet
    held_back: int = 0  # nak'd messages that stay at this node until their delay is over
    clock_difference: float = 0.0  # seconds taken off the age of a publisher's tasks: the largest
    # Processes and machine.
    workers: int = 0
    workers_ready: int = 0
    child: str = ""  # a value of supervisor.states.ModelServerState; "": there is no local model
    child_lines: tuple[str, ...] = ()  # the last lines of its output, oldest first
    cpu_percent: float = 0.0  # of what the node may use
    memory_percent: float = 0.0
    memory_free_bytes: int = 0
    memory_limit_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()  # of a local node
    # Newest first.
    reports: tuple[Notice, ...] = ()
    faults: tuple[Notice, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the node takes tasks, as far as the node itself is concerned."""
        return not self.why
