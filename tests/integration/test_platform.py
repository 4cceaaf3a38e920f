"""The tests' own platform, against the real broker: what it publishes, and what it reads of the broker's figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pulsar
import pytest
import requests

from tests.support.gateway import FakeGateway
from tests.support.platform import Platform
from tests.support.wait import until

TIMEOUT = 20


@contextmanager
def consumer(platform: Platform) -> Iterator[pulsar.Consumer]:
    """What a node would be: the model's subscription."""
    client = pulsar.Client(platform.broker.url)
    yield client.subscribe(
        platform.topic,
        platform.subscription,
        consumer_type=pulsar.ConsumerType.Shared,
        initial_position=pulsar.InitialPosition.Earliest,
        receiver_queue_size=2,
    )
    client.close()


def test_tasks_are_written_as_the_platform_writes_them(platform: Platform, gateway: FakeGateway) -> None:
    id = platform.ask({"chunks": 2}, stream=True, temperature=0.5, task={"metadata": None})
    with consumer(platform) as node:
        task = json.loads(node.receive(TIMEOUT * 1000).data())
    assert task == {
        "request_id": id,
        "stream": True,
        "endpoint": gateway.ws_url,
        "data": {
            "model": platform.model,
            "messages": [{"role": "user", "content": 'lab:{"chunks": 2}'}],
            "stream": True,
            "temperature": 0.5,
        },
    }
    assert platform.asked == [id]


def test_ids_are_registered_after_the_delay(platform: Platform, gateway: FakeGateway) -> None:
    platform.register_delay = None
    never = platform.ask()
    platform.register_delay = 3600
    late, *_ = platform.ask_many(["a", "b"])
    for delay in (0, 0.01):
        platform.register_delay = delay
        soon = platform.ask()
        until(partial(getattr, gateway.answer(soon), "registered_at"), TIMEOUT, "registered id")
    assert gateway.answer(never).registered_at is None
    assert gateway.answer(late).registered_at is None


def test_an_id_is_known_before_its_task_is_published(
    platform: Platform, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late this process gets to its timers: frames of an unknown id would be lost."""
    monkeypatch.setattr(gateway.loop, "call_soon_threadsafe", lambda *_: None)
    (id,) = platform.ask_many(["a"])
    answer = {"request_id": id, "data": {}}
    assert requests.post(gateway.post_url, json=answer, timeout=TIMEOUT).status_code == 200


def test_backlog_and_unacknowledged_messages(platform: Platform) -> None:
    assert (platform.backlog(), platform.unacked(), platform.consumers()) == (-1, -1, [])
    platform.ask_many(["x"] * 5)
    platform.publish(b"\xff rubbish", why="test")
    with consumer(platform) as node:
        platform.wait_backlog(6)
        platform.wait_unacked(2)
        first = node.receive(TIMEOUT * 1000)
        assert len(platform.consumers()) == 1
        node.acknowledge(first)
        platform.wait_backlog(5)


def test_records_and_dead_letters_come_in_order_and_stay(platform: Platform) -> None:
    assert platform.records() == []
    client = pulsar.Client(platform.broker.url)
    records = client.create_producer(platform.res_topic)
    for number in range(3):
        records.send(json.dumps({"request_id": "a" if number < 2 else "b", "number": number}).encode())
    assert [one["number"] for one in platform.records()] == [0, 1, 2]
    assert [one["number"] for one in platform.records_of("a", 2)] == [0, 1]
    assert platform.record_of("b")["number"] == 2
    client.create_producer(platform.dead_letter_topic).send(b"\x00", properties={"reason": "no JSON"})
    (letter,) = platform.wait_dead_letters()
    assert (letter.payload, letter.properties) == (b"\x00", {"reason": "no JSON"})
    assert platform.dead_letter_subscriptions() == []
    client.subscribe(platform.dead_letter_topic, "kept").close()
    assert platform.dead_letter_subscriptions() == ["kept"]
    client.close()
