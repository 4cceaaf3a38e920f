"""A local model that hangs while /health answers, through a whole node: its tasks are answered after the restart."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.testbed import Testbed, open_testbed, patched
from tests.support.node import ROOT
from tests.support.platform import Broker
from tests.support.wait import until

STANDIN = ROOT / "tests" / "support" / "llamafile_standin.py"
LONG = 60.0
STUCK_S = 1.5
WORDS = 3  # of a stream that are sent before the model hangs
# Lines for `patched`: a model that makes no progress is found sooner, because two minutes are long for a test. It is
# asked fifty times as often as usual, and its answers about its health cost more CPU time than may count as work.
FOUND_SOON = f"""
import supervisor.model_server.limits
for name, value in (("stuck_s", {STUCK_S}), ("probe_ready_s", 0.1), ("engine_cpus", 0.1)):
    object.__setattr__(supervisor.model_server.limits.DEFAULT, name, value)
"""


@pytest.fixture
def testbed(broker: Broker, tmp_path: Path) -> Iterator[Testbed]:
    """A local node in which a stuck model is found soon."""
    with open_testbed(
        broker, tmp_path, NODE_TYPE="local", API_URL=None, API_KEY=None, LOCAL_PARALLEL=4,
        LOCAL_COMMAND=shlex.join([sys.executable, str(STANDIN)]), STANDIN_PIDFILE=tmp_path / "pids",
        STANDIN_STUCK=tmp_path / "stuck", STANDIN_STUCK_WORDS=WORDS, STANDIN_PROMPT=tmp_path / "prompt",
    ) as one:  # fmt: skip
        one.start(command=patched(tmp_path, FOUND_SOON))
        yield one


def test_the_tasks_of_a_stuck_model_are_answered_and_a_long_prompt_is_not_stuck(
    testbed: Testbed, tmp_path: Path
) -> None:
    stuck, prompt, pids = tmp_path / "stuck", tmp_path / "prompt", tmp_path / "pids"
    (first,) = map(int, pids.read_text().split())
    stuck.touch()
    ids = [testbed.platform.ask(stream=stream) for stream in (True, False, True, False)]
    for id in ids[::2]:
        testbed.gateway.wait_for_frames(id, WORDS, LONG)
    until(lambda: not psutil.pid_exists(first), LONG, "end of the stuck model")
    stuck.unlink()
    testbed.gateway.wait_all(ids, LONG)
    assert testbed.gateway.faults(ids) == []
    answers = [testbed.answer(id) for id in ids]
    assert [answer.error for answer in answers] == [None] * 4
    # Each of the streams went on behind the words that its client had.
    assert len({answer.text.strip() for answer in answers}) == 1
    assert [len(testbed.last_record(id)["resumes"]) for id in ids] == [1, 0, 1, 0]
    testbed.node.wait_log("has got on with none of its requests")

    prompt.touch()
    started = pids.read_text()
    ids = [testbed.platform.ask(stream=stream) for stream in (True, False)]
    testbed.platform.wait_unacked(2, LONG)
    ends = time.monotonic() + 2 * STUCK_S
    until(lambda: time.monotonic() > ends, LONG, "prompt that is longer than a model may be stuck")
    prompt.unlink()
    testbed.gateway.wait_all(ids, LONG)
    assert [testbed.answer(id).error for id in ids] == [None, None]
    assert pids.read_text() == started
