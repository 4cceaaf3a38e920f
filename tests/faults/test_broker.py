"""The broker killed, absent, cut off; closed intakes, partitions, tenants: no restart of the node, nothing is lost."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulsar
import pytest
import requests

from devstack.broker import Broker, find_or_get
from devstack.ports import free_port
from tests.faults.testbed import REPORTS_SOON, Testbed, one_end_each, patched
from tests.simulation import restart
from tests.simulation.sides import Came, RealSide, open_client
from tests.support.node import Node
from tests.support.paths import ROOT
from tests.support.upstream import FakeUpstream
from tests.support.wait import until

STANDIN = ROOT / "tests" / "support" / "llamafile_standin.py"
DEAF = 3.0  # seconds
TIMEOUT = 60  # seconds
SURVIVORS = [f"message {number}".encode() for number in range(1000)]


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that tests may kill; each leaves it running."""
    with Broker(find_or_get(), tmp_path_factory.mktemp("mortal"), port=free_port(), admin_port=free_port()) as one:
        yield one


@dataclass
class Outage:
    """One outage of the broker: what it does to a node that has work, and to one that comes meanwhile."""

    testbed: Testbed  # its node has work when the broker is killed
    ids: list[str]
    later: Testbed  # its node is started while the broker is away
    waiting: str  # the id of a task that was published before
    report: dict[str, Any]  # the report of that node when it lasts
    came_again: Came  # what a consumer is given afterwards of tests/simulation/restart.py
    survivors: list[bytes]  # what is there afterwards of SURVIVORS, published before


@pytest.fixture(scope="module")
def outage(mortal: Broker, build: Callable[..., Testbed], tmp_path_factory: pytest.TempPathFactory) -> Outage:
    """Kill the broker under load, start a node without it, and start it again."""
    testbed, later = build(on=mortal), build(on=mortal)
    waiting = later.platform.ask("before the node")
    node = testbed.start()
    publish_survivors(mortal)
    script = RealSide(mortal.url)
    restart.before(script)
    slow = {"latency_ms": 200, "chunks": 5, "chunk_ms": 20}
    ids = testbed.platform.ask_many([slow] * 150) + testbed.platform.ask_many([slow] * 150, stream=True)
    until(lambda: sum(one.done.is_set() for one in testbed.gateway.answers) > 60, 40, "load")
    killed = mortal.pid
    mortal.kill()
    assert not mortal.is_alive()
    script.client.close()
    assert "Pulsar" in node.wait_not_ready()
    late = later.start(ready=False, command=patched(tmp_path_factory.mktemp("late"), REPORTS_SOON))
    late.wait_not_ready()
    report = json.loads(late.wait_log("MessageQueueConnectionError", 30))
    mortal.start()
    mortal.wait_ready()
    assert mortal.pid != killed
    script.client = open_client(mortal.url)
    came_again = restart.after(script)
    script.client.close()
    return Outage(testbed, ids, later, waiting, report, came_again, read_survivors(mortal))


def publish_survivors(broker: Broker) -> None:
    """Publish SURVIVORS, for a subscription that nobody reads now."""
    with closing(open_client(broker.url)) as client:
        client.subscribe("survivors", "all")
        producer = client.create_producer("survivors")
        for content in SURVIVORS:
            producer.send_async(content, lambda *_: None)
        producer.flush()


def read_survivors(broker: Broker) -> list[bytes]:
    """Return as many messages as were published, in their order."""
    with closing(open_client(broker.url)) as client:
        consumer = client.subscribe("survivors", "all")
        return [consumer.receive(TIMEOUT * 1000).data() for _ in SURVIVORS]


def test_messages_survive_a_kill_and_a_second_broker_shares_nothing(outage: Outage, broker: Broker) -> None:
    assert outage.survivors == SURVIVORS
    topics = requests.get(f"{broker.admin_url}/admin/v2/persistent/public/default", timeout=TIMEOUT).json()
    assert not [topic for topic in topics if "survivors" in topic]


def test_killed_and_started_again_under_load_nothing_is_lost(outage: Outage) -> None:
    testbed, ids = outage.testbed, outage.ids
    testbed.node.wait_ready(60)
    testbed.platform.wait_balanced(ids, 60)
    one_end_each(testbed, ids)
    for id in ids:
        assert testbed.gateway.answer(id).error is None
    print(f"{len(ids)} tasks, {testbed.asked_twice(ids)} calls of upstream repeated")
    testbed.close_nodes()


