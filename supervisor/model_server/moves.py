"""The states of the model server, and what moves it from one to another. Pure."""

from __future__ import annotations

from supervisor.states import ModelServerState

MOVES = {
    (ModelServerState.STOPPED, "spawn"): ModelServerState.STARTING,
    (ModelServerState.STOPPED, "stop"): ModelServerState.STOPPED,
    (ModelServerState.STARTING, "healthy"): ModelServerState.READY,
    (ModelServerState.STARTING, "hung"): ModelServerState.HUNG,
    (ModelServerState.STARTING, "exited"): ModelServerState.BACKOFF,
    (ModelServerState.STARTING, "stop"): ModelServerState.STOPPING,
    (ModelServerState.READY, "hung"): ModelServerState.HUNG,
    (ModelServerState.READY, "exited"): ModelServerState.BACKOFF,
    (ModelServerState.READY, "stop"): ModelServerState.STOPPING,
    (ModelServerState.READY, "sleep"): ModelServerState.FALLING_ASLEEP,
    (ModelServerState.FALLING_ASLEEP, "exited"): ModelServerState.ASLEEP,
    (ModelServerState.FALLING_ASLEEP, "stop"): ModelServerState.STOPPING,
    (ModelServerState.ASLEEP, "spawn"): ModelServerState.STARTING,
    (ModelServerState.ASLEEP, "stop"): ModelServerState.STOPPED,
    (ModelServerState.HUNG, "exited"): ModelServerState.BACKOFF,
    (ModelServerState.HUNG, "stop"): ModelServerState.STOPPING,
    (ModelServerState.BACKOFF, "spawn"): ModelServerState.STARTING,
    (ModelServerState.BACKOFF, "gave_up"): ModelServerState.FAILED,
    (ModelServerState.BACKOFF, "stop"): ModelServerState.STOPPED,
    (ModelServerState.FAILED, "spawn"): ModelServerState.STARTING,
    (ModelServerState.FAILED, "stop"): ModelServerState.STOPPED,
    (ModelServerState.STOPPING, "stop"): ModelServerState.STOPPING,
    (ModelServerState.STOPPING, "exited"): ModelServerState.STOPPED,
}  # a pair that is not here is a bug, and raises AssertionError


def moved(state: ModelServerState, cause: str) -> ModelServerState:
    """Return the state that follows.

    Raises:
        AssertionError: the table has no such move.
    """
    try:
        return MOVES[state, cause]
    except KeyError:
        raise AssertionError(f"a bug: the model server cannot be moved by {cause!r} from {state}") from None
