"""Whether the broker is connected, and the report of an outage that lasts."""

from __future__ import annotations

import logging

from supervisor.health.incidents import Incidents
from supervisor.machine import Clock

log = logging.getLogger(__name__)

REPORT_AFTER = 60.0  # seconds without the broker before it is reported: a shorter outage passes by itself


class BrokerState:
    """Whether the broker is connected, since when, and why not.

    Attributes:
        fault: why it is not connected, as the end of a sentence; "" if it is.
    """

    def __init__(self, incidents: Incidents, clock: Clock) -> None:
        self.is_up = False
        self.fault = "not connected yet"
        self._since = clock.monotonic()
        self._incidents = incidents
        self._clock = clock

    def connected(self) -> None:
        """The connection is there."""
        if not self.is_up:
            self.is_up, self.fault, self._since = True, "", self._clock.monotonic()
            log.info("connected to Pulsar", extra={"event": "broker_up"})
            self._incidents.end("broker")

    def lost(self, why: str) -> None:
        """The connection is lost. Logged again whenever the reason changes."""
        if not self.is_up and why == self.fault:
            return
        if self.is_up:
            self._since = self._clock.monotonic()
        self.is_up, self.fault = False, why
        about = {"event": "broker_down", "why": why}
        log.warning("no connection to Pulsar: %s; tried again until it works", why, extra=about)

    def check(self, now: float, is_connected: bool) -> None:
        """Follow the state of the client library's connection; report an outage that lasts."""
        if self.is_up and not is_connected:
            self.lost("the connection was lost")
        elif not self.is_up and is_connected:
            self.connected()
        if not self.is_up and now - self._since >= REPORT_AFTER:
            self._incidents.begin(
                "broker", "MessageQueueConnectionError",
                f"no connection to Pulsar for more than {REPORT_AFTER:g} s: {self.fault}",
            )  # fmt: skip
