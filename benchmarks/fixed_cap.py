"""The node with a fixed cap, whose number is in FIXED_CAP: `python -m benchmarks.fixed_cap`.

The node itself has no such setting. It stands here in place of the dynamic cap, to be compared with it.
"""

from __future__ import annotations

import os
import sys

from supervisor import main
from supervisor.concurrency import controller as throttle
from supervisor.concurrency.limit import Cap, Change
from supervisor.concurrency.search import Sample


class Fixed(Cap):
    """A cap that never changes."""

    def __init__(self, ceiling: int, start: int, cpu_high: float, memory_high: float) -> None:
        super().__init__(ceiling, start, cpu_high, memory_high)
        self.value = int(os.environ["FIXED_CAP"])

    def observe(self, sample: Sample) -> Change | None:
        return None


if __name__ == "__main__":
    vars(throttle)["Cap"] = Fixed
    sys.exit(main.main([]))
