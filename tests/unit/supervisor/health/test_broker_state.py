"""The broker's connection as the node sees it, and what of an outage is reported to a person."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.health import REPORT_AFTER, BrokerState, Incidents
from supervisor.machine import Clock


class Fakes:
    """A reporter that notes what it is given, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[tuple[str, ...]] = []
        clock = Clock(lambda: self.now, lambda: 1e9 + self.now)
        reporter: Any = self
        self.state = BrokerState(Incidents(reporter, lambda at, reason, message: None, clock), clock)

    def begin(self, key: str, reason: str, message: str) -> None:
        self.calls.append(("begin", key, reason, message))

    def end(self, key: str) -> None:
        self.calls.append(("end", key))


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


def test_an_outage_is_reported_once_when_it_has_lasted(fakes: Fakes) -> None:
    fakes.state.lost("refused")
    fakes.state.check(fakes.now + REPORT_AFTER - 0.1, False)
    assert fakes.calls == []
    for _ in range(3):
        fakes.state.check(fakes.now + REPORT_AFTER, False)
    assert [(call[0], call[2]) for call in fakes.calls] == [("begin", "MessageQueueConnectionError")]
    assert "refused" in fakes.calls[0][3]


def test_a_report_ends_with_the_outage(fakes: Fakes) -> None:
    fakes.state.check(fakes.now + REPORT_AFTER, False)
    fakes.state.check(fakes.now + REPORT_AFTER + 1, True)
    assert [call[0] for call in fakes.calls] == ["begin", "end"]
    assert fakes.state.is_up
    assert not fakes.state.fault


def test_an_outage_is_counted_from_when_the_connection_was_lost(fakes: Fakes) -> None:
    fakes.state.connected()
    fakes.now += REPORT_AFTER * 2
    fakes.state.check(fakes.now, False)
    assert fakes.state.fault == "the connection was lost"
    fakes.state.check(fakes.now + REPORT_AFTER - 0.1, False)
    assert fakes.calls == []
