"""The testbed of a test module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from devstack.broker import Broker
from tests.faults.testbed import Testbed, open_testbed


@pytest.fixture(scope="module")
def build(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Testbed]]:
    """A factory: `build(MAX_PROCESS_NUM=8)` gives a testbed of the module's own on the session's broker; `on=` another
    broker.
    """
    with ExitStack() as stack:

        def make(on: Broker | None = None, **variables: object) -> Testbed:
            return stack.enter_context(open_testbed(on or broker, tmp_path_factory.mktemp("testbed"), **variables))

        yield make
