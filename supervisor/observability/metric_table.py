"""The table of all metrics: name, type, meaning, labels, and what is read at the moment of a scrape. Pure.

All values of all labels are known, so that every series is there from the start; only the labels of
`workernode_build_info` are free text, and `gpu` has the GPUs that are there. docs/metrics.md shows the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from supervisor.observability.snapshot import INTAKES, MessageTotals, NodeInfo, Snapshot
from supervisor.states import CAP_REASONS, FitnessState, ModelServerState, NodeState
from workernode.protocol import Decision, FaultKind

# How a delivery ends (Outcome.status).
STATUSES = {
    "answered": "the gateway has the whole answer",
    "client_gone": "the client was gone",
    "connection_lost": "the connection to the gateway broke in a stream; an error was sent over a new one",
    "unconfirmed": "the answer was sent, and the gateway did not confirm it",
    "gateway_unreachable": "upstream answered, but the gateway could not be reached in the task's time",
    "gateway_refused": "upstream answered, but the gateway refused the answer",
    "refused": "upstream refused the request itself; the client got upstream's error",
    "broken": "failed after a part of the answer was sent; the client got an error as the last chunk",
    "expired": "older than TASK_TIMEOUT; the client got an error",
    "gave_up": "failed once more after MAX_REDELIVERIES; the client got an error",
    "malformed": "the message is not a task; dead-lettered",
    "poison": "killed its worker again and again; dead-lettered",
    "worker_died": "its worker died before anything was sent to the client",
    "upstream_trouble": "a passing fault of upstream lasted longer than the retries",
    "rate_limited": "a rate limit of upstream lasted longer than the task's time",
    "quota_used_up": "upstream's quota is used up",
    "key_refused": "upstream refused the key",
    "model_unknown": "upstream does not know the model",
    "address_unknown": "there is no chat API at API_URL",
    "certificate_refused": "upstream's TLS certificate is not trusted",
    "access_refused": "upstream refused without saying whether key, quota or request is the reason",
    "unfit": "not tried, because the node is unfit",
    "taken_over": "another node answers the task, or may: this one has stopped",
    "unrecorded": "another node answered the task, and was gone before its record was stored; the tokens are not known",
    "drained": "not started or not finished when the node stopped",
    "other": "none of these",
}
LIMITS = (FaultKind.RATE_LIMIT.value, FaultKind.RAMP.value, FaultKind.QUOTA.value)
# Seconds: from the milliseconds that the node itself needs to the default of TASK_TIMEOUT.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a scrape reads: one moment."""

    info: NodeInfo
    totals: MessageTotals  # read once, so that the figures of several series agree
    now: Snapshot


# A number; a number for each value of the label; the one value of the label that is 1 now.
Value: TypeAlias = float | Mapping[str, float] | str


