"""Takes the README's picture: the page of a real node that has served streams for some minutes.

`python -m tests.support.page_picture FILE.png [MINUTES]`; 5 minutes if not said. It needs a Chromium, and what
tests/run.sh has set up: the broker is a real Pulsar; upstream and gateway are the doubles of the tests.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.support.browser import take_picture
from tests.support.fixtures import API_KEY
from tests.support.gateway import FakeGateway
from tests.support.node import Node
from tests.support.platform import Platform
from tests.support.upstream import FakeUpstream

MODEL = "gpt-4o-mini"
STREAM = {"chunks": 40, "chunk_ms": 100}
REFUSED = {
    "status": 400, "err_type": "invalid_request_error", "err_msg": "the request has 9000 tokens, the model takes 8192",
}  # fmt: skip
SLOTS = 64
WAVE = 90.0  # seconds from one peak of the load to the next


def serve(platform: Platform, seconds: float) -> None:
    """Publish streams, between 4 and 14 a second, as clients come and go."""
    began = time.monotonic()
    due, number = 0.0, 0
    while (passed := time.monotonic() - began) < seconds:
        if passed < due:
            time.sleep(due - passed)
        number += 1
        platform.ask(REFUSED if number % 150 == 100 else STREAM, stream=True)
        due += 1 / (9 - 5 * math.cos(2 * math.pi * due / WAVE))


def main(file: Path, seconds: float) -> None:
    """Start everything, serve, and take the picture."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        prices = folder / "prices.json"
        price = {"prompt": 0.15, "completion": 0.6}
        prices.write_text(json.dumps({"version": "1", "currency": "USD", "models": {MODEL: price}}))
        gateway, upstream = FakeGateway(), FakeUpstream()
        upstream.models = [MODEL]
        with Broker(find_or_get(), folder / "broker", port=free_port(), admin_port=free_port()) as broker:
            platform = Platform(broker, gateway, MODEL)
            variables = {
                "NODE_TYPE": "remote", "MODEL_NAME": MODEL, "API_URL": upstream.api_url, "API_KEY": API_KEY,
                "PULSAR_URL": broker.url, "WORKER_PROCESSES": 2, "MAX_PROCESS_NUM": SLOTS, "PRICES": prices,
            }  # fmt: skip
            with Node(variables, folder) as node:
                node.wait_ready()
                serve(platform, seconds)
                take_picture(f"http://{node.status_addr}/", file)
            platform.close()
        gateway.close()
        upstream.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), 60 * float(sys.argv[2]) if len(sys.argv) > 2 else 300.0)
