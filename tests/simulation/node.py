"""One simulated node: the real Node, Dispatcher, Ledger, Fitness, Pool, PulsarBroker over simulated parts."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

from supervisor.assembly import Parts
from supervisor.broker import PulsarBroker
from supervisor.concurrency import ConcurrencyController
from supervisor.dispatcher import Dispatcher
from supervisor.events import BrokerDown, BrokerUp, Event, MessageKey, Received, SelfChecked, Stored
from supervisor.fitness import FitnessStateMachine
from supervisor.ledger import Place
from supervisor.loop import FORCED_WITHIN as SIGNALS_LIMIT
from supervisor.loop import Source
from supervisor.machine import Clock, Resources
from supervisor.node import Node
from supervisor.states import Exit, NodeState
from supervisor.workers.pool import Pool, Worker
from tests.simulation.outside import AWAY, Gateway, Upstream
from tests.simulation.pulsar import Consumer, Delivery, Link, PulsarException, Server
from tests.simulation.schedule import Schedule, TaskPlan
from tests.simulation.workers import SimProcess
from tests.simulation.world import EPOCH, START, Violation, World
from workernode import record
from workernode.protocol import NODE_KINDS, Job, Outcome, Target
from workernode.settings import Settings, load

TURN_TAKES = 0.0002  # seconds from something becoming readable to the turn that takes it in, and a turn's own time
TAKEN_IN_WITHIN = 1.0  # seconds in which every event must be taken in
FORCED_WITHIN = 1.0  # seconds from a second signal to the end
BEYOND_CAP = 2  # messages that may be unacknowledged beyond the cap (spec 3)
MOST_IN_BATCH = 5  # messages
CHECK_INTERVAL = 0.25  # seconds: how soon the thread of the connection notices that the library has connected again
STREAMS_ENDED_WITHIN = 5.0  # seconds that the ending of streams gets at the end of a drain


class NodeKilled(BaseException):
    """The node's process is gone; its code runs no further."""


class Count:
    """Stands in for metrics: any call is counted by its name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Callable[..., None]:
        def count(*_: object, **__: object) -> None:
            self.calls[name] += 1

        setattr(self, name, count)
        return count


class SimOverview:
    """Stands in for the page, probes and metrics."""

    def __init__(self) -> None:
        self.metrics = Count()
        self.why: list[str] = []

    def next_update(self) -> float:
        """Never by itself."""
        return float("inf")

    def update(self, now: float, state: NodeState, why: list[str], *_: object) -> None:
        """Keep why the node is not ready."""
        self.why = why

    def note_report(self, *_: object) -> None:
        """To nobody."""

    def stopping(self, seconds: float) -> None:
        """To nobody."""


class SimReporter:
    """Stands in for Kubernetes events."""

    def __init__(self) -> None:
        self.open: set[str] = set()

    def begin(self, key: str, reason: str, message: str) -> None:
        """A report begins."""
        if key in self.open:
            raise Violation("a failure is reported once", key)
        self.open.add(key)

    def end(self, key: str) -> None:
        """It is over."""
        self.open.remove(key)

    def close(self, timeout: float) -> None:
        """Nothing is pending."""


class SimLoop:
    """Stands in for the selector. What is readable is level-triggered, and comes in any order."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._world = node.world
        self._events: list[tuple[float, Event]] = []
        self._signals: list[int] = []
        self.watched: dict[int, tuple[Worker, set[Source]]] = {}

    def open(self) -> None:
        """Nothing to open."""

    def post(self, event: Event) -> None:
        """Queue an event."""
        self._events.append((self._world.now, event))
        self._node.wake()

    def signal(self, number: int) -> None:
        """A signal comes."""
        self._signals.append(number)
        self._node.wake()

    def events(self) -> Iterator[Event]:
        """What was posted."""
        while self._events:
            since, event = self._events.pop(0)
            self._node.check_age(since, type(event).__name__)
            yield event

    def signals(self) -> Iterator[int]:
        """The signals that came."""
        while self._signals:
            yield self._signals.pop(0)

    def watch(self, worker: Worker) -> None:
        """Report what becomes readable."""
        self.watched[id(worker)] = (worker, set(Source))

    def unwatch_pipe(self, worker: Worker) -> None:
        """As a selector does it: KeyError for what is not watched."""
        self.watched[id(worker)][1].remove(Source.PIPE)

    def unwatch(self, worker: Worker) -> None:
        """Report nothing more."""
        self.watched.pop(id(worker), None)

    def ready(self) -> list[tuple[Source, Worker]]:
        """What is readable now."""
        found = []
        for worker, sources in self.watched.values():
            process: Any = worker.process
            if Source.PIPE in sources and process.pipe_readable:
                found.append((Source.PIPE, worker))
            if Source.SENTINEL in sources and process.sentinel_readable:
                found.append((Source.SENTINEL, worker))
        if len(found) > 1:
            self._world.dice.shuffle(found)
        return found

    @property
    def has_news(self) -> bool:
        """Whether the selector would return at once."""
        return bool(self._events or self._signals or self.ready())


