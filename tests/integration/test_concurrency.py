"""How many tasks at once, on the real broker: as many as there are slots; nothing beyond is taken (issue 3, 6-7)."""

from __future__ import annotations

from pathlib import Path

from devstack.broker import Broker
from tests.faults.testbed import one_end_each, open_testbed
from tests.support.wait import until


def test_128_tasks_run_at_once(broker: Broker, tmp_path: Path) -> None:
    """None of them ends before all have begun."""
    with open_testbed(broker, tmp_path, MAX_PROCESS_NUM=128) as one:
        one.start()
        ids = one.platform.ask_many([{"gate": "all"}] * 64) + one.platform.ask_many([{"gate": "all"}] * 64, stream=True)
        one.upstream.wait_for_waiting("all", 128, 30)
        assert one.upstream.inflight == 128
        one.upstream.open_gate("all")
        one.platform.wait_balanced()
        one_end_each(one, ids)
        assert one.upstream.total == 128


def test_no_more_run_than_may_and_what_waits_stays_in_the_broker(broker: Broker, tmp_path: Path) -> None:
    """MAX_PROCESS_NUM=8 and 100 waiting: never more than 8 upstream, never more than 10 unacknowledged at the node.

    Then it is asked to leave: what runs is answered, what waits is left for other nodes.
    """
    with open_testbed(broker, tmp_path, MAX_PROCESS_NUM=8) as one:
        platform, upstream = one.platform, one.upstream
        ids = platform.ask_many([{"gate": "all"}] * 108)
        node = one.start()
        upstream.wait_for_waiting("all", 8, 30)
        platform.wait_backlog(108)
        assert 8 <= platform.unacked() <= 10
        for done in range(4, 64, 4):  # some end, as many are taken: looked at all the while
            upstream.release("all", 4)
            platform.wait_backlog(108 - done)
            upstream.wait_for_waiting("all", 8)
            assert platform.unacked() <= 10
        node.sigterm()
        node.wait_log('"asked_to_stop"')
        assert "draining" in node.wait_not_ready()
        upstream.open_gate("all")
        assert node.wait_exit() == 0
        node.wait_gone()
        assert upstream.peak == 8
        served = [id for id in ids if one.asked(id)]
        assert len(served) == upstream.total
        one.gateway.wait_all(served)
        platform.wait_backlog(108 - len(served))
        platform.wait_unacked(0)
        one.start()
        platform.wait_balanced()
        assert one.asked_twice(ids) == 0
        assert upstream.peak == 8
        one_end_each(one, ids)


def test_a_node_with_one_slot_runs_one_task_after_the_other(broker: Broker, tmp_path: Path) -> None:
    with open_testbed(broker, tmp_path, MAX_PROCESS_NUM=1) as one:
        one.start()
        ids = one.platform.ask_many([{"latency_ms": 20}] * 10)
        until(lambda: one.upstream.total, 10, "first task")
        assert one.platform.unacked() <= 3
        one.platform.wait_balanced(ids)
        assert one.upstream.peak == 1
