"""The status server: /livez asks nobody, /readyz says whether the node takes tasks or why not, /metrics, and a page.

Runs on threads of its own and reads only what the owner of the state has put there, so that the owner never waits for
a client. Clients that are slow, or many, cost a bounded number of threads and cannot keep a probe out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from supervisor.observability import page
from supervisor.observability.history import History
from supervisor.observability.metrics import Metrics
from supervisor.observability.snapshot import About, Snapshot
from workernode.record import rfc3339
from workernode.settings import Settings

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that one client has for its request and for taking the answer
POLL = 0.2  # seconds between looks for clients whose time is over
# Connections at once. A new one drives out the oldest, which is a slow client: the answer to a quick one takes a few
# milliseconds. While twice as many are still being driven out, new ones are closed at once.
MOST_CLIENTS = 32
PATHS = "/livez (or /healthz), /readyz, /metrics and the page /"
LENGTH = 256  # characters of a path that are read

PLAIN, JSON, HTML = "text/plain; charset=utf-8", "application/json", "text/html; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Answer(NamedTuple):
    """What a client gets."""

    status: int
    kind: str
    body: bytes


class StatusServer:
    """The server, and what it shows."""

    def __init__(self, settings: Settings, about: About, metrics: Metrics) -> None:
        """Listen on STATUS_ADDR, which must not be off.

        Raises:
            OSError: the address cannot be listened on; `strerror` says so, with what to do, in words.
        """
        assert settings.status_addr is not None
        self._about, self._metrics = about, metrics
        self._limits = (settings.cpu_high, settings.memory_high)
        self._history = History()
        self._now = Snapshot(time.monotonic())
        self._since = self._now.at
        # Renderings compete with the owner for the interpreter; one at a time leaves it half, however many clients.
        self._one_at_a_time = threading.Lock()
        host, port = settings.status_addr
        shown = f"[{host}]" if ":" in host else host
        try:
            self._server = _Server((host, port), _handler(self._answer))
        except OSError as error:
            why = f"STATUS_ADDR {shown}:{port} cannot be listened on: {error.strerror or error}"
            raise OSError(error.errno, f"{why}; set STATUS_ADDR to a free address, or to off") from error
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(POLL,), name="status", daemon=True).start()

    def show(self, now: Snapshot) -> None:
        """Replace what is shown. For the owner of the state, once a second and whenever `why` or `state` changes."""
        if (now.state, now.ready) != (self._now.state, self._now.ready):
            self._since = now.at
        self._now = now
        self._history.add(now)

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> Answer:
        """For the threads of the server."""
        match path:
            case "/livez" | "/healthz":
                return Answer(200, PLAIN, b"ok\n")
            case "/readyz":
                now = self._now
                told = readiness(self._about, now, self._since, time.monotonic())
                return Answer(200 if now.ready else 503, JSON, json.dumps(told, indent=1).encode() + b"\n")
            case "/metrics":
                with self._one_at_a_time:
                    return Answer(200, PROMETHEUS, self._metrics.render(self._now))
            case "/":
                with self._one_at_a_time:
                    body = page.render(self._about, self._now, self._since, self._history, self._limits)
                return Answer(200, HTML, body)
            case _:
                return Answer(404, PLAIN, f"there are {PATHS}\n".encode())


def readiness(about: About, now: Snapshot, since: float, moment: float) -> dict[str, Any]:
    """What /readyz says.

    Args:
        since: monotonic, since when the node is in this state and ready, or not.
        moment: monotonic, now.
    """

    def clock(at: float) -> str | None:
        return rfc3339(time.time() + at - moment)

    return {
        "ready": now.ready,
        "state": now.state,
        "why": list(now.why),
        "since": clock(since),
        "lasts_s": round(moment - since, 1),
        "next": [
            {"what": each.what}
            | ({} if each.at is None else {"at": clock(each.at), "in_s": round(max(0.0, each.at - moment), 1)})
            for each in now.next
        ],
        "fitness": now.fitness,
        "child": now.child or None,
        "node": about.node,
        "model": about.model,
        "version": about.version,
    }


class _Server(socketserver.ThreadingTCPServer):
    """A thread a connection, so many connections at once, and each for so long.

    Not http.server's: it looks its own name up in the DNS before it listens.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # a crowd waits here, where it costs nothing

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._open: dict[socket.socket, float] = {}  # since when (monotonic), the oldest first
        self._leaving: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection in a thread of its own (socketserver's name)."""
        with self._lock:
            full = len(self._open) >= 2 * MOST_CLIENTS
            if not full:
                self._open[request] = time.monotonic()
                self._drive_out([each for each in self._open if each not in self._leaving][:-MOST_CLIENTS])
        if full:
            request.close()
        else:
            super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Drive out whose time is over (socketserver's name)."""
        with self._lock:
            limit = time.monotonic() - PATIENCE
            self._drive_out([each for each, since in self._open.items() if since < limit])

    def shutdown_request(self, request: Any) -> None:
        """The connection was served (socketserver's name)."""
        with self._lock:
            self._open.pop(request, None)
            self._leaving.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client left, or was driven out; nothing of ours raises (socketserver's name)."""
        log.debug("status client lost", exc_info=True, extra={"event": "status_client_lost"})

    def _drive_out(self, connections: list[socket.socket]) -> None:
        for each in connections:
            self._leaving.add(each)
            with contextlib.suppress(OSError):  # it has just left
                each.shutdown(socket.SHUT_RDWR)  # wakes its thread, which ends


def _handler(answer: Callable[[str], Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):  # HTTP/1.0: a connection serves one request
        timeout = PATIENCE

        def do_GET(self) -> None:  # http.server's name
            try:
                status, kind, body = answer(self.path[:LENGTH].partition("?")[0])
            except Exception:  # the edge of this thread: a fault of ours must be seen, and must not end the server
                log.exception("status_failed", extra={"event": "status_failed", "path": self.path[:LENGTH]})
                status, kind, body = 500, PLAIN, b"the node could not say; its log says why\n"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            if kind is HTML:
                self.send_header("Content-Security-Policy", page.content_security_policy())
                self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def version_string(self) -> str:
            """What the header Server says (http.server's name): no version for those who look for an old one."""
            return "WorkerNode"

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds; they are not worth a line."""

    return Handler
