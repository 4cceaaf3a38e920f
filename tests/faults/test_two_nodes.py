"""Two nodes of one model: what the broker hands out twice is answered once (supervisor/claims)."""

from __future__ import annotations

from collections.abc import Callable

import requests

from tests.faults.testbed import Testbed, one_end_each
from tests.support.platform import Broker
from tests.support.wait import until

STREAMS = 100
TASK_TIMEOUT = 15  # seconds
TEXT = "".join(f"wörd {number} " for number in range(5))


def test_the_clients_of_a_node_that_is_killed_see_their_text_once_then_an_error_and_one_end(
    build: Callable[..., Testbed],
) -> None:
    testbed = build(MAX_PROCESS_NUM=2 * STREAMS)
    platform, upstream = testbed.platform, testbed.upstream
    first = testbed.start()
    begun = [platform.ask({"gate_chunks": f"begun-{number}"}, stream=True) for number in range(STREAMS)]
    for number in range(STREAMS):
        upstream.release(f"begun-{number}", 1)
    for id in begun:
        testbed.gateway.wait_for_frames(id, 2)
    plain = [platform.ask({"gate": "held"}) for _ in range(5)]
    upstream.wait_for_waiting("held", len(plain))
    testbed.start()
    first.kill()
    first.wait_exit()
    upstream.open_gate("held")
    for number in range(STREAMS):
        upstream.open_gate(f"begun-{number}")
    testbed.gateway.wait_all([*begun, *plain], 120)
    platform.wait_balanced(timeout=120)
    one_end_each(testbed, [*begun, *plain])
    for id in begun:
        answer = testbed.gateway.answer(id)
        assert answer.text == "wörd 0 ", answer
        assert answer.error is not None
        assert answer.error["code"] == "stream_interrupted"
        assert testbed.asked(id) == 1
    for id in plain:
        assert testbed.gateway.answer(id).error is None
    testbed.close_nodes()


def test_what_a_node_has_answered_that_was_killed_without_storing_its_record_is_recorded_by_another(
    build: Callable[..., Testbed], broker: Broker
) -> None:
    testbed = build(TASK_TIMEOUT=TASK_TIMEOUT)
    platform = testbed.platform
    topic = f"{platform.res_topic}-terminated"  # of the first node: it stores nothing there
    first = testbed.start(RES_TOPIC_NAME=topic)
    url = f"{broker.admin_url}/admin/v2/persistent/public/default/{topic}/terminate"
    requests.post(url, timeout=TASK_TIMEOUT).raise_for_status()
    stream, plain = platform.ask({}, stream=True), platform.ask({})
    testbed.gateway.wait_all([stream, plain], TASK_TIMEOUT)
    for id in (stream, plain):
        first.wait_log(lambda line, id=id: '"not_stored"' in line and id in line)
    testbed.start()
    first.kill()
    first.wait_exit()
    assert testbed.last_record(stream, 120)["outcome"]["status"] == "unrecorded"
    assert testbed.last_record(stream)["usage_source"] == "none"
    # The plain task was announced by nothing but its record, so that it is run again; the gateway has its answer.
    assert testbed.last_record(plain, 120)["outcome"]["status"] in ("client_gone", "expired")
    platform.wait_balanced(timeout=120)
    one_end_each(testbed, [stream, plain])
    assert testbed.asked(stream) == 1
    testbed.close_nodes()


def test_a_topic_of_claims_that_is_terminated_amid_streams_of_two_nodes_repeats_no_text(
    build: Callable[..., Testbed],
) -> None:
    """The client library answers each message that the broker refuses by closing its connection. With the consumer on
    that connection, the broker handed the streams out again, just when no node could use claims.
    """
    testbed = build(MAX_PROCESS_NUM=64)
    platform, upstream, gateway = testbed.platform, testbed.upstream, testbed.gateway
    nodes = [testbed.start(), testbed.start()]
    begun = [platform.ask({"gate_chunks": f"on-{number}"}, stream=True) for number in range(20)]
    for number, id in enumerate(begun):
        upstream.release(f"on-{number}", 1)
        gateway.wait_for_frames(id, 2)
    platform.admin("POST", f"persistent/public/default/{platform.topic}-claims/terminate")
    for number in range(10):  # their ends are to be announced; the others go on until no node can use claims
        upstream.open_gate(f"on-{number}")
    for node in nodes:
        node.wait_log("claims_off")
    for number in range(10, 20):
        upstream.open_gate(f"on-{number}")
    later = [platform.ask("hello", stream=number % 2 == 0) for number in range(10)]
    gateway.wait_all([*begun, *later], 120)
    platform.wait_balanced(timeout=120)
    one_end_each(testbed, [*begun, *later])
    for id in begun:
        assert gateway.answer(id).text == TEXT
        assert testbed.asked(id) == 1
    testbed.close_nodes()


def test_claims_are_used_again_once_their_topic_is_back(build: Callable[..., Testbed]) -> None:
    """An administrator terminates the topic of claims amid streams, and deletes it later."""
    testbed = build(MAX_PROCESS_NUM=64)
    platform, upstream, gateway = testbed.platform, testbed.upstream, testbed.gateway
    topic = f"persistent/public/default/{platform.topic}-claims"
    nodes = [testbed.start()]
    begun = [platform.ask({"gate_chunks": f"begun-{number}"}, stream=True) for number in range(20)]
    for number, id in enumerate(begun):
        upstream.release(f"begun-{number}", 1)
        gateway.wait_for_frames(id, 2)
    nodes.append(testbed.start())
    platform.admin("POST", f"{topic}/terminate")
    upstream.open_gate("begun-0")  # its end is to be announced
    for node in nodes:
        node.wait_log("claims_off")
    platform.admin("DELETE", f"{topic}?force=true")
    for node in nodes:
        node.wait_log("claims_on")
    claims = f"{platform.topic}-claims"
    assert "workernode" in platform.stats(claims)["subscriptions"]
    until(lambda: platform.stats(claims)["msgInCounter"] or None, 30, "the claims of the begun streams")
    nodes[0].kill()
    nodes[0].wait_exit()
    for number in range(1, 20):
        upstream.open_gate(f"begun-{number}")
    gateway.wait_all(begun, 120)
    platform.wait_balanced(timeout=120)
    one_end_each(testbed, begun)
    for id in begun[1:]:
        answer = gateway.answer(id)
        assert answer.text == "wörd 0 ", answer
        assert answer.error is not None
        assert testbed.asked(id) == 1
    testbed.close_nodes()