def test_absent_at_start_it_is_waited_for_and_reported_when_it_lasts(outage: Outage) -> None:
    testbed = outage.later
    assert outage.report["level"] == "ERROR"
    assert "start the broker, or correct PULSAR_URL" in outage.report["message"]
    testbed.node.wait_ready(60)
    assert testbed.answer(outage.waiting, 40).error is None
    assert testbed.platform.ask_and_wait("after it").text
    testbed.platform.wait_balanced()
    assert sum(line.get("reason") == "MessageQueueConnectionError" for line in testbed.node.logs()) == 1
    testbed.close_nodes()


def test_a_killed_broker_hands_out_again_what_the_simulation_lets_it(outage: Outage) -> None:
    """Acks, counts and order: the simulated broker does all that the real one may do, and nothing else."""
    simulated = [restart.simulated(seed) for seed in range(100)]
    assert outage.came_again in restart.MAY_COME
    assert all(came in restart.MAY_COME for came in simulated)
    assert all(came in simulated for came in restart.MAY_COME)


def test_a_broker_that_does_not_answer_for_a_while_loses_nothing(mortal: Broker, build: Callable[..., Testbed]) -> None:
    """The broker's process is stopped: the connection stands, and nobody answers on it."""
    testbed = build(on=mortal)
    node = testbed.start()
    held = [{"gate": "deaf"}] * 10
    plain, streams = testbed.platform.ask_many(held), testbed.platform.ask_many(held, stream=True)
    ids = plain + streams
    testbed.upstream.wait_for_waiting("deaf", len(ids))
    pid = mortal.pid
    assert pid is not None
    os.killpg(pid, signal.SIGSTOP)
    try:
        testbed.upstream.open_gate("deaf")
        testbed.gateway.wait_all(plain)  # plain answers do not need the broker; streams wait for their claims
        stopped_at = time.monotonic()
        until(lambda: time.monotonic() - stopped_at > DEAF, 30, "end of the deafness")
    finally:
        os.killpg(pid, signal.SIGCONT)
    testbed.platform.wait_balanced(ids)
    one_end_each(testbed, ids)
    assert testbed.asked_twice(ids) == 0
    assert node.running
    testbed.close_nodes()


def test_a_second_signal_ends_it_although_the_broker_does_not_answer(
    mortal: Broker, build: Callable[..., Testbed]
) -> None:
    testbed = build(on=mortal, DRAIN_TIMEOUT=60)
    node = testbed.start()
    ids = [testbed.platform.ask({"gate": "deaf"}, stream=way) for way in (False, True) * 3]
    testbed.upstream.wait_for_waiting("deaf", 6)
    pid = mortal.pid
    assert pid is not None
    os.killpg(pid, signal.SIGSTOP)
    try:
        node.sigterm()
        node.wait_log('"asked_to_stop"')
        node.sigterm()
        assert node.process.wait(5) == 1
        assert node.processes_left() == []
    finally:
        os.killpg(pid, signal.SIGCONT)
    testbed.upstream.open_gate("deaf")
    testbed.start()
    testbed.platform.wait_balanced(timeout=60)
    one_end_each(testbed, ids)
    testbed.close_nodes()


def test_a_topic_taken_from_under_its_consumers_loses_nothing(build: Callable[..., Testbed]) -> None:
    """The broker unloads the topic, as it does to move it to another broker, under a node that has work."""
    testbed = build()
    node = testbed.start()
    ids = []
    for _ in range(3):
        ids += testbed.platform.ask_many([{"latency_ms": 300}] * 20)
        ids += testbed.platform.ask_many([{"latency_ms": 300}] * 20, stream=True)
        testbed.upstream.wait_until(lambda: testbed.upstream.inflight > 10, 20, "load")
        topic = f"persistent/public/default/{testbed.platform.topic}"
        testbed.platform.admin("PUT", f"{topic}/unload")
    testbed.platform.wait_balanced(ids)
    one_end_each(testbed, ids)
    assert testbed.asked_twice(ids) == 0
    assert node.running
    testbed.close_nodes()


LONG = 50  # seconds of a rate limit: longer than what a test waits for


def close_intake(testbed: Testbed, held: int = 0) -> Node:
    """Start a node, give it so many tasks, and let upstream answer with a long Retry-After."""
    node = testbed.start(MAX_PROCESS_NUM=8)
    if held:
        testbed.platform.ask_many([{"gate": "held"}] * held)
        testbed.upstream.wait_for_waiting("held", held)
    testbed.upstream.limit(60 / LONG, burst=0.01, headers="retry-after")
    testbed.platform.ask("too many")
    until(lambda: node.metrics()['workernode_intake_state{state="held"}'] == 1, 20, "closed intake")
    return node


