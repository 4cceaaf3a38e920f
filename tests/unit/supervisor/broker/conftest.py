"""An adapter to Pulsar for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor.broker import connection
from supervisor.broker.connection import Connection
from tests.unit.supervisor.broker.adapter import Setup


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """An adapter that asks no broker why it is not let in, and tries again at once."""
    monkeypatch.setattr(connection, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(connection, "CHECK_INTERVAL", 0.001)
    setup = Setup()
    monkeypatch.setattr(Connection, "_refusal", lambda self: setup.refusal)
    yield setup
    setup.broker.close()
