"""A tunnel through an HTTP proxy."""

from __future__ import annotations

import re
from typing import Protocol

from workernode.net.errors import ProxyRefused
from workernode.net.origin import Origin
from workernode.net.proxy import Proxy

LONGEST_HEAD = 65536  # bytes of a proxy's answer to CONNECT


class _Wire(Protocol):
    """workernode.net.connection.Wire."""

    def sendall(self, data: bytes) -> None: ...

    def receive(self, most: int) -> bytes | None: ...


def open_tunnel(wire: _Wire, proxy: Proxy, origin: Origin) -> None:
    """Have the proxy connect to the origin (RFC 9110, 9.3.6). Bytes go to the origin from then on.

    Args:
        wire: the connection to the proxy, with a deadline.

    Raises:
        ProxyRefused: the proxy answered with another status than 2xx.
        OSError: the proxy does not answer, or not in HTTP.
    """
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"Host: {host}:{origin.port}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    wire.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    head = b""
    # Byte by byte: what follows the head belongs to the origin.
    while not head.endswith(b"\r\n\r\n"):
        byte = wire.receive(1)
        if not byte or len(head) >= LONGEST_HEAD:
            raise ConnectionError("the proxy gave no HTTP answer to CONNECT")
        head += byte
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3})", head)
    if status is None:
        raise ConnectionError("the proxy gave no HTTP answer to CONNECT")
    if not 200 <= int(status[1]) < 300:
        raise ProxyRefused(int(status[1]))
