"""The supervisor's main loop and its lifecycle: start, serve, drain, stop. The one thread that owns the state.

It waits for workers, broker, local model, signals and the clock at once (loop.py), hands what comes to the part that
decides (dispatcher.py, fitness, concurrency, workers.pool, intake_limit.py). Only `stop` waits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from supervisor import events
from supervisor.deliveries import PublisherClocks
from supervisor.dispatcher import Dispatcher
from supervisor.fitness import Admission, Verdict
from supervisor.health import BrokerState, Incidents, NoLocalModel, UpstreamWatch, why_not_ready, why_workers_die
from supervisor.intake_limit import IntakeLimit
from supervisor.ledger import Delivery
from supervisor.lifecycle import Lifecycle
from supervisor.loop import Source
from supervisor.reload import log_reload
from supervisor.states import Exit, FitnessState, NodeState
from supervisor.workers import CRASHES_TO_REPORT, Worker
from workernode import __version__, protocol, record
from workernode.settings import Settings

if TYPE_CHECKING:
    from supervisor.assembly import Parts

log = logging.getLogger(__name__)

HOUSEKEEPING = 1.0  # seconds between checks of the workers and of the broker's connection
STOP_STEP = 2.0  # seconds that each gets at the end: idle workers to stop, the last reports, the last spans
# An unfit node that sends a task back leaves the subscription for this long, so that a healthy node gets the task. One
# that is older was taken by no other node: it is taken without a pause, so that its client gets the error soon.
STEP_ASIDE = 2.0  # seconds


class Node:
    """The whole node. `run` is called once, from the main thread."""

    def __init__(self, settings: Settings, identity: record.Node, parts: Parts) -> None:
        self._settings, self._identity, self._parts = settings, identity, parts
        self._clock, self._loop = parts.clock, parts.loop
        self._clocks = PublisherClocks(self._clock.monotonic(), self._clock.wall(), self._clock.asleep())
        self._broker, self._pool = parts.broker, parts.pool
        self._concurrency, self._fitness = parts.concurrency, parts.fitness
        self._dispatcher = Dispatcher(settings, identity, parts.broker, parts.pool, self, parts.clock)
        self._overview = parts.overview(self._dispatcher)
        self._metrics = self._overview.metrics
        self._incidents = Incidents(parts.reporter, self._overview.note_report, parts.clock)
        self._broker_state = BrokerState(self._incidents, parts.clock)
        self._local_model = parts.local_model(self._incidents) if parts.local_model else NoLocalModel()
        self._upstream = UpstreamWatch(parts.fitness, parts.pool, self._incidents, parts.self_check, parts.loop.post)
        self._intake = IntakeLimit(
            parts.broker, parts.pool, parts.concurrency, parts.fitness, self._dispatcher, self._clock.monotonic()
        )
        self._next_check = self._next_sample = 0.0
        ending = parts.end_streams
        self._lifecycle = Lifecycle(settings.drain_timeout, parts.loop, parts.pool, self._dispatcher, ending, self)

    @property
    def state(self) -> NodeState:
        """Where the node is between its start and its end."""
        return self._lifecycle.state

    @property
    def exit(self) -> Exit:
        """How the process ends."""
        return Exit.FORCED if self._lifecycle.is_forced else Exit.DONE

    # --- the loop ---

    def run(self) -> Exit:
        """Serve until a signal asks to stop. Returns how it ended."""
        self.start()
        try:
            while self.state is not NodeState.STOPPED:
                self.turn(self._loop.wait(max(0.0, self.next_turn() - self._clock.monotonic())))
        finally:
            self.stop()
        return self.exit

    def start(self) -> None:
        """Start workers, broker, and local model or the check of upstream."""
        settings = self._settings
        self._loop.open()
        about = {"version": __version__, "workers": settings.worker_processes, "slots": settings.max_process_num}
        log.info("starting", extra={"event": "starting", "node": self._identity.id, **about})
        self._pool.start()  # before the broker's client: its threads do not survive a fork
        self._broker.start()
        if isinstance(self._local_model, NoLocalModel):
            self._upstream.use(settings)
            self._upstream.check_at_start()
        else:
            self._pool.set_target(self._local_model.target)
            self._local_model.start(self._clock.monotonic())

    def turn(self, ready: Sequence[tuple[Source, Worker]]) -> None:
        """Deal with all that has come.

        Args:
            ready: what of which worker has become readable (Loop.wait).
        """
        for source, worker in ready:
            if source is Source.PIPE:
                for message in self._pool.collect(worker):
                    self.on_worker_message(message)
            else:
                self._on_worker_death(worker)
        for event in self._loop.events():
            self._on_event(event)
        now = self._clock.monotonic()
        self._lifecycle.on_signals(now)
        was_ready = self._local_model.is_ready
        self._local_model.tick(now, len(self._dispatcher))
        if self._local_model.is_ready and not was_ready:
            self._fitness.upstream_started(now)
        if now >= min(self._next_check, self._pool.next_check()):
            self._check(now)
        if now >= self._next_sample:
            self._sample(now)
        self._fitness.tick(now)
        self._dispatcher.decide_refused(now)
        self._upstream.pass_on(self._clock.monotonic())
        self._dispatcher.send_back(now)
        self._dispatcher.retry_records(now)
        self._dispatcher.tend_claims(now)
        self._dispatcher.hand_over()
        if self._is_ready():
            self._lifecycle.ready()
        takes_tasks = self.state is NodeState.SERVING and self._takes_tasks()
        self._intake.set(now, takes_tasks=takes_tasks, is_model_asleep=self._local_model.is_asleep)
        self._lifecycle.step(now)
        self._show(now)

    def next_turn(self) -> float:
        """Monotonic time at which something is due, even if nothing comes."""
        now = self._clock.monotonic()
        return min(
            self._next_check, self._next_sample, self._overview.next_update(), self._broker.next_due_nak(),
            self._pool.next_check(), self._dispatcher.next_retry(), self._lifecycle.next_due,
            self._fitness.next_tick(now), self._dispatcher.claims.next_tick(now),
            self._intake.next_due(), self._local_model.next_tick(),
        )  # fmt: skip

    def _on_event(self, event: events.Event) -> None:  # of events.Wake, the turn itself is what was asked for
        match event:
            case events.Received():
                self._broker.seen(event)
                if not self._take(event):
                    self._metrics.duplicate()
            case events.RetryHere():
                self._take(event.received)
            case events.Stored():
                if not event.fault and not event.dead_letter:
                    self._metrics.record_stored()
                self._dispatcher.stored(event)
            case events.ClaimsOpened() | events.ClaimsStored() | events.ClaimsRead():
                self._dispatcher.claims.on_event(self._clock.monotonic(), event)
            case events.BrokerUp():
                self._broker_state.connected()
            case events.BrokerDown():
                self._broker_state.lost(event.why)
            case events.SelfChecked():
                self._fitness.self_checked(self._clock.monotonic(), event)
            case events.SettingsReloaded() | events.ReloadFailed():
                log_reload(event)
                if isinstance(event, events.SettingsReloaded):
                    self._use_secrets(event)
            case events.StreamsEnded():
                self._lifecycle.streams_ended(self._clock.monotonic(), event.outcomes)

    def _take(self, received: events.Received) -> bool:
        """Have the dispatcher take a message in; return False if it is here already, or was answered.

        A node that stops takes nothing in any more: the broker hands the message out again when its consumer is closed.
        """
        if self.state is NodeState.STOPPING:
            return True
        received = self._clocks.corrected(received, self._clock.asleep())
        self._overview.clock_difference = self._clocks.largest
        if not self._dispatcher.receive(received):
            return False
        self._metrics.taken(received.redeliveries, self._settings.task_timeout - received.age(self._clock.monotonic()))
        return True

    def _use_secrets(self, event: events.SettingsReloaded) -> None:
        """Use new secrets from now on, and let an unfit node try a new key at once."""
        if "PULSAR_TOKEN" in event.changed:
            self._broker.use_token(event.settings.pulsar_token)
        if self._parts.local_model is None and {"API_KEY", "UPSTREAM_HEADERS"} & set(event.changed):
            self._upstream.use(event.settings)
            self._fitness.probe_now(self._clock.monotonic())

    def on_worker_message(self, message: protocol.FromWorker) -> None:
        """See lifecycle.Hooks."""
        match message:
            case protocol.Outcome():
                self._dispatcher.decided(message)
            case protocol.ClaimAsked():
                self._dispatcher.claim_asked(message)
            case protocol.RateLimitReport():
                self._metrics.limit_seen(message)
                self._fitness.limit_seen(self._clock.monotonic(), message)
            case protocol.CallFailed() if self._local_model.is_ready:
                self._fitness.call_failed(self._clock.monotonic(), message, self._dispatcher.running)
            case protocol.AnswerBegun():
                self._fitness.answer_begun(self._clock.monotonic(), message.asked)
            case protocol.Ready():
                log.debug("worker ready", extra={"event": "worker_ready", "pid": message.pid})

    def _on_worker_death(self, worker: Worker) -> None:
        last, death = self._pool.reap(worker)
        for message in last:
            self.on_worker_message(message)
        about = {"worker": death.worker, "why": death.why, "tasks": len(death.jobs), "crashes": death.crashes}
        log.error("worker %d died: %s", death.worker, death.why, extra={"event": "worker_died", **about})
        self._metrics.worker_died()
        self._dispatcher.worker_died(death)
        if death.crashes >= CRASHES_TO_REPORT:
            self._incidents.begin("workers", "GeneralError", why_workers_die(death.why, self._identity.host))

    # --- what the dispatcher asks and reports (dispatcher.Hooks) ---

    def admit(self, now: float, age: float, request_id: str) -> Admission:
        """Return what to do with a task that was just taken (see FitnessStateMachine.admit)."""
        return self._fitness.admit(now, age, request_id)

    def may_ask(self, now: float) -> bool:
        """Return whether a task may ask upstream now (FitnessStateMachine.may_ask). Wakes a local model that sleeps."""
        return self._local_model.request(now) and self._fitness.may_ask(now)

    def refused(self, delivery: Delivery, outcome: protocol.Outcome) -> None:
        """Upstream refused a task that is not decided yet: pass on what that shows of upstream."""
        self._note_upstream(delivery, outcome)
        delivery.handed_at, delivery.is_probe = 0.0, False  # noted once

    def verdict(self, request_id: str) -> Verdict:
        """Return whose fault the refusal of a task is (see FitnessStateMachine.verdict)."""
        return self._fitness.verdict(request_id)

    def ended(self, delivery: Delivery, outcome: protocol.Outcome) -> None:
        """A delivery was decided."""
        self._concurrency.answered(outcome)
        self._metrics.decided(outcome)
        self._parts.telemetry.ended(outcome)
        self._note_upstream(delivery, outcome)

    def _note_upstream(self, delivery: Delivery, outcome: protocol.Outcome) -> None:
        self._upstream.ended(self._clock.monotonic(), delivery, outcome, self._local_model.is_ready)

    def settled(self, delivery: Delivery, decision: protocol.Decision) -> None:
        """The message has left this node. One that an unfit node sent back is to go to another node."""
        self._metrics.settled(decision)
        was_sent_back = decision is protocol.Decision.NAK and self._fitness.state is FitnessState.UNFIT
        is_young = delivery.received.age(self._clock.monotonic()) < STEP_ASIDE
        if was_sent_back and is_young and len(self._dispatcher) == 0:
            self._broker.step_aside(STEP_ASIDE)

    # --- what is checked regularly ---

    def _check(self, now: float) -> None:
        """Check what nobody reports: workers that hang, the broker's connection."""
        self._next_check = now + HOUSEKEEPING
        self._pool.check(now)
        if self._pool.is_steady(now):
            self._incidents.end("workers")
        self._broker_state.check(now, self._broker.connected())

    def _sample(self, now: float) -> None:
        """Move the dynamic cap by the machine's readings."""
        self._next_sample = now + self._settings.sample_interval
        have_tokens_come = self._concurrency.sample(self._dispatcher.running, self._pool.tokens())
        self._local_model.note_in_flight(self._dispatcher.running)
        if have_tokens_come:
            self._local_model.tokens_came(now)
        for gpu in self._concurrency.resources.gpus:
            self._local_model.note_gpu_load(now, gpu.load_percent or 0.0)

    # --- lifecycle ---

    def _is_ready(self) -> bool:
        return self._broker_state.is_up and self._pool.ready() > 0 and self._takes_tasks()

    def _takes_tasks(self) -> bool:
        return self._local_model.is_ready or self._local_model.is_asleep

    def drain_begins(self, limit_s: float) -> None:
        """See lifecycle.Hooks."""
        self._overview.stopping(limit_s + STOP_STEP)

    def stop_model(self, now: float) -> None:
        """See lifecycle.Hooks."""
        self._local_model.stop(now)

    def is_model_stopped(self) -> bool:
        """See lifecycle.Hooks."""
        return self._local_model.is_stopped

    def stop(self) -> None:
        """Stop whatever still runs. Waits for a few seconds at most; not at all after a second signal."""
        self._pool.stop(0.0 if self._lifecycle.is_forced else STOP_STEP)
        self._local_model.kill()
        if not self._lifecycle.is_forced:  # the process ends at once, and the broker hands out again what was not acked
            self._broker.close()
            self._parts.reporter.close(STOP_STEP)
            self._parts.telemetry.close(STOP_STEP)
        log.info("stopped", extra={"event": "stopped"})

    def _show(self, now: float) -> None:
        """Show people the node as it is."""
        is_closed = self._fitness.state in (FitnessState.UNFIT, FitnessState.AWAY)
        unfit = self._fitness.status(now).reason if is_closed else ""
        model = "" if self._takes_tasks() else self._local_model.why_not_ready()
        why = why_not_ready(self.state, self._broker_state, self._pool.ready() > 0, model, unfit)
        self._overview.update(now, self.state, why, self._broker_state.is_up, self._intake.intake)
