"""One simulated node: the real Node with dispatcher, ledger, fitness, pool and broker client, over simulated parts."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from supervisor.assembly import Parts
from supervisor.concurrency import ConcurrencyController
from supervisor.dispatcher import Dispatcher
from supervisor.events import MessageKey, Received, SettingsReloaded, Stored
from supervisor.fitness import FitnessStateMachine
from supervisor.ledger import Place
from supervisor.loop import FORCED_WITHIN as SIGNALS_LIMIT
from supervisor.machine import Clock, Resources
from supervisor.node import Node
from supervisor.readings import Gpu
from supervisor.states import Exit, NodeState
from supervisor.workers import Pool
from tests.simulation.connection import SimBroker
from tests.simulation.library import Link
from tests.simulation.loop import SimLoop
from tests.simulation.node_rules import check_counts
from tests.simulation.outside import FIRST_KEY, Gateway, Upstream
from tests.simulation.pulsar import Server
from tests.simulation.schedule import Schedule, TaskPlan
from tests.simulation.stand_ins import SimLocalModel, SimOverview, SimReporter
from tests.simulation.threads import end_streams, self_check
from tests.simulation.workers import SimProcess
from tests.simulation.world import EPOCH, START, Violation, World
from workernode import record
from workernode.protocol import Decision, Job
from workernode.settings import Settings, load

TURN_TAKES = 0.0002  # seconds from something becoming readable to the turn that takes it in, and a turn's own time
TAKEN_IN_WITHIN = 1.0  # seconds in which every event must be taken in
FORCED_WITHIN = 1.0  # seconds from a second signal to the end


class NodeKilled(BaseException):
    """The node's process is gone; its code runs no further."""


@functools.cache
def settings_of(slots: int, workers: int, timeout: float, drain: float, redeliveries: int, delay: float) -> Settings:
    """The settings of a node; reading them costs more than a simulated second."""
    return load(
        {
            "NODE_TYPE": "remote",
            "MODEL_NAME": "m",
            "API_URL": "http://upstream.example/v1",
            "API_KEY": FIRST_KEY,
            "PULSAR_URL": "pulsar://broker:6650",
            "MAX_PROCESS_NUM": str(slots),
            "WORKER_PROCESSES": str(workers),
            "TASK_TIMEOUT": str(timeout),
            "DRAIN_TIMEOUT": str(drain),
            "MAX_REDELIVERIES": str(redeliveries),
            "NAK_DELAY": str(delay),
        }
    )


def unended_by(dispatcher: Dispatcher) -> list[str]:
    """Return the request ids of ends that were announced, did not leave, and are not taken back in the topic yet."""
    outbox = dispatcher.claims._claims._outbox
    return [each for sent in (*outbox._waiting, outbox._next) for each in sent.message.unended]


