"""Makes a node of its real parts. Nothing here decides anything."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from supervisor.broker import Broker, PulsarBroker
from supervisor.concurrency import ConcurrencyController
from supervisor.dispatcher import Dispatcher
from supervisor.events import SelfChecked, Wake
from supervisor.fitness import FitnessStateMachine, start_self_check
from supervisor.health import Incidents
from supervisor.lifecycle import EndStreams
from supervisor.loop import Loop
from supervisor.machine import BackgroundSampler, Clock, Sampler, find_gpus
from supervisor.node import Node
from supervisor.observability import NodeInfo, Overview, Sources
from supervisor.reload import Reloader
from supervisor.report import Reporter
from supervisor.states import Exit
from supervisor.telemetry import NoTelemetry, Telemetry, start_telemetry
from supervisor.upstream import EngineQueue, FaultMessages
from supervisor.workers import Pool, WorkerProcess, end_all_children, end_streams
from workernode import __version__, record
from workernode.protocol import Target
from workernode.settings import Settings

if TYPE_CHECKING:
    from supervisor.model_server import LocalModel


@dataclass(frozen=True)
class Parts:
    """What a node is made of. `build` makes the real ones, a test its own."""

    clock: Clock
    loop: Loop
    broker: Broker
    pool: Pool
    concurrency: ConcurrencyController
    fitness: FitnessStateMachine
    reporter: Reporter
    overview: Callable[[Dispatcher], Overview]  # shows the node to people
    local_model: Callable[[Incidents], LocalModel] | None  # None for a remote node
    # Checks in the background whether a remote upstream serves this node: takes the target and whether the node is just
    # starting, and calls back from a thread with each result (supervisor.fitness.start_self_check).
    self_check: Callable[[Target, bool, Callable[[SelfChecked], None]], None]
    end_streams: EndStreams  # ends streams whose workers were killed
    telemetry: Telemetry = field(default_factory=NoTelemetry)


def build(settings: Settings, read_settings: Callable[[], Settings], environ: Mapping[str, str]) -> Node:
    """Return a node with its real parts. Only the status server and the check of the files of secrets are started.

    Args:
        read_settings: reads environment, `.env` and files again; raises SettingsError.
        environ: what the local model server inherits.

    Raises:
        OSError: STATUS_ADDR cannot be listened on; its `strerror` says what to do.
    """
    host = socket.gethostname()
    identity = record.Node(f"{host}-{uuid.uuid4().hex[:8]}", host, settings.node_type, __version__)
    clock, loop = Clock(), Loop(_end_by_force)
    reloader = Reloader(settings, read_settings, loop.post)
    loop.takes_signal = reloader.takes_signal
    reloader.start()
    broker = PulsarBroker(settings, loop.post)
    pool = Pool(
        settings.worker_processes, settings.max_process_num,
        lambda index, slots: WorkerProcess(index, slots, settings, identity), loop, clock,
    )  # fmt: skip
    sampler = Sampler(read_gpus=find_gpus() if settings.node_type == "local" else None)
    concurrency = ConcurrencyController(settings, BackgroundSampler(settings.sample_interval, sampler.sample).latest)
    fitness = FitnessStateMachine(
        settings.max_process_num, FaultMessages.of(settings), settings.task_timeout,
        can_check=settings.node_type != "local",
    )  # fmt: skip
    engine_queue = EngineQueue(settings, concurrency.note_waiting)
    sources: list[Sources] = []

    def overview(dispatcher: Dispatcher) -> Overview:
        sources.append(Sources(dispatcher, pool, broker, concurrency, fitness))
        info = NodeInfo(identity.id, settings.model_name, settings.node_type, __version__)
        return Overview(settings, info, sources[0])

    def local_model(incidents: Incidents) -> LocalModel:
        from supervisor.model_server import LocalModel  # a remote node does without it

        model = LocalModel(
            settings, lambda: loop.post(Wake()), concurrency.set_slots, concurrency.note_waiting, incidents, environ
        )
        sources[0].model_server = model.server
        return model

    return Node(settings, identity, Parts(
        clock, loop, broker, pool, concurrency, fitness, Reporter(settings), overview,
        local_model if settings.node_type == "local" else None,
        lambda target, at_start, done: start_self_check(settings, target, at_start, done, engine_queue.list_seen),
        lambda jobs, done: end_streams(jobs, settings, identity, done),
        start_telemetry(settings, identity),
    ))  # fmt: skip


def _end_by_force() -> NoReturn:
    """A second signal has come, and the main thread waits for something: end the process and all that it started."""
    end_all_children()
    os._exit(Exit.FORCED.value)
