"""The local model server as a child that is started, health-checked, restarted and stopped.

Owned by the supervisor's main thread, which calls `tick` whenever `notify` was called or `next_wakeup` has come.
Nothing here makes it wait. Processes are process.py's, HTTP is http_api.py's, explanations of faults diagnosis.py's.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from supervisor.machine import cpu_seconds
from supervisor.model_server import command
from supervisor.model_server.diagnosis import CONFIGURATION, GENERAL, Diagnosis, compose, diagnose
from supervisor.model_server.hang_detection import EngineProgress, SignsOfLife
from supervisor.model_server.http_api import Health, HealthPoll, Question, ServerInfo
from supervisor.model_server.limits import DEFAULT, Limits
from supervisor.model_server.moves import moved
from supervisor.model_server.output import OutputLog
from supervisor.model_server.process import ChildProcess
from supervisor.model_server.restarts import Restarts
from supervisor.states import ModelServerState
from workernode.settings import Settings

log = logging.getLogger(__name__)

MODELS_SHOWN = 300  # characters of the list of models that a report quotes


class EventKind(Enum):
    """What `tick` reports to the owner."""

    READY = "ready"  # takes requests; `info` is known
    DOWN = "down"  # was ready and is not any more: close the intake; tasks in flight are retried in their time
    FAILED = "failed"  # exited too often: report the diagnosis
    STOPPED = "stopped"  # ended, as `stop` asked


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the owner acts on."""

    kind: EventKind
    diagnosis: Diagnosis | None = None  # with DOWN and FAILED: why it exited


@dataclass(frozen=True, slots=True)
class Exited:
    """The child has exited, or could not be spawned."""

    run: int  # which start it was
    code: int = 0  # as subprocess has it; negative: the signal
    fault: Diagnosis | None = None  # why no process was made


