"""Messages that are large for the broker: in chunks, compressed, and dead letters of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import closing

import pulsar
import pytest

from tests.faults.testbed import Testbed, one_end_each
from tests.support.platform import Platform

LARGEST = 5 * 1024 * 1024  # bytes: what the broker takes in one message


@pytest.fixture
def testbed(build: Callable[..., Testbed]) -> Testbed:
    """A testbed whose node is ready."""
    one = build(NAK_DELAY=0.2, MAX_REDELIVERIES=2)
    one.start()
    return one


def publish(platform: Platform, payload: bytes, **how: object) -> None:
    with closing(pulsar.Client(platform.broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))) as client:
        client.create_producer(platform.topic, batching_enabled=False, **how).send(payload)


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_that_came_in_chunks_is_answered_and_tried_again_if_it_fails(testbed: Testbed, fails: bool) -> None:
    """The library cannot hand it back: it is tried again at this node."""
    directive = {"status": 503, "fail_times": 4, "key": f"chunks {fails}"} if fails else {"latency_ms": 1}
    task = testbed.platform.task(directive)
    task["data"]["padding"] = "x" * (8 * 1024 * 1024)
    testbed.gateway.register_soon(task["request_id"])
    publish(testbed.platform, json.dumps(task).encode(), chunking_enabled=True)
    assert testbed.answer(task["request_id"]).error is None
    testbed.platform.wait_backlog(0)
    one_end_each(testbed, [task["request_id"]])
    assert bool(testbed.naks(task["request_id"])) is fails
    testbed.close_nodes()


def test_a_dead_letter_that_is_larger_than_the_broker_takes_is_compressed(testbed: Testbed) -> None:
    payload = b'{"rubbish": "' + b"x" * (12 * 1024 * 1024)
    publish(testbed.platform, payload, compression_type=pulsar.CompressionType.ZSTD)
    (letter,) = testbed.platform.wait_dead_letters(1)
    assert letter.payload == payload
    assert "cut" not in letter.properties
    testbed.platform.wait_backlog(0)
    testbed.close_nodes()


def test_a_dead_letter_that_cannot_be_compressed_enough_is_cut_and_says_so(testbed: Testbed) -> None:
    # The same bytes in each run: 5 of 150 random lots had what looks like a secret, which a dead letter hides.
    payload = random.Random(1).randbytes(LARGEST + 1024)
    publish(testbed.platform, payload, chunking_enabled=True)
    (letter,) = testbed.platform.wait_dead_letters(1)
    assert letter.payload == payload[: len(letter.payload)]
    assert letter.properties["cut"] == f"only the first bytes of {len(payload)}"
    assert letter.properties["reason"]
    testbed.platform.wait_backlog(0)
    testbed.close_nodes()
