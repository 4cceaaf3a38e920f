"""A real worker process, started by the forkserver, with its pipes and its shared memory. The only I/O of the pool."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, MutableSequence
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

from supervisor.workers.task_queue import TaskQueue
from workernode import pipe, worker
from workernode.protocol import ToWorker
from workernode.record import Node
from workernode.settings import Settings

PRELOAD = ["workernode.preload"]
FORKSERVER_GONE = 255  # the exit code that multiprocessing gives a worker whose forkserver died: nothing is known of it


class WorkerProcess:
    """A worker process and the supervisor's ends of its pipes (supervisor.workers.pool.Process)."""

    def __init__(self, index: int, slots: int, settings: Settings, node: Node) -> None:
        """Start the process. A start that fails looks like a process that died at once.

        Args:
            index: its place in the pool.
            slots: how many tasks it runs at once.
            settings: the node's settings.
            node: the identity of the node, for the worker's records.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        inbox, writer = context.Pipe(duplex=False)
        self._outbox, outbox_writer = context.Pipe(duplex=False)
        self.answer_states: MutableSequence[int] = RawArray("B", slots)
        self._tokens, self._beat = RawArray("d", slots), RawValue("d", 0.0)
        arguments = worker.WorkerArguments(
            settings, replace(node, worker=index), inbox, outbox_writer, self.answer_states, self._tokens, self._beat
        )
        process: Any = context.Process(target=worker.main, args=(arguments,), name=f"worker-{index}", daemon=True)
        _ensure_forkserver()
        try:
            process.start()
        except (OSError, EOFError) as exc:  # the process or the forkserver was killed, or memory is short
            process = _FailedStart(exc)
        inbox.close()
        outbox_writer.close()
        self._process = process
        self._queue = TaskQueue(writer, f"feed-{index}")

    @property
    def pid(self) -> int | None:
        """Its process id; None if it could not be started."""
        pid: int | None = self._process.pid
        return pid

    @property
    def pipe(self) -> Any:
        """What becomes readable when the worker has written something, or when its pipe ends."""
        return self._outbox

    @property
    def sentinel(self) -> int:
        """What becomes readable when the process is dead."""
        sentinel: int = self._process.sentinel
        return sentinel

    @property
    def beat(self) -> float:
        """Monotonic time of its last sign of life; 0 before the first."""
        return float(self._beat.value)

    @property
    def tokens(self) -> float:
        """Tokens that it has received from upstream since its start."""
        return float(sum(self._tokens))

    def put(self, message: ToWorker) -> None:
        """Send the message to the worker; never waits."""
        self._queue.put(message)

    def read(self) -> bytes:
        """Read once from the pipe, which is readable; b"" at its end."""
        try:
            return os.read(self._outbox.fileno(), pipe.PIECE)
        except OSError:
            return b""

    def read_rest(self) -> Iterator[bytes]:
        """Yield what is left in the pipe of a dead process."""
        os.set_blocking(self._outbox.fileno(), False)
        while piece := self.read():
            yield piece

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def make_sure_dead(self) -> None:
        """Kill a worker that may still live although its sentinel fired: its tasks are about to be given to others."""
        if self._process.exitcode == FORKSERVER_GONE:
            try:
                os.kill(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it is dead

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the process is dead, for at most `timeout` seconds; True if it is."""
        self._process.join(timeout)
        return not self._process.is_alive()

    def cause(self) -> str:
        """Why the process ended, for a person."""
        if isinstance(self._process, _FailedStart):
            return self._process.fault
        exitcode = self._process.exitcode
        if exitcode is not None and exitcode < 0:
            name = signal.Signals(-exitcode).name
            return f"killed by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
        return f"exit code {exitcode}"

    def close(self) -> None:
        """Release the pipes and the sentinel of a dead process."""
        self._process.join()
        self._queue.close()
        self._outbox.close()


class _FailedStart:
    """Takes the place of a process that could not be started; handled like any dead worker."""

    pid = None
    exitcode = None

    def __init__(self, fault: Exception) -> None:
        self.fault = f"it could not be started ({type(fault).__name__})"
        self.sentinel, writer = os.pipe()
        os.close(writer)  # the sentinel is readable from now on, as that of a dead process
        self._is_open = True

    def is_alive(self) -> bool:
        return False

    def kill(self) -> None:
        """There is nothing to kill."""

    def join(self, timeout: float | None = None) -> None:
        """Close the sentinel when called without a timeout."""
        if self._is_open and timeout is None:
            self._is_open = False
            os.close(self.sentinel)


def _ensure_forkserver() -> None:
    """Start the forkserver, if it does not run, with variables that no other process should have.

    PYTHONPATH: before Python 3.14 the forkserver does not learn our module path, and would silently go without the
    preloaded modules. MALLOC_ARENA_MAX: one malloc arena instead of one a thread saves some 3 MB a worker, whose
    threads mostly wait.
    """
    wanted = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "MALLOC_ARENA_MAX": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
