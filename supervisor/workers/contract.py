"""What the pool needs of a worker process. Pure: WorkerProcess (process.py) is the real one, tests have their own."""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from typing import Any, Protocol

from workernode.protocol import Lease, SavedStream, ToWorker


class Process(Protocol):
    """What the pool needs of a worker process. WorkerProcess is the real one."""

    answer_states: MutableSequence[int]  # shared memory: how much of the answer of each slot has left (AnswerState)
    lease: Lease  # shared memory: until when it may send streams (supervisor/claims)

    @property
    def pid(self) -> int | None:
        """Its process id; None if it could not be started."""

    @property
    def pipe(self) -> Any:
        """What becomes readable when the worker has written something, or when its pipe ends."""

    @property
    def sentinel(self) -> Any:
        """What becomes readable when the process is dead."""

    @property
    def beat(self) -> float:
        """Monotonic time of its last sign of life; 0 before the first."""

    @property
    def tokens(self) -> float:
        """Tokens that it has received from upstream since its start."""

    def put(self, message: ToWorker) -> None:
        """Send the message to the worker; never waits."""

    def read(self) -> bytes:
        """Read once from the pipe, which is readable; b"" at its end."""

    def read_rest(self) -> Iterator[bytes]:
        """Yield what is left in the pipe of a dead process."""

    def forget_stream(self, slot: int) -> None:
        """Another job is about to get the slot: what the client of its last stream was sent is forgotten."""

    def saved_stream(self, slot: int) -> SavedStream | None:
        """Return what the client of the slot's stream was sent, once the process is dead; None if it is not known."""

    def kill(self) -> None:
        """Kill it."""

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the process is dead, for at most `timeout` seconds; True if it is."""

    def cause(self) -> str:
        """Why the process ended, for a person."""

    def was_killed_from_outside(self) -> bool:
        """Return True if it is known that the dead process was killed by somebody else: no task of it is the cause."""

    def close(self) -> None:
        """Release what belongs to a dead process."""
