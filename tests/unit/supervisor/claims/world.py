"""Some nodes with claims, their tasks and their clients, under a clock of the test's own: one topic, one order.

Nodes are killed, paused and cut off at random. Everything that a client sees is checked when it comes.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from tests.unit.supervisor.claims.node import FRAME_AFTER, Node
from tests.unit.supervisor.claims.tasks import Client, Message, Violation


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
