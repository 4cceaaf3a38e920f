"""A dispatcher whose calls to broker, pool and node are noted, under a clock that the test moves."""

from __future__ import annotations

import json
from typing import Any

from supervisor.dispatcher import Dispatcher
from supervisor.events import Received, Stored
from supervisor.fitness import Admission, Admit, Verdict
from supervisor.ledger import Delivery, Ledger
from supervisor.machine import Clock
from supervisor.workers.pool import WorkerDeath
from workernode import record
from workernode.protocol import AnswerState, Decision, FaultInfo, FaultKind, Job, Lease, Outcome, SavedStream
from workernode.settings import load

LIMIT = 2
NAK_DELAY = 1.0
SETTINGS = load(
    {
        "NODE_TYPE": "remote",
        "MODEL_NAME": "m",
        "API_URL": "http://up.example/v1",
        "API_KEY": "key-of-this-test",
        "PULSAR_URL": "pulsar://broker:6650",
        "MAX_REDELIVERIES": str(LIMIT),
        "NAK_DELAY": str(NAK_DELAY),
    }
)
GATEWAY = "http://gateway:8080"
RUN = Admission(Admit.RUN)
KEY_REFUSED = FaultInfo(FaultKind.KEY, 401, "invalid_api_key", "")


class Effects:
    """Everything that the dispatcher calls, noted; and a dispatcher."""

    def __init__(self, slots: int = 4) -> None:
        self.now = 100.0
        self.calls: list[tuple[Any, ...]] = []
        self.jobs: list[Job] = []
        self.slots = slots
        self.reserved = False
        self.ready_workers = 1
        self.admission = RUN
        self.may_ask_calls = 1000  # tasks that may ask upstream
        self.given_verdict = Verdict.OPEN
        self.settled_ids: list[str] = []
        self.others_serve = False
        clock = Clock(lambda: self.now, lambda: 1e9 + self.now)
        node = record.Node("node-1", "host", "remote", "1")
        self.dispatcher = Dispatcher(SETTINGS, node, self, self, self, clock)

    # broker

    def ack(self, received: Received) -> None:
        self.calls.append(("ack", received.message))

    def do_others_serve(self) -> bool:
        return self.others_serve

    def nak(self, received: Received, delay_s: float) -> None:
        self.calls.append(("nak", received.message, delay_s))

    def send_due_naks(self, now: float, batches: Ledger, everything: bool = False) -> None:
        self.calls.append(("burst", everything))

    def publish_record(self, number: int, record: bytes) -> None:
        self.calls.append(("record", number))

    def dead_letter(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        self.calls.append(("letter", number, properties["reason"]))

    def publish_claims(self, number: int, message: bytes) -> None:
        self.calls.append(("claims", number))

    def read_claims(self, reach_s: float, _remember_s: float) -> None:
        self.calls.append(("read_claims", reach_s))

    # pool

    def set_lease(self, lease: Lease) -> None:
        """Ignored."""

    def free_slots(self) -> int:
        return self.slots

    def ready(self) -> int:
        return self.ready_workers

    def reserve(self) -> bool:
        self.reserved = True
        return self.slots >= 4

    def release(self) -> None:
        self.reserved = False

    def submit(self, job: Job, alone: bool = False) -> tuple[int, int]:
        self.jobs.append(job)
        self.slots -= 1
        self.calls.append(("submit", job.number, alone))
        return 0, len(self.jobs)

    def free(self, index: int, slot: int) -> None:
        self.slots += 1

    # hooks

    def admit(self, now: float, age: float, request_id: str) -> Admission:
        return self.admission

    def may_ask(self, now: float) -> bool:
        self.may_ask_calls -= 1
        return self.may_ask_calls >= 0

    def refused(self, delivery: Delivery, outcome: Outcome) -> None:
        self.calls.append(("refused", outcome.status))

    def verdict(self, request_id: str) -> Verdict:
        return self.given_verdict

    def ended(self, delivery: Delivery, outcome: Outcome) -> None:
        self.calls.append(("ended", outcome.status))

    def settled(self, delivery: Delivery, decision: Decision) -> None:
        self.settled_ids.append(delivery.request_id)

    # what the test does

    def receive(self, id: str, redeliveries: int = 0, entry: int | None = None, age: float = 0.0) -> Received:
        """Hand a message in, as the broker would."""
        payload = json.dumps({"request_id": id, "stream": False, "endpoint": f"{GATEWAY}/res"}).encode()
        key = (1, entry if entry is not None else abs(hash(id)) % 10**6, 0, -1)
        wall = 1e9 + self.now
        received = Received(id, key, payload, wall - age, wall, self.now, redeliveries)
        self.taken = self.dispatcher.receive(received)
        return received

    def run(self, id: str, redeliveries: int = 0) -> Job:
        """Have a message taken and given to a worker."""
        self.receive(id, redeliveries)
        self.dispatcher.hand_over()
        return self.jobs[-1]

    def decide(self, job: Job, decision: Decision, status: str = "answered", **more: Any) -> None:
        self.dispatcher.decided(Outcome(job.number, "id", decision, status, b"{}", **more))

    def stored(self, job: Job, fault: str = "", letter: bool = False) -> None:
        self.dispatcher.stored(Stored(job.number, fault, letter))

    def die(
        self, job: Job, state: AnswerState, saved: SavedStream | None = None, is_from_outside: bool = False
    ) -> None:
        self.slots += 1
        streams = {job.number: saved} if saved is not None else {}
        death = WorkerDeath(0, {job.number: state}, "killed by SIGKILL", 0, streams, is_from_outside)
        self.dispatcher.worker_died(death)

    def made(self, *kinds: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in kinds]
