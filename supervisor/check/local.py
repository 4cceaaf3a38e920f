"""`--check` of a local node: is the model server's file there, does it start, is it healthy, does it answer?

It is started as the node starts it, asked for one token, and killed. Where a node for this model is running already,
a second model would take its memory from it: then that node's word is taken.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import requests

from supervisor.check.findings import Check, Context, Finding, Mark
from supervisor.model_server import command as launch
from supervisor.model_server.lifecycle import Llamafile, What
from supervisor.states import ModelServerState
from workernode.settings import Settings

FILE, START, ANSWER = "model: file", "model: start", "model: answer"
SPARE = 1.0  # seconds kept for what comes after
TICK = 0.1  # seconds


def checks() -> list[Check]:
    """Return the checks of this module."""
    return [Check((FILE, START, ANSWER), look)]


def look(context: Context) -> Iterator[Finding]:
    """Find, start, ask."""
    settings = context.settings
    found = files(settings)
    yield found
    if found.mark is Mark.FAULT:
        return
    if context.wait_for(context.running_node, "") == settings.model_name:
        said = "not started a second time, because a node for this model runs here"
        yield from (Finding(name, Mark.SKIPPED, said) for name in (START, ANSWER))
        return
    woken = threading.Event()
    server = Llamafile(settings, woken.set)
    try:
        started = start(server, woken, context)
        yield started
        if started.mark is Mark.OK:
            yield one_token(server, settings, context)
    finally:
        server.kill_now()


def files(settings: Settings) -> Finding:
    """Whether what is to be run is there, and may be run."""
    program = launch.command_line(settings.local_command)[0]
    found = program if "/" in program else shutil.which(program)
    if found is None:
        return Finding(FILE, Mark.FAULT, f"{program} is not on PATH", "correct LOCAL_COMMAND")
    wanted = [("LOCAL_COMMAND", found)]
    if settings.llamafile and not (settings.llamafile_url and not Path(settings.llamafile).exists()):
        wanted.append(("LLAMAFILE", settings.llamafile))
    for variable, path in wanted:
        if not Path(path).is_file():
            return Finding(FILE, Mark.FAULT, f"there is no file {path}", f"correct {variable}, or put the file there")
        if not os.access(path, os.X_OK):
            return Finding(FILE, Mark.FAULT, f"{path} may not be executed", f"chmod +x {path}")
    return Finding(FILE, Mark.OK, " and ".join(path for _, path in wanted))


def start(server: Llamafile, woken: threading.Event, context: Context) -> Finding:
    """Start it and wait until it is ready, has left, or there is no time any more."""
    begun = time.monotonic()
    server.start(begun)
    while context.left() > SPARE:
        for event in server.tick(time.monotonic()):
            if event.what is What.READY:
                facts, took = server.facts, time.monotonic() - begun
                misfit = server.misfit()
                if misfit is not None:
                    return fault(misfit.message)
                size = f", {facts.slots} slots" if facts.slots else ""
                return Finding(START, Mark.OK, f"healthy after {took:.1f} s{size}, serves {facts.model or 'a model'}")
        diagnosis = server.diagnosis()
        if server.state is ModelServerState.BACKOFF and diagnosis is not None:
            return fault(diagnosis.message)
        woken.wait(TICK)
        woken.clear()
    last = server.tail()[-1:]
    said = f"not ready after {time.monotonic() - begun:.0f} s" + (f"; its last line: {last[0][:200]}" if last else "")
    return Finding(START, Mark.WARNING, said, "a large model takes longer: start the node and look at /readyz")


def fault(message: str) -> Finding:
    """A diagnosis, whose sentence has a colon between what happened and what to do."""
    said, _, advice = message.partition(": ")
    return Finding(START, Mark.FAULT, said, advice)


def one_token(server: Llamafile, settings: Settings, context: Context) -> Finding:
    """Ask it for one token."""
    model = settings.upstream_model or settings.model_name
    body = {"model": model, "messages": [{"role": "user", "content": "Say one word."}], "max_tokens": 1}
    begun = time.monotonic()
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy on the way to loopback
            headers = {"Authorization": f"Bearer {server.api_key}"}
            answer = session.post(server.base_url, json=body, headers=headers, timeout=max(0.1, context.left() - SPARE))
    except requests.Timeout:
        said = "healthy, but one token takes longer than this check has time"
        return Finding(ANSWER, Mark.WARNING, said, "a large model takes longer: start the node and send it a task")
    except requests.RequestException as error:
        last = (server.tail() or ["nothing"])[-1][:200]
        said = f"it broke off when it was asked for a token ({type(error).__name__}); its last line: {last}"
        return Finding(ANSWER, Mark.FAULT, said, "try another build, or give it more memory")
    if answer.status_code != 200:
        said = f"asked for a token it answers {answer.status_code}: {answer.text[:200]}"
        return Finding(ANSWER, Mark.FAULT, said, "look at what it writes to the log when the node runs")
    return Finding(ANSWER, Mark.OK, f"a token after {time.monotonic() - begun:.1f} s")
