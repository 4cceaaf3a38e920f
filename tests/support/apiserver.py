"""A small Kubernetes API server over HTTPS, with the rules of the real one (1.34, watched) for a service account.

The account may create, patch and update events of core/v1 in its own namespace and nothing else. The token may be
rotated while it runs. On cue it refuses, hangs, fails or is away.
"""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from devstack.ports import free_port
from tests.support.tls import server_context


class ApiServer:
    """Use as a context manager: it listens on a free port of 127.0.0.1.

    `events` are the objects that were created; `requests` everything that was asked, as (method, path, status).
    """

    def __init__(self, folder: Path, namespace: str = "prod") -> None:
        """Have the in-cluster files in `service_account`.

        Args:
            folder: for the files.
            namespace: the account's own.
        """
        self.namespace = namespace
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, int]] = []
        self.status: int | None = None  # every request is answered with this
        self.hangs = threading.Event()  # set: no request is answered while it is
        self.release = threading.Event()  # set at the end: those that hang leave
        self.service_account = folder / "serviceaccount"
        self.service_account.mkdir()
        self._token = ""
        self._tls, authority = server_context(folder)
        (self.service_account / "ca.crt").write_bytes(authority.read_bytes())
        (self.service_account / "namespace").write_text(namespace)
        self.rotate()
        self._server = self._listen(free_port())
        self.port: int = self._server.server_address[1]

    @property
    def environ(self) -> dict[str, str]:
        """What Kubernetes puts into every pod's environment."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def rotate(self) -> None:
        """A new token, in the file as well; the old one is worth nothing from now on."""
        self._token = secrets.token_urlsafe(30)
        fresh = self.service_account / "token.new"
        fresh.write_text(self._token)
        fresh.replace(self.service_account / "token")

    def go_away(self) -> None:
        """Refuse connections, as in an outage."""
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        """Listen again, on the same port."""
        self._server = self._listen(self.port)

    def __enter__(self) -> ApiServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        self.go_away()

    def _listen(self, port: int) -> ThreadingHTTPServer:
        api = self

        class Handler(_Handler):
            server_api = api

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        server.socket = self._tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def answer(self, method: str, path: str, authorization: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return status and object, by the rules."""
        if authorization.lower() != f"bearer {self._token}".lower():
            return 401, _status(401, "Unauthorized")
        bare, _, query = path.partition("?")
        own = f"/api/v1/namespaces/{self.namespace}/events"
        if not (bare == own and method == "POST") and not (bare.startswith(own + "/") and method in ("PATCH", "PUT")):
            return 403, _status(403, "Forbidden")
        if method != "POST" or "dryRun" in query:
            return 200, {}
        try:
            event = json.loads(body)
        except ValueError:
            return 400, _status(400, "BadRequest")
        fault = _fault(event, self.namespace)
        if fault:
            return 422, _status(422, fault)
        self.events.append(event)
        name = event["metadata"].get("name") or event["metadata"]["generateName"] + secrets.token_hex(3)
        return 201, {**event, "metadata": {**event["metadata"], "name": name}}


class _Handler(BaseHTTPRequestHandler):
    server_api: ApiServer
    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        """Answer whatever comes."""
        api = self.server_api
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if api.hangs.is_set():
            api.release.wait()
            self.close_connection = True
            return
        if api.status is not None:
            status, answer = api.status, _status(api.status, "by the test")
        else:
            status, answer = api.answer(self.command, self.path, self.headers.get("authorization") or "", body)
        api.requests.append((self.command, self.path, status))
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any  # http.server's names

    def handle_one_request(self) -> None:
        """As the base, but a client that breaks off is none of our business."""
        try:
            super().handle_one_request()
        except (OSError, ssl.SSLError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # http.server's name
        """Say nothing."""


def _fault(event: dict[str, Any], namespace: str) -> str:
    """What validation finds; "" if nothing."""
    metadata = event.get("metadata") or {}
    if not metadata.get("name") and not metadata.get("generateName"):
        return "metadata.name: Required value: name or generateName is required"
    if (event.get("involvedObject") or {}).get("namespace") != namespace:
        return "involvedObject.namespace: Invalid value: does not match event.namespace"
    if event.get("eventTime"):
        for name in ("reportingComponent", "reportingInstance", "action"):
            if not event.get(name):
                return f"{name}: Required value"
    return ""


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
