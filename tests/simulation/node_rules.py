"""The rules that hold for one node after each of its turns."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from supervisor.events import MessageKey
from supervisor.fitness.half_open import LONGEST_INTERVAL
from supervisor.ledger import Place
from supervisor.states import FitnessState
from tests.simulation.library import Consumer
from tests.simulation.pulsar import LEDGER, Delivery
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

BEYOND_CAP = 2  # messages that may be unacknowledged beyond the cap (spec 3)
MOST_IN_BATCH = 5  # messages
PROBE_TAKEN_WITHIN = 4.0  # seconds


def check_counts(node: SimNode) -> None:
    """The counts of ledger, pool and queues agree."""
    ledger = node.dispatcher._ledger
    places = [delivery.place for delivery in ledger._by_number.values()]
    counts = ledger._counts
    is_sum_right = sum(counts.values()) == len(places)
    if not is_sum_right or any(count and places.count(place) != count for place, count in counts.items()):
        raise Violation("counts add up", f"{node.name}: ledger {Counter(places)}")
    at_workers = 0
    for worker in node.pool._workers.values():
        at_workers += len(worker.jobs)
        if len(worker.free) + len(worker.jobs) != len(worker.process.answer_states):
            raise Violation("counts add up", f"{node.name}: slots of worker {worker.index}")
    running, queued = places.count(Place.RUNNING), places.count(Place.QUEUED)
    if at_workers != running:
        raise Violation("counts add up", f"{node.name}: {at_workers} jobs, {running} running")
    waiting = len(node.dispatcher._queues)
    if waiting != queued:
        raise Violation("counts add up", f"{node.name}: {waiting} wait, {queued} queued")
    if node.connection.parts:
        _check_unacked(node, node.connection.parts, Place.HELD in places or Place.UNDELIVERED in places)


def _check_unacked(node: SimNode, parts: list[Consumer], is_waiting: bool) -> None:
    # A batch comes whole. What waits for its nak's time is unacknowledged, too, and in nobody's slot: at most
    # MAX_PROCESS_NUM messages more (decision 3). What of it cannot go back to the broker is tried again here.
    allowed = node.settings.max_process_num + BEYOND_CAP + MOST_IN_BATCH - 1
    # What has waited for its gateway was beyond the cap, and is still here when the gateway is back (decision 13).
    here = node.dispatcher._ledger._by_number.values()
    for delivery in here if is_waiting else ():
        if delivery.place is Place.HELD:  # another node works on it
            node.waited.add(delivery.number)
        elif delivery.place is Place.UNDELIVERED and delivery.kept is not None:
            node.waited.add(delivery.number)
            client = node.gateway.clients[node.plan_of(delivery.received).id]
            if delivery.number not in node.kept:  # it may have waited at another node before
                node.kept.add(delivery.number)
                client.kept_at = node.world.now
            client.kept_until = delivery.kept.until
    if node.waited:
        allowed += sum(delivery.number in node.waited for delivery in here)
    if node.retried:
        allowed += sum(delivery.received.key in node.retried for delivery in here)
    # Connected again, the library has asked each partition for a message by itself; and every partition was asked for
    # one when the node learned of it.
    allowed += MOST_IN_BATCH * (sum(bool(consumer.connection) for consumer in parts) + len(parts) - 1)
    if len(here) + len(node.broker.early) + sum(len(consumer._queue) for consumer in parts) <= allowed:
        return  # whatever is counted twice
    keys = {delivery.received.key for delivery in here}
    # What an earlier connection has brought is the broker's again.
    keys.update(key for key in node.broker.early if node.server.entries[key[1]].owner in parts)
    keys.update(received_key(delivery) for consumer in parts for delivery in consumer._queue)
    allowed += MOST_IN_BATCH * len(_without_last(node, keys))
    if (unacked := len(keys)) > allowed:
        raise Violation("never more unacknowledged than cap + 2", f"{node.name}: {unacked}")


def _without_last(node: SimNode, keys: set[MessageKey]) -> set[int]:
    """The batches among these messages that came without their last message, because it had been acked.

    Only the last message shows that a batch has come to its end, so after such a batch the node's library asks for one
    more message (decision 3).
    """
    entries = {entry for ledger, entry, _, place in keys if ledger == LEDGER and place >= 0}
    return {one for one in entries if len(node.server.entries[one].messages) - 1 in node.server.entries[one].acked}


def received_key(delivery: Delivery) -> MessageKey:
    """The key of a message that lies in the library's queue."""
    return (delivery.ledger_id(), delivery.entry_id(), delivery.partition(), delivery.batch_index())


def check_probing(node: SimNode) -> None:
    """A fit upstream is used again within the interval of the probes."""
    fitness, now = node.node._fitness, node.world.now
    if not node.is_serving or fitness.state not in (FitnessState.UNFIT, FitnessState.AWAY):
        node.probe_due_since = None
        return
    probing = fitness._probing
    rule = "a fit upstream is used again within its probe interval"
    if not probing.is_on_its_way(now) and probing.next_at() > now + LONGEST_INTERVAL:
        raise Violation(rule, f"{node.name}: the next probe is due in {probing.next_at() - now:.0f} s")
    if probing.is_on_its_way(now) and not any(delivery.is_probe for delivery in node.dispatcher._ledger):
        raise Violation(rule, f"{node.name}: it waits for a probe that nobody runs")
    # Due, room for it, and messages that wait at the broker: this node takes one, or another does.
    waits = [one for one in node.server._waiting if now - one.waits_since > PROBE_TAKEN_WITHIN]
    is_able = (
        probing.is_due(now)
        and node.pool.free_slots() > 0
        and not len(node.dispatcher)
        and not fitness._limit.is_held(now)
        and node.connection.is_up()
        and node.connection.parts
        and now >= node.excused_until
        and (node.model is None or node.model.is_ready)
    )
    if not waits or not is_able:
        node.probe_due_since = None
        return
    # A task whose time is over is taken as the probe, and asks upstream nothing: the next one is the probe then.
    if node.probe_due_since is None or probing.tried != node.probes_tried:
        node.probe_due_since, node.probes_tried = now, probing.tried
    if now - node.probe_due_since > PROBE_TAKEN_WITHIN:
        raise Violation(rule, f"{node.name}: a probe is due, and {len(waits)} messages wait")