class Type(Enum):
    """Prometheus' types of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Series:
    """One row of the table."""

    name: str  # as it is scraped
    type: Type
    meaning: str
    read: Callable[[Reading], Value] | None = None  # its value; None: metrics.py counts it
    label: str = ""
    values: tuple[str, ...] = ()  # of the label
    info: Callable[[NodeInfo], Mapping[str, str]] | None = None  # for a series that is always 1: its labels


def _counter(
    name: str,
    meaning: str,
    label: str = "",
    of: Iterable[str] = (),
    read: Callable[[Reading], Value] | None = None,
) -> Series:
    return Series(f"workernode_{name}_total", Type.COUNTER, meaning, read, label, tuple(of))


def _gauge(
    name: str, meaning: str, read: Callable[[Reading], Value], label: str = "", of: Iterable[str] = ()
) -> Series:
    return Series(f"workernode_{name}", Type.GAUGE, meaning, read, label, tuple(of))


def _seconds(stage: str, meaning: str) -> Series:
    return Series(f"workernode_task_{stage}_seconds", Type.HISTOGRAM, meaning)


def _values(states: type[Enum]) -> tuple[str, ...]:
    return tuple(each.value for each in states)


def _decisions(reading: Reading) -> Mapping[str, float]:
    totals = reading.totals
    return {
        Decision.ACK.value: totals.acked,
        Decision.NAK.value: totals.nakked,
        Decision.DEAD_LETTER.value: totals.dead_lettered,
    }


SERIES = (
    # Tasks.
    _counter(
        "tasks_taken",
        "Messages taken from the broker; always the sum of all decisions and of what is in flight.",
        read=lambda reading: reading.totals.taken,
    ),
    _gauge(
        "tasks_in_flight",
        "Messages taken that are not acked, nak'd or dead-lettered yet.",
        lambda reading: reading.totals.in_flight,
    ),
    _counter(
        "task_decisions",
        "What became of the messages, counted when it is done.",
        "decision",
        _values(Decision),
        _decisions,
    ),
    _counter("task_outcomes", "How deliveries ended, counted before their record is stored.", "status", STATUSES),
    _counter("task_redeliveries", "Messages taken that the broker had handed out before."),
    _counter("task_duplicates", "Messages that this node had or had answered already; not counted as taken."),
    _seconds("queue", "From publishing a task to taking it, by the clocks of two machines."),
    _seconds("time_left", "What a task has left of TASK_TIMEOUT when it is taken; 0: nobody waits for it any more."),
    _seconds("waiting", "From taking a task to asking upstream."),
    _seconds("first_token", "From asking upstream to its first chunk."),
    _seconds("upstream", "From asking upstream to its last byte."),
    _seconds("answer", "From upstream's last byte until the gateway has the whole answer."),
    _seconds("total", "From taking a task to its decision."),
    # Upstream.
    _counter("upstream_retries", "Calls upstream beyond the first of a delivery."),
    _counter("stream_resumes", "Times that a stream went on in another call after a break."),
    _counter("upstream_429", "Answers 429 from upstream, by what they limit.", "kind", LIMITS),
    _counter("upstream_limit_headers_unread", "Rate-limit headers from upstream in an unknown format."),
    _counter("tokens", "Tokens as billed, counted when a delivery ends.", "kind", ("prompt", "completion")),
    _counter("prompt_tokens_cached", "Tokens of the billed prompts that upstream had in its cache."),
    _counter("cost", "Cost of the billed tokens by PRICES, in its currency; the exact amounts are in the records."),
    _gauge(
        "fitness_state",
        "1 for whether upstream lets the node serve.",
        lambda reading: reading.now.fitness,
        "state",
        _values(FitnessState),
    ),
    # Intake.
    _gauge("cap", "The most tasks that may be in flight now.", lambda reading: reading.now.cap),
    _gauge(
        "cap_reason", "1 for why the cap is where it is.", lambda reading: reading.now.cap_code, "reason", CAP_REASONS
    ),
    _gauge("slots", "Slots of the workers that take tasks.", lambda reading: reading.now.slots),
    _gauge(
        "intake_state",
        "1 for what the intake does now: why the backlog stays in the broker.",
        lambda reading: reading.now.intake,
        "state",
        INTAKES,
    ),
    _gauge(
        "backlog_held_back",
        "Nak'd messages that stay at this node until their delay is over.",
        lambda reading: reading.now.held_back,
    ),
    _gauge(
        "clock_difference_seconds",
        "Seconds that are taken off the age of a publisher's tasks, because its clock is behind; the largest.",
        lambda reading: reading.now.clock_difference,
    ),
    # Records.
    _counter("records_sent", "Billing records that the broker has stored."),
    _gauge(
        "records_held",
        "Billing records that are not stored yet; their messages are not acked.",
        lambda reading: reading.now.records_held,
    ),
    # Processes.
    _gauge(
        "state",
        "1 for where the node is in its lifecycle.",
        lambda reading: reading.now.state,
        "state",
        _values(NodeState),
    ),
    _gauge("ready", "1 while /readyz answers 200.", lambda reading: reading.now.ready),
    _gauge(
        "broker_connected",
        "1 while messages can be taken and records stored.",
        lambda reading: reading.now.broker_connected,
    ),
    _gauge("workers_ready", "Worker processes that take tasks.", lambda reading: reading.now.workers_ready),
    _counter("worker_restarts", "Worker processes that died and were replaced."),
    _gauge(
        "child_state",
        "1 for the state of the local model server; all 0 where there is none.",
        lambda reading: reading.now.child,
        "state",
        _values(ModelServerState),
    ),
    # The machine.
    _gauge(
        "cpu_usage_ratio",
        "CPU in use, by any program, of what this node may use.",
        lambda reading: reading.now.cpu_percent / 100,
    ),
    _gauge(
        "memory_usage_ratio",
        "Memory in use, by any program, of what this node may use.",
        lambda reading: reading.now.memory_percent / 100,
    ),
    _gauge("memory_free_bytes", "Memory that this node may still use.", lambda reading: reading.now.memory_free_bytes),
    _gauge(
        "memory_limit_bytes",
        "Memory that this node may use: the container's limit or the machine's memory.",
        lambda reading: reading.now.memory_limit_bytes,
    ),
    _gauge(
        "gpu_memory_used_bytes",
        "Memory of the GPU in use, by any program.",
        lambda reading: {gpu.number: gpu.memory_used_bytes for gpu in reading.now.gpus},
        "gpu",
    ),
    _gauge(
        "gpu_memory_limit_bytes",
        "Memory that the GPU has.",
        lambda reading: {gpu.number: gpu.memory_limit_bytes for gpu in reading.now.gpus},
        "gpu",
    ),
    _gauge(
        "gpu_usage_ratio",
        "The GPU's load, by any program.",
        lambda reading: {
            gpu.number: gpu.load_percent / 100 for gpu in reading.now.gpus if gpu.load_percent is not None
        },
        "gpu",
    ),
    _gauge(
        "gpu_temperature_celsius",
        "The GPU's temperature.",
        lambda reading: {gpu.number: gpu.temperature_c for gpu in reading.now.gpus if gpu.temperature_c is not None},
        "gpu",
    ),
    Series(
        "workernode_build_info",
        Type.GAUGE,
        "Always 1; the labels say what runs: join other series with it to group them by model.",
        info=lambda node: {"model": node.model, "node_type": node.node_type, "version": node.version},
    ),
)