class SimConnection:
    """supervisor.broker.connection.Connection, without its thread and over the simulated library."""

    def __init__(self, node: SimNode, link: Link) -> None:
        self._node = node
        self._world = node.world
        self._link = link
        self.intake: Any = None
        self.client: object = None
        self.consumer: Consumer | None = None
        self.records: Link | None = None
        self._leave: tuple[int, float] | None = None
        self._away_until = 0.0

    def start(self) -> None:
        """Connect, soon."""
        self._world.after(self._world.dice.uniform(0.05, 0.5), self._connect, 0.5)

    def _connect(self, pause: float) -> None:
        if self._link.is_closed:
            return
        if self._link.is_up:
            self.client = self.records = self._link
            self._node.loop.post(BrokerUp())
            self._act()
        else:
            self._node.loop.post(BrokerDown("connection refused"))
            self._world.after(pause, self._connect, min(pause * 2, 10.0))

    def wake(self) -> None:
        """Have the thread look."""
        self._world.after(0.0005, self._act)

    def ask_to_leave(self, until: float) -> None:
        """Close the consumer, unless a message comes that the owner has not seen."""
        self._leave = (self.intake.count_seen, until)
        self.wake()

    def _act(self) -> None:
        if self._link.is_closed or self.records is None:
            return
        leave, self._leave = self._leave, None
        if leave is not None and self.consumer is not None and self.intake.detach_if_unused(leave[0]):
            consumer, self.consumer = self.consumer, None
            self._away_until = leave[1]
            consumer.close()
        if self.consumer is None and self.intake.is_wanted():
            if self._world.now < self._away_until:
                self._world.at(self._away_until, self._act)
            elif not self._link.is_up:
                self._world.after(0.25, self._act)
            else:
                self.consumer = self.intake.attach(self._subscribe)

    def _subscribe(self, listener: Callable[[Any, Any], None]) -> Consumer:
        consumer = Consumer(self._world, self._link.server, listener)
        consumer.is_leaving = lambda: not self._node.is_serving
        self._world.after(0.002, self._subscribed, consumer)
        return consumer

    def _subscribed(self, consumer: Consumer) -> None:
        if self._link.is_up:
            consumer.connect()
        elif not self._link.is_closed:
            self._world.after(0.25, self._subscribed, consumer)

    def lost(self) -> None:
        """The connection is gone; the library connects again by itself."""
        if self.consumer is not None:
            self.consumer.disconnect()

    def back(self) -> None:
        """The library connects again, a moment after it can."""
        self._world.after(self._world.dice.uniform(0.1, 2.0), self._back)

    def _back(self) -> None:
        if self.consumer is not None and self._link.is_up:
            self.consumer.connect()
            self._world.after(CHECK_INTERVAL, self.intake.reconnected)

    def is_up(self) -> bool:
        """As the library tells."""
        if self.records is None or not self._link.is_up:
            return False
        return self.consumer is None or self.consumer.is_connected()

    def close(self) -> None:
        """Leave."""
        self._node.block(0.05 if self._link.is_up else 2.0, lambda: False)
        if self.consumer is not None:
            self.consumer.close()
        self._link.is_closed = True


