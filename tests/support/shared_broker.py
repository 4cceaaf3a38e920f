"""One broker for all processes of a run. A broker of its own for each process took some 40 s of CPU in a run.

The process that hands out the tests (pytest-xdist's controller) starts it and stops it; the others are told its ports.
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
from tests.support.wait import until

PORTS, FOLDER, FAULT = "broker_ports", "broker_folder", "broker_fault"  # in a process's `workerinput`
WITHOUT_BROKER = "tests/unit"
READY_WITHIN = 30.0  # seconds


class SharedBroker:
    """A plugin of the process that hands out the tests.

    Args:
        paths: what pytest was asked to run. For unit tests alone no broker is started.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._is_needed = not all(path.startswith(WITHOUT_BROKER) for path in paths)
        self._folder = Path(tempfile.mkdtemp(prefix="broker-"))
        self._broker: Broker | None = None
        self._fault = ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a process where the broker is, just before it starts; the broker gets ready meanwhile."""
        if self._is_needed and self._broker is None and not self._fault:
            try:
                self._start()
            except StackError as error:  # told by the tests that need it
                self._fault = str(error)
        if self._fault:
            node.workerinput[FAULT] = self._fault
        elif self._broker is not None:
            node.workerinput[PORTS] = [self._broker.port, self._broker.admin_port]
            node.workerinput[FOLDER] = str(self._folder)

    def pytest_unconfigure(self) -> None:
        """Stop it, because all tests have ended. Its folder stays if it has ended before: its log may say why."""
        if self._broker is None or self._broker.is_alive():
            if self._broker is not None:
                self._broker.stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        broker = Broker(find_or_get(), self._folder, port=free_port(), admin_port=free_port())
        broker.start()
        self._broker = broker


def broker_of(config: pytest.Config) -> Broker | None:
    """Return the broker that this process was told of, once it is ready; None without one.

    Raises:
        StackError: it could not be started.
    """
    told: dict[str, Any] = getattr(config, "workerinput", {})
    if FAULT in told:
        raise StackError(told[FAULT])
    if PORTS not in told:
        return None
    port, admin_port = told[PORTS]
    broker = Broker(Path(), Path(told[FOLDER]), port=port, admin_port=admin_port)  # for its addresses
    until(broker.is_ready, READY_WITHIN, f"broker for this run (its log is {broker.log_path})")
    return broker
