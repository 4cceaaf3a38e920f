"""The model server as a child: killed, stopped, flooding, slow; and never an orphan."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from supervisor.model_server.diagnosis import CONFIGURATION, GENERAL
from supervisor.model_server.limits import Limits
from supervisor.model_server.model_server import EventKind
from supervisor.model_server.output import LINE_LIMIT, LINES_BURST, TAIL_LINES
from supervisor.states import ModelServerState
from tests.faults.model_server_owner import COMMAND, LONG, QUICK, SECRETS, STANDIN, Owner, alive, group, pid_in
from tests.support.paths import ROOT
from tests.support.wait import until
from workernode.redaction import MASK


def test_it_becomes_ready_reports_its_slots_and_refuses_other_keys(owners: Callable[..., Owner]) -> None:
    owner = owners(LOCAL_PARALLEL="8", LOCAL_CTX="8192").started()
    child = owner.llamafile
    assert child.state is ModelServerState.READY
    assert (child.info.slots, child.info.context, child.info.models) == (8, 1024, ("standin.gguf",))
    assert owner.ask().status_code == 200
    assert requests.post(child.base_url, json={"messages": []}, timeout=LONG).status_code == 401


def test_no_secret_of_the_node_reaches_it(owners: Callable[..., Owner]) -> None:
    owner = owners({"OTHER": f"holds {SECRETS['PULSAR_TOKEN']} too"}).started()
    assert owner.llamafile.pid
    for pid in group(owner.llamafile.pid):
        process = psutil.Process(pid)
        assert not set(SECRETS) & set(process.environ())
        assert not any(secret in text for secret in SECRETS.values() for text in process.environ().values())
        assert owner.llamafile.api_key not in " ".join(process.cmdline())
    assert psutil.Process(owner.llamafile.pid).environ()["LLAMA_API_KEY"] == owner.llamafile.api_key


def test_it_starts_through_local_sh_as_well(owners: Callable[..., Owner], tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    owner = owners(
        {"STANDIN_GRANDCHILD": str(grandchild)},
        LOCAL_COMMAND=str(ROOT / "local.sh"),
        LLAMAFILE=str(STANDIN),
        LOCAL_PARALLEL="2",
        LOCAL_EXTRA_ARGS="--alias 'two words' --metrics",
    ).started()
    child = owner.llamafile
    assert (child.info.slots, child.info.model, child.info.metrics) == (2, "two words", True)
    assert owner.ask().status_code == 200
    assert requests.post(child.base_url, json={"messages": []}, timeout=LONG).status_code == 401
    assert not any(child.api_key in " ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"]))
    pid = child.pid
    child.stop(time.monotonic())
    owner.wait(EventKind.STOPPED)
    assert pid
    until(lambda: not group(pid), LONG, "empty process group")
    assert not alive(pid_in(grandchild))


def test_a_killed_server_is_restarted_with_the_same_port_and_key(owners: Callable[..., Owner], tmp_path: Path) -> None:
    owner = owners().started()
    before = (owner.llamafile.base_url, owner.llamafile.api_key)
    for _ in range(2):
        assert owner.llamafile.pid
        os.kill(owner.llamafile.pid, signal.SIGKILL)
        down = owner.wait(EventKind.DOWN)
        assert down.diagnosis
        assert down.diagnosis.reason == GENERAL
        assert "memory" in down.diagnosis.message
        owner.wait(EventKind.READY)
    assert (owner.llamafile.base_url, owner.llamafile.api_key) == before
    assert owner.ask().status_code == 200
    assert len((tmp_path / "pids").read_text().split()) == 3


def test_a_stopped_server_is_found_hanging_and_replaced(owners: Callable[..., Owner]) -> None:
    owner = owners().started()
    assert owner.llamafile.pid
    os.kill(owner.llamafile.pid, signal.SIGSTOP)
    down = owner.wait(EventKind.DOWN)
    assert down.diagnosis
    assert "no sign of" in down.diagnosis.message
    owner.wait(EventKind.READY)
    assert owner.ask().status_code == 200


def test_a_long_prompt_is_not_a_hang(owners: Callable[..., Owner], tmp_path: Path) -> None:
    """/health does not answer, but tokens come; when they cease, it hangs."""
    deaf = tmp_path / "deaf"
    owner = owners({"STANDIN_DEAF": str(deaf)}).started()
    pid = owner.llamafile.pid
    deaf.touch()
    ends = time.monotonic() + 3 * QUICK.silence_s
    while time.monotonic() < ends:
        owner.llamafile.tokens_came(time.monotonic())
        owner.turn()
    assert (owner.llamafile.pid, owner.llamafile.state, owner.events) == (pid, ModelServerState.READY, [])
    owner.wait(EventKind.DOWN)
    deaf.unlink()
    owner.wait(EventKind.READY)


def ask_in_background(owner: Owner) -> Future[int]:
    """Ask the model; gives the status of its answer, 0 if the connection broke."""
    status: Future[int] = Future()

    def ask() -> None:
        try:
            status.set_result(owner.ask().status_code)
        except requests.RequestException:
            status.set_result(0)

    threading.Thread(target=ask, daemon=True).start()
    return status


def test_a_server_that_answers_and_gets_on_with_no_request_is_replaced(
    owners: Callable[..., Owner], tmp_path: Path
) -> None:
    stuck = tmp_path / "stuck"
    stuck.touch()
    owner = owners({"STANDIN_STUCK": str(stuck)}).started()
    owner.llamafile.note_in_flight(1)
    broken = ask_in_background(owner)
    down = owner.wait(EventKind.DOWN)
    assert down.diagnosis
    assert "got on with none of its requests" in down.diagnosis.message
    stuck.unlink()
    owner.wait(EventKind.READY)
    assert broken.result(LONG) == 0
    assert owner.ask().status_code == 200


def test_a_long_prompt_that_uses_the_cpu_is_not_taken_for_a_stuck_engine(owners: Callable[..., Owner]) -> None:
    owner = owners({"STANDIN_PROMPT_S": str(4 * QUICK.stuck_s)}).started()
    owner.llamafile.note_in_flight(1)
    status = ask_in_background(owner)
    owner.run_until(status.done, "answer")
    assert status.result() == 200
    assert owner.events == []


def test_the_requests_that_wait_in_it_are_counted(owners: Callable[..., Owner]) -> None:
    owner = owners({"STANDIN_PROMPT_S": "1"}, LOCAL_COMMAND=f"{COMMAND} --metrics", LOCAL_PARALLEL="1").started()
    owner.llamafile.note_in_flight(3)
    answers = [ask_in_background(owner) for _ in range(3)]
    owner.run_until(lambda: owner.llamafile.waiting == 2, "requests that wait")
    owner.run_until(lambda: owner.llamafile.waiting == 0, "requests that wait no more")
    assert [status.result(LONG) for status in answers] == [200, 200, 200]


def test_a_server_with_tasks_that_are_not_at_the_model_is_not_taken_for_stuck(owners: Callable[..., Owner]) -> None:
    """The answers of those tasks wait for a gateway that is away."""
    owner = owners().started()
    owner.llamafile.note_in_flight(3)
    ends = time.monotonic() + 4 * QUICK.stuck_s
    owner.run_until(lambda: time.monotonic() > ends, "end of the time")
    assert owner.events == []


def test_a_flood_of_output_blocks_no_one_else(owners: Callable[..., Owner], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="supervisor.model_server.model_server"):
        owner = owners({"STANDIN_FLOOD": "1"}).started()
        before = psutil.Process().cpu_times()
        ends = time.monotonic() + 3
        asked = 0
        while time.monotonic() < ends:
            assert owner.ask().status_code == 200
            asked += 1
            owner.turn()
        after = psutil.Process().cpu_times()
    lines = [record for record in caplog.records if getattr(record, "event", "") == "model_output"]
    assert asked > 3
    assert len(lines) < 3 * LINES_BURST
    assert any("lines left out" in record.getMessage() for record in lines)
    assert 0 < len(owner.llamafile.tail()) <= TAIL_LINES
    assert after.user + after.system - before.user - before.system < 2.0


def test_a_line_without_end_is_cut(owners: Callable[..., Owner]) -> None:
    owner = owners({"STANDIN_LONG_LINE": "3000000"}).started()
    longest = max(len(line) for line in owner.llamafile.tail())
    assert longest <= LINE_LIMIT + 2


def test_its_key_is_not_in_its_output(owners: Callable[..., Owner]) -> None:
    owner = owners(LOCAL_COMMAND="sh -c 'echo the key is $LLAMA_API_KEY; exec sleep 60'", limits=Limits())
    owner.start()
    owner.run_until(owner.llamafile.tail, "output")
    assert owner.llamafile.tail() == [f"the key is {MASK}"]


def test_loading_for_long_is_no_failure(owners: Callable[..., Owner], tmp_path: Path) -> None:
    """Twice as long as a silence may last: 503 shows that it lives."""
    owner = owners({"STANDIN_LOAD_S": str(2 * QUICK.start_silence_s)}).started()
    assert owner.llamafile.diagnosis() is None
    assert len((tmp_path / "pids").read_text().split()) == 1


def test_a_start_without_a_sign_of_life_is_ended(owners: Callable[..., Owner]) -> None:
    owner = owners(LOCAL_COMMAND="sleep 1000")
    owner.start()
    owner.run_until(owner.llamafile.diagnosis, "end of the hanging start")
    diagnosis = owner.llamafile.diagnosis()
    assert diagnosis
    assert "no sign of loading" in diagnosis.message


def test_five_exits_at_once_are_reported_and_a_mended_file_is_tried_again(
    owners: Callable[..., Owner], tmp_path: Path
) -> None:
    script = tmp_path / "model.sh"
    script.write_text("#!/bin/sh\necho $$ >>\"$STANDIN_PIDFILE\"\necho 'error: invalid argument: --frob'\nexit 1\n")
    script.chmod(0o755)
    owner = owners(LOCAL_COMMAND=str(script))
    owner.start()
    failed = owner.wait(EventKind.FAILED)
    assert owner.llamafile.state is ModelServerState.FAILED
    assert len((tmp_path / "pids").read_text().split()) == 5
    assert failed.diagnosis
    assert failed.diagnosis.reason == CONFIGURATION
    assert "LOCAL_EXTRA_ARGS" in failed.diagnosis.message
    assert "--frob" in failed.diagnosis.message
    owner.wait(EventKind.FAILED)  # tried again after the long pause, and reported at once
    assert len((tmp_path / "pids").read_text().split()) == 6
    script.write_text(f"#!/bin/sh\nexec {COMMAND}\n")
    owner.wait(EventKind.READY)
    assert owner.ask().status_code == 200


def test_a_server_that_gets_sigterm_stops(owners: Callable[..., Owner]) -> None:
    owner = owners().started()
    pid = owner.llamafile.pid
    assert pid
    owner.llamafile.stop(time.monotonic())
    owner.llamafile.stop(time.monotonic())
    owner.wait(EventKind.STOPPED)
    assert owner.llamafile.state is ModelServerState.STOPPED
    until(lambda: not group(pid), LONG, "empty process group")
    assert owner.llamafile.next_wakeup() is None


def test_a_server_that_ignores_sigterm_is_killed_with_its_grandchild(
    owners: Callable[..., Owner], tmp_path: Path
) -> None:
    grandchild = tmp_path / "grandchild"
    owner = owners({"STANDIN_IGNORE_TERM": "1", "STANDIN_GRANDCHILD": str(grandchild)}).started()
    pid = pid_in(grandchild)
    owner.llamafile.stop(time.monotonic())
    owner.wait(EventKind.STOPPED)
    until(lambda: not alive(pid), LONG, "end of the grandchild")


def test_a_grandchild_does_not_survive_the_child(owners: Callable[..., Owner], tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    owner = owners({"STANDIN_GRANDCHILD": str(grandchild)}).started()
    pid = pid_in(grandchild)
    assert owner.llamafile.pid
    os.kill(owner.llamafile.pid, signal.SIGKILL)
    until(lambda: not alive(pid), LONG, "end of the grandchild")


def test_stopping_is_legal_at_any_time(owners: Callable[..., Owner]) -> None:
    never_started = owners()
    never_started.llamafile.stop(time.monotonic())
    never_started.wait(EventKind.STOPPED)
    loading = owners({"STANDIN_LOAD_S": "1000"})
    loading.start()
    loading.run_until(loading.llamafile.tail, "output")
    loading.llamafile.stop(time.monotonic())
    loading.wait(EventKind.STOPPED)
    waiting = owners({"STANDIN_EXIT": "3"}, limits=Limits())
    waiting.start()
    waiting.run_until(lambda: waiting.llamafile.state is ModelServerState.BACKOFF, "pause")
    waiting.llamafile.stop(time.monotonic())
    waiting.wait(EventKind.STOPPED)


PARENT = """
import json, os, sys, threading, time
sys.path.insert(0, {root!r})
from supervisor.model_server.model_server import EventKind, ModelServer
from workernode import settings
variables = dict(NODE_TYPE="local", MODEL_NAME="m", PULSAR_URL="pulsar://localhost", LOCAL_COMMAND={command!r})
child = ModelServer(settings.load(variables), lambda: None)
spawner = threading.Thread(target=child.start, args=(time.monotonic(),))
spawner.start()
spawner.join()  # the thread has ended: the child must not
while True:
    if EventKind.READY in [event.kind for event in child.tick(time.monotonic())]:
        print(json.dumps(child.pid), flush=True)
    time.sleep(0.01)
"""


@contextmanager
def parent_of(environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A supervisor of its own, and the pid of its child, which is ready."""
    program = PARENT.format(root=str(ROOT), command=COMMAND)
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        try:
            assert parent.stdout
            yield parent, json.loads(parent.stdout.readline())
        finally:
            parent.kill()


@pytest.mark.parametrize("misbehaviour", ["", "STANDIN_IGNORE_TERM", "STANDIN_FLOOD"])
def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path, misbehaviour: str) -> None:
    grandchild = tmp_path / "grandchild"
    environ = {**os.environ, "STANDIN_GRANDCHILD": str(grandchild)} | ({misbehaviour: "1"} if misbehaviour else {})
    with parent_of(environ) as (parent, child):
        assert {child, pid_in(grandchild)} < set(group(child))  # the guard is there too
        parent.kill()
        until(lambda: not group(child), 5, "empty process group")


def test_nothing_is_left_when_the_supervisor_is_killed_and_the_child_is_stopped() -> None:
    with parent_of(dict(os.environ)) as (parent, child):
        os.kill(child, signal.SIGSTOP)
        parent.kill()
        until(lambda: not alive(child), 5, "end of the child")
