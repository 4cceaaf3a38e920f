"""The rules that hold for one node after each of its turns."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from supervisor.events import MessageKey
from supervisor.ledger import Place
from tests.simulation.library import Consumer
from tests.simulation.pulsar import Delivery
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

BEYOND_CAP = 2  # messages that may be unacknowledged beyond the cap (spec 3)
MOST_IN_BATCH = 5  # messages


def check_counts(node: SimNode) -> None:
    """The books are in order."""
    ledger = node.dispatcher._ledger
    places = Counter(delivery.place for delivery in ledger)
    if any(places[place] != ledger.count(place) for place in Place):
        raise Violation("counts add up", f"{node.name}: ledger {places}")
    at_workers = sum(len(worker.jobs) for worker in node.pool._workers.values())
    if at_workers != places[Place.RUNNING]:
        raise Violation("counts add up", f"{node.name}: {at_workers} jobs, {places[Place.RUNNING]} running")
    for worker in node.pool._workers.values():
        if len(worker.free) + len(worker.jobs) != len(worker.process.answer_states):
            raise Violation("counts add up", f"{node.name}: slots of worker {worker.index}")
    queued = len(node.dispatcher._queue) + len(node.dispatcher._alone_queue)
    if queued != places[Place.QUEUED]:
        raise Violation("counts add up", f"{node.name}: {queued} wait, {places[Place.QUEUED]} queued")
    if node.connection.parts:
        _check_unacked(node, node.connection.parts)


def _check_unacked(node: SimNode, parts: list[Consumer]) -> None:
    # A batch comes whole, and of another the rest may be tried again here at the same moment. What waits for
    # its nak's time is unacknowledged, too, and in nobody's slot.
    allowed = node.settings.max_process_num + BEYOND_CAP + 2 * (MOST_IN_BATCH - 1)
    # What has waited for its gateway was beyond the cap, and is still here when the gateway is back (decision 13).
    here = list(node.dispatcher._ledger)
    for delivery in here:
        if delivery.place is Place.UNDELIVERED and delivery.kept is not None:
            node.waited.add(delivery.number)
            client = node.gateway.clients[node.plan_of(delivery.received).id]
            client.kept_at, client.kept_until = client.kept_at or node.world.now, delivery.kept.until
    allowed += sum(delivery.number in node.waited for delivery in here)
    # Connected again, the library has asked for a message by itself; every partition was asked for one.
    allowed += MOST_IN_BATCH * (any(consumer.connection for consumer in parts) + len(parts) - 1)
    keys = {delivery.received.key for delivery in here} | set(node.broker.early)
    unacked = len(keys | {received_key(delivery) for consumer in parts for delivery in consumer._queue})
    if unacked > allowed:
        raise Violation("never more unacknowledged than cap + 2", f"{node.name}: {unacked}")


def received_key(delivery: Delivery) -> MessageKey:
    """The key of a message that lies in the library's queue."""
    return (delivery.ledger_id(), delivery.entry_id(), delivery.partition(), delivery.batch_index())
