"""Runs one schedule, and checks the rules at each step and at the end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.faults import FAULTS
from tests.simulation.memory import kept_by
from tests.simulation.node import SimNode
from tests.simulation.node_rules import check_probing
from tests.simulation.outside import LOST_AT_ONCE, Client, Gateway, Upstream
from tests.simulation.pulsar import LEDGER, Entry, Server
from tests.simulation.schedule import Schedule, Step, TaskPlan
from tests.simulation.world import EPOCH, START, Violation, World

FULL_NODE_KEEPS = 6.0  # seconds that a message may wait for room at a node that had room when it asked
CLOSED_INTAKE_KEEPS = 2.0  # seconds that a message may wait at a node whose intake is closed (spec 3)
# Seconds beyond a task's time in which a message must be decided, or one more worker must have died of a task:
# workers that die one after the other are started again after 30 s.
SETTLES_WITHIN = 150.0
# Deaths of workers that a task may cause before it is decided: MAX_REDELIVERIES and one, and then some of those that
# tell its client the error (workers/death.py).
MOST_DEATHS = 20
OFFERED_WITHIN = 12.0  # seconds that a gateway is back, in which it gets an answer that waits for it
AT_ONCE = 0.25  # seconds
CHECK_EVERY = 0.5  # seconds between checks of the whole world
HELD_BEYOND = 3.0  # seconds beyond a task's time for which a node may keep its message without a worker


@dataclass
class Result:
    """What came of a run."""

    schedule: Schedule
    violation: Violation | None
    faults: Counter[str]
    tasks: int
    story: list[tuple[float, str]] = field(default_factory=list)


def run(schedule: Schedule) -> Result:
    """Run a schedule to its end, or to the first rule that is violated."""
    simulation = Simulation(schedule)
    violation = None
    try:
        simulation.run()
    except Violation as found:
        violation = found
    world = simulation.world
    return Result(schedule, violation, world.faults, len(simulation.plans), world.story)


class Simulation:
    """One run."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.world = World(schedule.seed)
        self.server = Server(self.world, schedule.index_acks, schedule.partitions, schedule.is_unkind)
        self.server.on_lost = self._handed_out_again
        self.gateway = Gateway(self.world)
        self.upstream = Upstream(self.world, schedule.headers, schedule.names_limits)
        self.gateway.is_claimed = not schedule.claims_refused
        self.server.claims.is_refused = schedule.claims_refused
        self.plans: dict[str, TaskPlan] = {}
        self.nodes: list[SimNode] = []
        self._lives: Counter[int] = Counter()
        self._batches: dict[int, list[TaskPlan]] = {}
        self._steps_left = len(schedule.steps)
        self._held_since: dict[tuple[str, int], float] = {}

    def run(self) -> None:
        """To the end."""
        for step in self.schedule.steps:
            if step.task is not None and step.task.batch:
                self._batches.setdefault(step.task.batch, []).append(step.task)
        for index in range(self.schedule.nodes):
            self._start_node(index)
        for step in self.schedule.steps:
            self.world.at(START + step.at, self._step, step)
        self.world.after(CHECK_EVERY, self._check)
        self.world.run(START + max((self._over_at(step) for step in self.schedule.steps), default=0.0))
        before = None
        while not self._is_done() and before != self._progress():
            before = self._progress()
            self.world.run(self.world.now + self.schedule.task_timeout + SETTLES_WITHIN, self._is_done)
        self._check_end()

    def _progress(self) -> tuple[int, int]:
        """What changes until everything is decided: the messages that are left, the deaths of workers by tasks."""
        deaths = sum(self.world.faults[kind] for kind in ("task kills its worker", "worker dies as it tells an error"))
        return self.server.backlog, min(deaths, MOST_DEATHS * len(self.plans))

    def _over_at(self, step: Step) -> float:
        """When a step is over; earlier seeds end as they always did, even amid an outage."""
        return step.at + step.seconds if self.schedule.is_wide else step.at

    def _is_done(self) -> bool:
        if self._steps_left or self.server.backlog:
            return False
        return not any(len(node.dispatcher) or self._is_to_go_back(node) for node in self.nodes)

    def _is_to_go_back(self, node: SimNode) -> bool:
        """Whether messages wait at the node's intake: another has acked them, and they go back when they are due."""
        return bool(node.broker.early) and node.is_alive and node.link.is_up

    def _start_node(self, index: int) -> None:
        self._lives[index] += 1
        name = f"node{index}" + f"'{self._lives[index]}" * (self._lives[index] > 1)
        node = SimNode(name, self.schedule, self.world, self.server, self.gateway, self.upstream, self.plans)
        if self.schedule.skews:
            node.wall_ahead = self.schedule.skews[index]
        while len(self.nodes) <= index:
            self.nodes.append(node)
        self.nodes[index] = node

    def _restart_when_gone(self, index: int) -> None:
        """A node that was stopped or killed is started again a moment after it is gone."""
        node = self.nodes[index]
        if node.is_alive:
            self.world.after(0.5, self._restart_when_gone, index)
        else:
            self.world.after(self.world.dice.uniform(0.1, 2.0), self._start_again, index, node)

    def _start_again(self, index: int, node: SimNode) -> None:
        if self.nodes[index] is node:
            self._start_node(index)

    # --- steps ---

    def _step(self, step: Step) -> None:
        self._steps_left -= 1
        if step.task is not None:
            self._publish(step.task)
            return
        node = self.nodes[step.node % len(self.nodes)]
        apply = FAULTS[step.kind]
        self.world.fault(step.kind, f"{node.name}, {step.seconds:.2f} s")
        apply(self, step, node)

    def _publish(self, plan: TaskPlan) -> None:
        plans = self._batches.pop(plan.batch, []) if plan.batch else [plan]
        if not plans:
            return
        payloads = [_payload(one) for one in plans]
        for one in plans:
            self.plans[one.id] = one
            self.gateway.publish(one)
            if one.malformed:
                self.world.faults["malformed message"] += 1
                self.gateway.clients[one.id].excuses.add("its message was no JSON")
        wall = self.world.now - START + EPOCH
        self.server.publish(plans, payloads, wall)
        if plan.twice and not plan.batch:
            self.world.faults["published twice"] += 1
            self.gateway.clients[plan.id].excuses.add("published twice")
            self.server.publish(plans, payloads, wall)

    def _handed_out_again(self, entry: Entry) -> None:
        """The broker hands out what a node still works on: nobody can keep the promise of one answer then."""
        for message in entry.messages:
            client = self.gateway.clients[message.plan.id]
            if self.world.now < entry.handed_at + AT_ONCE:  # decision 11 says what is left
                client.excuses.add(LOST_AT_ONCE)
            client.excuses.add("the broker handed it out again while a node had it, or had just acked it")

    # --- the rules that hold for the world ---

    def _check(self) -> None:
        """Check the rules that are checked twice a second."""
        self.world.after(CHECK_EVERY, self._check)
        now = self.world.now
        for node in self.nodes:
            if node.is_alive:
                self._note_hindered(node, now)
                self._check_kept(node, now)
                check_probing(node)

    def _note_hindered(self, node: SimNode, now: float) -> None:
        """Note which answers that wait for their gateway cannot be offered: no slot is free, or no stream may end."""
        is_full, may_no_stream_end = not node.pool.free_slots(), self.server.do_claims_wait
        if not is_full and not may_no_stream_end:
            return
        for delivery in node.dispatcher._ledger:
            client = self.gateway.clients[node.plan_of(delivery.received).id]
            if delivery.kept is not None and (is_full or client.plan.stream):
                client.hindered.append(("", now - CHECK_EVERY, now))

    def _check_kept(self, node: SimNode, now: float) -> None:
        """A closed intake keeps no message that others could serve."""
        if now < node.excused_until:  # what it had before counts from when it runs again
            self._held_since = {key: since for key, since in self._held_since.items() if key[0] != node.name}
            return
        timeout = self.schedule.task_timeout
        for due, received in node.broker.held:
            deadline = received.received_at + timeout - max(0.0, received.received - received.published)
            if due > max(deadline, received.received_at + node.nak_delay, now) + 1.0:
                raise Violation("a nak is held no longer than its task has left", received.message.message.plan.id)
        if node.pool.free_slots():
            for delivery in node.dispatcher._queues._shared:
                if now > delivery.received.received_at + timeout + HELD_BEYOND:
                    raise Violation("no message is held past its time", delivery.request_id)
        parts = node.connection.parts
        if not parts or not node.link.is_up:
            return
        known = {delivery.received.key[:2] for delivery in node.dispatcher._ledger}
        known |= {received.key[:2] for _, received in node.broker.held}
        for entry in self.server.entries:
            key = (node.name, entry.number)
            # Of a batch that was begun here nothing may go back.
            if entry.owner not in parts or (LEDGER, entry.number) in known or self._is_begun(entry):
                self._held_since.pop(key, None)
                continue
            # It may have gone back and come again between two checks.
            since = self._held_since[key] = max(self._held_since.get(key, now), entry.handed_at)
            closed = node.broker.closed_since
            is_kept = closed is not None and now - max(since, closed) > CLOSED_INTAKE_KEEPS + CHECK_EVERY
            if not is_kept and now - since <= FULL_NODE_KEEPS + CHECK_EVERY:
                continue
            idle = [one for one in self.nodes if one is not node and _is_idle(one, entry.partition)]
            if idle:
                ids = ", ".join(message.plan.id for message in entry.messages)
                raise Violation(
                    "a closed intake keeps no message for more than two seconds", f"{node.name} has {ids} unseen"
                )

    def _is_begun(self, entry: Entry) -> bool:
        return bool(entry.acked) or any(self.gateway.clients[one.plan.id].answers for one in entry.messages)

    def _check_end(self) -> None:
        """What must have come of all of it."""
        for client in self.gateway.clients.values():
            self._check_told(client)
        for entry in self.server.entries:
            if not entry.is_done:
                ids = ", ".join(message.plan.id for message in entry.messages)
                raise Violation("every message is decided in the end", ids)
        for node in self.nodes:
            if node.is_alive and self.world.now >= node.excused_until:  # one that stands still forgets nothing
                self._check_memory(node)

    def _check_told(self, client: Client) -> None:
        plan = client.plan
        if client.kept_until and self.gateway.longest_back(client) < OFFERED_WITHIN:
            client.excuses.add("its gateway was away until its time was over")
        if client.answers == 0 and not client.is_gone and not client.excuses and plan.gateway != "gone":
            raise Violation("every client that waits gets an answer or an error in the end", plan.id)
        quiet = not any(step.kind != "task" for step in self.schedule.steps)
        if quiet and not client.excuses and client.errors and not plan.upstream and not plan.kills:
            well = all(not one.upstream and not one.kills for one in self.plans.values()) and not self.upstream.headers
            ahead = max(0.0, *self.schedule.skews) if self.schedule.skews else 0.0  # to such a node a task is older
            if well and client.told_at - client.published < self.schedule.task_timeout - 1 - ahead:
                raise Violation("a task that can be served is served", f"{plan.id} got an error")

    def _check_memory(self, node: SimNode) -> None:
        if len(node.dispatcher) and _settled(node):
            raise Violation("no state is kept for what is gone", f"{node.name}: {node.dispatcher.request_ids()}")
        if not len(node.dispatcher) and node.link.is_up:
            # A nak that is held of a message that another node has answered meanwhile goes when it is due.
            kept = [one for one in (*kept_by(node.node), *kept_by(node.broker)) if "._naks._held[" not in one]
            if kept:
                raise Violation("no state is kept for what is gone", f"{node.name}: {'; '.join(kept[:5])}")


def _settled(node: SimNode) -> bool:
    return node.link.is_up and node.world.now > node.server.records_refused_until


def _is_idle(node: SimNode, partition: int) -> bool:
    """Whether a node would have served the message."""
    has_asked = any(one.permits > 0 and one.partition == partition for one in node.connection.parts)
    return node.is_serving and not node.overview.why and node.link.is_up and has_asked


def _payload(plan: TaskPlan) -> bytes:
    text = f'{{"request_id":"{plan.id}","stream":{json.dumps(plan.stream)},"endpoint":"http://{plan.server}/res","data":{{}}}}'
    return text.encode()[: -1 if plan.malformed else None]