class SimNode:
    """A node from its start to its end; a restart makes another one."""

    def __init__(
        self, name: str, schedule: Schedule, world: World, server: Server, gateway: Gateway, upstream: Upstream,
        plans: dict[str, TaskPlan],
    ) -> None:  # fmt: skip
        self.name = name
        self.world, self.gateway, self.upstream, self.plans = world, gateway, upstream, plans
        self.server = server
        self.dice: random.Random = world.dice_for(name)
        self.settings = settings = settings_of(
            schedule.slots, schedule.workers, schedule.task_timeout, schedule.drain_timeout, schedule.max_redeliveries,
            schedule.nak_delay,
        )  # fmt: skip
        if upstream.newest_key != FIRST_KEY:
            self.settings = settings = replace(settings, api_key=upstream.newest_key)
        self.max_redeliveries, self.nak_delay = settings.max_redeliveries, settings.nak_delay
        self.is_alive = True
        self.exit: Exit | None = None
        self.wall_ahead = 0.0
        self.memory_percent, self.cpu_percent = 20.0, schedule.cpu_percent
        self.memory_of_task, self.gpu_memory_of_task = 0.0, 4.0  # percent
        self.waiting_share = 0.0  # of the tasks in flight: so many wait inside the engine behind upstream
        self.is_wide = schedule.is_wide
        self.concurrency: ConcurrencyController | None = None
        self.sampling_takes = 0.0
        self.start_takes = 0.0
        self.probe_due_since: float | None = None  # a probe is due, and could be taken
        self.probes_tried = 0
        self.workers_outlive_it = 0.0  # seconds
        self.processes: list[SimProcess] = []
        self.stored: dict[int, set[str]] = {}  # number of a delivery → "record", "letter"
        self.numbers: dict[int, str] = {}
        self.waited: set[int] = set()  # numbers of deliveries that have waited for their gateway
        self.kept: set[int] = set()  # deliveries that have waited here for their gateway
        self.retried: set[MessageKey] = set()  # messages whose nak was due, and that are tried again here
        self.final: list[tuple[str, str]] = []  # (request id, decision) as carried out
        self.healthy_since = float("inf")
        self.was_told_to_stop: list[float] = []
        self._busy = False
        self._stopped_until = 0.0
        self._turn_at = float("inf")
        self.excused_until = 0.0  # the node itself was stopped: late events are not its fault
        self.loop = SimLoop(self)
        self.link = Link(world, server)
        self.clock = Clock(lambda: world.now, lambda: world.now - START + EPOCH + self.wall_ahead)
        self.broker = SimBroker(self)
        self.connection = self.broker.connection
        self.pool = Pool(settings.worker_processes, settings.max_process_num, self._spawn, self.loop, self.clock)
        self.model = SimLocalModel(self) if schedule.local else None
        self.overview = SimOverview()
        self.node = Node(settings, record.Node(name, name, settings.node_type, "sim"), self._parts())
        self.dispatcher: Dispatcher = self.node._dispatcher
        world.after(0.0, self._begin)

    def _parts(self) -> Any:
        concurrency = self.concurrency = ConcurrencyController(self.settings, self.sample)
        fitness = FitnessStateMachine(
            self.settings.max_process_num,
            lambda fault: "a sentence",
            self.settings.task_timeout,
            can_check=self.model is None,
        )
        model: Any = self.model
        overview: Any = self.overview
        return Parts(
            clock=self.clock, loop=self.loop, broker=self.broker, pool=self.pool, concurrency=concurrency,
            fitness=fitness, reporter=SimReporter(), overview=lambda dispatcher: overview,
            local_model=(lambda incidents: model) if model else None,
            self_check=functools.partial(self_check, self), end_streams=functools.partial(end_streams, self),
        )  # fmt: skip

    # --- what the simulated parts call ---

    def sample(self) -> Resources:
        """Readings of the machine (supervisor.machine.resources.Sampler)."""
        if self.sampling_takes:
            takes, self.sampling_takes = self.sampling_takes, 0.0
            self.block(takes, lambda: False)
        in_flight = sum(len(worker.jobs) for worker in self.pool._workers.values())
        if self.is_wide and self.concurrency is not None:
            self.concurrency.note_waiting(math.ceil(self.waiting_share * max(1, in_flight)))
        memory = min(99.0, self.memory_percent + self.memory_of_task * in_flight)
        gpus: tuple[Gpu, ...] = ()
        if self.is_wide and self.model is not None:
            used = min(99.0, 40.0 + self.gpu_memory_of_task * in_flight)
            gpus = (Gpu("0", "a card", int(used * (1 << 20)), 100 << 20),)
        return Resources(self.world.now, self.cpu_percent, 2.0, memory, 1 << 33, 1 << 34, "host", gpus)

    def request_of(self, job: Job) -> TaskPlan:
        """Which task a job is: its id stands at a fixed place of the payload."""
        return self.plans[job.payload[15 : job.payload.index(b'"', 15)].decode()]

    def plan_of(self, received: Received) -> TaskPlan:
        """Which task a message is."""
        plan: TaskPlan = received.message.message.plan
        return plan

    def readable(self) -> None:
        """A pipe or a sentinel has become readable."""
        self.wake()

    def wake(self) -> None:
        """Have a turn soon."""
        self._schedule(self.world.now + self.dice.uniform(0.00005, TURN_TAKES))

    def block(self, seconds: float, done: Callable[[], bool]) -> None:
        """The main thread waits, while the world goes on."""
        if seconds > 0 and not done():
            self.world.run(self.world.now + seconds, lambda: done() or not self.is_alive)
        if not self.is_alive:
            raise NodeKilled

    def _spawn(self, index: int, slots: int) -> SimProcess:
        takes = self.dice.uniform(0.05, 0.3) + self.start_takes
        process = SimProcess(self, index, slots, takes, len(self.processes))
        self.processes.append(process)
        return process

    def store(self, number: int, data: bytes, what: str) -> None:
        self.numbers[number] = _field(data, "request_id") if data else self.numbers.get(number, "")

        def done(fault: str) -> None:
            if not fault:
                self.stored.setdefault(number, set()).add(what)
            if not fault and what == "record" and _field(data, "decision") != Decision.NAK.value:
                self.gateway.recorded.add(self.numbers[number])
            self.loop.post(Stored(number, fault, what == "letter"))

        if self.connection.records is None:
            self.loop.post(Stored(number, "not connected", what == "letter"))
        else:
            self.link.store(done)

    def check_ack(self, received: Received) -> None:
        plan = self.plan_of(received)
        delivery = self.dispatcher._ledger._by_key.get(received.key)
        if delivery is not None and delivery.place not in (Place.LOOKED_UP, Place.HELD):  # another node has answered it
            is_stored = self.dispatcher._records.is_stored(delivery.number)
            if not is_stored or "record" not in self.stored.get(delivery.number, ()):
                raise Violation("an ack follows the stored record", plan.id)
        elif plan.id not in self.gateway.recorded and not plan.malformed:
            raise Violation("an ack follows the stored record", plan.id)

    # --- life ---

    def _begin(self) -> None:
        self._run(self.node.start)
        self._schedule(self.world.now)

    def _schedule(self, when: float) -> None:
        if self.is_alive and when < self._turn_at:
            self._turn_at = when
            self.world.at(when, self._turn, when)

    def _turn(self, when: float) -> None:
        if not self.is_alive or self._busy or when != self._turn_at:
            return
        if self.world.now < self._stopped_until:
            self._turn_at = self._stopped_until
            self.world.at(self._stopped_until, self._turn, self._turn_at)
            return
        self._run(lambda: self.node.turn(self.loop.ready()))
        if not self.is_alive:
            return
        self._turn_at = float("inf")
        if self.node.state is NodeState.STOPPED:
            self._run(self._stop)
        else:
            check_counts(self)
            self._schedule(max(self.node.next_turn(), self.world.now + TURN_TAKES))
            if self.loop.has_news:
                self.wake()

    def _run(self, call: Callable[[], None]) -> None:
        self._busy = True
        try:
            call()
        except NodeKilled:
            return
        except (Violation, AssertionError):
            raise
        except Exception as error:
            raise Violation("the main loop survives", f"{type(error).__name__}: {error}") from error
        finally:
            self._busy = False

    def _stop(self) -> None:
        self.node.stop()
        self.exit = self.node.exit
        left = [process.name for process in self.processes if process.is_alive]
        self.end(f"stopped ({self.exit.name})")
        if self.exit is Exit.DONE and left:
            raise Violation("no child is left at exit", ", ".join(left))

    def end(self, how: str) -> None:
        """The process is gone; its workers notice."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.world.tell(f"{self.name}: {how}")
        if len(self.was_told_to_stop) > 1:
            late = self.world.now - self.was_told_to_stop[1]
            if late > FORCED_WITHIN and self.world.now > self.excused_until:
                raise Violation("a second signal ends it within a second", f"{self.name} took {late:.2f} s")
        for delivery in self.dispatcher._ledger:
            if delivery.place is Place.RECORDING:
                client = self.gateway.clients[self.plan_of(delivery.received).id]
                client.excuses.add("its record could not be stored while its node lived")
        for request_id in unended_by(self.dispatcher):
            client = self.gateway.clients[request_id]
            client.excuses.add("its end was announced, and its node stopped before it could take that back")
        self.connection.kill()
        for process in self.processes:
            self.world.after(
                self.dice.uniform(0.0, 0.05) + self.workers_outlive_it, process.die, "its supervisor is gone"
            )

    def kill(self) -> None:
        """SIGKILL to the supervisor."""
        for client in self.gateway.clients.values():
            client.excuses.add("a supervisor was killed")
        self.end("killed")

    def signal(self, number: int) -> None:
        """SIGTERM."""
        if self.is_alive:
            self.was_told_to_stop.append(self.world.now)
            self.loop.signal(number)
            if len(self.was_told_to_stop) == 2:
                self.world.after(SIGNALS_LIMIT, self._end_by_force)
                self.world.after(FORCED_WITHIN + 0.1, self._must_be_gone)

    def _end_by_force(self) -> None:
        """The thread that watches the signals ends the process, whatever the main thread waits for."""
        if self.is_alive:
            self.exit = Exit.FORCED
            for process in self.processes:
                process.kill()
            self.kill()

    def _must_be_gone(self) -> None:
        if self.is_alive and self.world.now > self.excused_until:
            raise Violation("a second signal ends it within a second", f"{self.name} is still here")

    def reload(self, key: str) -> None:
        """SIGHUP, after which its settings have another key of upstream's."""
        self.loop.post(SettingsReloaded(replace(self.settings, api_key=key), ("API_KEY",), ()))

    def stop_for(self, seconds: float) -> None:
        """The whole process does not move for so long (SIGSTOP)."""
        self._stopped_until = max(self._stopped_until, self.world.now + seconds)
        self.gateway.outages.append(("", self.world.now, self._stopped_until))  # nobody offers it anything
        self.excused_until = max(self.excused_until, self._stopped_until + TAKEN_IN_WITHIN)

    @property
    def is_serving(self) -> bool:
        """Whether it takes tasks, or would."""
        return self.is_alive and self.node.state in (NodeState.SERVING, NodeState.STARTING)

    # --- the rules that hold at each step ---

    def check_age(self, since: float, what: str) -> None:
        """An event is taken in soon."""
        age = self.world.now - since
        if age > TAKEN_IN_WITHIN and self.world.now > self.excused_until:
            raise Violation("every event is taken in within a second", f"{self.name}: {what} after {age:.2f} s")


def _field(data: bytes, name: str) -> str:
    start = data.find(f'"{name}":"'.encode()) + len(name) + 4
    if start < len(name) + 4:
        return ""
    return data[start : data.index(b'"', start)].decode()
