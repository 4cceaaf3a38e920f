"""What people may know of the node at one moment. A leaf: the owner of the state makes it, status and metrics show it.

Moments are monotonic seconds throughout: whoever shows one turns it into a clock's time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

# Why the intake is as it is: the answer to "why does the backlog stay in the broker?"
INTAKES = {
    "open": "takes tasks as they come",
    "full": "as many tasks as the cap allows are in flight; more wait in the broker",
    "held": "a rate limit of upstream is waited for; tasks wait in the broker",
    "one_at_a_time": "unfit: takes one task at a time, and tries one upstream now and then",
    "closed": "takes nothing: starting, draining, no broker, or the local model is not ready",
}


@dataclass(frozen=True, slots=True)
class About:
    """What does not change while the node runs."""

    node: str  # its id
    model: str  # MODEL_NAME
    node_type: str  # "remote" or "local"
    version: str


@dataclass(frozen=True, slots=True)
class Next:
    """Something that will come by itself."""

    what: str  # "a task is tried upstream as a probe"
    at: float | None = None  # monotonic; None: when it can be


@dataclass(frozen=True, slots=True)
class Told:
    """Something that people were told: a report, or a fault in the log."""

    at: float  # monotonic: the last time
    what: str  # a report's reason (spec 1.3), a log line's event
    text: str
    times: int = 1  # how often


class Accounts(NamedTuple):
    """Where all messages went that were taken since the start."""

    taken: int = 0
    acked: int = 0
    sent_back: int = 0
    dead_lettered: int = 0

    @property
    def in_flight(self) -> int:
        """Taken, and none of the others yet."""
        return self.taken - self.acked - self.sent_back - self.dead_lettered


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The node at one moment. Made once a second, and at once when what /readyz says of it changes."""

    at: float  # monotonic
    state: str = "starting"  # a value of supervisor.states.NodeState
    why: tuple[str, ...] = ("the node is starting",)  # why it is not ready, a sentence each; empty: it is
    next: tuple[Next, ...] = ()  # what comes by itself: a probe, the end of a hold, the child's next start
    broker_connected: bool = False
    fitness: str = "fit"  # a value of supervisor.states.FitnessState
    # Tasks.
    intake: str = "closed"  # a key of INTAKES
    in_flight: int = 0  # messages at this node that are not acked
    cap: int = 0  # the most that may be in flight
    cap_code: str = "start"  # why: a key of supervisor.states.CAP_REASONS
    cap_reason: str = ""  # why, in words
    slots: int = 0  # of workers that take jobs
    accounts: Accounts = field(default_factory=Accounts)
    tokens: float = 0.0  # that came from upstream since the start, counted as they come
    records_held: int = 0  # decided deliveries whose record is not stored yet
    held_back: int = 0  # messages sent back that stay here until their delay is over
    # Processes and machine.
    workers: int = 0
    workers_ready: int = 0
    child: str = ""  # a value of supervisor.states.ModelServerState; "" where there is no local model
    child_lines: tuple[str, ...] = ()  # the last lines of its output, oldest first
    cpu_percent: float = 0.0  # of what the node may use, as in resources.Resources
    memory_percent: float = 0.0
    memory_free_bytes: int = 0
    memory_limit_bytes: int = 0
    # What people were told, newest first.
    reports: tuple[Told, ...] = ()
    faults: tuple[Told, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the node takes tasks, as far as it is concerned."""
        return not self.why
