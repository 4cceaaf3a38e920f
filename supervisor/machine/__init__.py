"""CPU, memory and clocks of this machine or container, read from psutil and cgroups. Every package may import this."""

from supervisor.machine.cgroups import hierarchy
from supervisor.machine.clock import Clock
from supervisor.machine.resources import Resources, Sampler, cpu_seconds

__all__ = ["Clock", "Resources", "Sampler", "cpu_seconds", "hierarchy"]
