"""Why the node takes no tasks: a sentence for each thing that is missing."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.health import BrokerState, why_not_ready
from supervisor.machine import Clock
from supervisor.states import NodeState

NO_INCIDENTS: Any = None


@pytest.fixture
def broker() -> BrokerState:
    return BrokerState(NO_INCIDENTS, Clock())


def test_a_node_that_has_all_gives_no_reason(broker: BrokerState) -> None:
    broker.is_up = True
    assert why_not_ready(NodeState.SERVING, broker, True, "", "") == []


def test_each_thing_that_is_missing_has_its_sentence(broker: BrokerState) -> None:
    why = why_not_ready(NodeState.DRAINING, broker, False, "the model loads", "the key is refused")
    assert why == [
        "draining: the node was asked to stop",
        "no connection to Pulsar: not connected yet",
        "no worker process is ready",
        "the model loads",
        "the key is refused",
    ]
