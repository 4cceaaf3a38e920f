"""The status server on a real socket: what it answers, and that no client can block it."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.observability import page
from supervisor.observability import status_server as status
from supervisor.observability.snapshot import Upcoming
from supervisor.observability.status_server import MAX_CLIENTS, StatusServer
from tests.support.status import INFO, Shown, outcome, serving, settings, shown
from tests.support.wait import until
from workernode.protocol import Decision

LARGE = 20_000_000  # bytes: more than the kernel takes on its way


@pytest.fixture
def server() -> Iterator[Shown]:
    """A server of this test's own."""
    with shown() as one:
        yield one


@pytest.fixture
def crowd(server: Shown) -> Iterator[Callable[[int, bytes], list[socket.socket]]]:
    """Clients that have sent these bytes and wait; closed at the end."""
    with contextlib.ExitStack() as stack:

        def come(count: int, sent: bytes) -> list[socket.socket]:
            made = []
            for _ in range(count):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.server.port), timeout=20))
                with contextlib.suppress(OSError):  # driven out already
                    client.sendall(sent)
                client.setblocking(False)
                made.append(client)
            return made

        yield come


def serving_threads() -> int:
    """How many threads serve clients now."""
    return sum("process_request_thread" in each.name for each in threading.enumerate())


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed the connection, without an answer."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


# --- what it shows ---


def test_livez_answers_200_in_every_state(server: Shown) -> None:
    for state in ("starting", "serving", "draining"):
        server.server.update(serving(time.monotonic(), state=state, why=("no",)))
        for path in ("/livez", "/healthz", "/livez?verbose"):
            assert server.get(path)[::2] == (200, "ok\n")


def test_readyz_answers_503_when_the_main_thread_is_late_and_livez_when_it_hangs(server: Shown) -> None:
    answers = {}
    for age in (0.0, 5.5, 14.0, 15.5):
        server.server.update(serving(time.monotonic() - age))
        answers[age] = (server.get("/readyz").status, server.get("/livez").status)
    assert answers == {0.0: (200, 200), 5.5: (503, 200), 14.0: (503, 200), 15.5: (503, 503)}
    assert json.loads(server.get("/readyz").body)["why"] == ["the supervisor's main thread has not turned for 16 s"]
    assert server.get("/livez").body.startswith("the supervisor's main thread hangs")
    server.server.update(serving(time.monotonic()))
    assert server.get("/livez").status == server.get("/readyz").status == 200


def test_a_new_server_is_not_ready() -> None:
    with shown() as fresh:
        answer = fresh.get("/readyz")
    assert answer.status == 503
    assert json.loads(answer.body)["why"] == ["the node is starting"]


def test_readyz_has_reasons_since_when_and_what_is_next(server: Shown) -> None:
    now = time.monotonic()
    coming = (Upcoming("a task is tried upstream as a probe", now + 3600), Upcoming("the broker is asked again"))
    why = ("OpenAI refused the API key (401 invalid_api_key); set API_KEY to a valid key",)
    server.server.update(serving(now, why=why, next=coming, fitness="unfit"))
    answer = server.get("/readyz")
    shown = json.loads(answer.body)
    assert answer.status == 503
    assert answer.headers["Content-Type"] == "application/json"
    assert (shown["ready"], shown["state"], shown["why"]) == (False, "serving", list(why))
    assert (shown["fitness"], shown["child"]) == ("unfit", "ready")
    assert (shown["node"], shown["model"]) == (INFO.node, INFO.model)
    probe, broker = shown["next"]
    assert 3000 < probe["in_s"] <= 3600
    assert shown["since"] < probe["at"]
    assert shown["since"].endswith("Z")
    assert broker == {"what": "the broker is asked again"}


def test_since_is_the_moment_of_the_last_change_of_readiness_or_state(server: Shown) -> None:
    start, now = time.monotonic(), 0.0
    server.server._clock = lambda: start + now

    def since(second: float, why: tuple[str, ...], state: str = "serving") -> float:
        nonlocal now
        server.server.update(serving(start + second, why=why, state=state))
        now = second + 4
        return round(now - float(json.loads(server.get("/readyz").body)["lasts_s"]))

    assert since(100, ("no broker",)) == 100
    assert since(200, ("no broker", "no worker")) == 100  # another reason, and still not ready
    assert since(300, ()) == 300
    assert server.get("/readyz").status == 200
    assert since(400, ()) == 300
    assert since(500, ("asked to stop",), "draining") == 500


def test_metrics_has_the_counted_figures(server: Shown) -> None:
    server.metrics.taken(0, 300.0)
    server.metrics.decided(outcome())
    server.metrics.settled(Decision.ACK)
    server.server.update(serving(time.monotonic()))
    answer = server.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = {
        each.name: each.value for family in text_string_to_metric_families(answer.body) for each in family.samples
    }
    assert samples["workernode_tasks_taken_total"] == 1
    assert samples["workernode_cap"] == 8


def test_a_head_request_gets_headers_and_no_body(server: Shown) -> None:
    answer = server.get("/metrics", "HEAD")
    assert (answer.status, answer.body) == (200, "")
    assert int(answer.headers["Content-Length"]) > 1000


