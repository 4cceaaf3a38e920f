"""The local model as the node sees it: whether it is ready, how many slots it has, which faults are reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from supervisor.model_server.model_server import EventKind, ModelServer
from supervisor.model_server.sleep import Idleness
from supervisor.states import ModelServerState
from workernode.protocol import Target
from workernode.settings import Settings


class Incidents(Protocol):
    """Where failures that need a person go (supervisor.health.Incidents)."""

    def begin(self, key: str, reason: str, message: str) -> None:
        """Report the failure, unless it is known already."""

    def end(self, key: str) -> None:
        """The failure is over, if there was one."""


class LocalModel:
    """Runs the model server for the node. Owned by the main thread; nothing here waits."""

    def __init__(
        self,
        settings: Settings,
        notify: Callable[[], None],
        set_slots: Callable[[int], None],
        note_waiting: Callable[[int], None],
        incidents: Incidents,
        environ: Mapping[str, str],
    ) -> None:
        """Prepare it; `start` starts the model server.

        Args:
            settings: the LOCAL_* and LLAMAFILE* variables.
            notify: makes the main thread call `tick` soon; called from helper threads.
            set_slots: takes the number of requests that the model works on at once, whenever it is ready.
            note_waiting: takes the number of requests that wait inside the model server, at each tick.
            incidents: takes failures that need a person.
            environ: what the model server inherits.
        """
        self.server = ModelServer(settings, notify, environ)
        self.is_ready = False
        self.is_stopped = False
        self._is_waking = False
        self._idleness = Idleness(settings.local_idle_stop)
        self._slots_asked = settings.local_parallel
        self._set_slots, self._note_waiting = set_slots, note_waiting
        self._incidents = incidents

    @property
    def target(self) -> Target:
        """Where the workers send their requests, and with which key."""
        return Target(self.server.base_url, self.server.api_key)

    def start(self, now: float) -> None:
        """Start the model server."""
        self.server.start(now)

    @property
    def is_asleep(self) -> bool:
        """True while the model is stopped because it was idle; a task wakes it (`request`)."""
        return self.server.is_asleep and not self._is_waking

    def request(self, now: float) -> bool:
        """A task is to be run; return False if it has to wait, because the model is asleep or waking up.

        Where the model is down for another reason the task need not wait here: other nodes may serve it.
        """
        if self.is_asleep:
            self._is_waking = True
            self.server.wake(now)
        return not self._is_waking

    def tick(self, now: float, tasks: int) -> None:
        """Take in what has happened to the model server, and stop it when it has been idle for long enough.

        Args:
            now: monotonic.
            tasks: messages at this node.
        """
        if self.is_stopped:
            return
        self._take_events(now)
        self._note_waiting(self.server.waiting if self.is_ready else 0)
        if self.server.state in (ModelServerState.BACKOFF, ModelServerState.FAILED):
            self._is_waking = False
        if self.is_ready and self._idleness.note(now, tasks):
            self._idleness.restart()
            self.is_ready = False
            self.server.sleep(now)

    def _take_events(self, now: float) -> None:
        for event in self.server.tick(now):
            match event.kind:
                case EventKind.READY:
                    self._on_ready()
                case EventKind.DOWN:
                    self.is_ready = False
                    self._idleness.restart()
                case EventKind.FAILED:
                    if event.diagnosis is not None:
                        self._incidents.begin("model_server", event.diagnosis.reason, event.diagnosis.message)
                case EventKind.STOPPED:
                    self.is_stopped = True
                    return

    def next_tick(self) -> float:
        """Monotonic time at which `tick` has something to do by itself."""
        wakeup = None if self.is_stopped else self.server.next_wakeup()
        return min(self._idleness.ends_at, float("inf") if wakeup is None else wakeup)

    def tokens_came(self, now: float) -> None:
        """The model has sent tokens: it lives, whatever /health answers."""
        if not self.is_stopped:
            self.server.tokens_came(now)

    def note_gpu_load(self, now: float, percent: float) -> None:
        """A GPU of the machine has this load: the model may be at work on a long prompt."""
        if not self.is_stopped:
            self.server.note_gpu_load(now, percent)

    def note_in_flight(self, tasks: int) -> None:
        """So many tasks are at workers."""
        self.server.note_in_flight(tasks)

    def why_not_ready(self) -> str:
        """Why it takes no requests, for a person."""
        if self._is_waking:
            return "the local model is waking up: it was stopped because it was idle"
        fault = None if self.is_stopped else self.server.diagnosis()
        return fault.message if fault else "the local model is not ready yet"

    def stop(self, now: float) -> None:
        """Ask the model server to stop; `is_stopped` shows when it has."""
        if not self.is_stopped:
            self.server.stop(now)

    def kill(self) -> None:
        """Kill the model server, if it runs."""
        if not self.is_stopped:
            self.server.kill()

    def _on_ready(self) -> None:
        self.is_ready, self._is_waking = True, False
        self._set_slots(self.server.info.slots or self._slots_asked)
        self._incidents.end("model_server")
        wrong_model = self.server.wrong_model()
        if wrong_model is not None:
            self._incidents.begin("wrong_model", wrong_model.reason, wrong_model.message)
