"""An HTTP proxy for tests: CONNECT and absolute addresses, with or without a password. It knows every name.

Whatever host it is asked for, it connects to 127.0.0.1 and the port that was asked for: a node that reaches a name that
does not exist has gone through this proxy.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator

PIECE = 65536


class FakeProxy:
    """The proxy, serving in threads until `close`."""

    def __init__(self, credentials: str = "") -> None:
        """Listen.

        Args:
            credentials: "user:password" that it asks for; "" for none.
        """
        self.seen: list[str] = []  # the first line of each request, and then "refused" if it was
        self._expected = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FakeProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            received = b""
            while b"\r\n\r\n" not in received:
                piece = client.recv(PIECE)
                if not piece:
                    return
                received += piece
            head, _, rest = received.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            self.seen.append(lines[0])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if self._expected and headers.get("proxy-authorization") != self._expected:
                self.seen.append("refused")
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            method, target, _ = lines[0].split(" ")
            if method == "CONNECT":
                server = socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2])))
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                authority, _, path = target.removeprefix("http://").partition("/")
                server = socket.create_connection(("127.0.0.1", int(authority.rpartition(":")[2])))
                kept = [line for line in lines[1:] if not line.lower().startswith("proxy-")]
                server.sendall("\r\n".join([f"{method} /{path} HTTP/1.1", *kept, "", ""]).encode("latin-1"))
            with server:
                server.sendall(rest)
                threading.Thread(target=_copy, args=(server, client), daemon=True).start()
                _copy(client, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for piece in _pieces(source):
            target.sendall(piece)
    for sock in (source, target):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _pieces(source: socket.socket) -> Iterator[bytes]:
    while piece := source.recv(PIECE):
        yield piece
