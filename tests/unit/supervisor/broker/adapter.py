"""The adapter to Pulsar on a fake of the library, with a clock that the test moves and the events that it posts."""

from __future__ import annotations

import queue

from supervisor.broker.client import PulsarBroker
from supervisor.events import BrokerUp, ClaimsOpened, Event, MessageKey, Received
from supervisor.ledger import Ledger
from tests.support.fake_pulsar import Consumer, Library, Message
from tests.support.wait import until
from workernode.settings import load

TIMEOUT = 20
WHOLE = "persistent://public/default/"
TASKS, RECORDS = f"{WHOLE}model-m", "bills"
VARIABLES = {
    "NODE_TYPE": "remote",
    "MODEL_NAME": "m",
    "API_URL": "http://127.0.0.1:9/v1",
    "API_KEY": "sk-1",
    "PULSAR_URL": "pulsar://127.0.0.1:1",
    "RES_TOPIC_NAME": RECORDS,
    "MAX_PROCESS_NUM": "8",
}
SETTINGS = load(VARIABLES)


class Setup:
    """The adapter, the fake library below it, and the events that it posts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.refusal = ""  # why the broker lets nobody in
        self.library = Library()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.broker = PulsarBroker(SETTINGS, self.events.put, self.library, lambda: self.now)

    def event(self) -> Event:
        """The next event that is not about claims (test_claims_topic.py)."""
        event = self.events.get(timeout=TIMEOUT)
        return self.event() if isinstance(event, ClaimsOpened) else event

    def connect(self) -> None:
        self.broker.start()
        assert self.event() == BrokerUp()

    def consumer(self, number: int = 1) -> Consumer:
        """The consumer that is made so-and-so-manieth."""
        until(lambda: len(self.library.consumers) >= number, TIMEOUT, "consumer")
        until(lambda: self.broker._connection.consumer is not None, TIMEOUT, "consumer in use")
        return self.library.consumers[number - 1]

    def receive(self, entry: int, index: int = -1, size: int = 0) -> Received:
        self.library.consumers[-1].deliver(Message(entry, index, size))
        received = self.event()
        assert isinstance(received, Received)
        self.broker.seen(received)
        return received

    def names(self, *wanted: str) -> list[str]:
        return [name for name, _ in self.library.calls if name in wanted]


class Answered(Ledger):
    """A ledger of which every batch was answered in part."""

    def has_answered_of_batch(self, key: MessageKey) -> bool:
        return True
