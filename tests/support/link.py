"""A TCP link between two ports that a test can cut, in either of the ways in which networks fail."""

from __future__ import annotations

import contextlib
import socket
import threading

HOST = "127.0.0.1"
PIECE = 65536


class Link:
    """Listens on a port, and carries what comes to another port and back, in threads.

    Args:
        port: to listen on.
        target: the port that the connections are carried to.
    """

    def __init__(self, port: int, target: int) -> None:
        self._listener = socket.create_server((HOST, port))
        self._target = target
        self._carries = threading.Event()
        self._carries.set()
        self._refuses = False
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Cut it: both ends see at once that their connections are closed, and new ones are closed, too."""
        self._refuses = True
        self._close_all()

    def stall(self) -> None:
        """Cut it as a network that drops packets does: nobody sees anything, nothing arrives until `mend`."""
        self._carries.clear()

    def mend(self) -> None:
        """Carry again; what a stall has held back arrives."""
        self._refuses = False
        self._carries.set()

    def close(self) -> None:
        """Accept no more, and end what there is."""
        _shut(self._listener)  # ends `accept`, which `close` alone does not
        self._listener.close()
        self.mend()
        self._close_all()

    def _close_all(self) -> None:
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            _shut(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed by `close`
            while True:
                client, _ = self._listener.accept()
                if self._refuses:
                    client.close()
                else:
                    threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        self._carries.wait()
        try:
            server = socket.create_connection((HOST, self._target))
        except OSError:
            client.close()
            return
        with client, server:
            self._sockets += [client, server]
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                self._carries.wait()
                target.sendall(piece)
        self._carries.wait()
        _shut(source)
        _shut(target)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
