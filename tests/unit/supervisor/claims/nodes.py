"""Some nodes with claims, their tasks and their clients, under a clock of the test's own: one topic, one order.

Nodes are killed, paused and cut off at random. Everything that a client sees is checked when it comes.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.claims import Claims, Finding
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Received

WALL = 1e9
KEEP = 600.0
SEND_TIMEOUT = 10.0  # seconds after which the library gives a message up
WORKERS_LIVE = 5.0  # seconds that the workers of a killed node may go on
FRAME_AFTER = 0.1  # seconds from the receipt of a task to its first frame


class Violation(AssertionError):
    """A client has seen what it must not see."""


@dataclass
class Client:
    """Who waits for the stream of one task."""

    request_id: str
    text_from: str = ""  # the node of which it has a text
    is_ended: bool = False
    can_miss_end: bool = False  # the node that was allowed to end it was killed

    def frame(self, node: str) -> None:
        """A frame with text comes."""
        if self.is_ended:
            raise Violation(f"{self.request_id}: a frame of {node} after the end")
        if self.text_from not in ("", node):
            raise Violation(f"{self.request_id}: text of {self.text_from}, then of {node}")
        self.text_from = node

    def end(self, node: str) -> None:
        """The end comes."""
        if self.is_ended:
            raise Violation(f"{self.request_id}: {node} ends it once more")
        self.is_ended = True


@dataclass
class Message:
    """A task in the topic of tasks."""

    client: Client
    published: float
    place: int  # in the topic
    at: Node | None = None  # the broker's view: the node that has it
    is_acked: bool = False


@dataclass
class Task:
    """A message at a node."""

    message: Message
    number: int
    received: Received
    is_running: bool = False
    has_begun: bool = False
    is_rejection: bool = False
    asked: str = ""  # "begin" or "end": the grant that it has asked for last
    waits_for: str = ""  # the same, until it is granted
    until: float = 0.0  # when its text is over
    is_lost: bool = False
    lapses: int = 0  # of the lease, when it asked last


class World:
    """The broker, the nodes and the clients.

    Args:
        seed: of everything that is random.
        nodes: how many.
    """

    def __init__(self, seed: int, nodes: int = 3) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.log: list[bytes] = []
        self.is_log_away = False  # the owner of the topic of claims is gone
        self.messages: list[Message] = []
        self.trace: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.nodes = [Node(self, f"n{number}") for number in range(nodes)]
        for node in self.nodes:
            node.start()

    def after(self, delay: float, call: Callable[[], None]) -> None:
        """Call something later."""
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, call))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, call = heapq.heappop(self._events)
            call()
        self.now = until

    def note(self, text: str) -> None:
        """Write down what happens, for whoever reads a failure."""
        self.trace.append(f"{self.now:9.3f} {text}")

    def publish(self, request_id: str) -> Message:
        """Somebody publishes a task; a node gets it."""
        message = Message(Client(request_id), self.now, len(self.messages))
        self.messages.append(message)
        self.hand_out(message)
        return message

    def hand_out(self, message: Message) -> None:
        """Give a message to one of the nodes that are connected."""
        nodes = [node for node in self.nodes if node.is_alive and node.is_linked]
        message.at = None
        if message.is_acked:
            return
        if not nodes:
            self.after(1.0, lambda: self.hand_out(message))
            return
        node = message.at = self.random.choice(nodes)
        self.after(self.random.uniform(0.001, 0.01), lambda: node.receive(message))

    def take_topic_away(self, seconds: float) -> None:
        """The owner of the topic of claims is gone for a while."""
        self.note(f"no topic of claims for {seconds:.1f} s")
        self.is_log_away = True
        self.after(seconds, self._bring_topic_back)

    def _bring_topic_back(self) -> None:
        self.is_log_away = False

    def check_end(self) -> None:
        """Check that nothing is lost and nothing is left behind, long after the last fault."""
        for message in self.messages:
            client = message.client
            if not message.is_acked:
                raise Violation(f"{client.request_id}: nobody has acked it")
            if not (client.is_ended or client.can_miss_end):
                raise Violation(f"{client.request_id}: its client waits for ever")
        for node in self.nodes:
            if node.is_alive:
                node.check_end()

    def lose(self, node: Node) -> None:
        """The broker finds out that a node is gone: others get its messages."""
        for message in self.messages:
            if message.at is node and not message.is_acked:
                # What is younger than the first frame can be at two nodes unseen (docs/faults.md).
                delay = max(0.0, message.published + 2 * FRAME_AFTER - self.now)
                message.at = None
                self.after(delay + self.random.uniform(0.0, 0.01), lambda message=message: self.hand_out(message))


@dataclass
class _Pending:
    number: int
    data: bytes
    sent_at: float
    is_answered: bool = False


@dataclass
class Node:
    """One node: its claims, the library's part of the connection, its workers."""

    world: World
    name: str
    is_alive: bool = True
    is_linked: bool = True
    paused_until: float = 0.0
    tasks: dict[int, Task] = field(default_factory=dict)
    serves: dict[str, float] = field(default_factory=dict)  # request id → how long its stream lasts
    is_reading: bool = False
    positions: int = 0
    _number: int = 0
    _pending: deque[_Pending] = field(default_factory=deque)
    _events: deque[Callable[[], None]] = field(default_factory=deque)
    _reader: int = 0
    _is_started: bool = False
    _generation: int = 0
    _next_turn: float = float("inf")
    _last_received: float = float("inf")
    killed_at: float = float("inf")

    def __post_init__(self) -> None:
        self.skew = self.world.random.uniform(-2.0, 2.0)
        self.claims = Claims(self.name, self, KEEP)

    def start(self) -> None:
        """The claims are opened."""
        self.post(lambda: self.claims.opened(ClaimsOpened()))
        self._every_second()

    def _every_second(self) -> None:
        """The main thread has a turn at least once a second."""
        self.turn()
        self.world.after(1.0, self._every_second)

    def check_end(self) -> None:
        """Check that it remembers nothing and reads nothing."""
        claims = self.claims
        left = [
            claims._own,
            claims._received,
            claims._unsure,
            claims._grants,
            claims._outbox._waiting,
            claims._look_ups,
        ]
        if self.is_reading or any(map(len, left)) or len(claims._look_ups.table):
            raise Violation(f"{self.name}: reads={self.is_reading}, {left}")

    # --- what happens to it ---

    def kill(self) -> None:
        """Kill its supervisor; its workers go on for a moment. The last node stays."""
        if not self.is_alive or sum(node.is_alive for node in self.world.nodes) == 1:
            return
        self.world.note(f"{self.name} killed")
        self.is_alive = self.is_linked = False
        self.killed_at = self.world.now
        self._generation += 1
        for task in self.tasks.values():
            if task.asked == "end" or task.is_rejection:
                task.message.client.can_miss_end = True
        self.world.lose(self)

    def cut(self, seconds: float, detected_after: float) -> None:
        """Cut its connection for a while; the broker finds out later."""
        if not self.is_linked:
            return
        self.world.note(f"{self.name} cut for {seconds:.1f} s, detected after {detected_after:.1f} s")
        self.is_linked = False
        self._generation += 1
        self.world.after(detected_after, lambda: self.world.lose(self))
        self.world.after(seconds, self._link)

    def pause(self, seconds: float) -> None:
        """Stop its supervisor for a while; its workers run on."""
        self.world.note(f"{self.name} paused for {seconds:.1f} s")
        self.paused_until = self.world.now + seconds
        self.world.after(seconds, self.turn)

    def restart_reader(self) -> None:
        """The client is made anew: the topic is read from its beginning."""
        if self.is_reading and self.is_linked:
            self._start_reader()

    def _link(self) -> None:
        if not self.is_alive:
            return
        self.world.note(f"{self.name} connected again")
        self.is_linked = True
        for each in self._pending:  # the library stores again what it has no receipt for
            self._send(each)
        self._pump()

    # --- claims.Topic ---

    def publish_claims(self, number: int, message: bytes) -> None:
        """See Topic."""
        pending = _Pending(number, message, self.world.now)
        self._pending.append(pending)
        self._send(pending)
        self.world.after(SEND_TIMEOUT, lambda: self._give_up(pending))

    def read_claims(self, is_wanted: bool) -> None:
        """See Topic."""
        self.is_reading, self._is_started = is_wanted, False
        self._reader += 1
        if is_wanted:
            reader = self._reader
            self.world.after(0.005, lambda: self._start_reader() if reader == self._reader else None)

    def _start_reader(self) -> None:
        self._reader += 1
        self._is_started = True
        self.positions = 0
        self.post(lambda: self.claims.read(self.world.now, ClaimsRead(b"", is_start=True)))
        self._pump()

    def _send(self, pending: _Pending) -> None:
        generation = self._generation

        def store() -> None:
            if self.world.is_log_away:
                self.world.after(0.5, store)
                return
            if generation != self._generation and self.world.random.random() < 0.5:
                return  # the cut came first
            if pending not in self._pending:
                return
            self.world.log.append(pending.data)
            for node in self.world.nodes:
                node._pump()
            if generation == self._generation:
                self.world.after(0.002, lambda: self._stored(pending, generation))

        if self.is_linked:
            self.world.after(0.003, store)

    def _stored(self, pending: _Pending, generation: int) -> None:
        if generation == self._generation and pending in self._pending:
            self._pending.remove(pending)
            self.post(lambda: self.claims.stored(self.world.now, ClaimsStored(pending.number, "")))

    def _give_up(self, pending: _Pending) -> None:
        if pending in self._pending and self.is_alive:
            self._pending.remove(pending)
            self.post(lambda: self.claims.stored(self.world.now, ClaimsStored(pending.number, "Timeout")))

    def _pump(self) -> None:
        if not (self._is_started and self.is_linked and self.is_alive):
            return
        reader = self._reader
        while self.positions < len(self.world.log):
            data = self.world.log[self.positions]
            self.positions += 1
            self.post(lambda data=data: self._read(reader, data))

    def _read(self, reader: int, data: bytes) -> None:
        if reader == self._reader:
            self.claims.read(self.world.now, ClaimsRead(data))

    # --- the supervisor ---

    def post(self, event: Callable[[], None]) -> None:
        """Something for the main thread."""
        self._events.append(event)
        self.world.after(0.0, self.turn)

    def turn(self) -> None:
        """One turn of the main thread."""
        now = self.world.now
        if not self.is_alive or now < self.paused_until:
            return
        while self._events:
            self._events.popleft()()
        for found in self.claims.found(now):
            self._found(found.number, found.finding)
        self.claims.tick(now)
        for grant in self.claims.grants():
            self._granted(grant.number, grant.is_granted)
        due = max(self.claims.next_tick(now), now + 0.001)
        if due < self._next_turn or self._next_turn <= now:
            self._next_turn = due
            if due < float("inf"):
                self.world.after(due - now, self.turn)

    def receive(self, message: Message) -> None:
        """The broker hands a message out."""
        self.post(lambda: self._receive(message))

    def _receive(self, message: Message) -> None:
        now = self.world.now
        if message.at is not self or message.is_acked or any(each.message is message for each in self.tasks.values()):
            return
        self._number += 1
        key = (1, message.place, 0, -1)
        received = Received(
            message, key, b"", WALL + message.published, WALL + now + self.skew, now, 0,
            publisher="p", asked_for=now - self._last_received, stamped=WALL + message.published,
            has_waited=True,
        )  # fmt: skip
        self._last_received = now
        task = self.tasks[self._number] = Task(message, self._number, received)
        request_id = message.client.request_id
        self.world.note(f"{self.name} receives {request_id}")
        if self.claims.is_new(received):
            self.claims.take(now, task.number, request_id)
            self._serve(task)
        else:
            self.claims.look_up(now, task.number, request_id, received, now + KEEP)

    def _found(self, number: int, finding: Finding) -> None:
        task = self.tasks.get(number)
        if task is None:
            return
        self.world.note(f"{self.name} finds {task.message.client.request_id} {finding.value}")
        if finding in (Finding.SERVE, Finding.NOT_KNOWN):
            self._serve(task)
        elif finding is Finding.END_STREAM:
            task.is_rejection = task.has_begun = True
            self._serve(task)
        elif finding is Finding.ENDED:
            del self.tasks[number]
            self._ack(task)
        elif finding is Finding.UNRECORDED:
            self._decide(task, is_ended=True)
        elif finding is Finding.GIVE_BACK:
            self._decide(task, is_ended=False)

    def _serve(self, task: Task) -> None:
        self.claims.take(task.received.received_at, task.number, task.message.client.request_id)
        task.is_running = True
        if task.is_rejection:
            self.world.after(0.01, lambda: self._ask(task, "end"))
        else:
            delay = max(0.0, task.received.received_at + FRAME_AFTER - self.world.now)
            delay += self.world.random.choice([0.0, 0.5, 3.0])
            self.world.after(delay, lambda: self._ask(task, "begin"))

    def _decide(self, task: Task, is_ended: bool) -> None:
        if self.tasks.pop(task.number, None) is None:
            return
        request_id = task.message.client.request_id
        if is_ended:
            self.claims.recorded(task.number, request_id)
            self._ack(task)
        else:
            self.claims.given_back(task.number, request_id)
        if not is_ended and task.message.at is self:
            task.message.at = None
            self.world.after(5.0, lambda: self.world.hand_out(task.message))
        self.world.after(0.0, self.turn)

    def _ack(self, task: Task) -> None:
        if self.is_linked and task.message.at is self:
            task.message.is_acked = True
        # else the ack is lost, and the broker hands the message out again

    # --- its workers ---

    def _is_worker_alive(self) -> bool:
        return self.is_alive or self.world.now < self.killed_at + WORKERS_LIVE

    def _ask(self, task: Task, what: str) -> None:
        if task.is_lost or not self.is_alive:
            return
        task.asked = task.waits_for = what
        task.lapses = self.claims.lapses
        request_id = task.message.client.request_id
        self.post(lambda: self.claims.ask(task.number, request_id, what == "end"))

    def _granted(self, number: int, is_granted: bool) -> None:
        task = self.tasks.get(number)
        if task is None or not task.is_running:
            return
        if not is_granted:
            self.world.note(f"{self.name} loses {task.message.client.request_id}")
            self.world.after(self.world.random.choice([0.001, 0.02, 1.0]), lambda: self._lose(task))
        elif task.waits_for == "begin":
            task.waits_for = ""
            task.until = task.until or self.world.now + self.world.random.choice([0.5, 5.0, 40.0])
            self.world.after(0.001, lambda: self._frame(task))
        elif task.waits_for == "end":
            task.waits_for = ""
            self.world.after(0.001, lambda: self._end(task))

    def _lose(self, task: Task) -> None:
        task.is_lost = True
        self.post(lambda: self._decide(task, is_ended=False))

    def _may_send(self, task: Task, go_on: Callable[[], None]) -> bool:
        if task.is_lost or not self._is_worker_alive():
            return False
        if task.lapses != self.claims.lapses:
            self._ask(task, task.asked)
        elif self.world.now >= self.claims.lease:
            self.world.after(0.05, go_on)
        else:
            return True
        return False

    def _frame(self, task: Task) -> None:
        now = self.world.now
        if not self._may_send(task, lambda: self._frame(task)):
            return
        if not task.has_begun:
            self.world.note(f"{self.name} begins {task.message.client.request_id}")
        task.has_begun = True
        task.message.client.frame(self.name)
        if now >= task.until:
            self._ask(task, "end")
        else:
            self.world.after(self.world.random.uniform(0.1, 1.0), lambda: self._frame(task))

    def _end(self, task: Task) -> None:
        if not self._may_send(task, lambda: self._end(task)):
            return
        self.world.note(f"{self.name} ends {task.message.client.request_id}")
        task.message.client.end(self.name)
        self.post(lambda: self._decide(task, is_ended=True))
