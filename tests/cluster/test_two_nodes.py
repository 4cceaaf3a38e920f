"""Two nodes on a real cluster whose broker is killed amid their tasks: what is handed out twice is answered once.

By hand, as often as it is wanted:

    TWO_NODES_RUNS=10 python -m pytest -s tests/cluster/test_two_nodes.py
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from devstack.broker import Cluster
from tests.cluster.test_cluster import recovery
from tests.faults.testbed import Testbed, one_end_each, open_testbed
from tests.support.wait import until, until_equal

pytestmark = pytest.mark.timeout(600)
RUNS = int(os.environ.get("TWO_NODES_RUNS", "1"))
TASKS = 500
CHUNKS = 5
TEXTS = ("wörd " * CHUNKS, "".join(f"wörd {number} " for number in range(CHUNKS)))  # of a plain answer, of a stream
FINAL = ("ack", "dead_letter")


def ask_all(testbed: Testbed, chance: random.Random) -> list[str]:
    """Publish the tasks, plain and as streams in turns; each takes upstream 100 to 300 ms."""
    ids: list[str] = []
    for _ in range(TASKS // 20):
        for stream in (False, True):
            asks = []
            for _ in range(10):
                ms = chance.uniform(100, 300)
                paces = {"latency_ms": ms / 2, "chunk_ms": ms / 2 / CHUNKS} if stream else {"latency_ms": ms}
                asks.append({"chunks": CHUNKS, **paces})
            ids += testbed.platform.ask_many(asks, stream=stream)
    return ids


@pytest.mark.parametrize("run", range(RUNS))
def test_the_owner_of_the_topic_is_killed_amid_the_tasks_of_two_nodes(
    cluster: Cluster, tmp_path: Path, run: int
) -> None:
    chance = random.Random(os.urandom(8))
    with open_testbed(cluster, tmp_path, MAX_PROCESS_NUM=16) as testbed:
        platform, gateway = testbed.platform, testbed.gateway
        for _ in range(2):
            testbed.start()
        answered_before = chance.randrange(20, TASKS - 100)
        ids = ask_all(testbed, chance)
        until(lambda: sum(each.done.is_set() for each in gateway.answers) >= answered_before, 60, "answers")
        owner = cluster.owner_of(platform.topic)
        cluster.kill(owner)
        answered = sum(each.done.is_set() for each in gateway.answers)
        try:
            print(f"run {run}: owner killed after {answered} answers;", recovery(testbed, cluster))
            platform.wait_balanced(ids, 120)
        finally:
            for node in testbed.nodes:
                (tmp_path / f"node-{node.pid}.log").write_text(node.output)
            cluster.start(owner)
            cluster.wait_ready(owner)
        answers = [gateway.answer(id) for id in ids]
        # The library sends a record again whose receipt was lost with the broker: the same attempt is billed once.
        sent = [record for record in platform.records() if record["outcome"]["decision"] in FINAL]
        final = Counter(id for id, _ in {(record["request_id"], record["attempt_id"]) for record in sent})
        counts = {
            "tasks": len(ids),
            "asked again": testbed.asked_twice(ids),
            "errors": sum(each.error is not None for each in answers),
            "POSTs after the answer": sum(len(each.late_posts) for each in answers),
            "frames after the end": sum(len(each.after_end) for each in answers),
            "text twice": sum(each.error is None and each.text not in TEXTS for each in answers),
            "final records beyond one": sum(final.values()) - len(ids),
            "records sent twice": len(sent) - sum(final.values()),
            "claims": dict(Counter(
                line["finding"] for node in testbed.nodes for line in node.logs() if line.get("event") == "claim"
            )),
        }  # fmt: skip
        print(f"run {run}:", counts)
        one_end_each(testbed, ids)
        for node in testbed.nodes:
            until_equal(lambda node=node: node.metrics()["workernode_tasks_in_flight"], 0, 20, "tasks in flight")  # type: ignore[misc]
        assert counts["text twice"] == 0
        assert [id for id in ids if final[id] != 1] == []
