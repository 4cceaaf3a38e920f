"""The development gateway: stands in for the platform's REST service and keeps spec 1.1 and 1.2 to the letter.

A client's chat request becomes a task on Pulsar; the node's answer to /res or /res/ws goes to the client that waits.
The traps are the platform's own: an id is registered only after publishing, a stream is waited for without a limit,
a frame after the end breaks the connection. A node's errors are logged, and counted at /__stats.

HTTP and WebSocket share one port: http.server with a thread for each connection, and websockets' protocol for the
frames. Both are installed for the node anyway, and some hundred threads cost little beside a broker. It listens on
127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from devstack.gateway.handler import Handler
from devstack.gateway.publisher import PulsarPublisher
from devstack.gateway.state import KEEP_ALIVE_S, PLAIN_WAIT_S, GatewayState, Publish

HOST = "127.0.0.1"

log = logging.getLogger("gateway")


class Gateway(ThreadingHTTPServer):
    """The server. `start` serves in a thread of its own; `close` drops every connection and stops.

    Args:
        publish: puts a task on a topic. What it raises becomes the client's 500.
        port: 0 chooses a free one; `address` holds it.
        plain_wait_s, keep_alive_s: the platform's times; shorter in tests.
    """

    daemon_threads = True  # a connection that hangs must not keep the process alive
    block_on_close = False
    request_queue_size = 1024  # a burst of clients is not refused

    def __init__(
        self, publish: Publish, port: int, plain_wait_s: float = PLAIN_WAIT_S, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        self.state = GatewayState(publish, plain_wait_s, keep_alive_s)
        super().__init__((HOST, port), functools.partial(Handler, self.state))
        self.address = self.state.address = f"{HOST}:{self.server_address[1]}"
        self.connections: set[socket.socket] = set()

    def start(self) -> None:
        """Serve in a thread of its own."""
        threading.Thread(target=self.serve_forever, args=(0.05,), name="gateway", daemon=True).start()

    def close(self) -> None:
        """Stop, and drop every connection."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, and serve it in a thread."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection, and close it."""
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection's thread raised."""
        error = sys.exc_info()[1]
        if isinstance(error, ConnectionError):
            log.debug("the connection from %s was lost: %s", client_address, error)
        else:
            log.exception("internal error of the gateway at a connection from %s", client_address)


def main() -> None:
    """Run the gateway until SIGTERM or SIGINT; prints `ready URL` when it listens."""
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
