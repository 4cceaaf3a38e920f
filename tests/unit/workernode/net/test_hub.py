"""Tasks of one thread: each runs until it waits, and no wait of one keeps another from running."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from greenlet import getcurrent

from tests.unit.workernode.net.tasks import run_tasks
from workernode.net import waiting
from workernode.net.connection import PIECE, Wire
from workernode.net.dial import Address, Dialer
from workernode.net.errors import ConnectTimeout, Silence
from workernode.net.hub import Hub
from workernode.net.origin import Origin
from workernode.net.waiting import FOREVER, READ, Event, call, here, sleep

LONG = 20.0  # seconds: a wait that must end sooner by something else


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def later(seconds: float = LONG) -> float:
    return time.monotonic() + seconds


def test_while_one_task_waits_for_bytes_another_sends_them(pair: tuple[socket.socket, socket.socket]) -> None:
    done: list[object] = []

    def read() -> None:
        wire = Wire(pair[0])
        done.append("waits")
        done.append(wire.receive())

    run_tasks(read, lambda: (done.append("sends"), pair[1].send(b"hello")))
    assert done == ["waits", "sends", b"hello"]


def test_tasks_that_sleep_are_resumed_in_the_order_of_their_moments() -> None:
    done: list[float] = []

    def rest(seconds: float) -> None:
        began = time.monotonic()
        sleep(seconds)
        assert time.monotonic() - began >= seconds
        done.append(seconds)

    run_tasks(*(lambda seconds=seconds: rest(seconds) for seconds in (0.06, 0.02, 0.04, 0.0)))
    assert done == [0.0, 0.02, 0.04, 0.06]


def test_a_wait_ends_at_its_deadline_and_after_its_longest_silence(pair: tuple[socket.socket, socket.socket]) -> None:
    def read() -> None:
        wire = Wire(pair[0])
        wire.deadline = later(0.02)
        with pytest.raises(TimeoutError):
            wire.receive()
        wire.deadline, wire.silence = later(), 0.02
        with pytest.raises(Silence):
            wire.receive()

    run_tasks(read)


def test_one_task_waits_for_two_connections(pair: tuple[socket.socket, socket.socket]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found: list[object] = []
        both = [(other.fileno(), READ), (pair[0].fileno(), READ)]
        run_tasks(
            lambda: found.extend(here().wait(both, later())),
            lambda: pair[1].send(b"x"),
        )
        assert found == [pair[0].fileno()]


def test_a_file_descriptor_that_is_closed_and_used_again_is_waited_for_anew() -> None:
    """The kernel forgets a file that is closed; the next one may get its number."""
    numbers: set[int] = set()

    def open_and_close() -> None:
        for _ in range(3):
            ours, theirs = socket.socketpair()
            numbers.add(ours.fileno())
            wire = Wire(ours)
            wire.deadline = later()
            timer = threading.Timer(0.01, theirs.send, [b"x"])
            timer.start()
            assert wire.receive() == b"x"
            timer.join()
            ours.close()  # without telling the hub: an exception on its way, say
            theirs.close()

    run_tasks(open_and_close)
    assert len(numbers) == 1


def test_what_arrives_while_nobody_waits_for_it_wakes_the_hub_once_and_is_not_lost(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[None] = []
    turn = Hub._turn
    monkeypatch.setattr(Hub, "_turn", lambda hub: (turns.append(None), turn(hub)))

    def read_late() -> None:
        wire = Wire(pair[0])
        wire.deadline = later()
        pair[1].send(b"1")
        assert wire.receive() == b"1"
        threading.Timer(0.01, pair[1].send, [b"2"]).start()
        here().wait(((wire.fileno(), READ),), later())
        before = len(turns)
        sleep(0.1)
        assert len(turns) - before <= 3
        assert list(here().wait(((wire.fileno(), READ),), later())) == [wire.fileno()]
        assert wire.receive() == b"2"

    run_tasks(read_late)


def test_a_task_whose_peer_never_makes_it_wait_lets_others_run(pair: tuple[socket.socket, socket.socket]) -> None:
    is_over = threading.Event()

    def flood() -> None:
        with suppress(OSError):
            while not is_over.is_set():
                pair[1].send(bytes(PIECE))

    sender = threading.Thread(target=flood)
    sender.start()
    turns: list[float] = []

    def read() -> None:
        wire = Wire(pair[0])
        wire.deadline = later()
        while not is_over.is_set():
            wire.receive()

    def others() -> None:
        for _ in range(5):
            sleep(0)
            turns.append(time.monotonic())
        is_over.set()
        pair[0].shutdown(socket.SHUT_RDWR)

    run_tasks(read, others)
    sender.join()
    assert len(turns) == 5


def test_a_task_that_sends_a_large_body_lets_others_run(pair: tuple[socket.socket, socket.socket]) -> None:
    size = 64 * PIECE
    received = [0]
    turns = [0]

    def send() -> None:
        wire = Wire(pair[0])
        wire.deadline = later()
        wire.sendall(bytes(size))

    def receive() -> None:
        wire = Wire(pair[1])
        wire.deadline = later()
        while received[0] < size:
            received[0] += len(wire.receive() or b"")

    def others() -> None:
        while received[0] < size:
            turns[0] += 1
            sleep(0)

    run_tasks(send, receive, others)
    assert turns[0] > 1


def test_a_name_look_up_that_hangs_keeps_no_other_task_waiting_and_has_a_time_limit() -> None:
    answers = threading.Event()
    done: list[str] = []

    def lookup(_host: str, _port: int) -> list[Address]:
        assert answers.wait(LONG)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    dialer = Dialer(lookup)

    def connect(seconds: float, error: type[OSError], text: str) -> None:
        with pytest.raises(error):
            dialer.connect("slow.test", 80, seconds)
        done.append(text)

    def others() -> None:
        while "gave up" not in done:
            sleep(0.005)
        done.append("others")
        answers.set()

    run_tasks(
        lambda: connect(LONG, socket.gaierror, "answered"), lambda: connect(0.02, TimeoutError, "gave up"), others
    )
    assert done == ["gave up", "others", "answered"]


def test_a_connection_is_opened_by_one_task_while_others_run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected: list[Wire] = []
        origin = Origin(False, *server.getsockname())
        run_tasks(*(lambda: connected.append(Wire.connect(origin, LONG, None)) for _ in range(3)))
        for wire in connected:
            wire.close()


def test_a_tls_handshake_without_an_answer_keeps_no_other_task_waiting() -> None:
    done: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def connect() -> None:
            with pytest.raises(ConnectTimeout):
                Wire.connect(Origin(True, *silent.getsockname()), 0.1, ssl.create_default_context())
            done.append("gave up")

        def others() -> None:
            sleep(0.001)
            done.append("others")

        run_tasks(connect, others)
    assert done == ["others", "gave up"]


def test_a_function_that_waits_in_the_operating_system_keeps_no_other_task_waiting() -> None:
    read_by_others = threading.Event()
    found: list[object] = []

    def failing() -> object:
        raise FileNotFoundError("ca.pem")

    def fail() -> None:
        with pytest.raises(FileNotFoundError):
            call(failing)

    run_tasks(lambda: found.append(call(lambda: read_by_others.wait(LONG))), read_by_others.set, fail)
    assert found == [True]
    assert call(lambda: threading.current_thread()) is threading.current_thread()  # where no hub runs


def test_an_event_that_another_thread_sets_wakes_all_who_wait_for_it() -> None:
    event = Event()
    found: list[bool] = []
    run_tasks(
        lambda: found.append(event.wait(later(0.01))),
        lambda: found.append(event.wait(FOREVER)),
        lambda: found.append(event.wait(FOREVER)),
        lambda: threading.Timer(0.05, event.set).start(),
    )
    assert found == [False, True, True]
    assert event.wait(0.0)
    assert not Event().wait(later(0.01))


def test_a_wait_that_ends_early_leaves_no_timer_behind() -> None:
    """A task's deadline is minutes away, and it waits many times a second."""
    hub = Hub()

    def wait_often() -> None:
        for _ in range(100):
            sleep(0.0001)
            event = Event()
            threading.Timer(0.0, event.set).start()
            event.wait(later(300))
        hub.stop()

    hub.start(wait_often)
    hub.run()
    assert len(hub._timers) <= 3


def test_a_task_that_has_ended_is_used_for_the_next_work() -> None:
    hub = Hub()
    tasks: set[int] = set()
    done: list[int] = []

    def work(number: int) -> None:
        tasks.add(id(getcurrent()))
        done.append(number)
        if number < 9:
            hub.start(lambda: work(number + 1))
        else:
            hub.stop()

    hub.start(lambda: work(0))
    hub.run()
    assert done == list(range(10))
    assert len(tasks) <= 2


def test_a_failure_of_a_task_ends_the_hub() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tasks(lambda: 1 / 0, lambda: sleep(LONG))
    assert isinstance(here(), waiting.Threads)


def test_a_connection_that_failed_ends_the_wait_for_it(pair: tuple[socket.socket, socket.socket]) -> None:
    found: list[object] = []
    run_tasks(
        lambda: found.extend(here().wait(((pair[0].fileno(), READ),), later())),
        pair[1].close,
    )
    assert found == [pair[0].fileno()]
    assert select.POLLIN == select.EPOLLIN
    assert select.POLLOUT == select.EPOLLOUT

