"""Tasks that came in one batch. The broker hands out a batch as one: whoever sends one of it back has all of it handed
out again, to any node, also what is still being worked on. Nothing may be said twice for that.

All of it on a broker that does not keep acks by their place in a batch, which is how brokers are by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.faults.testbed import Testbed, one_end_each, open_testbed
from tests.support.wait import until

MATES = 8  # in a batch, besides the one that fails


def passes(one: Testbed, tasks: int = 3) -> None:
    """Time passes, measured in tasks: the broker has long handed out what was sent back."""
    for _ in range(tasks):
        one.platform.ask_and_wait({"latency_ms": 500})


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One that does not."""
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
        ids = one.platform.ask_many([{"status": 503}, *[gate] * MATES], stream, batched=True)
        one.upstream.wait_for_waiting("all", MATES, 30)
        until(lambda: one.naks(ids[0]), 30, "the one that fails is sent back")
        passes(one)
        assert one.upstream.waiting_at("all") == MATES, "the mates were handed out again while they ran"
        one.upstream.open_gate("all")
        one.platform.wait_balanced()
        assert one.asked_twice(ids[1:]) == 0
        assert one.last_record(ids[0])["outcome"]["status"] == "gave_up"
        one_end_each(one, ids)


def test_one_node_alone_tries_again_what_it_sent_back(broker: Broker, tmp_path: Path) -> None:
    """With nothing that comes after it, and with no room for more than a part of the batch."""
    with open_testbed(broker, tmp_path, MAX_REDELIVERIES=2, MAX_PROCESS_NUM=2) as one:
        ids = one.platform.ask_many([{"latency_ms": 20}, {"status": 503}, *[{"latency_ms": 20}] * MATES], batched=True)
        one.start()
        one.platform.wait_balanced()
        assert one.naks(ids[1]) == 2
        assert one.last_record(ids[1])["outcome"]["status"] == "gave_up"
        assert one.asked_twice([*ids[:1], *ids[2:]]) == 0
        one_end_each(one, ids)
