"""The dynamic concurrency limit: readings of the machine and tokens per second in, a number of tasks in flight out."""

from supervisor.concurrency.controller import ConcurrencyController

__all__ = ["ConcurrencyController"]
