"""The house of a test module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from devstack.broker import Broker
from tests.faults.house import House, house


@pytest.fixture(scope="module")
def build(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., House]]:
    """A factory: `build(MAX_PROCESS_NUM=8)` gives a house of the module's own on the session's broker; `on=` another
    broker.
    """
    with ExitStack() as stack:

        def make(on: Broker | None = None, **variables: object) -> House:
            return stack.enter_context(house(on or broker, tmp_path_factory.mktemp("house"), **variables))

        yield make
