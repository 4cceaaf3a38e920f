"""The page shows what was spent in the last hour, and of the backlog no more than the node knows."""

from __future__ import annotations

import re

import pytest

from supervisor.observability import page
from supervisor.observability.history import History
from supervisor.observability.snapshot import NodeInfo, Snapshot

INFO = NodeInfo("box-1", "m", "remote", "1.2.3")


def text(now: Snapshot) -> str:
    shown = page.render(INFO, now, 0.0, History(), (95.0, 90.0)).decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", shown))


@pytest.mark.parametrize("intake", ["full", "held", "one_at_a_time", "closed"])
def test_a_node_that_takes_no_more_does_not_know_the_backlog(intake: str) -> None:
    assert "Backlog not known see the broker's metric pulsar_subscription_back_log" in text(
        Snapshot(0.0, intake=intake)
    ).replace("&#x27;", "'")


def test_a_node_with_room_says_that_the_backlog_is_short() -> None:
    assert "Backlog short the node has room" in text(Snapshot(0.0, intake="open"))


def test_the_cost_of_the_last_hour_is_there_where_prices_are_set() -> None:
    assert "Cost of the last hour 0.0123 EUR by PRICES" in text(Snapshot(0.0, cost="0.0123 EUR"))
    assert "Cost of" not in text(Snapshot(0.0))
