"""The dynamic concurrency limit: readings of the machine and tokens per second in, a number of tasks in flight out; and
how many more messages may be taken below it.
"""

from supervisor.concurrency.controller import ConcurrencyController
from supervisor.concurrency.intake_limit import free_below_cap

__all__ = ["ConcurrencyController", "free_below_cap"]
