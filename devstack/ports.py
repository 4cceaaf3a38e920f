"""Free ports of 127.0.0.1, and who listens on the taken ones."""

from __future__ import annotations

import random
import socket

import psutil

from devstack.terminal import StackError

HOST = "127.0.0.1"
# Below the range from which systems take the ports of outgoing connections: none of those takes such a port between the
# kill of a broker and its restart.
FREE_PORTS = range(15_000, 30_000)


def free_port() -> int:
    """Return a port that nobody listens on now, and that no outgoing connection takes later."""
    for port in random.sample(FREE_PORTS, 200):
        if not is_taken(port):
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
