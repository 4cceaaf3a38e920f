"""A gateway that registers an id only after publishing it, as the platform does, and an upstream that answers at once.

No client hangs, and none loses its first chunk (issue 3, 4).
"""

from __future__ import annotations

import threading
from pathlib import Path

from devstack.broker import Broker
from tests.faults.testbed import Testbed, open_testbed

USERS, TASKS = 2, 100  # of streams, and as many of plain tasks


def one_after_another(testbed: Testbed, stream: bool, ids: list[str]) -> None:
    """Ask, wait for the answer, ask the next."""
    for _ in range(TASKS):
        id = testbed.platform.ask({"chunks": 1}, stream)
        testbed.answer(id)
        ids.append(id)


def test_200_streams_and_200_plain_tasks_one_after_another_get_their_whole_answers(
    broker: Broker, tmp_path: Path
) -> None:
    with open_testbed(broker, tmp_path) as one:
        one.platform.register_delay = 0.05
        one.start()
        streams: list[str] = []
        plain: list[str] = []
        users = [
            threading.Thread(target=one_after_another, args=(one, way is streams, way))
            for way in (streams, plain) * USERS
        ]
        for user in users:
            user.start()
        for user in users:
            user.join()
        assert (len(streams), len(plain)) == (USERS * TASKS, USERS * TASKS)
        assert one.gateway.faults(streams + plain) == []
        assert [id for id in streams if one.gateway.answer(id).text != "wörd 0 "] == []
        assert [id for id in streams if len(one.gateway.answer(id).chunks) != 3] == [], "role, word, finish"
        assert [id for id in plain if one.gateway.answer(id).text != "wörd "] == []
        assert any(post.status == 404 for post in one.gateway.posts), "no answer came too early, so this proves nothing"
        one.platform.wait_balanced()
