"""Free ports of 127.0.0.1, and who listens on the taken ones."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import threading
from pathlib import Path

import psutil

from devstack.terminal import StackError

HOST = "127.0.0.1"
# Below the range from which systems take the ports of outgoing connections: none of those takes such a port between the
# kill of a broker and its restart. Nor is it the range from which a node takes the port of its model
# (supervisor/model_server/command.py).
FREE_PORTS = range(10_000, 20_000)


class _Reservations:
    """Which ports have been given to a caller, who may listen later: by this process or another one of this user.

    Others are told by locks on bytes of one file, the byte at N for port N; the system ends them with the process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own: set[int] = set()  # a process's locks do not keep out itself
        self._file: int | None = None

    def reserve(self, port: int) -> bool:
        """Reserve a port until this process ends; False: it is reserved already."""
        with self._lock:
            if port in self._own:
                return False
            if self._file is None:
                path = Path(tempfile.gettempdir(), f"workernode-ports-{os.getuid()}")
                try:
                    self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                except OSError as error:
                    why = f"{path}, which holds the reserved ports, cannot be opened ({error.strerror})."
                    raise StackError(f"{why} Remove it, or set TMPDIR to a folder that you may write to.") from error
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except (BlockingIOError, PermissionError):  # which of them is up to the system
                return False
            self._own.add(port)
            return True


_reservations = _Reservations()


def free_port() -> int:
    """Return a port that nobody listens on, and that no outgoing connection and no other call will take.

    Other calls are those of all processes of this user; the port is kept from them until this process ends.

    Raises:
        StackError: no port is free, or the file of the reservations cannot be opened.
    """
    for port in random.sample(FREE_PORTS, 200):
        if not is_taken(port) and _reservations.reserve(port):
            return port
    raise StackError(f"No free port was found between {FREE_PORTS.start} and {FREE_PORTS.stop}.")


def is_taken(port: int) -> bool:
    """Return whether somebody listens on the port, on 127.0.0.1 or on all addresses."""
    with socket.socket() as probe:
        # Connections in TIME_WAIT, which a killed broker leaves behind, do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return True
    return False


def holder_of(port: int) -> str:
    """Return who listens on a port, in words: the pid and the program, where the system shows them."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[-1:] == (port,)
            if listens and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return "another program"


def require_free(port: int, name: str, remedy: str) -> None:
    """Raise StackError if the port is taken: which one, who has it, and what to do."""
    if is_taken(port):
        raise StackError(f"{name} {port} is taken by {holder_of(port)}. {remedy}")
