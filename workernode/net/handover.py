"""Hands bytes to a socket so that another process can tell afterwards whether the kernel has taken them.

The bytes go into a pipe first, and from there into the socket (splice). The supervisor has the pipe, too: if this
process is killed, what it finds in the pipe was not sent (docs/decisions/0012-resume.md). One task of a process uses
the pipe at a time: nothing here waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from typing import Protocol

# The most that a pipe takes: more is sent the usual way.
LARGEST = 65536  # bytes
NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.EPERM)  # of splice: this system, or this kind of socket, has none


class Note(Protocol):
    """Where it is noted what leaves: memory that outlives the process."""

    def begin(self, size: int, *, is_exact: bool) -> None:
        """So many bytes are about to leave.

        Args:
            is_exact: they are in the pipe, and leave from there.
        """

    def done(self) -> None:
        """The kernel has taken them all."""


class Handover:
    """The pipe.

    Args:
        reader, writer: its file descriptors; not blocking.
    """

    def __init__(self, reader: int, writer: int) -> None:
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._reader = reader
        self._writer = writer
        self._works = hasattr(os, "splice")

    def send(self, fd: int, data: bytes, note: Note) -> bytes:
        """Hand the bytes to the socket, as far as it takes them without a wait.

        Returns:
            What is left. It has to be sent the usual way, and is noted as not exact.

        Raises:
            OSError: the connection broke.
        """
        if not self._fill(data):
            note.begin(len(data), is_exact=False)
            return data
        note.begin(len(data), is_exact=True)
        try:
            count = os.splice(self._reader, fd, len(data), flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            count = 0
        except OSError as exc:
            note.begin(len(data), is_exact=False)
            self._empty()
            if exc.errno not in NOT_HERE:
                raise
            self._works = False
            return data
        if count == len(data):
            return b""
        note.begin(len(data), is_exact=False)
        return self._empty()

    def _fill(self, data: bytes) -> bool:
        """Put the bytes into the pipe; False, and an empty pipe, if it does not take them all."""
        if not self._works or len(data) > LARGEST:
            return False
        try:
            if os.write(self._writer, data) == len(data):
                return True
        except BlockingIOError:  # the system gives so small a pipe
            pass
        self._empty()
        return False

    def _empty(self) -> bytes:
        return os.read(self._reader, LARGEST) if bytes_in(self._reader) else b""


def bytes_in(reader: int) -> int:
    """Return how many bytes are in a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, b"\0" * 4))
    return int(count)
