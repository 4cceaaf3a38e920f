"""The file descriptor that log lines are written to. A reader that is slow or gone costs lines, never the node."""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from contextlib import suppress

from workernode.logs.formats import JSON
from workernode.record import rfc3339

# How long one line waits for a slow reader. After a line was lost, the next ones do not wait until one got through.
PATIENCE_S = 0.2


class Output:
    """A file descriptor that takes whole lines. It raises nothing, and waits for a slow reader only a moment.

    A pipe or terminal is opened a second time, so that this second descriptor need not block: making stderr itself
    non-blocking would do so for all that share it, the user's shell included. Where the system does not allow to open
    it again, the write waits until the descriptor is ready.
    """

    def __init__(self, fd: int) -> None:
        self._fd = self._given = fd
        self._socket: socket.socket | None = None
        self._may_block = False
        self._lost = 0  # lines since the last one that got through
        self._torn = False  # the last one got through in part
        with suppress(OSError):
            self._open(fd)

    def _open(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):  # journald's
            self._socket = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(mode) or os.isatty(fd):
            self._may_block = True
            self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            self._may_block = False

    def write(self, line: bytes) -> None:
        """Write one line, with its line end. Lost lines are counted; the next line that gets through counts them."""
        if self._lost:
            line = (b"\n" if self._torn else b"") + self._lost_line() + line
        rest = memoryview(line)
        until = time.monotonic() + (0.0 if self._lost else PATIENCE_S)
        begun = False
        try:
            while rest:
                written = self._send(rest, until)
                begun, rest = True, rest[written:]
        except OSError:  # nobody reads (EPIPE), the reader is slow (EAGAIN), no room (ENOSPC)
            self._lost += 1
            self._torn = self._torn or begun
        else:
            self._lost, self._torn = 0, False

    def _send(self, rest: memoryview, until: float) -> int:
        if self._may_block:
            rest = rest[: select.PIPE_BUF]  # what a pipe that is ready takes without blocking
            self._wait(until)
        try:
            return self._send_now(rest)
        except BlockingIOError:
            self._wait(until)
            return self._send_now(rest)

    def _send_now(self, rest: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(rest, socket.MSG_DONTWAIT)
        return os.write(self._fd, rest)

    def _wait(self, until: float) -> None:
        poll = select.poll()
        poll.register(self._socket or self._fd, select.POLLOUT)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise BlockingIOError

    def close(self) -> None:
        """Close what was opened here; the descriptor that was given stays open."""
        if self._socket is not None:
            self._socket.close()
        elif self._fd != self._given:
            os.close(self._fd)

    def _lost_line(self) -> bytes:
        line = {"time": rfc3339(time.time()), "level": "WARNING", "event": "log_lost", "lost": self._lost}
        line["message"] = f"{self._lost} log lines could not be written"
        return JSON.encode(line).encode() + b"\n"
