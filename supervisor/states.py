"""The states that several packages name: of the node, of upstream, of the local model server, and reasons for the cap.

A leaf: imports the standard library and workernode.protocol only.
"""

from __future__ import annotations

from enum import Enum


class NodeState(Enum):
    """Where the node is in its lifecycle (supervisor.node)."""

    STARTING = "starting"  # something that the node needs is missing: the broker, a worker, the local model
    SERVING = "serving"  # takes tasks, unless the intake is closed
    DRAINING = "draining"  # takes no tasks; those in flight are finished
    STOPPING = "stopping"  # no task is in flight; the local model server is being stopped
    STOPPED = "stopped"  # every child process has ended


# The arrows between the states of the node, by what causes each.
NODE_MOVES = {
    (NodeState.STARTING, "ready"): NodeState.SERVING,
    (NodeState.STARTING, "drain"): NodeState.DRAINING,
    (NodeState.SERVING, "drain"): NodeState.DRAINING,
    (NodeState.DRAINING, "empty"): NodeState.STOPPING,
    (NodeState.STOPPING, "alone"): NodeState.STOPPED,
}  # a pair that is not here is a bug, and raises KeyError


class Exit(Enum):
    """How the process ends."""

    DONE = 0  # asked to stop, and nothing was left undone that could be done
    FORCED = 1  # a second signal: ended at once; what was in flight is handed out again by the broker
    BAD_SETTINGS = 78  # EX_CONFIG of sysexits.h: the environment cannot be used


class FitnessState(Enum):
    """Whether upstream lets the node serve (supervisor.fitness)."""

    FIT = "fit"  # nothing is known against it
    LIMITED = "limited"  # upstream refused by a rate limit: the intake waits until it lifts
    SUSPECT = "suspect"  # upstream refused a task: whether the fault is the task's or the node's is not known yet
    AWAY = "away"  # upstream serves nobody: the intake is closed, now and then one task is tried
    UNFIT = "unfit"  # half-open: one task at a time, now and then one is tried upstream, the others go back


class Intake(Enum):
    """What fitness lets the intake do."""

    OPEN = "open"  # take as many tasks as the cap allows
    HOLD = "hold"  # take nothing before the given moment
    ONE_AT_A_TIME = "one_at_a_time"  # half-open: take one task, decide about it, then ask again


class ModelServerState(Enum):
    """Where the local model server is in its lifecycle (supervisor.model_server)."""

    STOPPED = "stopped"  # no process
    STARTING = "starting"  # spawned; /health has not answered 200 yet
    READY = "ready"  # /health answered 200: takes requests
    FALLING_ASLEEP = "falling_asleep"  # was idle for LOCAL_IDLE_STOP and got SIGTERM; SIGKILL after the grace period
    ASLEEP = "asleep"  # no process, so that the memory is free; spawned again with the next task
    HUNG = "hung"  # showed no sign of life and was killed; the process has not ended yet
    STOPPING = "stopping"  # got SIGTERM; gets SIGKILL when the grace period is over
    BACKOFF = "backoff"  # exited by itself; spawned again after a pause
    FAILED = "failed"  # exited too often: reported; spawned again after a long pause, because the fault may be mended


def cap_in_force(machine: int, upstream: int) -> int:
    """Return how many tasks may be in flight: the lower of the machine's cap and the cap of upstream's rate limit."""
    return min(machine, upstream)


# Why the cap is where it is: the code (a label of a metric, a field of the log) and its meaning.
CAP_REASONS = {
    "start": "where it began",
    "memory": "memory is short",
    "memory_free": "memory is free again: on the way back",
    "queue": "requests wait in the engine behind upstream",
    "queue_free": "no request waits in the engine any more: on the way back",
    "climb": "tries whether more gain",
    "fewer": "the CPU is full: tries whether fewer give as much",
    "best": "the best that was found",
    "rate_limit": "upstream refused calls by a rate limit",
}
