"""Who listens on a port."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psutil
import pytest

from devstack.ports import holder_of


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_an_unknown_holder_of_a_port_is_another_program(listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_kind: str) -> list[object]:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    assert holder_of(listener) == "another program"
