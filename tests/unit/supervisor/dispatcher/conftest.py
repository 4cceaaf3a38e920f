"""A dispatcher for each test."""

from __future__ import annotations

import pytest

from tests.unit.supervisor.dispatcher.effects import Effects


@pytest.fixture
def effects() -> Effects:
    return Effects()
