"""`workernode-records` on a real broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pulsar
import pytest
import requests

from devstack.broker import Broker
from supervisor.broker import Access, read_records
from tests.support.wait import until
from workernode.protocol import Decision
from workernode.record import Node, Record, encode

TIMEOUT = 60  # seconds; a bound for a broken run
NODE = Node("host-a-1", "host-a", "remote", "0.1.0", worker=0)


def one(number: int) -> bytes:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    return encode(Record(f"id-{number}", number, NODE, "answered", Decision.ACK, model="m", usage=usage))


@pytest.fixture
def topic(broker: Broker) -> Iterator[str]:
    """A record topic of this test's own."""
    name = f"res-{uuid.uuid4().hex[:12]}"
    yield name
    requests.delete(f"{broker.admin_url}/admin/v2/persistent/public/default/{name}?force=true", timeout=TIMEOUT)


@contextmanager
def publisher(broker: Broker, topic: str, **how: Any) -> Iterator[pulsar.Producer]:
    with closing(pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))) as client:
        yield client.create_producer(topic, **how)


def command(broker: Broker, topic: str, *arguments: str) -> list[str]:
    module = [sys.executable, "-m", "supervisor.records"]
    return [*module, arguments[0], "--url", broker.url, "--topic", topic, *arguments[1:]]


def run(broker: Broker, topic: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    asked = command(broker, topic, *arguments)
    return subprocess.run(asked, capture_output=True, text=True, check=False, timeout=3 * TIMEOUT)


def test_sum_adds_up_what_there_is_once(broker: Broker, topic: str) -> None:
    with publisher(broker, topic, batching_enabled=True) as producer:
        for number in [*range(50), *range(10)]:  # ten of them twice
            producer.send_async(one(number), None)
        producer.flush()
    done = run(broker, topic, "sum", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert (summary["total"]["requests"], summary["total"]["total_tokens"], summary["duplicates"]) == (50, 350, 10)


def test_only_what_was_published_since_is_read(broker: Broker, topic: str) -> None:
    with publisher(broker, topic) as producer:
        producer.send(one(1))
        middle = time.time() + 0.002  # publishing times are whole milliseconds
        until(lambda: time.time() > middle, TIMEOUT, "moment after it")
        producer.send(one(2))
        producer.send(one(3))
    whole = f"persistent://public/default/{topic}"
    read = [message.data for message in read_records(Access(broker.url), whole, middle, follow=False) if message]
    assert read == [one(2), one(3)]


def test_a_partitioned_topic_is_read_whole(broker: Broker) -> None:
    name = f"res-{uuid.uuid4().hex[:12]}"
    url = f"{broker.admin_url}/admin/v2/persistent/public/default/{name}/partitions"
    requests.put(url, json=3, timeout=TIMEOUT).raise_for_status()
    robin = pulsar.PartitionsRoutingMode.RoundRobinDistribution
    with publisher(broker, name, batching_enabled=False, message_routing_mode=robin) as producer:
        for number in range(30):
            producer.send(one(number))
    assert json.loads(run(broker, name, "sum", "--json").stdout)["total"]["requests"] == 30
    requests.delete(f"{url}?force=true", timeout=TIMEOUT)


def test_tail_shows_what_was_and_what_comes_and_leaves_nothing_behind(broker: Broker, topic: str) -> None:
    with publisher(broker, topic) as producer:
        producer.send(one(1))
        asked = command(broker, topic, "tail", "--json")
        with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tail:
            try:
                assert tail.stdout
                assert tail.stderr
                assert tail.stdout.readline().rstrip() == one(1)
                producer.send(one(2))
                assert tail.stdout.readline().rstrip() == one(2)
                tail.send_signal(signal.SIGINT)
                assert tail.wait(TIMEOUT) == 0
                assert tail.stderr.read() == b""
            finally:
                tail.kill()
        url = f"{broker.admin_url}/admin/v2/persistent/public/default/{topic}/stats"
        until(lambda: not requests.get(url, timeout=TIMEOUT).json()["subscriptions"], TIMEOUT, "topic without readers")


def test_a_missing_topic_is_an_error_and_is_not_created(broker: Broker, topic: str) -> None:
    with publisher(broker, topic):
        pass
    done = run(broker, topic[:-1] + "X", "sum")
    assert done.returncode == 1
    assert "has no topic persistent://public/default/" in done.stderr
    assert f"it has {topic}" in done.stderr
    listed = requests.get(f"{broker.admin_url}/admin/v2/persistent/public/default", timeout=TIMEOUT).json()
    assert f"persistent://public/default/{topic[:-1]}X" not in listed


def test_a_reader_that_has_seen_enough_is_no_fault(broker: Broker, topic: str) -> None:
    with publisher(broker, topic) as producer:
        for number in range(200):
            producer.send_async(one(number), None)
        producer.flush()
    asked = command(broker, topic, "tail", "--json")
    reader, writer = os.pipe()
    with subprocess.Popen(asked, stdout=writer, stderr=subprocess.PIPE) as tail:
        try:
            os.close(writer)
            assert os.read(reader, 1)
            os.close(reader)
            with publisher(broker, topic) as producer:

                def more() -> bool:
                    producer.send(one(time.time_ns()))
                    return tail.poll() is not None

                until(more, TIMEOUT, "end of the command")
            assert tail.returncode == 0
            assert tail.stderr
            assert tail.stderr.read() == b""
        finally:
            tail.kill()
