"""What the tests of `--check` share: settings that are right, and an API that is asked for its list of models."""

from __future__ import annotations

import email.utils
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from supervisor.check.findings import Context, Finding, Mark
from workernode import settings

KEY = "sk-canary-check-31"
TOKEN = "token-canary-check-31"
TIMEOUT = 20  # seconds
REMOTE = {
    "NODE_TYPE": "remote",
    "MODEL_NAME": "gpt-4o",
    "API_URL": "http://127.0.0.1:9",
    "API_KEY": KEY,
    "PULSAR_URL": "pulsar://127.0.0.1:1",
    "PULSAR_TOKEN": TOKEN,
}


def context(**variables: str) -> Context:
    """What the checks of a remote node know, with time enough."""
    return Context(settings.load(REMOTE | variables), time.monotonic() + TIMEOUT)


def marks(findings: list[Finding]) -> list[tuple[str, Mark]]:
    return [(finding.name, finding.mark) for finding in findings]


def one_line(finding: Finding) -> str:
    return f"{finding.mark.value}: {finding.text} → {finding.advice}"


class Api:
    """An API's list of models, with a key and bad manners. Any path has it."""

    def __init__(self) -> None:
        self.status, self.body, self.date = 200, b'{"data": [{"id": "gpt-4o"}, {"id": "gpt-4o-mini"}]}', time.time()
        self.open = False  # the list is shown to everybody
        self.seen: list[tuple[str, str | None]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                key = self.headers.get("Authorization")
                api.seen.append((self.path, key))
                refused = key != f"Bearer {KEY}" and not api.open and api.status == 200
                self.send_response_only(401 if refused else api.status)
                self.send_header("Date", email.utils.formatdate(api.date, usegmt=True))
                self.end_headers()
                self.wfile.write(b"" if refused else api.body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self.server.shutdown()
        self.server.server_close()
