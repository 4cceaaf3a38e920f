"""A real cluster (ZooKeeper, three bookies, two brokers) whose members are killed and restarted under load.

What each test saw is printed: how long a fresh client could not get in, and how much later the node was ready.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pulsar
import pytest

from devstack.broker import Cluster
from tests.faults.testbed import Testbed, one_end_each, open_testbed
from tests.support.wait import until

pytestmark = pytest.mark.timeout(300)
SLOW = {"latency_ms": 200, "chunks": 5, "chunk_ms": 20}


@pytest.fixture
def testbed(cluster: Cluster, tmp_path: Path) -> Iterator[Testbed]:
    """A node on the cluster."""
    with open_testbed(cluster, tmp_path) as one:
        one.start()
        yield one


class Load(threading.Thread):
    """Publishes tasks, plain and as streams, until it is stopped; what the broker does not take is not counted."""

    def __init__(self, testbed: Testbed) -> None:
        super().__init__(daemon=True)
        self._testbed = testbed
        self._stopping = threading.Event()
        self.ids: list[str] = []
        self.start()

    def run(self) -> None:
        while not self._stopping.wait(0.05):
            for stream in (False, True):
                with contextlib.suppress(pulsar.PulsarException):
                    self.ids.append(self._testbed.platform.ask(SLOW, stream=stream))

    def wait_for(self, answers: int) -> None:
        """Wait until so many tasks more were answered."""
        wanted = self._answered() + answers
        until(lambda: self._answered() >= wanted, 120, f"{answers} answers more")

    def _answered(self) -> int:
        return sum(each.done.is_set() for each in self._testbed.gateway.answers)

    def end(self) -> list[str]:
        """Stop publishing; return the ids of all tasks that the broker has taken."""
        self._stopping.set()
        self.join(60)
        return self.ids


def recovery(testbed: Testbed, cluster: Cluster) -> str:
    """Wait until a fresh client can consume from the model's topic, and until all nodes are ready; return when."""
    platform, begun = testbed.platform, time.monotonic()

    def lets_in() -> bool:
        client = pulsar.Client(
            cluster.url, operation_timeout_seconds=2, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull)
        )
        try:
            client.subscribe(
                platform.topic, platform.subscription, consumer_type=pulsar.ConsumerType.Shared, receiver_queue_size=0
            )
            client.create_producer(platform.res_topic)
        except pulsar.PulsarException:
            return False
        finally:
            client.close()
        return True

    until(lets_in, 120, "fresh client")
    fresh = time.monotonic() - begun
    ready = []
    for node in testbed.nodes:
        node.wait_ready(120)
        ready.append(f"{time.monotonic() - begun:.1f} s")
    return f"a fresh client got in after {fresh:.1f} s, the nodes were ready after {', '.join(ready)}"


def nothing_is_lost(testbed: Testbed, ids: list[str]) -> None:
    """Every task was answered once, has its record, and is gone from the broker."""
    assert len(ids) > 50
    testbed.platform.wait_balanced(ids, 120)
    one_end_each(testbed, ids)
    print(f"{len(ids)} tasks, {testbed.asked_twice(ids)} calls of upstream repeated")


def test_the_owner_of_the_topic_is_killed_under_load_and_nothing_is_lost(cluster: Cluster, testbed: Testbed) -> None:
    load = Load(testbed)
    load.wait_for(40)
    owner = cluster.owner_of(testbed.platform.topic)
    cluster.kill(owner)
    testbed.node.wait_not_ready(60)
    print("owner killed:", recovery(testbed, cluster))
    load.wait_for(40)
    nothing_is_lost(testbed, load.end())
    assert "broker_down" in testbed.node.output
    cluster.start(owner)
    cluster.wait_ready(owner)


def test_a_bookie_is_killed_under_load_and_nothing_is_lost(cluster: Cluster, testbed: Testbed) -> None:
    load = Load(testbed)
    load.wait_for(40)
    cluster.kill("bookie-1")
    load.wait_for(100)
    nothing_is_lost(testbed, load.end())
    assert testbed.node.running
    cluster.start("bookie-1")
    cluster.wait_ready("bookie-1")


def test_brokers_are_restarted_one_after_the_other_under_load_and_nothing_is_lost(
    cluster: Cluster, testbed: Testbed
) -> None:
    load = Load(testbed)
    for name in cluster.brokers:
        load.wait_for(20)
        cluster.stop(name)
        print(name, "stopped:", recovery(testbed, cluster))
        load.wait_for(20)
        cluster.start(name)
        cluster.wait_ready(name)
    load.wait_for(20)
    nothing_is_lost(testbed, load.end())


def test_a_topic_is_unloaded_again_and_again_under_load_and_nothing_is_lost(cluster: Cluster, testbed: Testbed) -> None:
    load = Load(testbed)
    for _ in range(4):
        load.wait_for(20)
        testbed.platform.admin("PUT", f"persistent/public/default/{testbed.platform.topic}/unload")
    load.wait_for(20)
    nothing_is_lost(testbed, load.end())
    assert testbed.asked_twice(load.ids) == 0
