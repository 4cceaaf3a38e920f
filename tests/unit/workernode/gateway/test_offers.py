"""workernode/gateway/offers.py: how many answers wait for gateways that are away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.gateway import FakeGateway
from tests.unit.workernode.gateway.replies import post, speak
from workernode.gateway import AnswerResult, Gateways, timing
from workernode.gateway.offers import Offers

NEVER = 1e6  # seconds


@pytest.mark.parametrize(("slots", "may_wait"), [(1, 1), (3, 1), (4, 1), (8, 2), (64, 16)])
def test_a_quarter_of_the_slots_may_wait_but_at_least_one(slots: int, may_wait: int) -> None:
    offers = Offers(slots)
    places = [offers.place() for _ in range(slots)]
    assert [place.may_wait() for place in places] == [True] * may_wait + [False] * (slots - may_wait)


def test_a_place_is_taken_once_and_free_again_when_its_offer_has_ended() -> None:
    offers = Offers(1)
    for _ in range(3):
        place = offers.place()
        assert place.may_wait()
        assert place.may_wait()
        assert not offers.place().may_wait()
        place.release()
    never_waited = offers.place()
    never_waited.release()
    assert offers.place().may_wait()


@pytest.mark.parametrize("offer", [post, speak], ids=["plain", "stream"])
def test_an_answer_that_finds_no_place_to_wait_goes_to_the_supervisor_at_once(
    gateways: Gateways,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    offer: Callable[..., AnswerResult],
) -> None:
    monkeypatch.setattr(timing, "OFFER_TIME", NEVER)
    taken = [gateways.connections.offers.place() for _ in range(2)]
    assert all(place.may_wait() for place in taken)
    gateway.down()
    assert offer(gateways, gateway, seconds=NEVER) is AnswerResult.UNREACHABLE


def test_an_answer_that_the_supervisor_offers_again_is_tried_once(
    gateways: Gateways, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "OFFER_TIME", NEVER)
    gateway.down()
    assert post(gateways, gateway, seconds=NEVER, once=True) is AnswerResult.UNREACHABLE
    assert speak(gateways, gateway, seconds=NEVER, once=True) is AnswerResult.UNREACHABLE
