"""Failures that need a person: each is reported once, until it is over."""

from __future__ import annotations

from typing import Any

from supervisor.health import Incidents
from supervisor.machine import Clock


class Reporter:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def begin(self, key: str, reason: str, message: str) -> None:
        self.calls.append(("begin", key))

    def end(self, key: str) -> None:
        self.calls.append(("end", key))


def test_a_failure_is_reported_again_only_after_it_was_over() -> None:
    reporter, shown = Reporter(), []
    stand_in: Any = reporter
    incidents = Incidents(stand_in, lambda at, reason, message: shown.append(message), Clock())
    incidents.end("broker")  # there was none
    for message in ("first", "still"):
        incidents.begin("broker", "GeneralError", message)
    incidents.end("broker")
    incidents.begin("broker", "GeneralError", "second")
    assert reporter.calls == [("begin", "broker"), ("end", "broker"), ("begin", "broker")]
    assert shown == ["first", "second"]