class SimBroker(PulsarBroker):
    """The real code of supervisor/broker/, over the simulated library and without its threads."""

    def __init__(self, node: SimNode) -> None:
        library = mock.Mock(PulsarException=PulsarException)
        super().__init__(node.settings, node.loop.post, library, node.clock.monotonic, node.clock.wall)
        self._node = node
        self.connection: Any = SimConnection(node, node.link)
        self.connection.intake = self._intake
        self._connection: Any = self.connection

    @property
    def held(self) -> list[tuple[float, Received]]:
        """The naks that are held, with the moment when each is due."""
        return [(held.due, held.received) for held in self._naks._held.values()]

    @property
    def early(self) -> Iterable[MessageKey]:
        """Messages that came when there was no room."""
        return self._intake._early

    @property
    def closed_since(self) -> float | None:
        """Since when the intake is closed; None: it is open, and the node may be full."""
        return self._intake.closed_since()

    def ack(self, received: Received) -> None:
        """Only after the record is stored."""
        self._node.check_ack(received)
        super().ack(received)

    def publish_record(self, number: int, record: bytes) -> None:
        """Store it, or not."""
        self._node.store(number, record, "record")

    def dead_letter(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        """Store it, or not."""
        self._node.store(number, b"", "letter")


class SimLocalModel:
    """A local model that loads for a while (supervisor.model_server.local_model.LocalModel)."""

    target = Target("http://local", None)

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self.is_stopped = self._told = False
        self.ready_at = node.world.now + node.world.dice.choice((0.2, 3.0, 8.0))

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self._node.world.now >= self.ready_at and not self.is_stopped

    def start(self, now: float) -> None:
        """It loads from its making on."""

    def tick(self, now: float) -> None:
        """Tell its slots when it is ready."""
        if self.is_ready and not self._told:
            self._told = True
            self._node.concurrency.set_slots(2)

    def note_in_flight(self, tasks: int) -> None:
        """Nothing depends on it."""

    def tokens_came(self, now: float) -> None:
        """It lives."""

    def next_tick(self) -> float:
        """When it is ready."""
        return self.ready_at if self.ready_at > self._node.world.now else float("inf")

    def why_not_ready(self) -> str:
        """A sentence."""
        return "it loads"

    def load(self, seconds: float) -> None:
        """It is started again."""
        self.ready_at = max(self.ready_at, self._node.world.now + seconds)
        self._node.wake()

    def stop(self, now: float) -> None:
        """It stops a moment later."""
        self._node.world.after(0.3, self.kill)

    def kill(self) -> None:
        """It is gone."""
        self.is_stopped = True
        self._node.wake()


@functools.cache
def settings_of(slots: int, workers: int, timeout: float, drain: float, redeliveries: int, delay: float) -> Settings:
    """The settings of a node; reading them costs more than a simulated second."""
    return load(
        {
            "NODE_TYPE": "remote",
            "MODEL_NAME": "m",
            "API_URL": "http://upstream.example/v1",
            "API_KEY": "key-of-the-simulation",
            "PULSAR_URL": "pulsar://broker:6650",
            "MAX_PROCESS_NUM": str(slots),
            "WORKER_PROCESSES": str(workers),
            "TASK_TIMEOUT": str(timeout),
            "DRAIN_TIMEOUT": str(drain),
            "MAX_REDELIVERIES": str(redeliveries),
            "NAK_DELAY": str(delay),
        }
    )


class SimNode:
    """One life of one node: from its start to its end."""

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
        self.max_redeliveries, self.nak_delay = settings.max_redeliveries, settings.nak_delay
        self.is_alive = True
        self.exit: Exit | None = None
        self.wall_ahead = 0.0
        self.memory_percent, self.cpu_percent = 20.0, schedule.cpu_percent
        self.sampling_takes = 0.0
        self.start_takes = 0.0
        self.processes: list[SimProcess] = []
        self.stored: dict[int, set[str]] = {}  # number of a delivery → "record", "letter"
        self.numbers: dict[int, str] = {}
        self.final: list[tuple[str, str]] = []  # (request id, decision) as carried out
        self.healthy_since = float("inf")
        self.was_told_to_stop: list[float] = []
        self._busy = False
        self._stopped_until = 0.0
        self._turn_at = float("inf")
        self._excused_until = 0.0  # the node itself was stopped: late events are not its fault
        self.loop = SimLoop(self)
        self.link = Link(world, server)
        self.clock = Clock(lambda: world.now, lambda: world.now - START + EPOCH + self.wall_ahead)
        self.broker = SimBroker(self)
        self.connection = self.broker.connection
        self.pool = Pool(
            settings.worker_processes, settings.max_process_num, self._spawn, self.loop, self.clock
        )
        self.model = SimLocalModel(self) if schedule.local else None
        self.overview = SimOverview()
        self.node = Node(settings, record.Node(name, name, settings.node_type, "sim"), self._parts())
        self.dispatcher: Dispatcher = self.node._dispatcher
        world.after(0.0, self._begin)

    def _parts(self) -> Any:
        concurrency = self.concurrency = ConcurrencyController(self.settings, self.sample)
        fitness = FitnessStateMachine(
            self.settings.max_process_num, lambda fault: "a sentence", self.settings.task_timeout,
            can_check=self.model is None,
        )
        model: Any = self.model
        overview: Any = self.overview
        return Parts(
            clock=self.clock, loop=self.loop, broker=self.broker, pool=self.pool, concurrency=concurrency,
            fitness=fitness, reporter=SimReporter(), overview=lambda dispatcher: overview,
            local_model=(lambda incidents: model) if model else None,
            self_check=self._self_check, end_streams=self._end_streams,
        )  # fmt: skip

    def _self_check(self, target: Target, at_start: bool, done: Callable[[SelfChecked], None]) -> None:
        """A refusal is believed after a second one, as in supervisor/fitness/self_check.py."""
        asked_at = self.world.now
        first = self.upstream.self_check()
        is_refused = first is not None and first.kind in NODE_KINDS

        def end(result: SelfChecked) -> None:
            if self.is_alive:
                done(result)

        def repeat() -> None:
            again = self.upstream.self_check()
            is_known = again is None or (first is not None and again.kind is first.kind)
            end(SelfChecked(self.world.now, again if is_known else AWAY))

        if is_refused:
            self.world.after(0.3, lambda: end(SelfChecked(asked_at, first, is_first_refusal=True)))
            self.world.after(0.9, repeat)
        elif not at_start:
            self.world.after(0.3, lambda: end(SelfChecked(asked_at, first)))

    # --- what the simulated parts call ---

    def sample(self) -> Resources:
        """Readings of the machine (supervisor.machine.resources.Sampler)."""
        if self.sampling_takes:
            takes, self.sampling_takes = self.sampling_takes, 0.0
            self.block(takes, lambda: False)
        return Resources(self.world.now, self.cpu_percent, 2.0, self.memory_percent, 1 << 33, 1 << 34, "host")

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
            self.loop.post(Stored(number, fault, what == "letter"))

        if self.connection.records is None:
            self.loop.post(Stored(number, "not connected", what == "letter"))
        else:
            self.link.store(done)

    def check_ack(self, received: Received) -> None:
        plan = self.plan_of(received)
        delivery = self.dispatcher._ledger._by_key.get(received.key)
        if delivery is not None:
            is_stored = self.dispatcher._records.is_stored(delivery.number)
            if not is_stored or "record" not in self.stored.get(delivery.number, ()):
                raise Violation("an ack follows the stored record", plan.id)
        elif not any(id == plan.id and "record" in self.stored.get(number, ()) for number, id in self.numbers.items()):
            raise Violation("an ack follows the stored record", plan.id)

    def _end_streams(self, jobs: Sequence[Job], done: Callable[[list[Outcome]], None]) -> None:
        """Stands in for supervisor.workers.drain_ender."""
        outcomes: list[Outcome] = []
        enders: list[SimProcess] = []
        if self.gateway.is_away:
            for job in jobs:
                self.gateway.clients[self.request_of(job).id].excuses.add("the gateway was away when its node stopped")

        def over() -> None:
            if enders:
                for ender in enders:
                    ender.die("it has ended its stream")
                enders.clear()
                if self.is_alive:
                    done(list(outcomes))

        for job in jobs:
            ender = SimProcess(self, 99, 1, 0.0, 1000 + len(self.processes))
            ender.is_ready = True
            self.processes.append(ender)
            enders.append(ender)
            self._collect_from(ender, outcomes, lambda: len(outcomes) == len(jobs) and over())
            ender.put(job)
        self.world.after(STREAMS_ENDED_WITHIN, over)

    def _collect_from(self, ender: SimProcess, outcomes: list[Outcome], came: Callable[[], object]) -> None:
        def write(message: Any) -> None:
            if isinstance(message, Outcome):
                outcomes.append(message)
                came()

        ender._write = write  # type: ignore[method-assign]

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
            self.check()
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
            if late > FORCED_WITHIN and self.world.now > self._excused_until:
                raise Violation("a second signal ends it within a second", f"{self.name} took {late:.2f} s")
        for delivery in self.dispatcher._ledger:
            if delivery.place is Place.RECORDING:
                client = self.gateway.clients[self.plan_of(delivery.received).id]
                client.excuses.add("its record could not be stored while its node lived")
        if self.connection.consumer is not None:
            self.connection.consumer.kill()
        self.link.is_closed = True
        for process in self.processes:
            self.world.after(self.dice.uniform(0.0, 0.05), process.die, "its supervisor is gone")

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
                process.die("killed by SIGKILL")
            self.kill()

    def _must_be_gone(self) -> None:
        if self.is_alive and self.world.now > self._excused_until:
            raise Violation("a second signal ends it within a second", f"{self.name} is still here")

    def stop_for(self, seconds: float) -> None:
        """The whole process does not move for so long (SIGSTOP)."""
        self._stopped_until = max(self._stopped_until, self.world.now + seconds)
        self._excused_until = max(self._excused_until, self._stopped_until + TAKEN_IN_WITHIN)

    @property
    def is_serving(self) -> bool:
        """Whether it takes tasks, or would."""
        return self.is_alive and self.node.state in (NodeState.SERVING, NodeState.STARTING)

    # --- the rules that hold at each step ---

    def check_age(self, since: float, what: str) -> None:
        """An event is taken in soon."""
        age = self.world.now - since
        if age > TAKEN_IN_WITHIN and self.world.now > self._excused_until:
            raise Violation("every event is taken in within a second", f"{self.name}: {what} after {age:.2f} s")

    def check(self) -> None:
        """The books are in order."""
        ledger = self.dispatcher._ledger
        places = Counter(delivery.place for delivery in ledger)
        if any(places[place] != ledger.count(place) for place in Place):
            raise Violation("counts add up", f"{self.name}: ledger {places}")
        at_workers = sum(len(worker.jobs) for worker in self.pool._workers.values())
        if at_workers != places[Place.RUNNING]:
            raise Violation("counts add up", f"{self.name}: {at_workers} jobs, {places[Place.RUNNING]} running")
        for worker in self.pool._workers.values():
            if len(worker.free) + len(worker.jobs) != len(worker.process.answer_states):
                raise Violation("counts add up", f"{self.name}: slots of worker {worker.index}")
        queued = len(self.dispatcher._queue) + len(self.dispatcher._alone_queue)
        if queued != places[Place.QUEUED]:
            raise Violation("counts add up", f"{self.name}: {queued} wait, {places[Place.QUEUED]} queued")
        consumer = self.connection.consumer
        if consumer is not None:
            # A batch comes whole, and of another the rest may be tried again here at the same moment. What waits for
            # its nak's time is unacknowledged, too, and in nobody's slot.
            allowed = self.settings.max_process_num + BEYOND_CAP + 2 * (MOST_IN_BATCH - 1)
            if consumer.connection:  # connected again, the library has asked for a message by itself
                allowed += MOST_IN_BATCH
            keys = {delivery.received.key for delivery in ledger} | set(self.broker.early)
            unacked = len(keys | {received_key(delivery) for delivery in consumer._queue})
            if unacked > allowed:
                raise Violation("never more unacknowledged than cap + 2", f"{self.name}: {unacked}")


def received_key(delivery: Delivery) -> MessageKey:
    """The key of a message that lies in the library's queue."""
    return (delivery.ledger_id(), delivery.entry_id(), delivery.partition(), delivery.batch_index())


def _field(data: bytes, name: str) -> str:
    start = data.find(f'"{name}":"'.encode()) + len(name) + 4
    if start < len(name) + 4:
        return ""
    return data[start : data.index(b'"', start)].decode()


