"""A real worker process, started by the forkserver, with its pipes and its shared memory. The only I/O of the pool.

Each process has a thread in the supervisor, which starts it, waits for its end, and then closes a pipe: the sentinel.
So the main thread never waits for the forkserver, or for a process that is slow to start or to end.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, MutableSequence
from dataclasses import replace
from functools import cache
from multiprocessing import connection, forkserver, process, resource_tracker
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

from supervisor.machine import kill_descendants, oom_kills, wait_gone
from supervisor.workers.task_queue import TaskQueue
from workernode import pipe, worker
from workernode.net.handover import bytes_in
from workernode.protocol import Lease, SavedStream, ToWorker
from workernode.record import Node
from workernode.resume_style import ResumeStyle
from workernode.settings import Settings
from workernode.stream_memory import StreamMemory

log = logging.getLogger(__name__)

PRELOAD = ["workernode.preload"]
FORKSERVER_GONE = 255  # the exit code that multiprocessing gives a worker whose forkserver died: nothing is known of it
DEATH_LIMIT = 2.0  # seconds that a process gets to be gone after SIGKILL

# multiprocessing's list of children and its exit codes are for one thread at a time.
_multiprocessing_lock = threading.Lock()


class WorkerProcess:
    """A worker process and the supervisor's ends of its pipes (supervisor.workers.contract.Process)."""

    def __init__(self, index: int, slots: int, settings: Settings, node: Node) -> None:
        """Begin to start the process. A start that fails counts as a process that died at once.

        Args:
            index: its place in the pool.
            slots: how many tasks it runs at once.
            settings: the node's settings.
            node: the identity of the node, for the worker's records.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._inbox, writer = context.Pipe(duplex=False)
        self._outbox, self._outbox_writer = context.Pipe(duplex=False)
        self._sentinel, self._sentinel_writer = os.pipe()
        self.answer_states: MutableSequence[int] = RawArray("B", slots)
        self._tokens, self._beat = RawArray("d", slots), RawValue("d", 0.0)
        self._lease = RawArray("d", [float("inf"), 0.0])
        self._streams = _stream_memory(slots) if settings.resume_style is not ResumeStyle.OFF else None
        self._handover = context.Pipe(duplex=False) if self._streams is not None else None
        arguments = worker.WorkerArguments(
            settings, replace(node, worker=index), self._inbox, self._outbox_writer, self.answer_states, self._tokens,
            self._beat, self._lease, self._streams, self._handover,
        )  # fmt: skip
        self._process: Any = context.Process(
            target=worker.main, args=(arguments,), name=f"worker-{index}", daemon=True
        )
        self._fault = ""  # why it could not be started
        self._is_abandoned = False  # its forkserver was killed, and so it was killed here
        self._oom_kills = oom_kills()  # before its start
        self._lock = threading.Lock()  # for the two below
        self._is_started = self._is_kill_wanted = False
        self._queue = TaskQueue(writer, f"feed-{index}")
        threading.Thread(target=self._live, name=f"process-{index}", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """Its process id; None if it has not started."""
        pid: int | None = self._process.pid
        return pid

    @property
    def pipe(self) -> Any:
        """What becomes readable when the worker has written something, or when its pipe ends."""
        return self._outbox

    @property
    def sentinel(self) -> int:
        """What becomes readable when the process is dead, or could not be started."""
        return self._sentinel

    @property
    def beat(self) -> float:
        """Monotonic time of its last sign of life; 0 before the first."""
        return float(self._beat.value)

    @property
    def lease(self) -> Lease:
        """Until when it may send streams."""
        return Lease(self._lease[0], int(self._lease[1]))

    @lease.setter
    def lease(self, lease: Lease) -> None:
        self._lease[1] = lease.lapses  # first: who sees the new time sees this, too
        self._lease[0] = lease.until

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

    def forget_stream(self, slot: int) -> None:
        """Another job is about to get the slot."""
        if self._streams is not None:
            self._streams.slot(slot).forget()

    def saved_stream(self, slot: int) -> SavedStream | None:
        """Return what the client of the slot's stream was sent, once the process is dead; None if it is not known."""
        if self._streams is None or self._handover is None:
            return None
        return self._streams.slot(slot).read(bytes_in(self._handover[0].fileno()))

    def kill(self) -> None:
        """Send SIGKILL. If the process has not started yet, the forkserver hangs, and is killed instead."""
        with self._lock:
            self._is_kill_wanted = True
            is_started = self._is_started
        if is_started:
            self._process.kill()
        else:
            _kill_forkserver()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the process is dead, for at most `timeout` seconds; True if it is."""
        return bool(select.select([self._sentinel], [], [], timeout)[0])

    def cause(self) -> str:
        """Why the process ended, for a person."""
        if self._fault:
            return self._fault
        if self._is_abandoned:
            return "its fork server was killed"
        exitcode = self._process.exitcode
        if exitcode == -signal.SIGKILL:
            return "killed by SIGKILL" + (" from outside" if self._is_memory_in_order() else ", perhaps out of memory")
        return f"killed by {signal.Signals(-exitcode).name}" if (exitcode or 0) < 0 else f"exit code {exitcode}"

    def was_killed_from_outside(self) -> bool:
        """Return True if the fork server was killed, or if this process got SIGKILL, and not for want of memory."""
        return self._is_abandoned or (self._process.exitcode == -signal.SIGKILL and self._is_memory_in_order())

    def close(self) -> None:
        """Release the pipes of a dead process."""
        self._queue.close()
        self._outbox.close()
        if self._streams is not None and self._handover is not None:
            self._streams.close()
            self._handover[0].close()
        os.close(self._sentinel)

    def _is_memory_in_order(self) -> bool:
        """Return True if it is known that the kernel has killed no process here for want of memory since the start."""
        return self._oom_kills is not None and oom_kills() == self._oom_kills

    def _live(self) -> None:
        """The process's thread: start it, wait until it is dead, and close the sentinel."""
        try:
            self._start()
            connection.wait([self._process.sentinel])
            with _multiprocessing_lock:
                self._process.join()
            if self._process.exitcode == FORKSERVER_GONE:
                self._make_sure_dead()
        except (OSError, EOFError) as error:  # the process or the forkserver was killed, or memory is short
            self._fault = f"it could not be started ({getattr(error, 'strerror', None) or 'the fork server is gone'})"
        finally:
            os.close(self._sentinel_writer)

    def _start(self) -> None:
        try:
            with _multiprocessing_lock:
                self._process.start()
        finally:
            self._inbox.close()
            self._outbox_writer.close()
            if self._handover is not None:
                self._handover[1].close()
        with self._lock:
            self._is_started = True
            is_kill_wanted = self._is_kill_wanted
        if is_kill_wanted:
            self._process.kill()

    def _make_sure_dead(self) -> None:
        """Kill a worker that may live although its forkserver is gone: its tasks are about to be given to others."""
        try:
            os.kill(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._is_abandoned = True
        wait_gone(self._process.pid, DEATH_LIMIT)


@cache  # logged once
def _log_no_memory(why: str) -> None:
    text = "the system gives no memory for streams (%s): a stream whose worker dies ends with an error"
    log.warning(text, why, extra={"event": "stream_memory_missing"})


def _stream_memory(slots: int) -> StreamMemory | None:
    try:
        return StreamMemory(slots)
    except OSError as error:
        _log_no_memory(error.strerror or str(error))
        return None


def prepare_environment() -> dict[str, str]:
    """Set the variables that only the forkserver needs, and return the environment as it was before.

    To be called once, before any thread exists: a thread of a library may read the environment while it is edited.

    PYTHONPATH: before Python 3.14 the forkserver does not learn our module path, and would silently go without the
    preloaded modules. MALLOC_ARENA_MAX: one malloc arena instead of one a thread saves some 3 MB a worker, whose
    threads mostly wait. Both are read at the start of a process only.
    """
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    os.environ["MALLOC_ARENA_MAX"] = "1"
    return before


def do_without_resource_tracker() -> None:
    """Keep multiprocessing from starting its resource tracker. To be called before the first worker is started.

    That process removes named semaphores and shared memory that a dead process has left behind. The node has none: its
    shared memory has no name. It takes 7 MB. Here it seems to run already, as it does in each worker: what is sent to
    it goes to the null device.
    """
    resource_tracker._resource_tracker._fd = os.open(os.devnull, os.O_WRONLY)  # type: ignore[attr-defined]


def end_all_children() -> None:
    """Kill every process that this one has started, the forkserver too.

    To be called last: multiprocessing itself would leave it alive for half a second after the supervisor's exit.
    """
    kill_descendants(DEATH_LIMIT)
    folder = process.current_process()._config.get("tempdir")  # type: ignore[attr-defined]  # the forkserver's socket
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def _kill_forkserver() -> None:
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # it has no public name
    if pid is not None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it is dead