def test_other_paths_answer_404_with_the_known_paths(server: Shown) -> None:
    for path in ("/nothing", "/metrics/", "/..%2f..%2fetc/passwd", "/" + "x" * 5000):
        answer = server.get(path)
        assert answer.status == 404
        assert "/readyz" in answer.body
    assert server.get("/metrics", "POST").status == 501
    assert server.get("/metrics", "DELETE").status == 501


def test_answers_forbid_caching(server: Shown) -> None:
    for path in ("/", "/readyz", "/metrics", "/livez"):
        headers = server.get(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Python" not in headers["Server"]


def test_a_taken_port_raises_an_error_with_advice(server: Shown) -> None:
    port = server.server.port
    with pytest.raises(OSError, match=rf"STATUS_ADDR 127\.0\.0\.1:{port} cannot be listened on: .*; set STATUS_ADDR"):
        StatusServer(settings(port=port), INFO, server.metrics)


def test_an_address_of_another_machine_raises_an_error_with_advice(server: Shown) -> None:
    with pytest.raises(OSError, match=r"STATUS_ADDR 192\.0\.2\.1:1 cannot be listened on"):
        StatusServer(settings("192.0.2.1", 1), INFO, server.metrics)


def test_a_closed_servers_port_can_be_used_again_at_once() -> None:
    with shown() as first:
        first.get("/livez")
        port = first.server.port
    StatusServer(settings(port=port), INFO, first.metrics).close()


# --- clients that are slow, many or odd ---


@pytest.mark.parametrize("sent", [b"", b"GET /met", b"GET / HTTP/1.1\r\nX: "], ids=["nothing", "a half", "no end"])
def test_clients_with_unfinished_requests_do_not_block_a_probe(
    server: Shown, crowd: Callable[[int, bytes], list[socket.socket]], sent: bytes
) -> None:
    clients = crowd(5 * MAX_CLIENTS, sent)
    assert server.get("/livez").status == 200
    until(lambda: serving_threads() <= MAX_CLIENTS, 20, "end of the threads of closed connections")
    until(lambda: sum(map(is_closed, clients)) >= 4 * MAX_CLIENTS, 20, "end of the oldest connections")


def test_clients_that_do_not_read_do_not_block_a_probe(
    server: Shown, crowd: Callable[[int, bytes], list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "render", lambda *_: b"x" * LARGE)
    crowd(2 * MAX_CLIENTS, b"GET / HTTP/1.0\r\n\r\n")
    assert server.get("/livez").status == 200
    until(lambda: serving_threads() <= MAX_CLIENTS, 20, "end of the threads of closed connections")


def test_a_client_that_sends_slowly_is_closed(
    server: Shown, crowd: Callable[[int, bytes], list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "CLIENT_TIMEOUT", 0.2)
    (client,) = crowd(1, b"GET / HTTP/1.0\r\nX: ")

    def dripped() -> bool:
        with contextlib.suppress(OSError):
            client.sendall(b"x")
        return is_closed(client)

    until(dripped, 20, "end of the connection")
    assert server.get("/livez").status == 200


def test_many_requests_at_once_are_all_answered(server: Shown) -> None:
    server.server.update(serving(time.monotonic()))
    answers: list[int] = []

    def ask(path: str) -> None:
        answers.extend(server.get(path).status for _ in range(10))

    threads = [threading.Thread(target=ask, args=(path,)) for path in ("/", "/metrics", "/readyz", "/livez") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 160


@pytest.mark.parametrize(
    "rubbish", [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET\r\n\r\n", b"\0" * 70_000, b"GET / HTTP/9.9\r\n\r\n"]
)
def test_bytes_that_are_not_http_do_no_harm(
    server: Shown, crowd: Callable[[int, bytes], list[socket.socket]], rubbish: bytes
) -> None:
    crowd(1, rubbish)
    assert server.get("/livez").status == 200


def test_update_does_not_wait_for_a_client_that_is_being_served(
    server: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> bytes:
        inside.set()
        go_on.wait(60)
        return b"slow"

    monkeypatch.setattr(page, "render", slow)
    client = threading.Thread(target=server.get, args=("/",))
    client.start()
    assert inside.wait(20)
    server.server.update(serving(time.monotonic()))  # returns, and is seen, while the page is still being made
    assert server.get("/readyz").status == 200
    go_on.set()
    client.join()


def test_an_internal_error_answers_500_and_is_logged(
    server: Shown, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(page, "render", fails)
    with caplog.at_level(logging.ERROR):
        assert server.get("/").status == 500
    assert [each.message for each in caplog.records] == ["cannot answer /: internal error"]
    assert server.get("/livez").status == 200


def test_a_client_that_closes_early_is_not_logged_as_an_error(
    server: Shown, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "render", lambda *_: b"x" * LARGE)
    before = serving_threads()  # other tests' servers have theirs
    connection = http.client.HTTPConnection("127.0.0.1", server.server.port, timeout=20)
    connection.request("GET", "/")
    connection.getresponse().close()
    connection.close()
    until(lambda: serving_threads() <= before, 20, "end of the client's thread")
    assert not [each for each in caplog.records if each.levelno > logging.DEBUG]
    assert capfd.readouterr() == ("", "")
