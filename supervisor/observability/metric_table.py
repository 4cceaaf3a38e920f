"""The table of all metrics: name, type, meaning, labels, and where each figure comes from. Pure.

Every series is there from the start, since all values of all labels are known. docs/metrics.md shows the same table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TypeAlias

from supervisor.observability.snapshot import INTAKES, About, Accounts, Snapshot
from supervisor.states import CAP_REASONS, FitnessState, ModelServerState, NodeState
from workernode.protocol import Decision, Durations, FaultKind

# How a delivery ends (Outcome.status).
STATUSES = {
    "answered": "the gateway has the whole answer",
    "client_gone": "the client had left",
    "unconfirmed": "the answer was sent, and the gateway did not say that it has it",
    "gateway_unreachable": "answered, but the gateway could not be reached in the task's time",
    "gateway_refused": "answered, but the gateway does not take it",
    "refused": "upstream refused the request itself; its client was told",
    "broken": "failed after a part of the answer had left; its client was told",
    "expired": "older than TASK_TIMEOUT; its client was told",
    "gave_up": "failed once more after MAX_REDELIVERIES; its client was told",
    "malformed": "not a task",
    "poison": "killed its worker again and again",
    "worker_died": "its worker died before anything had left",
    "upstream_trouble": "a passing fault of upstream outlived its retries",
    "rate_limited": "a rate limit of upstream outlasted the task's time",
    "quota_used_up": "upstream's quota is used up",
    "key_refused": "upstream refused the key",
    "model_unknown": "upstream does not know the model",
    "address_unknown": "there is no chat API at API_URL",
    "certificate_refused": "upstream's TLS certificate is not trusted",
    "access_refused": "upstream refused without saying whether key, quota or request is the reason",
    "unfit": "not tried, as the node is unfit",
    "drained": "not begun or not finished when the node stopped",
    "other": "none of these",
}
LIMITS = (FaultKind.RATE_LIMIT.value, FaultKind.RAMP.value, FaultKind.QUOTA.value)
# Seconds: from what the node adds itself to what TASK_TIMEOUT is by default.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """How many observations fell into which bucket, and their sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)  # the last: above all bounds
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one. A value on a bound belongs to the bucket below."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds


@dataclass(slots=True)
class Counts:
    """What was counted since the start. Written by one thread, read by any."""

    accounts: Accounts = field(default_factory=Accounts)  # replaced as a whole: whoever reads it, its figures agree
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    limits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LIMITS, 0))
    stages: dict[str, Histogram] = field(default_factory=lambda: {each.name: Histogram() for each in fields(Durations)})
    prompt_tokens: int = 0
    completion_tokens: int = 0
    redeliveries: int = 0
    duplicates: int = 0
    retries: int = 0
    unread_headers: int = 0
    records: int = 0
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """What a scrape reads: one moment."""

    about: About
    accounts: Accounts  # read once, so that the figures of several series agree
    counts: Counts
    now: Snapshot


# A number; a number for each value of the label; the one value of the label that is 1 now; a distribution.
Value: TypeAlias = float | Mapping[str, float] | str | Histogram


