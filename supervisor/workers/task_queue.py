"""The queue from the supervisor to one worker process: a buffer, a feeder thread and a pipe."""

from __future__ import annotations

import os
import queue
import select
import threading
from multiprocessing.connection import Connection

from workernode import pipe
from workernode.protocol import ToWorker


class TaskQueue:
    """A queue with one process at its other end. `put` never waits, whatever the reader does.

    A message that fits into the pipe is written at once, without the feeder thread: waking the thread would cost two
    context switches a task.

    multiprocessing.Queue has the same parts and two faults that this class avoids: its lock stays taken when the
    reader is killed, and its feeder waits for ever on the pipe of a reader that was stopped and then killed, because
    the parent process keeps the reading end open (docs/decisions/0004-queues.md).
    """

    def __init__(self, writer: Connection, name: str) -> None:
        """Start the feeder thread.

        Args:
            writer: the writing end of the pipe; the queue owns it and closes it after `close`.
            name: the name of the feeder thread.
        """
        self._writer = writer
        self._fd = writer.fileno()
        os.set_blocking(self._fd, False)
        self._buffer: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queued = self._fed = 0  # messages put into the buffer, and messages that the feeder has written whole
        threading.Thread(target=self._feed, name=name, daemon=True).start()

    def put(self, message: ToWorker) -> None:
        """Queue the message. A message for a worker that is dead is dropped."""
        data = pipe.pack(message)
        if self._queued == self._fed and len(data) <= select.PIPE_BUF:  # such a write is whole, or not made at all
            try:
                os.write(self._fd, data)
                return
            except BlockingIOError:
                pass  # the pipe is full
            except OSError:
                return  # the reader died; the pool notices by its sentinel
        self._queued += 1
        self._buffer.put(data)

    def close(self) -> None:
        """Write what is queued, then close the pipe. Nothing may be put afterwards."""
        self._queued += 1  # `put` does not write into the pipe any more
        self._buffer.put(None)

    def _feed(self) -> None:
        with self._writer:
            while (data := self._buffer.get()) is not None:
                try:
                    self._write(data)
                except OSError:
                    return  # the reader died
                self._fed += 1

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        writable = select.poll()
        writable.register(self._fd, select.POLLOUT)
        while rest:
            writable.poll()
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                continue  # the pipe has less room than the write needs
