"""The status server: /livez (alias /healthz) asks nobody, /readyz says whether the node takes tasks or why not.

Runs on threads of its own and reads only snapshots that the owner has put there, so that it is never busy and never
waits.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from workernode.settings import Address


class Status:
    """The server and the snapshot that it shows."""

    def __init__(self, address: Address) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        self.snapshot: dict[str, Any] = {"ready": False, "state": "starting", "why": ["starting"]}
        self._server = _Server(address, _handler(lambda: self.snapshot))
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 1.0}, name="status", daemon=True
        ).start()

    def show(self, snapshot: dict[str, Any]) -> None:
        """Replace what is shown. The snapshot is not changed afterwards."""
        self.snapshot = snapshot


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: Address, handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        super().__init__((address.host, address.port), handler)


def _handler(snapshot: Callable[[], dict[str, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a request to come
        server_version = "WorkerNode"
        sys_version = ""

        def do_GET(self) -> None:  # http.server's name
            path = self.path.partition("?")[0]
            if path in ("/livez", "/healthz"):
                self._answer(200, b"ok\n", "text/plain; charset=utf-8")
            elif path == "/readyz":
                now = snapshot()
                body = json.dumps(now, indent=1).encode() + b"\n"
                self._answer(200 if now["ready"] else 503, body, "application/json")
            else:
                self._answer(404, b"there are /livez, /readyz\n", "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds; they are not worth a line."""

    return Handler