class ModelServer:
    """The model server's lifecycle. Every method and property is for the owning thread."""

    def __init__(
        self,
        settings: Settings,
        notify: Callable[[], None],
        environ: Mapping[str, str] = os.environ,
        limits: Limits = DEFAULT,
    ) -> None:
        """Choose port and key; `start` starts the process.

        Args:
            settings: the LOCAL_* and LLAMAFILE* variables, and the secrets that the child must not see.
            notify: makes the owner call `tick` soon; called from helper threads.
            environ: what the child inherits.
            limits: how patient to be.

        Raises:
            OSError: no port is free.
        """
        self.state = ModelServerState.STOPPED
        self.info = ServerInfo()
        self.waiting = 0  # requests that wait in it for a slot, when it was asked last
        self.port = settings.local_port or command.free_port()
        # Made for this run of the node, so that nobody else on the machine uses the model unbilled. It stays the same
        # when the child is restarted, because the workers hold it.
        self.api_key = secrets.token_urlsafe(32)
        self._settings, self._notify, self._limits = settings, notify, limits
        self._command = command.command_line(settings.local_command)
        self._environ = command.environment(settings, environ, self.port, self.api_key)
        self._inbox: queue.SimpleQueue[Exited | Health] = queue.SimpleQueue()
        address = f"http://{command.HOST}:{self.port}"
        self._health_poll = HealthPoll(address, self.api_key, cpu_seconds, limits.probe_timeout_s, self._post)
        self._child: ChildProcess | None = None
        self._output = self._new_output()
        self._run = 0  # which start this is: reports about an earlier one are dropped
        self._due: float | None = None  # monotonic time to spawn, probe or kill
        self._diagnosis: Diagnosis | None = None
        self._hang: Diagnosis | None = None  # why it is being killed
        self._restarts = Restarts(limits)
        self._signs = SignsOfLife(limits, 0.0)
        self._engine = EngineProgress(limits, 0.0)
        self._in_flight = 0
        self._ready_at = 0.0
        self._is_wanted = False  # while it falls asleep: a task waits for it

    @property
    def program(self) -> str:
        """The program of LOCAL_COMMAND: a path, or a name to be found on PATH."""
        return self._command[0]

    @property
    def base_url(self) -> str:
        """Where requests go."""
        return f"http://{command.HOST}:{self.port}/v1/chat/completions"

    @property
    def pid(self) -> int | None:
        """The child's process id and group; None: there is no child."""
        return self._child.pid if self._child else None

    def tail(self) -> list[str]:
        """Return the last lines of its output, oldest first."""
        return self._output.tail()

    def diagnosis(self) -> Diagnosis | None:
        """Why it exited last; None: it never did."""
        return self._diagnosis

    def wrong_model(self) -> Diagnosis | None:
        """Why the model that it serves cannot stand for MODEL_NAME; None: it can. Known once it was READY."""
        name = self._settings.upstream_model or self._settings.model_name
        if self.info.stands_for(name):
            return None
        serves = ", ".join(self.info.models)[:MODELS_SHOWN]
        advice = "set UPSTREAM_MODEL to the one that is meant, or start the server with that model alone"
        return compose(CONFIGURATION, f"serves {serves}, but not {name}", advice)

    def next_wakeup(self) -> float | None:
        """Monotonic time at which `tick` has something to do even if `notify` is not called; None: never."""
        return self._due

    def start(self, now: float) -> None:
        """Spawn it. What becomes of it is reported by `tick`."""
        self._spawn(now)

    def stop(self, now: float) -> None:
        """Send SIGTERM, and SIGKILL when the grace period is over. Legal in every state; `tick` reports STOPPED."""
        before = self.state
        self._move("stop")
        if self._child is None:
            self._due = now
        elif before is not ModelServerState.STOPPING:
            self._child.terminate()
            self._due = now + self._limits.grace_s

    def sleep(self, now: float) -> None:
        """Stop it cleanly, so that the model leaves the memory, until `wake`. To be called while it is READY."""
        assert self._child is not None
        self._move("sleep")
        self._is_wanted = False
        self._child.terminate()
        self._due = now + self._limits.grace_s

    def wake(self, now: float) -> None:
        """Start it again, as soon as its process has exited. To be called while `is_asleep`."""
        self._is_wanted = True
        if self.state is ModelServerState.ASLEEP:
            self._spawn(now)

    @property
    def is_asleep(self) -> bool:
        """True from `sleep` until it is started again."""
        return self.state in (ModelServerState.FALLING_ASLEEP, ModelServerState.ASLEEP)

    def kill(self) -> None:
        """Send SIGKILL to its process group, if it runs."""
        if self._child:
            self._child.kill()

    def tokens_came(self, now: float) -> None:
        """Tokens came from it: it lives, whatever /health answers."""
        self._signs.strong(now)
        self._engine.tokens_came(now)

    def note_gpu_load(self, now: float, percent: float) -> None:
        """A GPU of the machine has this load, whichever program makes it."""
        self._engine.gpu(now, percent)

    def note_in_flight(self, tasks: int) -> None:
        """So many tasks are at workers; how many of them are at the model, only the model knows."""
        self._in_flight = tasks

    def tick(self, now: float) -> list[Event]:
        """Take in what was reported, and do what is due. Returns what the owner has to know, in order."""
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
        """Do what was due: spawn, probe, kill."""
        if self.state is ModelServerState.STOPPED:
            return [Event(EventKind.STOPPED)]
        if self.state in (ModelServerState.BACKOFF, ModelServerState.FAILED):
            self._spawn(now)
        elif self.state in (ModelServerState.STOPPING, ModelServerState.FALLING_ASLEEP):
            log.warning("local model server did not stop in time: killed", extra={"event": "model_killed"})
            self.kill()
        elif self._child:  # the next probe follows the answer to this one
            want_info = self.state is ModelServerState.STARTING
            want_work = not want_info and self._in_flight > 0
            self._health_poll.ask(Question(self._run, self._child.pid, want_info, want_work, self.info.metrics))
        return []

    def _spawn(self, now: float) -> None:
        self._move("spawn")
        self._run += 1
        run = self._run
        self._output = self._new_output()
        self._signs = SignsOfLife(self._limits, now)
        self._engine = EngineProgress(self._limits, now)
        fault = command.port_fault(self.port)
        if fault is None:
            try:
                self._child = ChildProcess(
                    self._command, self._environ, self._output.feed, lambda code: self._post(Exited(run, code))
                )
            except OSError as error:
                fault = compose(GENERAL, "could not be started", f"the system made no process ({error.strerror})")
        if fault:
            self._post(Exited(run, fault=fault))
            return
        self._due = now + self._limits.probe_starting_s
        about = {"command": self.program, "port": self.port, "pid": self.pid, "run": run}
        log.info("local model server started", extra={"event": "model_started", **about})

    def _exited(self, report: Exited, now: float) -> list[Event]:
        was_ready, self._child = self.state is ModelServerState.READY, None
        self._move("exited")
        if self.state is ModelServerState.STOPPED:
            self._due = None
            log.info("local model server stopped", extra={"event": "model_stopped"})
            return [Event(EventKind.STOPPED)]
        if self.state is ModelServerState.ASLEEP:
            return self._fell_asleep(now)
        why = self._diagnosis = report.fault or self._hang or diagnose(report.code, self.tail())
        self._hang = None
        events = [Event(EventKind.DOWN, why)] if was_ready else []
        pause_s, has_given_up = self._restarts.exited(now, now - self._ready_at if was_ready else 0.0)
        if has_given_up:
            self._move("gave_up")
            events.append(Event(EventKind.FAILED, why))
        self._due = now + pause_s
        about = {"reason": why.reason, "pause_s": pause_s, "run": self._run}
        log.warning(why.message, extra={"event": "model_exited", **about})
        return events

    def _fell_asleep(self, now: float) -> list[Event]:
        self._due = None
        about = {"event": "model_asleep"}
        log.info("local model server stopped because it was idle: it starts again with the next task", extra=about)
        if self._is_wanted:
            self._spawn(now)
        return []

    def _probed(self, report: Health, now: float) -> list[Event]:
        if self.state not in (ModelServerState.STARTING, ModelServerState.READY):
            return []
        is_ready = self.state is ModelServerState.READY
        self._note_signs(report, now, is_ready)
        if report.status == 200 and not is_ready:
            return [self._became_ready(report, now)]
        self._hang = self._diagnose_hang(now, is_ready)
        if self._hang:
            self._move("hung")
            self.kill()
            return [Event(EventKind.DOWN, self._hang)] if is_ready else []
        self._due = now + (self._limits.probe_ready_s if is_ready else self._limits.probe_starting_s)
        return []

    def _became_ready(self, report: Health, now: float) -> Event:
        self._move("healthy")
        self.info = report.info or ServerInfo()
        self._ready_at = now
        self._restarts.became_ready()
        self._due = now + self._limits.probe_ready_s
        about = {"slots": self.info.slots, "context": self.info.context, "model": self.info.model}
        log.info("local model server ready", extra={"event": "model_ready", **about})
        return Event(EventKind.READY)

    def _note_signs(self, report: Health, now: float, is_ready: bool) -> None:
        self._signs.output(now, self._output.bytes_seen)
        if report.status:
            self._signs.weak(now)
            if is_ready:
                self._signs.strong(now)
        if report.cpu_s is not None:
            self._signs.cpu(now, report.cpu_s)
            self._engine.busy(now, report.cpu_s, "")
        self.waiting = report.work.waiting if report.work else 0
        if report.work is not None and report.work.is_busy is not False:
            self._engine.busy(now, report.work.cpu_s, report.work.slots)
        elif report.status == 200:
            self._engine.idle(now)

    def _diagnose_hang(self, now: float, is_ready: bool) -> Diagnosis | None:
        quiet_s = self._signs.silence_too_long(now, is_ready)
        stuck_s = self._engine.stuck_for(now) if is_ready else None
        if quiet_s is None and stuck_s is None:
            return None
        if quiet_s is None:
            what = f"answers, but has got on with none of its requests for {stuck_s:.0f} s and was killed"
            return compose(GENERAL, what, "see its last lines in the log (event model_output)")
        what = f"showed no sign of {'answering' if is_ready else 'loading'} for {quiet_s:.0f} s and was killed"
        return compose(GENERAL, what, "see its last lines in the log (event model_output)", "\n".join(self.tail()[-1:]))

    def _move(self, cause: str) -> None:
        self.state = moved(self.state, cause)

    def _new_output(self) -> OutputLog:
        return OutputLog(log_line, (self.api_key, *self._settings.secrets))

    def _post(self, report: Exited | Health) -> None:
        self._inbox.put(report)
        self._notify()


def log_line(line: str) -> None:
    """Write one line of the model server's output into the node's log."""
    log.info(line, extra={"event": "model_output"})
