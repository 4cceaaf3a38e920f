"""Makes a failing schedule small: takes steps out as long as the same rule is still violated."""

from __future__ import annotations

from tests.simulation.run import Result, run

MOST_RUNS = 400


def shrink(result: Result) -> Result:
    """Return the smallest failing result that was found."""
    assert result.violation is not None
    rule, runs = result.violation.rule, 0
    size = max(1, len(result.schedule.steps) // 2)
    while runs < MOST_RUNS:
        steps = list(result.schedule.steps)
        start, smaller = 0, False
        while start < len(steps) and runs < MOST_RUNS:
            tried = run(result.schedule.with_steps(steps[:start] + steps[start + size :]))
            runs += 1
            if tried.violation is not None and tried.violation.rule == rule:
                result, steps, smaller = tried, list(tried.schedule.steps), True
            else:
                start += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return result
