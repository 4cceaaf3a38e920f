"""What each kind of fault does to a running simulation."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.events import ReloadFailed, SettingsReloaded
from tests.simulation.node import SimNode
from tests.simulation.schedule import Step
from tests.simulation.workers import SimProcess

if TYPE_CHECKING:
    from tests.simulation.run import Simulation


def _workers(node: SimNode) -> list[SimProcess]:
    return [process for process in node.processes if process.is_alive]


def _one(node: SimNode, pick: float) -> list[SimProcess]:
    """One worker, busy ones first."""
    workers = sorted(_workers(node), key=lambda process: -len(process._attempts))
    return workers[int(pick * len(workers)) :][:1]


def _kill_one(simulation: Simulation, step: Step, node: SimNode) -> None:
    for process in _one(node, step.pick):
        process.kill()


def _kill_all(simulation: Simulation, step: Step, node: SimNode) -> None:
    for process in _workers(node):
        process.kill()


def _hang(simulation: Simulation, step: Step, node: SimNode) -> None:
    for process in _one(node, step.pick):
        process.hang(step.seconds)


def _slow_start(simulation: Simulation, step: Step, node: SimNode) -> None:
    node.start_takes = step.seconds
    _kill_one(simulation, step, node)


def _forkserver(simulation: Simulation, step: Step, node: SimNode) -> None:
    for process in _workers(node):
        process.orphan()


def _pause(simulation: Simulation, step: Step, node: SimNode) -> None:
    node.stop_for(step.seconds)


def _jump(simulation: Simulation, step: Step, node: SimNode) -> None:
    node.wall_ahead += (step.pick - 0.5) * 200.0
    for client in simulation.gateway.clients.values():
        client.excuses.add("a clock jumped")


def _restart_broker(simulation: Simulation, step: Step, node: SimNode) -> None:
    world, server = simulation.world, simulation.server
    if not server.is_up:
        return
    server.stop(hard=step.pick < 0.5)
    for each in simulation.nodes:
        each.connection.lost()

    def start() -> None:
        server.start()
        for each in simulation.nodes:
            each.connection.back()

    world.after(step.seconds, start)


def _unload(simulation: Simulation, step: Step, node: SimNode) -> None:
    for each in simulation.nodes:
        each.connection.lost()
        each.connection.back()


def _cut_off(simulation: Simulation, step: Step, node: SimNode) -> None:
    if node.link.is_cut:
        return
    node.link.is_cut = True
    node.connection.lost()

    def heal() -> None:
        node.link.is_cut = False
        node.connection.back()

    simulation.world.after(step.seconds, heal)


def _until(holder: str, name: str, server: str = "") -> Callable[[Simulation, Step, SimNode], None]:
    """A fault that lasts until a moment that `simulation.<holder>` keeps.

    Args:
        server: the gateway that is away; "": all of them, if it is theirs.
    """

    def apply(simulation: Simulation, step: Step, node: SimNode) -> None:
        target = getattr(simulation, holder)
        until = max(getattr(target, name), simulation.world.now + step.seconds)
        setattr(target, name, until)
        if holder == "gateway":
            simulation.gateway.outages.append((server, simulation.world.now, until))

    return apply


def _terminate(simulation: Simulation, step: Step, node: SimNode) -> None:
    if node.is_alive and not node.was_told_to_stop:
        node.signal(signal.SIGTERM)
        simulation._restart_when_gone(step.node % len(simulation.nodes))


def _terminate_twice(simulation: Simulation, step: Step, node: SimNode) -> None:
    _terminate(simulation, step, node)
    simulation.world.after(step.seconds, node.signal, signal.SIGTERM)
    for client in simulation.gateway.clients.values():
        client.excuses.add("a node was forced to end: what was in flight is handed out again")


def _kill_supervisor(simulation: Simulation, step: Step, node: SimNode) -> None:
    if node.is_alive:
        node.kill()
        simulation._restart_when_gone(step.node % len(simulation.nodes))


def _kill_supervisor_alone(simulation: Simulation, step: Step, node: SimNode) -> None:
    """Its workers notice only after up to five seconds."""
    node.workers_outlive_it = min(step.seconds, 5.0)
    _kill_supervisor(simulation, step, node)


def _kill_claims_owner(simulation: Simulation, step: Step, node: SimNode) -> None:
    server = simulation.server
    server.claims_away_until = max(server.claims_away_until, simulation.world.now + step.seconds)


def _kill_then_terminate(simulation: Simulation, step: Step, node: SimNode) -> None:
    _kill_one(simulation, step, node)
    simulation.world.after(step.seconds, _terminate, simulation, step, node)


def _memory(simulation: Simulation, step: Step, node: SimNode) -> None:
    node.memory_percent = 95.0

    def free() -> None:
        node.memory_percent = 20.0

    simulation.world.after(step.seconds, free)


def _load(simulation: Simulation, step: Step, node: SimNode) -> None:
    if node.model is not None:
        node.model.load(step.seconds)


def _rotate_key(simulation: Simulation, step: Step, node: SimNode) -> None:
    """Upstream refuses the old key from some moment on; the nodes read the new one sooner or later than that."""
    upstream, key = simulation.upstream, f"key {len(simulation.upstream.keys)}, {simulation.world.now}"
    old = set(upstream.keys)
    upstream.keys.add(key)
    simulation.world.after(step.pick * 5.0, upstream.keys.difference_update, old)
    simulation.upstream.newest_key = key
    for each in simulation.nodes:
        simulation.world.after(min(step.seconds, 20.0) * simulation.world.dice.random(), each.reload, key)


def _fail_reload(simulation: Simulation, step: Step, node: SimNode) -> None:
    node.loop.post(ReloadFailed(("a sentence",)))


def _rotate_token(simulation: Simulation, step: Step, node: SimNode) -> None:
    node.loop.post(SettingsReloaded(replace(node.settings, pulsar_token="token"), ("PULSAR_TOKEN",), ()))


def _connect_late(simulation: Simulation, step: Step, node: SimNode) -> None:
    """The connection is lost for a moment, and the library waits for long before it connects again."""
    node.connection.connects_late_until = simulation.world.now + step.seconds
    _cut_off(simulation, replace(step, seconds=0.5), node)


def _kill_owner(simulation: Simulation, step: Step, node: SimNode) -> None:
    server = simulation.server
    if server.is_moving or not server.is_up:
        return
    server.begin_to_move()
    for each in simulation.nodes:
        each.connection.lost(records=step.pick < 0.5)

    def moved() -> None:
        server.moved()
        for each in simulation.nodes:
            each.connection.back()

    simulation.world.after(step.seconds, moved)


def _stand_still(simulation: Simulation, step: Step, node: SimNode) -> None:
    node.stop_for(step.seconds)
    for process in _workers(node):
        process.hang(step.seconds)


def _add_partition(simulation: Simulation, step: Step, node: SimNode) -> None:
    if simulation.server.partitions > 1:
        simulation.server.partitions += 1


def _for_a_while(name: str, low: float, high: float, normal: float) -> Callable[[Simulation, Step, SimNode], None]:
    """A fault of one node: its attribute `name` is another one for a while, between `low` and `high`."""

    def apply(simulation: Simulation, step: Step, node: SimNode) -> None:
        setattr(node, name, low + step.pick * (high - low))
        simulation.world.after(step.seconds, setattr, node, name, normal)

    return apply


def _use_cpu(simulation: Simulation, step: Step, node: SimNode) -> None:
    before, node.cpu_percent = node.cpu_percent, 97.0
    simulation.world.after(step.seconds, setattr, node, "cpu_percent", before)


def _close_claims(simulation: Simulation, step: Step, node: SimNode) -> None:
    """Nobody may write into the topic of claims for a while; after that the nodes find it open again."""
    log = simulation.server.claims
    if log.is_refused:
        return
    log.is_refused = simulation.gateway.were_claims_refused = True
    for each in simulation.nodes:
        if each.connection.records is not None:
            each.connection.claims.refuse()

    def reopen() -> None:
        log.is_refused = False
        for each in simulation.nodes:
            if each.is_alive and each.connection.records is not None:
                each.connection.claims.open()

    simulation.world.after(step.seconds, reopen)


def _disturb_claims(simulation: Simulation, step: Step, node: SimNode) -> None:
    simulation.server.claims.append(b"no JSON" if step.pick < 0.5 else b'{"node":7}', simulation.world.now)


def _until_of_claims(name: str) -> Callable[[Simulation, Step, SimNode], None]:
    """Claims are stored, or their receipts come, no sooner than at a moment. The connections stand."""

    def apply(simulation: Simulation, step: Step, node: SimNode) -> None:
        log = simulation.server.claims
        setattr(log, name, max(getattr(log, name), simulation.world.now + step.seconds))

    return apply


def _end_pipe(simulation: Simulation, step: Step, node: SimNode) -> None:
    for process in _one(node, step.pick):
        process.end_pipe()


FAULTS: dict[str, Callable[[Simulation, Step, SimNode], None]] = {
    "worker killed": _kill_one,
    "all workers killed": _kill_all,
    "worker hangs": _hang,
    "worker starts slowly": _slow_start,
    "forkserver killed": _forkserver,
    "node stopped for a while": _pause,
    "wall clock jumps": _jump,
    "broker restarts": _restart_broker,
    "topic unloaded": _unload,
    "node cut off from the broker": _cut_off,
    "records refused": _until("server", "records_refused_until"),
    "records late": _until("server", "records_late_until"),
    "upstream refuses the key": _until("upstream", "key_refused_until"),
    "upstream's quota is used up": _until("upstream", "no_quota_until"),
    "upstream limits the rate": _until("upstream", "limited_until"),
    "upstream is down": _until("upstream", "down_until"),
    "gateway is away": _until("gateway", "away_until"),
    "SIGTERM": _terminate,
    "SIGTERM twice": _terminate_twice,
    "supervisor killed": _kill_supervisor,
    "worker killed, then SIGTERM": _kill_then_terminate,
    "machine is short of memory": _memory,
    "local model loads": _load,
    "one of two gateways is away": _until("gateway", "second_away_until", "gateway2"),
    "gateway refuses answers": _until("gateway", "refusing_until"),
    "key is rotated": _rotate_key,
    "settings cannot be reloaded": _fail_reload,
    "token of the broker is rotated": _rotate_token,
    "library connects late": _connect_late,
    "owner of the topic killed": _kill_owner,
    "node and its workers stand still": _stand_still,
    "topic gets another partition": _add_partition,
    "supervisor killed, its workers live on": _kill_supervisor_alone,
    "supervisor stands still": _pause,
    "owner of the claims' topic killed": _kill_claims_owner,
    "requests wait inside the engine": _for_a_while("waiting_share", 0.1, 0.9, 0.0),
    "others use the CPU": _use_cpu,
    "tasks take much memory": _for_a_while("memory_of_task", 5.0, 40.0, 0.0),
    "tasks take much memory of the GPU": _for_a_while("gpu_memory_of_task", 5.0, 60.0, 4.0),
    "claims are refused": _close_claims,
    "claims are stored late": _until_of_claims("stores_late_until"),
    "receipts of claims come late": _until_of_claims("receipts_late_until"),
    "strange message among the claims": _disturb_claims,
    "certificate of upstream is not trusted": _until("upstream", "untrusted_until"),
    "upstream does not know the model": _until("upstream", "unknown_until"),
    "upstream answers 403": _until("upstream", "forbidden_until"),
    "upstream is slow": _until("upstream", "slow_until"),
    "pipe of a worker ends": _end_pipe,
}
