"""CPU, memory and clocks of this machine or container, read from psutil and cgroups. Every package may import this."""

from supervisor.machine.background import BackgroundSampler
from supervisor.machine.cgroups import hierarchy
from supervisor.machine.clock import Clock
from supervisor.machine.resources import Resources, Sampler, cpu_seconds, kill_descendants, wait_gone

__all__ = [
    "BackgroundSampler",
    "Clock",
    "Resources",
    "Sampler",
    "cpu_seconds",
    "hierarchy",
    "kill_descendants",
    "wait_gone",
]