@pytest.mark.parametrize("held", [0, 2], ids=["with nothing else here", "beside tasks in flight"])
def test_a_closed_intake_keeps_no_message_that_an_idle_node_could_serve(
    build: Callable[..., Testbed], held: int
) -> None:
    """What the client library was given beforehand goes to another node."""
    testbed = build()
    close_intake(testbed, held)
    with closing(FakeUpstream()) as other:
        other.models = [testbed.platform.model]
        testbed.start(API_URL=other.api_url)
        ids = testbed.platform.ask_many(["hello"] * 10)
        testbed.gateway.wait_all(ids, LONG / 2)
        assert not any(testbed.asked(id) for id in ids), "the node that waits for its rate limit served one"
    testbed.close_nodes()


def test_a_closed_intake_keeps_no_message_after_its_topic_was_moved(build: Callable[..., Testbed]) -> None:
    """The library asks for a message when it has connected anew, although the intake is closed."""
    testbed = build()
    close_intake(testbed, held=2)
    testbed.platform.admin("PUT", f"persistent/public/default/{testbed.platform.topic}/unload")
    with closing(FakeUpstream()) as other:
        other.models = [testbed.platform.model]
        testbed.start(API_URL=other.api_url)
        ids = testbed.platform.ask_many(["hello"] * 10)
        testbed.gateway.wait_all(ids, LONG / 2)
        assert not any(testbed.asked(id) for id in ids), "the node that waits for its rate limit served one"
        other.open_gate("held")  # the other node was given the two in flight, too
        testbed.upstream.open_gate("held")
    testbed.close_nodes()


def test_a_node_whose_model_loads_is_given_no_message(build: Callable[..., Testbed], tmp_path: Path) -> None:
    testbed = build()
    local = {"NODE_TYPE": "local", "API_URL": None, "API_KEY": None, "LOCAL_COMMAND": f"{sys.executable} {STANDIN}"}
    loading = testbed.start(ready=False, STANDIN_LOAD_S="1000", **local)
    until(lambda: testbed.platform.backlog() == 0, 30, "subscription")
    testbed.platform.ask("hello")
    testbed.platform.wait_backlog(1)
    assert testbed.platform.consumers() == []
    assert loading.running
    testbed.close_nodes()


def test_topics_may_be_in_a_namespace_of_their_own(mortal: Broker, build: Callable[..., Testbed]) -> None:
    testbed = build(on=mortal)
    platform, model = testbed.platform, testbed.platform.model
    platform.admin("PUT", f"tenants/{model}", json={"adminRoles": [], "allowedClusters": ["standalone"]})
    platform.admin("PUT", f"namespaces/{model}/tasks")
    testbed.start(PULSAR_NAMESPACE=f"{model}/tasks")
    task = platform.task("hello")
    testbed.gateway.register_soon(task["request_id"])
    with closing(pulsar.Client(mortal.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))) as client:
        client.create_producer(f"persistent://{model}/tasks/model-{model}").send(json.dumps(task).encode())
        assert testbed.gateway.answer(task["request_id"]).wait(30).text
        reader = client.create_reader(f"persistent://{model}/tasks/{platform.res_topic}", pulsar.MessageId.earliest)
        assert json.loads(reader.read_next(20_000).data())["request_id"] == task["request_id"]
    testbed.close_nodes()


def test_a_partitioned_topic_is_served_and_little_more_is_held_than_the_cap(
    mortal: Broker, build: Callable[..., Testbed]
) -> None:
    """A node that is full keeps what it works on; a second node gets all else."""
    testbed = build(on=mortal)
    platform = testbed.platform
    model = f"parts-{secrets.token_hex(4)}"
    platform.admin("PUT", f"persistent/public/default/model-{model}/partitions", json=4)
    testbed.start(MODEL_NAME=model, MAX_PROCESS_NUM=2)
    with closing(pulsar.Client(mortal.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))) as client:
        producer = client.create_producer(f"model-{model}")

        def ask(directive: object) -> str:
            task = platform.task(directive)
            testbed.gateway.register_soon(task["request_id"])
            producer.send(json.dumps(task).encode())
            return str(task["request_id"])

        held = [ask({"gate": "held"}) for _ in range(2)]
        testbed.upstream.wait_for_waiting("held", 2)
        with closing(FakeUpstream()) as other:
            other.models = [model]
            testbed.start(MODEL_NAME=model, API_URL=other.api_url)
            ids = [ask("hello") for _ in range(40)]
            testbed.gateway.wait_all(ids, 40)
            assert not any(testbed.asked(id) for id in ids)
        testbed.upstream.open_gate("held")
        testbed.gateway.wait_all(held, 40)

    def left() -> int:
        stats = platform.admin("GET", f"persistent/public/default/model-{model}/partitioned-stats").json()
        return int(stats["subscriptions"][f"model-{model}-subscription"]["msgBacklog"])

    until(lambda: left() == 0, 30, "empty backlog")
    one_end_each(testbed, [*held, *ids])
    testbed.close_nodes()
