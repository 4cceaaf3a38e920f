"""What a node with claims does with its tasks, and when it is killed, paused or cut off."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.claims import Claims, Finding
from supervisor.events import ClaimsOpened, Received
from tests.unit.supervisor.claims.tasks import Message, Task, Violation
from tests.unit.supervisor.claims.topic_client import TopicClient

if TYPE_CHECKING:
    from tests.unit.supervisor.claims.world import World

WALL = 1e9
KEEP = 600.0
WORKERS_LIVE = 5.0  # seconds that the workers of a killed node may go on
FRAME_AFTER = 0.1  # seconds from the receipt of a task to its first frame


@dataclass
class Node:
    """One node: its claims, its connection, its workers."""

    world: World
    name: str
    is_alive: bool = True
    is_linked: bool = True
    paused_until: float = 0.0
    tasks: dict[int, Task] = field(default_factory=dict)
    _number: int = 0
    _events: deque[Callable[[], None]] = field(default_factory=deque)
    _next_turn: float = float("inf")
    _last_received: float = float("inf")
    killed_at: float = float("inf")

    def __post_init__(self) -> None:
        self.skew = self.world.random.uniform(-2.0, 2.0)
        self.topic = TopicClient(self)
        self.claims = Claims(self.name, self.topic, KEEP)

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
        if self.topic.is_reading or any(map(len, left)) or len(claims._look_ups.table):
            raise Violation(f"{self.name}: reads={self.topic.is_reading}, {left}")

    # --- what happens to it ---

    def kill(self) -> None:
        """Kill its supervisor; its workers go on for a moment. The last node stays."""
        if not self.is_alive or sum(node.is_alive for node in self.world.nodes) == 1:
            return
        self.world.note(f"{self.name} killed")
        self.is_alive = self.is_linked = False
        self.killed_at = self.world.now
        self.topic.disconnected()
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
        self.topic.disconnected()
        self.world.after(detected_after, lambda: self.world.lose(self))
        self.world.after(seconds, self._link)

    def pause(self, seconds: float) -> None:
        """Stop its supervisor for a while; its workers run on."""
        self.world.note(f"{self.name} paused for {seconds:.1f} s")
        self.paused_until = self.world.now + seconds
        self.world.after(seconds, self.turn)

    def restart_reader(self) -> None:
        """The client is made anew: the topic is read from its beginning."""
        if self.topic.is_reading and self.is_linked:
            self.topic.start_reader()

    def _link(self) -> None:
        if not self.is_alive:
            return
        self.world.note(f"{self.name} connected again")
        self.is_linked = True
        self.topic.connected()

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
            self.claims.take(received, task.number, request_id)
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
        self.claims.take(task.received, task.number, task.message.client.request_id)
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
