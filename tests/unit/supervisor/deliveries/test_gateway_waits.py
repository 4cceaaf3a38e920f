"""What waits for a gateway that is away, under a clock of the test's own."""

from __future__ import annotations

import json

import pytest

from supervisor.deliveries import gateway_waits
from supervisor.deliveries.gateway_waits import PAUSE_FIRST, PAUSE_LONGEST, GatewayWaits
from supervisor.events import Received
from supervisor.ledger import Delivery
from workernode.protocol import Decision, Kept, Outcome

AWAY, OTHER = "http://away:8080", "http://other:8080"


def delivery(number: int, *, has_answer: bool = True, server: str = AWAY) -> Delivery:
    payload = json.dumps({"request_id": str(number), "endpoint": f"{server}/res"}).encode()
    received = Received(number, (1, number, 0, -1), payload, 0.0, 0.0, 0.0, 0)
    undelivered = Outcome(number, str(number), Decision.ACK, "gateway_unreachable", b"") if has_answer else None
    return Delivery(number, received, undelivered=undelivered)


def kept(server: str = AWAY, *, is_reached: bool = False, until: float = 1000.0) -> Kept:
    return Kept(server, is_reached, until, (b"{}",))


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [each.number for each in deliveries]


def test_one_answer_at_a_time_is_offered_to_a_gateway_that_is_away_at_growing_intervals() -> None:
    waits = GatewayWaits()
    all_of_it = [delivery(number) for number in range(3)]
    for each in all_of_it:
        waits.wait(0.0, each, kept())
    now, offered, pauses = 0.0, [], []
    for _ in range(8):
        pauses.append(waits.next_at() - now)
        now = waits.next_at()
        (one,) = waits.due(now, 9)
        assert waits.due(now + 100, 9) == [], "while one is offered, no other is"
        offered.append(one.number)
        waits.wait(now, one, kept())
    assert offered == [0, 1, 2, 0, 1, 2, 0, 1]
    assert pauses[:3] == [PAUSE_FIRST, 2 * PAUSE_FIRST, 4 * PAUSE_FIRST]
    assert pauses[-1] == PAUSE_LONGEST


def test_all_that_waits_follows_when_the_gateway_is_back() -> None:
    waits = GatewayWaits()
    for number in range(3):
        waits.wait(0.0, delivery(number), kept())
    (first,) = waits.due(PAUSE_FIRST, 9)
    waits.reached(first)
    assert waits.next_at() <= PAUSE_FIRST
    assert numbers(waits.due(PAUSE_FIRST, 9)) == [1, 2]
    assert (len(waits), waits.beyond_cap, waits.next_at()) == (0, 0, float("inf"))
    assert waits.server_away(delivery(9).received.payload) == ""


def test_a_gateway_that_is_away_holds_up_no_other() -> None:
    waits = GatewayWaits()
    waits.wait(0.0, delivery(1), kept())
    waits.wait(0.0, delivery(2, server=OTHER), kept(OTHER))
    assert numbers(waits.due(PAUSE_FIRST, 9)) == [1, 2]
    assert waits.server_away(delivery(9).received.payload) == AWAY
    assert waits.server_away(delivery(9, server="http://third:80").received.payload) == ""
    assert waits.server_away(b"not JSON") == ""


def test_an_answer_that_a_gateway_in_reach_does_not_take_holds_up_no_other_of_that_gateway() -> None:
    waits = GatewayWaits()
    waits.wait(0.0, delivery(1), kept(is_reached=True))
    assert waits.server_away(delivery(9).received.payload) == ""
    assert numbers(waits.due(PAUSE_FIRST, 9)) == [1]


def test_an_answer_that_is_there_is_offered_before_a_task_is_run_whose_gateway_may_be_away() -> None:
    waits = GatewayWaits()
    waits.wait(0.0, delivery(1, has_answer=False), kept())
    waits.wait(0.0, delivery(2), kept())
    assert numbers(waits.due(PAUSE_FIRST, 9)) == [2]


def test_what_waits_ends_with_its_time() -> None:
    waits = GatewayWaits()
    waits.wait(0.0, delivery(1), kept(until=5.0))
    waits.wait(0.0, delivery(2), kept(until=9.0))
    (offered,) = waits.due(1.0, 9)
    assert waits.over(8.0) == [], "what is offered is decided by the worker"
    waits.wait(8.0, offered, kept(until=5.0))
    assert numbers(waits.over(8.0)) == [1]
    assert numbers(waits.over(9.0)) == [2]
    assert (waits.next_at(), waits.beyond_cap) == (float("inf"), 0)
    assert waits.server_away(delivery(9).received.payload) == "", "nothing is kept of a gateway for which nothing waits"


def test_a_delivery_that_ends_otherwise_lets_the_next_be_offered() -> None:
    waits = GatewayWaits()
    waits.wait(0.0, delivery(1), kept())
    waits.wait(0.0, delivery(2), kept())
    (offered,) = waits.due(1.0, 9)
    waits.forget(offered)
    assert numbers(waits.due(1.0, 9)) == [2]


def test_a_node_that_stops_gives_back_what_was_not_run() -> None:
    waits = GatewayWaits()
    waits.wait(0.0, delivery(1), kept())
    waits.wait(0.0, delivery(2, has_answer=False), kept())
    assert numbers(waits.take_unasked()) == [2]
    assert len(waits) == 1


def test_what_waits_beyond_the_bounds_counts_against_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_waits, "MOST_BEYOND_CAP", 2)
    waits = GatewayWaits()
    for number in range(5):
        waits.wait(0.0, delivery(number), kept())
    assert (len(waits), waits.beyond_cap) == (5, 2)


def test_gateways_that_are_away_are_offered_only_so_many_answers_at_a_time() -> None:
    waits = GatewayWaits()
    for number in range(8):
        waits.wait(0.0, delivery(number), kept(f"http://away-{number}:8080"))
    first = waits.due(1.0, 2)
    assert numbers(first) == [0, 1]
    assert waits.due(1.0, 2) == []
    assert waits.next_at() == 1000.0, "the next offer waits for the end of one of these"
    for each in first:
        waits.wait(1.0, each, kept(f"http://away-{each.number}:8080"))
    assert numbers(waits.due(1.0, 2)) == [2, 3]
