"""Tasks that came in one batch. The broker delivers a batch as a whole: after a nak of one task it delivers all of them
again, to any node, also those that are still being worked on. No client may be answered twice because of that.

All on a broker that does not store which messages of a batch were acked, which is a broker's default.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.faults.testbed import Testbed, one_end_each, open_testbed
from tests.support.wait import until

OTHERS = 8  # in a batch, besides the one that fails


def passes(one: Testbed, tasks: int = 3) -> None:
    """Let time pass, measured in tasks: the broker has then delivered again what was nak'd."""
    for _ in range(tasks):
        one.platform.ask_and_wait({"latency_ms": 500})


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that does not store acks by their place in a batch."""
    conf = {"acknowledgmentAtBatchIndexLevelEnabled": "false"}
    folder = tmp_path_factory.mktemp("broker")
    with Broker(find_or_get(), folder, port=free_port(), admin_port=free_port(), conf=conf) as one:
        yield one


@pytest.mark.parametrize("stream", [False, True])
def test_a_nak_does_not_run_the_other_tasks_of_its_batch_twice(
    broker: Broker, tmp_path: Path, stream: bool
) -> None:
    with open_testbed(broker, tmp_path, MAX_REDELIVERIES=3) as one:
        for _ in range(2):  # each has room for all of it
            one.start()
        gate = {"gate_chunks": "all"} if stream else {"gate": "all"}
        ids = one.platform.ask_many([{"status": 503}, *[gate] * OTHERS], stream, batched=True)
        one.upstream.wait_for_waiting("all", OTHERS, 30)
        until(lambda: one.naks(ids[0]), 30, "the one that fails is sent back")
        passes(one)
        assert one.upstream.waiting_at("all") == OTHERS, "the others were delivered again while they ran"
        one.upstream.open_gate("all")
        one.platform.wait_balanced()
        assert one.asked_twice(ids[1:]) == 0
        assert one.last_record(ids[0])["outcome"]["status"] == "gave_up"
        one_end_each(one, ids)


def test_a_node_alone_tries_a_task_of_a_batch_again_when_others_were_answered(broker: Broker, tmp_path: Path) -> None:
    """No other message comes after the batch, and the node has room for a part of it only."""
    with open_testbed(broker, tmp_path, MAX_REDELIVERIES=2, MAX_PROCESS_NUM=2) as one:
        ids = one.platform.ask_many([{"latency_ms": 20}, {"status": 503}, *[{"latency_ms": 20}] * OTHERS], batched=True)
        one.start()
        one.platform.wait_balanced()
        assert one.naks(ids[1]) == 2
        assert one.last_record(ids[1])["outcome"]["status"] == "gave_up"
        assert one.asked_twice([*ids[:1], *ids[2:]]) == 0
        one_end_each(one, ids)
