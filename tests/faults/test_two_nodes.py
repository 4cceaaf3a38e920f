"""Two nodes of one model: what the broker hands out twice is answered once (supervisor/claims)."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.testbed import Testbed, one_end_each

STREAMS = 100


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
