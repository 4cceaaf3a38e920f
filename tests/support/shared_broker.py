"""Two brokers for all processes of a run: an open one, and one that asks for tokens (tests/support/tokens.py).

Brokers of their own for each process, and for each file about tokens, took some 70 s of CPU in a run. The process that
hands out the tests (pytest-xdist's controller) starts them and stops them; the others are told their ports.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from devstack.terminal import StackError
from tests.support.tokens import ADMIN, SECRET, token_conf
from tests.support.wait import until

BROKERS, FAULT = "brokers", "broker_fault"  # in a process's `workerinput`
OPEN, GUARDED = "open", "guarded"
WITHOUT_BROKER = "tests/unit"
# The files whose tests use the broker that asks for tokens.
WITH_TOKENS = (
    "tests/faults/test_broker_access.py",
    "tests/integration/test_broker_devstack.py",
    "tests/integration/test_check.py",
    "tests/integration/test_rotation.py",
)
READY_WITHIN = 120.0  # seconds


class SharedBrokers:
    """A plugin of the process that hands out the tests.

    Args:
        paths: what pytest was asked to run. For unit tests alone no broker is started.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._kinds = [] if all(path.startswith(WITHOUT_BROKER) for path in paths) else [OPEN]
        if any(one.startswith(path) or path.startswith(one) for one in WITH_TOKENS for path in paths):
            self._kinds.append(GUARDED)
        self._folder = Path(tempfile.mkdtemp(prefix="broker-"))
        self._brokers: dict[str, Broker] = {}
        self._fault = ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a process where the brokers are, just before it starts; the brokers get ready meanwhile."""
        for kind in self._kinds:
            if kind not in self._brokers and not self._fault:
                try:
                    self._brokers[kind] = _started(kind, self._folder / kind)
                except StackError as error:  # told by the tests that need it
                    self._fault = str(error)
        if self._kinds:
            node.workerinput[FAULT] = self._fault
            node.workerinput[BROKERS] = {
                kind: [str(one.run_dir), one.port, one.admin_port] for kind, one in self._brokers.items()
            }

    def pytest_unconfigure(self) -> None:
        """Stop them, because all tests have ended. The folder of one that has ended before stays: its log may say why.
        """
        have_run = all(one.is_alive() for one in self._brokers.values())
        for one in self._brokers.values():
            one.stop()
        if have_run:
            shutil.rmtree(self._folder, ignore_errors=True)


def guarded_broker(folder: Path) -> Broker:
    """Return a broker that asks for tokens and looks each second whether one has expired; it is not started yet."""
    conf = {**token_conf(SECRET), "authenticationRefreshCheckSeconds": "1"}
    return Broker(find_or_get(), folder, port=free_port(), admin_port=free_port(), conf=conf, token=ADMIN)


def _started(kind: str, folder: Path) -> Broker:
    if kind == GUARDED:
        broker = guarded_broker(folder)
    else:
        broker = Broker(find_or_get(), folder, port=free_port(), admin_port=free_port())
    broker.start()
    return broker


def broker_of(config: pytest.Config, kind: str = OPEN) -> Broker | None:
    """Return the broker that this process was told of, once it is ready; None without one.

    Args:
        kind: OPEN or GUARDED.

    Raises:
        StackError: it could not be started.
    """
    told: dict[str, Any] = getattr(config, "workerinput", {})
    if told.get(FAULT):
        raise StackError(told[FAULT])
    if kind not in told.get(BROKERS, {}):
        return None
    folder, port, admin_port = told[BROKERS][kind]
    # For its addresses.
    broker = Broker(Path(), Path(folder), port=port, admin_port=admin_port, token=ADMIN if kind == GUARDED else None)
    until(broker.is_ready, READY_WITHIN, f"broker for this run (its log is {broker.log_path})")
    return broker