class Type(Enum):
    """What kind of figure it is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


def _values(states: type[Enum]) -> tuple[str, ...]:
    return tuple(each.value for each in states)


@dataclass(frozen=True, slots=True)
class Series:
    """One row of the table."""

    name: str  # as it is scraped
    type: Type
    meaning: str
    read: Callable[[Look], Value]
    label: str = ""
    values: tuple[str, ...] = ()  # of the label


def _counter(name: str, meaning: str, read: Callable[[Look], Value], label: str = "", of: Iterable[str] = ()) -> Series:
    return Series(f"workernode_{name}_total", Type.COUNTER, meaning, read, label, tuple(of))


def _gauge(name: str, meaning: str, read: Callable[[Look], Value], label: str = "", of: Iterable[str] = ()) -> Series:
    return Series(f"workernode_{name}", Type.GAUGE, meaning, read, label, tuple(of))


def _seconds(stage: str, meaning: str) -> Series:
    name = f"workernode_task_{stage}_seconds"
    return Series(name, Type.HISTOGRAM, meaning, lambda look: look.counts.stages[stage])


def _decisions(look: Look) -> Mapping[str, float]:
    accounts = look.accounts
    return {
        Decision.ACK.value: accounts.acked,
        Decision.NAK.value: accounts.sent_back,
        Decision.DEAD_LETTER.value: accounts.dead_lettered,
    }


SERIES = (
    # Tasks.
    _counter(
        "tasks_taken",
        "Messages taken from the broker; at any moment all decisions and what is in flight together.",
        lambda look: look.accounts.taken,
    ),
    _gauge(
        "tasks_in_flight",
        "Messages taken that are neither acked nor sent back nor dead-lettered yet.",
        lambda look: look.accounts.in_flight,
    ),
    _counter(
        "task_decisions",
        "What became of the messages, counted when it is done.",
        _decisions,
        "decision",
        _values(Decision),
    ),
    _counter(
        "task_outcomes",
        "How deliveries ended, counted before their record is stored.",
        lambda look: look.counts.statuses,
        "status",
        STATUSES,
    ),
    _counter(
        "task_redeliveries",
        "Messages taken that had been handed out before.",
        lambda look: look.counts.redeliveries,
    ),
    _counter(
        "task_duplicates",
        "Messages that this node had or had answered already; not counted as taken.",
        lambda look: look.counts.duplicates,
    ),
    _seconds("queue", "From publishing a task to taking it, by the clocks of two machines."),
    _seconds("waiting", "From taking a task to asking upstream."),
    _seconds("first_token", "From asking upstream to its first chunk."),
    _seconds("upstream", "From asking upstream to its last byte."),
    _seconds("answer", "From upstream's last byte until the gateway has the whole answer."),
    _seconds("total", "From taking a task to its decision."),
    # Upstream.
    _counter("upstream_retries", "Calls upstream beyond the first of a delivery.", lambda look: look.counts.retries),
    _counter(
        "upstream_429",
        "Answers 429 from upstream, by what they limit.",
        lambda look: look.counts.limits,
        "kind",
        LIMITS,
    ),
    _counter(
        "upstream_limit_headers_unread",
        "Rate-limit headers from upstream in a form that is not known.",
        lambda look: look.counts.unread_headers,
    ),
    _counter(
        "tokens",
        "Tokens as billed, counted when a delivery ends.",
        lambda look: {"prompt": look.counts.prompt_tokens, "completion": look.counts.completion_tokens},
        "kind",
        ("prompt", "completion"),
    ),
    _gauge(
        "fitness_state",
        "1 for whether upstream lets the node serve.",
        lambda look: look.now.fitness,
        "state",
        _values(FitnessState),
    ),
    # Intake.
    _gauge("cap", "The most tasks that may be in flight now.", lambda look: look.now.cap),
    _gauge("cap_reason", "1 for why the cap is where it is.", lambda look: look.now.cap_code, "reason", CAP_REASONS),
    _gauge("slots", "Slots of the workers that take tasks.", lambda look: look.now.slots),
    _gauge(
        "intake_state",
        "1 for what the intake does now, which says why the backlog stays in the broker.",
        lambda look: look.now.intake,
        "state",
        INTAKES,
    ),
    _gauge(
        "backlog_held_back",
        "Messages sent back that stay at this node until their delay is over.",
        lambda look: look.now.held_back,
    ),
    # Records.
    _counter("records_sent", "Billing records that the broker has stored.", lambda look: look.counts.records),
    _gauge(
        "records_held",
        "Billing records that are not stored yet; their messages are not acked.",
        lambda look: look.now.records_held,
    ),
    # Processes.
    _gauge("state", "1 for where the node is in its life.", lambda look: look.now.state, "state", _values(NodeState)),
    _gauge("ready", "1 where /readyz says 200.", lambda look: look.now.ready),
    _gauge(
        "broker_connected",
        "1 while messages can be taken and records stored.",
        lambda look: look.now.broker_connected,
    ),
    _gauge("workers_ready", "Worker processes that take tasks.", lambda look: look.now.workers_ready),
    _counter("worker_restarts", "Worker processes that died and are replaced.", lambda look: look.counts.deaths),
    _gauge(
        "child_state",
        "1 for the state of the local model server; all 0 where there is none.",
        lambda look: look.now.child,
        "state",
        _values(ModelServerState),
    ),
    # The machine.
    _gauge(
        "cpu_usage_ratio",
        "CPU in use, by whomever, of what this node may use.",
        lambda look: look.now.cpu_percent / 100,
    ),
    _gauge(
        "memory_usage_ratio",
        "Memory in use, by whomever, of what this node may use.",
        lambda look: look.now.memory_percent / 100,
    ),
    _gauge("memory_free_bytes", "Memory that this node may still use.", lambda look: look.now.memory_free_bytes),
    _gauge(
        "memory_limit_bytes",
        "Memory that this node may use, the container's limit or the machine's.",
        lambda look: look.now.memory_limit_bytes,
    ),
    _gauge("build_info", "Always 1; the label says what runs.", lambda look: {look.about.version: 1}, "version"),
)
