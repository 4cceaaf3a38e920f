"""Two nodes, long runs: one is cut off from the broker; a node is drained just after its worker was killed.

Not a part of the suite: each takes minutes. By hand:

    python -m pytest -s tests/faults/two_nodes_runs.py -k cut        # CUT_SECONDS=30,180 unless it is set
    python -m pytest -s tests/faults/two_nodes_runs.py -k drain      # DRAINS=50 unless it is set
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.faults.testbed import Testbed, kill, one_end_each, open_testbed
from tests.support.link import Link

pytestmark = pytest.mark.timeout(3000)
CUT_SECONDS = [float(seconds) for seconds in os.environ.get("CUT_SECONDS", "30,180").split(",")]
DRAINS = int(os.environ.get("DRAINS", "50"))
TASKS = 100  # of each kind
STREAMS = 8  # in each drain
CHUNKS = 5
WORDS = [f"wörd {number} " for number in range(CHUNKS)]
FINAL = ("ack", "dead_letter")


def count(testbed: Testbed, ids: Iterable[str]) -> dict[str, object]:
    """Assert that each client has its answer once and no word of it twice; return what there is to count."""
    ids = list(ids)
    one_end_each(testbed, ids)
    answers = [testbed.gateway.answer(id) for id in ids]
    for answer in answers:
        if answer.frames:
            words = len([frame for frame in answer.frames if "wörd" in frame.text])
            assert answer.text == "".join(WORDS[:words]), answer.text
            assert answer.error is not None or words == CHUNKS, answer.text
    sent = [record for record in testbed.platform.records() if record["outcome"]["decision"] in FINAL]
    final = Counter(id for id, _ in {(record["request_id"], record["attempt_id"]) for record in sent})
    findings = (line["finding"] for node in testbed.nodes for line in node.logs() if line.get("event") == "claim")
    return {
        "tasks": len(ids),
        "errors": dict(Counter(str(each.error["code"]) for each in answers if each.error)),
        "asked again": testbed.asked_twice(ids),
        "POSTs after the answer": sum(len(each.late_posts) for each in answers),
        "final records beyond one": sum(final[id] - 1 for id in ids),
        "claims": dict(Counter(findings)),
    }


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Link, str]]:
    """A broker, a link to it that can be cut, and the broker's URL by that link."""
    near, bound, outer = free_port(), free_port(), free_port()
    conf = {
        "advertisedListeners": f"near:pulsar://127.0.0.1:{near},far:pulsar://127.0.0.1:{outer}",
        "internalListenerName": "near",
        "bindAddresses": f"far:pulsar://127.0.0.1:{bound}",
        "advertisedAddress": "",
    }
    folder = tmp_path_factory.mktemp("broker")
    with Broker(find_or_get(), folder, port=near, admin_port=free_port(), conf=conf) as broker:
        link = Link(outer, bound)
        yield broker, link, f"pulsar://127.0.0.1:{outer}"
        link.close()


@pytest.mark.parametrize("seconds", CUT_SECONDS)
@pytest.mark.parametrize("how", ["reset", "stall"])
def test_a_node_is_cut_off_from_the_broker_amid_its_streams(
    far: tuple[Broker, Link, str], tmp_path: Path, how: str, seconds: float
) -> None:
    broker, link, url = far
    cut: Callable[[], None] = getattr(link, how)
    with open_testbed(broker, tmp_path, MAX_PROCESS_NUM=3 * TASKS, READ_TIMEOUT=600) as testbed:
        platform, gateway, upstream = testbed.platform, testbed.gateway, testbed.upstream
        testbed.start(PULSAR_URL=url)
        ids = [platform.ask({"gate_chunks": f"begun-{number}"}, stream=True) for number in range(TASKS)]
        for number, id in enumerate(ids):
            upstream.release(f"begun-{number}", 1)
            gateway.wait_for_frames(id, 2)
        ids += [platform.ask({"gate": f"plain-{number % 4}"}) for number in range(TASKS)]
        for number in range(4):
            upstream.wait_for_waiting(f"plain-{number}", TASKS // 4)
        testbed.start()
        cut()
        begun = time.monotonic()
        for part in range(4):  # streams go on or end, and plain tasks are answered, throughout the cut and after it
            for number in range(part, TASKS, 4):
                upstream.release(f"begun-{number}", 2 if number % 8 < 4 else CHUNKS)
            if part < 3:
                upstream.open_gate(f"plain-{part}")
                ids += [platform.ask("hello", stream=number % 2 == 0) for number in range(10)]
            time.sleep(max(0.0, begun + seconds * (part + 1) / 4 - time.monotonic()))
        link.mend()
        for number in range(TASKS):
            upstream.open_gate(f"begun-{number}")
        upstream.open_gate("plain-3")
        try:
            gateway.wait_all(ids, 120)
            platform.wait_balanced(ids, 120)
        finally:
            for node in testbed.nodes:
                (tmp_path / f"node-{node.pid}.log").write_text(node.output)
        print(f"\n{how} for {seconds:g} s:", count(testbed, ids))


def test_a_node_is_drained_just_after_its_worker_was_killed(build: Callable[..., Testbed]) -> None:
    testbed = build(DRAIN_TIMEOUT=0, WORKER_PROCESSES=1, MAX_PROCESS_NUM=2 * STREAMS)
    ids: list[str] = []
    node = testbed.start()
    for attempt in range(DRAINS):
        gates = [f"drain-{attempt}-{number}" for number in range(STREAMS)]
        begun = [testbed.platform.ask({"gate_chunks": gate}, stream=True) for gate in gates]
        for gate, id in zip(gates, begun, strict=True):
            testbed.upstream.release(gate, 1)
            testbed.gateway.wait_for_frames(id, 2)
        second = testbed.start()
        kill(node.workers()[0], signal.SIGKILL)
        time.sleep(random.uniform(0, 0.2))
        node.sigterm()
        node.wait_exit()
        for gate in gates:
            testbed.upstream.open_gate(gate)
        testbed.gateway.wait_all(begun, 60)
        ids += begun
        print(f"\ndrain {attempt}:", count(testbed, begun))
        node = second
    testbed.platform.wait_balanced(ids)
    print(f"\n{DRAINS} drains:", count(testbed, ids))
