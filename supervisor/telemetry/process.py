"""The supervisor's side of the telemetry process: starts it, and sends it what ended. Nothing here waits for it."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
import time
from collections import deque

from supervisor.telemetry.spans import Ended
from workernode.protocol import Outcome
from workernode.record import Node
from workernode.settings import Settings

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "supervisor.telemetry.sender")
MOST_WAITING = 10_000  # deliveries that wait for the process: 20 MB; further ones are not sent
SEND_EVERY = 0.2  # seconds between two batches
START_AGAIN = 60.0  # seconds after which a process that died is started again


class TelemetryProcess:
    """Sends the deliveries that ended to a process of its own. `ended` and `close` are for the main thread."""

    def __init__(self, settings: Settings, node: Node, command: tuple[str, ...] = COMMAND) -> None:
        """Start the process, and the thread that writes to it."""
        self._hello, self._command = (settings, node), command
        self._waiting: deque[Ended] = deque()
        self._lost = 0
        self._is_closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._send, name="telemetry", daemon=True)
        self._thread.start()

    def ended(self, outcome: Outcome) -> None:
        """A delivery was decided."""
        if outcome.trace is None:
            return
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(Ended.of(outcome, outcome.trace))
        else:
            self._lost += 1

    def close(self, limit_s: float) -> None:
        """Send what was not sent yet, for so many seconds at most, and end the process."""
        until = time.monotonic() + limit_s
        self._is_closing.set()
        self._thread.join(limit_s)
        process = self._process
        if process is None:
            return
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()

    def _send(self) -> None:
        """The thread: start the process, write to it, and start it again a while after it died."""
        while not self._is_closing.is_set():
            try:
                self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
                with self._process:
                    self._write(self._process)
            except OSError as error:  # it could not be started, or it died
                text = "the process that sends spans and metrics has ended (%s); it is started again in %d s"
                log.warning(text, error.strerror, START_AGAIN, extra={"event": "telemetry_failed"})
                self._is_closing.wait(START_AGAIN)

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        """Write until the node stops."""
        assert process.stdin is not None
        pickle.dump(self._hello, process.stdin)
        is_last = False
        while not is_last:
            is_last = self._is_closing.wait(SEND_EVERY)
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if batch:
                pickle.dump(batch, process.stdin)
            process.stdin.flush()
            if self._lost:
                text = "spans and metrics of %d deliveries are lost: the process that sends them is too slow"
                log.warning(text, self._lost, extra={"event": "telemetry_failed"})
                self._lost = 0
        process.stdin.close()
