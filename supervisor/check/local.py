"""`--check` of a local node: is the model server's file there, does it start, is it healthy, does it answer?

The model server is started as the node starts it, asked for one token, and killed. If a node for this model runs
already, no second model is started, because it would take memory from the first.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import requests

from supervisor.check.findings import Check, Context, Finding, Mark
from supervisor.states import ModelServerState
from workernode.settings import Settings

FILE, START, ANSWER = "model: file", "model: start", "model: answer"
RESERVED_S = 1.0  # of the time limit, for what comes after
TICK_S = 0.1


class ModelServer(Protocol):
    """What the check needs of the local model server. supervisor.model_server.ModelServer is the real one."""

    state: ModelServerState
    info: Any  # what the server reports about itself (ServerInfo), once it is READY
    api_key: str

    @property
    def program(self) -> str:
        """The program of LOCAL_COMMAND: a path, or a name to be found on PATH."""

    @property
    def base_url(self) -> str:
        """Where requests go."""

    def start(self, now: float) -> None:
        """Spawn it."""

    def tick(self, now: float) -> Sequence[object]:
        """Take in what has happened to it, and do what is due."""

    def tail(self) -> list[str]:
        """Return the last lines of its output, oldest first."""

    def diagnosis(self) -> Any:
        """Why it exited last (`message` is a sentence); None: it never did."""

    def wrong_model(self) -> Any:
        """Why the model that it serves cannot stand for MODEL_NAME (`message` is a sentence); None: it can."""

    def kill(self) -> None:
        """Kill it, if it runs."""


NewModelServer = Callable[[Settings, Callable[[], None]], ModelServer]  # gets what is called when `tick` is due


def checks(new_model_server: NewModelServer) -> list[Check]:
    """Return the checks of this module.

    Args:
        new_model_server: makes a model server that has not started yet.
    """
    return [Check((FILE, START, ANSWER), partial(_check, new_model_server))]


def _check(new_model_server: NewModelServer, context: Context) -> Iterator[Finding]:
    settings = context.settings
    notified = threading.Event()
    server = new_model_server(settings, notified.set)
    found = _files(settings, server.program)
    yield found
    if found.mark is Mark.FAULT:
        return
    if context.wait_for(context.running_node, "") == settings.model_name:
        text = "not started a second time, because a node for this model runs here"
        yield from (Finding(name, Mark.SKIPPED, text) for name in (START, ANSWER))
        return
    try:
        started = _start(server, notified, context)
        yield started
        if started.mark is Mark.OK:
            yield _one_token(server, settings, context)
    finally:
        server.kill()


def _files(settings: Settings, program: str) -> Finding:
    """Check that the files of the model server exist and may be executed."""
    path = program if "/" in program else shutil.which(program)
    if path is None:
        return Finding(FILE, Mark.FAULT, f"{program} is not on PATH", "correct LOCAL_COMMAND")
    wanted = [("LOCAL_COMMAND", path)]
    if settings.llamafile and not (settings.llamafile_url and not Path(settings.llamafile).exists()):
        wanted.append(("LLAMAFILE", settings.llamafile))
    for variable, file in wanted:
        if not Path(file).is_file():
            return Finding(FILE, Mark.FAULT, f"there is no file {file}", f"correct {variable}, or put the file there")
        if not os.access(file, os.X_OK):
            return Finding(FILE, Mark.FAULT, f"{file} may not be executed", f"chmod +x {file}")
    return Finding(FILE, Mark.OK, " and ".join(file for _, file in wanted))


def _start(server: ModelServer, notified: threading.Event, context: Context) -> Finding:
    """Start it and wait until it is ready, has exited, or the time is over."""
    begun = time.monotonic()
    server.start(begun)
    while context.left() > RESERVED_S:
        server.tick(time.monotonic())
        if server.state is ModelServerState.READY:
            return _ready(server, time.monotonic() - begun)
        diagnosis = server.diagnosis()
        if server.state is ModelServerState.BACKOFF and diagnosis is not None:
            return _fault(diagnosis.message)
        notified.wait(TICK_S)
        notified.clear()
    last = server.tail()[-1:]
    text = f"not ready after {time.monotonic() - begun:.0f} s" + (f"; its last line: {last[0][:200]}" if last else "")
    return Finding(START, Mark.WARNING, text, "a large model takes longer: start the node and look at /readyz")


def _ready(server: ModelServer, seconds: float) -> Finding:
    wrong_model = server.wrong_model()
    if wrong_model is not None:
        return _fault(wrong_model.message)
    slots = f", {server.info.slots} slots" if server.info.slots else ""
    return Finding(START, Mark.OK, f"healthy after {seconds:.1f} s{slots}, serves {server.info.model or 'a model'}")


def _fault(message: str) -> Finding:
    """Return a diagnosis as a finding. Its sentence has a colon between what happened and what to do."""
    text, _, advice = message.partition(": ")
    return Finding(START, Mark.FAULT, text, advice)


def _one_token(server: ModelServer, settings: Settings, context: Context) -> Finding:
    """Ask it for one token."""
    model = settings.upstream_model or settings.model_name
    body = {"model": model, "messages": [{"role": "user", "content": "Say one word."}], "max_tokens": 1}
    headers = {"Authorization": f"Bearer {server.api_key}"}
    begun = time.monotonic()
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy on the way to loopback
            timeout = max(0.1, context.left() - RESERVED_S)
            answer = session.post(server.base_url, json=body, headers=headers, timeout=timeout)
    except requests.Timeout:
        text = "healthy, but one token takes longer than this check has time"
        return Finding(ANSWER, Mark.WARNING, text, "a large model takes longer: start the node and send it a task")
    except requests.RequestException:
        last = (server.tail() or ["nothing"])[-1][:200]
        text = f"it closed the connection when it was asked for a token; its last line: {last}"
        return Finding(ANSWER, Mark.FAULT, text, "try another build, or give it more memory")
    if answer.status_code != 200:
        text = f"asked for a token it answers {answer.status_code}: {answer.text[:200]}"
        return Finding(ANSWER, Mark.FAULT, text, "read what it writes to the log when the node runs")
    return Finding(ANSWER, Mark.OK, f"a token after {time.monotonic() - begun:.1f} s")
