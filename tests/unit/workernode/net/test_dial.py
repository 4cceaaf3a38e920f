"""A dead address of a name costs little, and no look-up waits for ever."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.wait import until
from workernode.net import dial
from workernode.net.dial import Address, Dialer

LONG = 20.0  # seconds: a wait that must end sooner by something else


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address that answers no connection: its queue of connections is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.2", 0))
        listening.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        yield listening.getsockname()


def refused() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host, port = closed.getsockname()
        return str(host), int(port)


def addresses(*places: tuple[str, int]) -> list[Address]:
    return [(socket.AF_INET, place) for place in places]


def test_a_dead_first_address_is_passed_over_and_the_one_that_answered_comes_first_the_next_time(
    listener: socket.socket, silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = listener.getsockname()
    tried: list[tuple[str, int]] = []
    begin = dial._begin
    monkeypatch.setattr(dial, "_begin", lambda address: (tried.append(address[1]), begin(address))[1])
    dialer = Dialer(lambda _host, _port: addresses(silent, good))
    for expected in ([silent, good], [silent, good, good]):
        with dialer.connect("two.test", 80, LONG) as sock:
            assert sock.getpeername() == good
        assert tried == expected


def test_a_refused_address_is_followed_by_the_next_at_once(listener: socket.socket) -> None:
    dialer = Dialer(lambda _host, _port: addresses(refused(), listener.getsockname()))
    with dialer.connect("two.test", 80, LONG) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_when_all_addresses_fail_the_error_is_that_of_the_first() -> None:
    with pytest.raises(ConnectionRefusedError):
        Dialer(lambda _host, _port: addresses(refused(), refused())).connect("two.test", 80, LONG)


def test_an_address_that_does_not_answer_ends_with_the_time_limit(silent: tuple[str, int]) -> None:
    with pytest.raises(TimeoutError):
        Dialer(lambda _host, _port: addresses(silent)).connect("dead.test", 80, 0.05)


def test_families_take_turns() -> None:
    six = [(socket.AF_INET6, ("::1", number, 0, 0)) for number in (1, 2)]
    four = addresses(("127.0.0.1", 1))
    assert dial._interleaved([*six, *four]) == [six[0], four[0], six[1]]


def test_a_look_up_has_a_time_limit_and_one_thread_for_all_who_wait() -> None:
    answers, asked = threading.Event(), []

    def lookup(host: str, _port: int) -> list[Address]:
        asked.append(host)
        answers.wait(LONG)
        return addresses(refused())

    dialer = Dialer(lookup)
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"look-up of slow\.test"):
            dialer.connect("slow.test", 80, 0.01)
    assert asked == ["slow.test"]
    answers.set()
    until(lambda: not dialer._running, LONG, "end of the look-up")
    with pytest.raises(ConnectionRefusedError):
        dialer.connect("slow.test", 80, LONG)


def test_each_who_waits_for_a_failed_look_up_gets_an_error_of_its_own() -> None:
    def lookup(_host: str, _port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    dialer = Dialer(lookup)
    errors = []
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="no such name") as caught:
            dialer.connect("none.test", 80, LONG)
        errors.append(caught.value)
    assert errors[0] is not errors[1]


def test_an_ip_address_is_not_looked_up(listener: socket.socket) -> None:
    def lookup(_host: str, _port: int) -> list[Address]:
        raise AssertionError

    host, port = listener.getsockname()
    with Dialer(lookup).connect(host, port, LONG) as sock:
        assert sock.getpeername() == (host, port)
        assert sock.gettimeout() is None
