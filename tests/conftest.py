"""The brokers of the session. What else tests share is in tests/support."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.support.order import ordered
from tests.support.shared_broker import GUARDED, SharedBrokers, broker_of, guarded_broker

pytest_plugins = ["tests.support.fixtures"]

# No test is judged by the clock: on a box that is busy, neither an example nor the making of one is "too slow".
# Fixtures that all examples share are meant to be shared.
SUPPRESSED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("busy box", deadline=None, suppress_health_check=SUPPRESSED)
settings.load_profile("busy box")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files into the order of tests/support/order.py; the tests of a file keep theirs."""
    files = [item.nodeid.partition("::")[0] for item in items]
    places = {file: place for place, file in enumerate(ordered(files))}
    items.sort(key=lambda item: places[item.nodeid.partition("::")[0]])


# A shell without job control starts its background jobs with SIGINT ignored, and what they start would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Have the process that hands out the tests start the brokers for those that run them (pytest -n)."""
    is_one_of_several = hasattr(config, "workerinput")
    if not is_one_of_several and config.getoption("numprocesses", None):
        config.pluginmanager.register(SharedBrokers(config.args))


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Pulsar of this run's own. For all tests: do not kill it, use names of your own in it.

    Without a Pulsar, or a Java for it, the run fails with a text that names what to do; it never skips.
    """
    shared = broker_of(request.config)
    if shared is not None:
        yield shared
        return
    run_dir = tmp_path_factory.mktemp("broker")
    with Broker(find_or_get(), run_dir, port=free_port(), admin_port=free_port()) as one:
        yield one


@pytest.fixture(scope="session")
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Pulsar of this run's own that asks for tokens (tests/support/tokens.py), like `broker` otherwise."""
    shared = broker_of(request.config, GUARDED)
    if shared is not None:
        yield shared
        return
    with guarded_broker(tmp_path_factory.mktemp("guarded")) as one:
        yield one
