"""The local model server as a child that is looked after: started, health-checked, restarted, stopped.

Owned by the supervisor's main thread, which calls `tick` whenever `notify` was called or `next_wakeup` has come.
Nothing here makes it wait. Processes are child.py's, HTTP is modelserver.py's, words for faults are diagnosis.py's.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from supervisor.machine import cpu_seconds
from supervisor.model_server import command as launch
from supervisor.model_server.diagnosis import CONFIGURATION, GENERAL, Diagnosis, diagnose, told
from supervisor.model_server.http_api import Facts, Health, Prober, Question
from supervisor.model_server.output import OutputLog
from supervisor.model_server.process import ChildProcess
from supervisor.states import ModelServerState
from workernode.settings import Settings

log = logging.getLogger(__name__)

MODELS_SHOWN = 300  # characters of the list of models that a report quotes

MOVES = {
    (ModelServerState.STOPPED, "spawn"): ModelServerState.STARTING,
    (ModelServerState.STOPPED, "stop"): ModelServerState.STOPPED,
    (ModelServerState.STARTING, "healthy"): ModelServerState.READY,
    (ModelServerState.STARTING, "hung"): ModelServerState.HUNG,
    (ModelServerState.STARTING, "exited"): ModelServerState.BACKOFF,
    (ModelServerState.STARTING, "stop"): ModelServerState.STOPPING,
    (ModelServerState.READY, "hung"): ModelServerState.HUNG,
    (ModelServerState.READY, "exited"): ModelServerState.BACKOFF,
    (ModelServerState.READY, "stop"): ModelServerState.STOPPING,
    (ModelServerState.HUNG, "exited"): ModelServerState.BACKOFF,
    (ModelServerState.HUNG, "stop"): ModelServerState.STOPPING,
    (ModelServerState.BACKOFF, "spawn"): ModelServerState.STARTING,
    (ModelServerState.BACKOFF, "gave_up"): ModelServerState.FAILED,
    (ModelServerState.BACKOFF, "stop"): ModelServerState.STOPPED,
    (ModelServerState.FAILED, "spawn"): ModelServerState.STARTING,
    (ModelServerState.FAILED, "stop"): ModelServerState.STOPPED,
    (ModelServerState.STOPPING, "stop"): ModelServerState.STOPPING,
    (ModelServerState.STOPPING, "exited"): ModelServerState.STOPPED,
}  # a pair that is not here is a bug, and says so


class What(Enum):
    """What the owner hears from `tick`."""

    READY = "ready"  # takes requests; the facts are known
    DOWN = "down"  # was ready and is not any more: close the intake; tasks in flight are retried in their time
    FAILED = "failed"  # left too often: report the diagnosis
    STOPPED = "stopped"  # gone, as it was asked to be


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the owner acts on."""

    what: What
    diagnosis: Diagnosis | None = None  # with DOWN and FAILED: why it left


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient the supervisor is with its child."""

    # So many ends in so long, and it is FAILED. Five with the pauses below take about 15 s when it leaves at once.
    ends: int = 5
    window_s: float = 600.0
    # The pause before the next start doubles with each end; it is the first again once the child stayed READY so long.
    pause_first_s: float = 1.0
    pause_most_s: float = 30.0
    steady_s: float = 60.0
    pause_failed_s: float = 120.0  # a mended file heals by itself after at most so long
    grace_s: float = 10.0  # between TERM and KILL; a server that works on a long prompt needs some seconds
    # Starting: a download, or a load of a hundred gigabytes, takes its time, but shows in its output or its CPU time.
    start_silence_s: float = 300.0  # neither output nor CPU time nor a 503 for so long: it hangs
    start_limit_s: float = 7200.0  # no output for so long, whatever else it does
    # Ready: /health waits only where all HTTP threads are taken by long requests; then there are tokens or CPU time.
    silence_s: float = 45.0  # neither answer nor output nor tokens nor CPU time for so long: it hangs
    limit_s: float = 600.0  # no answer, output or token for so long, whatever its CPU does
    probe_starting_s: float = 0.25
    probe_ready_s: float = 5.0
    probe_timeout_s: float = 5.0  # /health is answered beside the model's work, but a busy box can be slow
    working: float = 0.02  # processors in use, at least, for CPU time to count as a sign of life


@dataclass(frozen=True, slots=True)
class Exited:
    """The child has left, or did not come to life."""

    run: int
    code: int = 0
    fault: Diagnosis | None = None  # why no process was made at all


class Llamafile:
    """The model server's life. Every method and property is for the owning thread.

    Args:
        settings: the LOCAL_* and LLAMAFILE* variables, and the secrets that the child must not see.
        notify: wakes the owner up; called from helper threads.
        environ: what the child inherits.
        limits: how patient to be.
    """

    def __init__(
        self,
        settings: Settings,
        notify: Callable[[], None],
        environ: Mapping[str, str] = os.environ,
        limits: Limits = Limits(),
    ) -> None:
        self.state = ModelServerState.STOPPED
        self.facts = Facts()
        self.port = settings.local_port or launch.free_port()
        # Made for this run of the node, so that nobody else on the box uses the model unbilled. It outlives the child,
        # because the workers hold it.
        self.api_key = secrets.token_urlsafe(32)
        self._settings, self._notify, self._limits = settings, notify, limits
        self._environ = launch.environment(settings, environ, self.port, self.api_key)
        self._inbox: queue.SimpleQueue[Exited | Health] = queue.SimpleQueue()
        address = f"http://{launch.HOST}:{self.port}"
        self._prober = Prober(address, self.api_key, cpu_seconds, limits.probe_timeout_s, self._post)
        self._child: ChildProcess | None = None
        self._output = self._new_output()
        self._run = 0  # which start this is: what is said of an earlier one is old
        self._due: float | None = None  # when to spawn, probe or kill
        self._diagnosis: Diagnosis | None = None
        self._hang: Diagnosis | None = None  # why it is being killed
        self._ends: deque[float] = deque(maxlen=limits.ends)
        self._pause_s = limits.pause_first_s
        self._given_up = False  # FAILED since it was READY last
        self._ready_at = 0.0
        # Signs of life. Strong: an answer, output, tokens. Weak: CPU time, or a 503 while it loads.
        self._strong_at = self._weak_at = 0.0
        self._bytes_seen, self._cpu_s, self._cpu_at = 0, 0.0, 0.0

    @property
    def base_url(self) -> str:
        """Where requests go."""
        return f"http://{launch.HOST}:{self.port}/v1/chat/completions"

    @property
    def pid(self) -> int | None:
        """The child's process id and group; None: there is none."""
        return self._child.pid if self._child else None

    def tail(self) -> list[str]:
        """The last lines of its output, oldest first."""
        return self._output.tail()

    def diagnosis(self) -> Diagnosis | None:
        """Why it left last; None: it never did."""
        return self._diagnosis

    def misfit(self) -> Diagnosis | None:
        """Why the model that it serves cannot stand for MODEL_NAME; None: it can. Known once it was READY."""
        name = self._settings.upstream_model or self._settings.model_name
        if self.facts.stands_for(name):
            return None
        serves = ", ".join(self.facts.models)[:MODELS_SHOWN]
        advice = "set UPSTREAM_MODEL to the one that is meant, or start the server with that model alone"
        return told(CONFIGURATION, f"serves {serves}, but not {name}", advice)

    def next_wakeup(self) -> float | None:
        """The monotonic moment at which `tick` has something to do even if nothing is notified."""
        return self._due

    def start(self, now: float) -> None:
        """Spawn it. What becomes of it is told by `tick`."""
        self._spawn(now)

    def stop(self, now: float) -> None:
        """Ask it to leave, and kill it when the grace period is over. Legal in every state; `tick` tells STOPPED."""
        before = self.state
        self._move("stop")
        if self._child is None:
            self._due = now
        elif before is not ModelServerState.STOPPING:
            self._child.terminate()
            self._due = now + self._limits.grace_s

    def kill_now(self) -> None:
        """End it and its group at once."""
        if self._child:
            self._child.kill()

    def progress(self, now: float) -> None:
        """Tokens came from it: it lives, whatever /health says."""
        self._strong_at = now

    def tick(self, now: float) -> list[Event]:
        """Do what is due and take in what was reported. Returns what the owner has to know, in order."""
        events: list[Event] = []
        while not self._inbox.empty():
            report = self._inbox.get_nowait()
            if report.run == self._run:
                events += self._exited(report, now) if isinstance(report, Exited) else self._probed(report, now)
        if self._due is not None and now >= self._due:
            self._due = None
            events += self._act(now)
        return events

    def _act(self, now: float) -> list[Event]:
        if self.state is ModelServerState.STOPPED:
            return [Event(What.STOPPED)]
        if self.state in (ModelServerState.BACKOFF, ModelServerState.FAILED):
            self._spawn(now)
        elif self.state is ModelServerState.STOPPING:
            log.warning("local model server did not leave in time: killed", extra={"event": "model_killed"})
            self.kill_now()
        elif self._child:  # the next probe follows the answer to this one
            self._prober.ask(Question(self._run, self._child.pid, want_facts=self.state is ModelServerState.STARTING))
        return []

    def _spawn(self, now: float) -> None:
        self._move("spawn")
        self._run += 1
        run = self._run
        self._output = self._new_output()
        self._strong_at = self._weak_at = now
        self._bytes_seen, self._cpu_s, self._cpu_at = 0, 0.0, now
        command = launch.command_line(self._settings.local_command)
        fault = launch.port_fault(self.port)
        if fault is None:
            try:
                self._child = ChildProcess(
                    command, self._environ, self._output.feed, lambda code: self._post(Exited(run, code))
                )
            except OSError as error:
                fault = told(GENERAL, "could not be started", f"the system made no process ({error.strerror})")
        if fault:
            self._post(Exited(run, fault=fault))
            return
        self._due = now + self._limits.probe_starting_s
        about = {"command": command[0], "port": self.port, "pid": self.pid, "run": run}
        log.info("local model server started", extra={"event": "model_started", **about})

    def _exited(self, report: Exited, now: float) -> list[Event]:
        was, self._child = self.state, None
        self._move("exited")
        if self.state is ModelServerState.STOPPED:
            self._due = None
            log.info("local model server stopped", extra={"event": "model_stopped"})
            return [Event(What.STOPPED)]
        why = report.fault or self._hang or diagnose(report.code, self.tail())
        self._diagnosis, self._hang = why, None
        if was is ModelServerState.READY and now - self._ready_at >= self._limits.steady_s:
            self._pause_s = self._limits.pause_first_s
        events = [Event(What.DOWN, why)] if was is ModelServerState.READY else []
        self._ends.append(now)
        often = len(self._ends) == self._limits.ends and now - self._ends[0] <= self._limits.window_s
        if often or self._given_up:
            self._move("gave_up")
            self._given_up = True
            pause_s = self._limits.pause_failed_s
            events.append(Event(What.FAILED, why))
        else:
            pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, self._limits.pause_most_s)
        self._due = now + pause_s
        about = {"reason": why.reason, "pause_s": pause_s, "run": self._run}
        log.warning(why.message, extra={"event": "model_exited", **about})
        return events

    def _probed(self, report: Health, now: float) -> list[Event]:
        if self.state not in (ModelServerState.STARTING, ModelServerState.READY):
            return []
        self._note_signs_of_life(report, now)
        if report.status == 200 and self.state is ModelServerState.STARTING:
            self._move("healthy")
            self.facts = report.facts or Facts()
            self._ready_at, self._given_up = now, False
            self._due = now + self._limits.probe_ready_s
            about = {"slots": self.facts.slots, "context": self.facts.context, "model": self.facts.model}
            log.info("local model server ready", extra={"event": "model_ready", **about})
            return [Event(What.READY)]
        ready = self.state is ModelServerState.READY
        self._hang = self._hangs(now)
        if self._hang:
            self._move("hung")
            self.kill_now()
            return [Event(What.DOWN, self._hang)] if ready else []
        self._due = now + (self._limits.probe_ready_s if ready else self._limits.probe_starting_s)
        return []

    def _note_signs_of_life(self, report: Health, now: float) -> None:
        if (self.state is ModelServerState.READY and report.status) or self._output.bytes_seen > self._bytes_seen:
            self._strong_at = now
        self._bytes_seen = self._output.bytes_seen
        if report.status:
            self._weak_at = now
        if report.cpu_s is not None:
            if report.cpu_s - self._cpu_s > self._limits.working * (now - self._cpu_at):
                self._weak_at = now
            self._cpu_s, self._cpu_at = report.cpu_s, now

    def _hangs(self, now: float) -> Diagnosis | None:
        limits = self._limits
        if self.state is ModelServerState.READY:
            silence_s, limit_s = limits.silence_s, limits.limit_s
        else:
            silence_s, limit_s = limits.start_silence_s, limits.start_limit_s
        quiet_s = now - self._strong_at
        if quiet_s <= limit_s and now - max(self._strong_at, self._weak_at) <= silence_s:
            return None
        doing = "answering" if self.state is ModelServerState.READY else "loading"
        what = f"showed no sign of {doing} for {quiet_s:.0f} s and was killed"
        return told(GENERAL, what, "see its last lines in the log (event model_output)", "\n".join(self.tail()[-1:]))

    def _move(self, cause: str) -> None:
        try:
            self.state = MOVES[self.state, cause]
        except KeyError:
            raise AssertionError(f"a bug: the model server cannot be moved by {cause!r} from {self.state}") from None

    def _new_output(self) -> OutputLog:
        return OutputLog(write_line, (self.api_key, *self._settings.secrets))

    def _post(self, report: Exited | Health) -> None:
        self._inbox.put(report)
        self._notify()


def write_line(line: str) -> None:
    """One line of the model server's output, into the node's log."""
    log.info(line, extra={"event": "model_output"})
