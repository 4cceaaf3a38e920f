"""The worker processes: start, hand tasks over, collect outcomes, replace the dead, end their streams."""

from supervisor.workers.contract import Process
from supervisor.workers.death import Settled, after_death, kills_by_sending, most_sends
from supervisor.workers.drain_ender import start as end_streams
from supervisor.workers.pool import CRASHES_TO_REPORT, Pool, Watcher, Worker, WorkerDeath
from supervisor.workers.process import WorkerProcess, do_without_resource_tracker, end_all_children, prepare_environment

__all__ = [
    "CRASHES_TO_REPORT",
    "Pool",
    "Process",
    "Settled",
    "Watcher",
    "Worker",
    "WorkerDeath",
    "WorkerProcess",
    "after_death",
    "do_without_resource_tracker",
    "end_all_children",
    "end_streams",
    "kills_by_sending",
    "most_sends",
    "prepare_environment",
]
