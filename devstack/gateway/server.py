"""The development gateway: stands in for the platform's REST service and keeps spec 1.1 and 1.2 to the letter.

A client's chat request becomes a task on Pulsar; the node's answer to /res or /res/ws goes to the client that waits.
The traps are the platform's own: an id is registered only after publishing, a stream is waited for without a limit,
a frame after the end breaks the connection. What a node does wrong is logged, and counted at /__stats.

HTTP and WebSocket share one port: http.server with a thread for each connection, and websockets' protocol for the
frames. Both are here anyway, and some hundred threads are cheap next to a broker. It listens on 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

import pulsar

from devstack.gateway.handler import Handler
from devstack.gateway.waiting import Waiting

HOST = "127.0.0.1"
# Seconds: how long a plain request waits, and how long a stream may be silent before a comment keeps it open.
PLAIN_WAIT_S = 300.0
KEEP_ALIVE_S = 30.0

log = logging.getLogger("gateway")

# Puts a payload on a topic and returns when the broker has it.
Publish = Callable[[str, bytes], None]


class Gateway(ThreadingHTTPServer):
    """The server. `start` serves in a thread of its own; `close` drops every connection and stops.

    Args:
        publish: whatever it raises becomes the client's 500.
        port: 0 chooses a free one; `address` tells which.
        plain_wait_s, keep_alive_s: the platform's times; shorter in tests.
    """

    daemon_threads = True  # a stuck reader must not keep the process
    block_on_close = False
    request_queue_size = 1024  # a burst of clients is not refused

    def __init__(
        self, publish: Publish, port: int, plain_wait_s: float = PLAIN_WAIT_S, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        super().__init__((HOST, port), Handler)
        self.publish = publish
        self.plain_wait_s = plain_wait_s
        self.keep_alive_s = keep_alive_s
        self.address = f"{HOST}:{self.server_address[1]}"
        self.plain = Waiting("published", "answered", "timed_out", "early", "unknown", "duplicate", "invalid")
        self.stream = Waiting(
            *("published", "connections", "chunks", "ended", "clients_gone"),
            *("early", "unknown", "after_end", "newlines", "invalid"),
        )
        self.connections: set[socket.socket] = set()

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.05,), name="gateway", daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def stats(self) -> dict[str, Any]:
        """What waits now and what was counted since the start, for plain requests and for streams.

        early: came before the id was registered; unknown: for an id that nobody waits for (any more); duplicate,
        after_end, newlines, invalid: faults of the node's.
        """
        return {"plain": self.plain.counts(), "stream": self.stream.counts()}

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, ConnectionError):
            log.debug("the connection from %s was lost: %s", client_address, error)
        else:
            log.exception("the gateway itself failed at a connection from %s", client_address)


class PulsarPublisher:
    """Publishes on any topic; keeps a producer for each."""

    def __init__(self, url: str, token: str | None) -> None:
        self._client = pulsar.Client(
            url,
            authentication=pulsar.AuthenticationToken(token) if token else None,
            logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Warn),
        )
        self._producers: dict[str, pulsar.Producer] = {}
        self._lock = threading.Lock()

    def publish(self, topic: str, payload: bytes) -> None:
        """Returns when the broker has it. Raises pulsar.PulsarException."""
        with self._lock:
            producer = self._producers.get(topic)
            if producer is None:
                producer = self._producers[topic] = self._client.create_producer(topic)
        producer.send(payload)

    def close(self) -> None:
        self._client.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m devstack.gateway", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=os.environ.get("GATEWAY_PORT") or "8081", help="0: a free one")
    parser.add_argument("--pulsar-url", default=os.environ.get("PULSAR_URL") or "pulsar://127.0.0.1:6650")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    publisher = PulsarPublisher(arguments.pulsar_url, os.environ.get("PULSAR_TOKEN"))
    try:
        gateway = Gateway(publisher.publish, arguments.port)
    except OSError as error:
        sys.exit(f"gateway: port {arguments.port} cannot be used ({error.strerror}): choose another with GATEWAY_PORT")
    gateway.start()
    print(f"ready http://{gateway.address}", flush=True)
    stop.wait()
    gateway.close()
    publisher.close()


