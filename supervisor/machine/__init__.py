"""CPU, memory, GPUs and clocks of this machine or container. Every package may import this."""

from supervisor.machine.background import BackgroundSampler
from supervisor.machine.cgroups import hierarchy
from supervisor.machine.clock import Clock
from supervisor.machine.folders import leave_unusable_directory, unwritable_folder
from supervisor.machine.gpu import find_gpus
from supervisor.machine.oom import oom_kills
from supervisor.machine.open_files import allow_files, files_allowed, files_needed
from supervisor.machine.resources import Resources, Sampler, cpu_seconds, kill_descendants, wait_gone

__all__ = [
    "BackgroundSampler",
    "Clock",
    "Resources",
    "Sampler",
    "allow_files",
    "cpu_seconds",
    "files_allowed",
    "files_needed",
    "find_gpus",
    "hierarchy",
    "kill_descendants",
    "leave_unusable_directory",
    "oom_kills",
    "unwritable_folder",
    "wait_gone",
]
