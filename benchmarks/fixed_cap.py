"""The node with a cap that does not move: `python -m benchmarks.fixed_cap`, with the number in FIXED_CAP.

The node itself has no such setting. The benchmark compares the dynamic cap with this one.
"""

from __future__ import annotations

import os
import sys

from supervisor import main
from supervisor.concurrency import controller
from supervisor.concurrency.cap import Cap, CapChange
from supervisor.concurrency.sample import Sample


class FixedCap(Cap):
    """A cap that stays at FIXED_CAP."""

    def __init__(self, ceiling: int, cpu_high: float, memory_high: float) -> None:
        super().__init__(ceiling, cpu_high, memory_high)
        self.value = int(os.environ["FIXED_CAP"])

    def observe(self, sample: Sample) -> CapChange | None:
        return None


if __name__ == "__main__":
    vars(controller)["Cap"] = FixedCap
    sys.exit(main.main([]))
