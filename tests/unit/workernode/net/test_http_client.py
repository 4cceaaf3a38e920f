"""Kept connections, and what is sent on them, against a server that closes and resets them."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.upstream import FakeUpstream
from tests.support.wait import until
from tests.unit.workernode.net.exchanges import LONG, ask, whole
from workernode.net import http_client
from workernode.net.connection import Wire
from workernode.net.http_client import Pool

# --- kept connections ---


def test_a_connection_is_used_again(upstream: FakeUpstream, pool: Pool) -> None:
    for directive in ({}, {"stream": True}, {"status": 400}, {"stream": True, "split": True}, {"chunks": 0}):
        assert whole(pool, directive)
    assert {one.connection for one in upstream.requests} == {1}


def test_each_request_at_the_same_time_has_its_own_connection(upstream: FakeUpstream, pool: Pool) -> None:
    first, second = ask(pool), ask(pool)
    for asked in (first, second):
        asked.read_all()
        asked.finish()
    assert [one.connection for one in upstream.requests] == [1, 2]
    whole(pool)
    assert len(upstream.connections) == 2


def test_an_answer_that_was_not_read_to_its_end_costs_the_connection(upstream: FakeUpstream, pool: Pool) -> None:
    asked = ask(pool, {"size": 1_000_000})
    asked.read_some()
    asked.finish()
    whole(pool)
    assert [one.connection for one in upstream.requests] == [1, 2]
    until(lambda: len(upstream.open_connections) == 1, LONG, "end of the first connection")


def test_an_aborted_exchange_closes_the_connection_at_once(upstream: FakeUpstream, pool: Pool) -> None:
    asked = ask(pool, {"stream": True, "gate_chunks": "never"})
    asked.read_some()
    asked.abort()
    upstream.wait_for_cancelled()


def test_a_kept_connection_that_was_closed_meanwhile_is_not_used(upstream: FakeUpstream, pool: Pool) -> None:
    whole(pool, {"then_close": True})
    until(lambda: not upstream.open_connections, LONG, "close")
    whole(pool)
    assert [one.connection for one in upstream.requests] == [1, 2]


def test_a_request_that_crosses_with_the_servers_idle_close_is_sent_once_more(
    upstream: FakeUpstream, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(pool, {"then_close": True})
    until(lambda: not upstream.open_connections, LONG, "close")
    monkeypatch.setattr(Wire, "stale", lambda wire: False)  # it looked at the connection just before the close
    resent: list[int] = []
    assert b"chat.completion" in whole(pool, on_resend=lambda: resent.append(1))
    assert [one.connection for one in upstream.requests] == [1, 2]
    assert resent == [1]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_request_that_a_kept_connection_may_have_delivered_is_not_sent_again(
    upstream: FakeUpstream, pool: Pool, end: str
) -> None:
    """Upstream may work on it, and charge for it, already."""
    whole(pool)
    with pytest.raises(ConnectionError):
        ask(pool, {end: True})
    assert [one.connection for one in upstream.requests] == [1, 1]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_new_connection_that_closes_on_the_request_is_an_error(upstream: FakeUpstream, pool: Pool, end: str) -> None:
    with pytest.raises(ConnectionError):
        ask(pool, {end: True})
    assert len(upstream.requests) == 1


def test_meanwhile_is_called_each_time_the_request_is_sent(
    upstream: FakeUpstream, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(pool, {"then_close": True})
    until(lambda: not upstream.open_connections, LONG, "close")
    monkeypatch.setattr(Wire, "stale", lambda wire: False)
    calls: list[int] = []
    asked = ask(pool, meanwhile=lambda: calls.append(1))
    asked.abort()
    assert calls == [1, 1]


def test_a_connection_that_was_idle_for_long_is_not_used(
    upstream: FakeUpstream, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A middlebox may have dropped it without a word, which would cost a timeout."""
    monkeypatch.setattr(http_client, "MAX_IDLE", 0.0)
    whole(pool)
    whole(pool)
    assert [one.connection for one in upstream.requests] == [1, 2]


def test_connections_of_a_busy_hour_do_not_stay_open_for_ever(
    upstream: FakeUpstream, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last is used first, so that those below would never be looked at again."""
    monkeypatch.setattr(http_client, "MAX_IDLE", 0.2)
    burst = [ask(pool) for _ in range(5)]
    for asked in burst:
        asked.read_all()
        asked.finish()
    assert len(upstream.open_connections) == 5
    until(lambda: whole(pool) and len(upstream.open_connections) == 1, LONG, "end of the idle connections")


# --- requests ---


def test_redirects_are_not_followed(upstream: FakeUpstream, pool: Pool) -> None:
    """Neither with the key nor with an answer (spec 7)."""
    asked = ask(pool, {"redirect_to": f"{upstream.url}/elsewhere"})
    assert (asked.status, asked.headers["location"]) == (307, f"{upstream.url}/elsewhere")
    asked.abort()
    assert len(upstream.requests) + len(upstream.other_requests) == 1


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/a b", {}),
        ("/a\r\nX: y", {}),
        ("/", {"X": "y\r\nZ: 1"}),
        ("/", {"X\n": "y"}),
        ("/", {"X": "\0"}),
        ("/", {"X": "\u2603"}),
    ],
)
def test_a_request_that_would_be_another_one_is_not_sent(
    upstream: FakeUpstream, pool: Pool, target: str, headers: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"cannot be sent|codec can't encode"):
        pool.post(target, headers, b"{}", deadline=time.monotonic() + LONG, silence=LONG)
    assert not upstream.connections


def test_a_get_has_no_body_and_is_answered(upstream: FakeUpstream, pool: Pool) -> None:
    answer = pool.get("/v1/models", {"Accept": "application/json"}, deadline=time.monotonic() + LONG, silence=LONG)
    assert json.loads(answer.read_all())["object"] == "list"
    answer.finish()
    (request,) = upstream.other_requests
    assert (request.method, request.body) == ("GET", b"")
    assert "content-length" not in request.headers
