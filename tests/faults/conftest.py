"""The testbed of a test module, and owners of model servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devstack.broker import Broker
from tests.faults.model_server_owner import LONG, Owner, group
from tests.faults.testbed import Testbed, open_testbed
from tests.support.wait import until


@pytest.fixture(scope="module")
def build(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Testbed]]:
    """A factory: `build(MAX_PROCESS_NUM=8)` gives a testbed of the module's own on the session's broker; `on=` another
    broker.
    """
    with ExitStack() as stack:

        def make(on: Broker | None = None, **variables: object) -> Testbed:
            return stack.enter_context(open_testbed(on or broker, tmp_path_factory.mktemp("testbed"), **variables))

        yield make


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    """Makes owners; after the test nothing that they started may be left."""
    made: list[Owner] = []

    def make(environ: dict[str, str] | None = None, **more: object) -> Owner:
        made.append(Owner({"STANDIN_PIDFILE": str(tmp_path / "pids"), **(environ or {})}, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for owner in made:
        owner.llamafile.kill()
    for owner in made:
        until(lambda owner=owner: not any(group(pid) for pid in owner.pids), LONG, "empty process group")  # type: ignore[misc]
