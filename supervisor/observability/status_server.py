"""The status server: /livez, /readyz (whether the node takes tasks, and why not), /metrics, and a page at /.

Runs on its own threads and reads only the last snapshot, so that the main thread never waits for a client. Slow or many
clients cost a bounded number of threads and cannot keep a probe from being answered.
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
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from supervisor.observability import page
from supervisor.observability.history import History
from supervisor.observability.metrics import Metrics
from supervisor.observability.snapshot import NodeInfo, Snapshot
from workernode.record import rfc3339
from workernode.settings import Settings

log = logging.getLogger(__name__)

CLIENT_TIMEOUT = 10.0  # seconds for a client to send its request and to read the answer
POLL = 0.2  # seconds between checks for clients whose time is over
# Connections at once. One more makes the server close the oldest, which is a slow client: answering a quick one takes a
# few milliseconds. While twice as many are open because their threads have not ended yet, new ones are closed at once.
MAX_CLIENTS = 32
# The main thread publishes a snapshot every second. Later than this it is late, or hangs in something (seconds).
LATE_AFTER, HANGS_AFTER = 5.0, 15.0
PATHS = "/livez (or /healthz), /readyz, /metrics and the page /"
MAX_PATH = 256  # characters of a path that are read

PLAIN, JSON, HTML = "text/plain; charset=utf-8", "application/json", "text/html; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Answer(NamedTuple):
    """What a client gets: HTTP status, Content-Type, body."""

    status: int
    kind: str
    body: bytes


class StatusServer:
    """The server and its data. `update` is for the main thread; everything else runs on the server's threads."""

    def __init__(
        self, settings: Settings, info: NodeInfo, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Listen on STATUS_ADDR, which must not be off.

        Args:
            settings: of the node.
            info: what stays the same while the node runs.
            metrics: what /metrics shows.
            clock: monotonic seconds.

        Raises:
            OSError: the address cannot be listened on; `strerror` says so, with what to do, in words.
        """
        assert settings.status_addr is not None
        self._info, self._metrics = info, metrics
        self._limits = (settings.cpu_high, settings.memory_high)
        self._history = History()
        self._clock = clock
        self._now = Snapshot(clock())
        self._since = self._now.at
        # Rendering competes with the main thread for the interpreter: one at a time leaves the main thread half of it.
        self._rendering = threading.Lock()
        host, port = settings.status_addr
        shown = f"[{host}]" if ":" in host else host
        try:
            self._server = _Server((host, port), _handler(self._answer))
        except OSError as error:
            why = f"STATUS_ADDR {shown}:{port} cannot be listened on: {error.strerror or error}"
            raise OSError(error.errno, f"{why}; set STATUS_ADDR to a free address, or to off") from error
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(POLL,), name="status", daemon=True).start()

    def update(self, now: Snapshot) -> None:
        """Show this snapshot from now on. To be called once a second and whenever `why` or `state` changes."""
        if (now.state, now.ready) != (self._now.state, self._now.ready):
            self._since = now.at
        self._now = now
        self._history.add(now)

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> Answer:
        """Answer a GET."""
        match path:
            case "/livez" | "/healthz":
                age = self._clock() - self._now.at
                if age > HANGS_AFTER:
                    return Answer(503, PLAIN, f"the supervisor's main thread hangs: {_late(age)}\n".encode())
                return Answer(200, PLAIN, b"ok\n")
            case "/readyz":
                moment, now = self._clock(), self._now
                if moment - now.at > LATE_AFTER:
                    now = replace(now, why=(_late(moment - now.at), *now.why))
                answer = readiness(self._info, now, self._since, moment)
                return Answer(200 if now.ready else 503, JSON, json.dumps(answer, indent=1).encode() + b"\n")
            case "/metrics":
                with self._rendering:
                    return Answer(200, PROMETHEUS, self._metrics.render(self._now))
            case "/":
                with self._rendering:
                    body = page.render(self._info, self._now, self._since, self._history, self._limits)
                return Answer(200, HTML, body)
            case _:
                return Answer(404, PLAIN, f"not found; this server has {PATHS}\n".encode())


def _late(age: float) -> str:
    return f"the supervisor's main thread has not turned for {age:.0f} s"


def readiness(info: NodeInfo, now: Snapshot, since: float, moment: float) -> dict[str, Any]:
    """Return the body of /readyz.

    Args:
        info: which node it is.
        now: its state.
        since: monotonic: since when the node has this state and is ready, or is not.
        moment: monotonic, now.
    """

    def time_of_day(at: float) -> str | None:
        return rfc3339(time.time() + at - moment)

    return {
        "ready": now.ready,
        "state": now.state,
        "why": list(now.why),
        "since": time_of_day(since),
        "lasts_s": round(moment - since, 1),
        "next": [
            {"what": each.what}
            | ({} if each.at is None else {"at": time_of_day(each.at), "in_s": round(max(0.0, each.at - moment), 1)})
            for each in now.next
        ],
        "fitness": now.fitness,
        "fitness_why": now.fitness_why or None,
        "child": now.child or None,
        "node": info.node,
        "model": info.model,
        "version": info.version,
    }


class _Server(socketserver.ThreadingTCPServer):
    """One thread for each connection, at most MAX_CLIENTS connections, each for at most CLIENT_TIMEOUT.

    Not http.server's class: that one looks up its own name in the DNS before it listens.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # connections that wait here cost nothing

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._open: dict[socket.socket, float] = {}  # since when (monotonic), the oldest first
        self._closing: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection on its own thread (socketserver's name)."""
        with self._lock:
            full = len(self._open) >= 2 * MAX_CLIENTS
            if not full:
                self._open[request] = time.monotonic()
                self._close_clients([each for each in self._open if each not in self._closing][:-MAX_CLIENTS])
        if full:
            request.close()
        else:
            super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Close the connections whose time is over (socketserver's name)."""
        with self._lock:
            limit = time.monotonic() - CLIENT_TIMEOUT
            self._close_clients([each for each, since in self._open.items() if since < limit])

    def shutdown_request(self, request: Any) -> None:
        """The connection was served (socketserver's name)."""
        with self._lock:
            self._open.pop(request, None)
            self._closing.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client or this server closed the connection (socketserver's name)."""
        log.debug(
            "a client of the status server closed its connection early",
            exc_info=True,
            extra={"event": "status_client_lost"},
        )

    def _close_clients(self, connections: list[socket.socket]) -> None:
        for each in connections:
            self._closing.add(each)
            with contextlib.suppress(OSError):  # it has just closed
                each.shutdown(socket.SHUT_RDWR)  # wakes its thread, which ends


def _handler(answer: Callable[[str], Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):  # HTTP/1.0: a connection serves one request
        timeout = CLIENT_TIMEOUT

        def do_GET(self) -> None:  # http.server's name
            path = self.path[:MAX_PATH]
            try:
                status, kind, body = answer(path.partition("?")[0])
            except Exception:  # the edge of this thread: log the error, and keep the server running
                log.exception("cannot answer %s: internal error", path, extra={"event": "status_failed", "path": path})
                status, kind, body = 500, PLAIN, b"internal error: see the log of the node, event status_failed\n"
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
            """The header Server (http.server's name): without a version, which would help attackers."""
            return "WorkerNode"

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: probes come every few seconds."""

    return Handler
