"""The figures of a load: samples → rates and times. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Sample:
    """One answered task. Times are monotonic, in seconds."""

    asked: float  # given to the broker, or to upstream
    chunks: Sequence[float]  # when each chunk came; a plain answer is one


class BenchmarkError(Exception):
    """A measurement cannot be used. The text is a sentence that says why."""


def percentile(values: Iterable[float], share: float) -> float:
    """Return the percentile by nearest rank.

    Args:
        share: 0 to 1; 0.5 gives the median.

    Raises:
        BenchmarkError: there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise BenchmarkError("there is nothing to take a percentile of")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def per_s(samples: Sequence[Sample]) -> float:
    """Return answers a second, from the first question to the last answer."""
    return len(samples) / _span(samples)


def chunks_per_s(samples: Sequence[Sample]) -> float:
    """Return chunks a second, over the same time."""
    return sum(len(one.chunks) for one in samples) / _span(samples)


def answer_ms(samples: Sequence[Sample], share: float = 0.5) -> float:
    """Return the milliseconds from question to the whole answer: the median, or another percentile."""
    return 1000 * percentile((one.chunks[-1] - one.asked for one in samples), share)


def first_ms(samples: Sequence[Sample], share: float = 0.5) -> float:
    """Return the milliseconds from question to the first chunk: the median, or another percentile."""
    return 1000 * percentile((one.chunks[0] - one.asked for one in samples), share)


def gap_ms(samples: Sequence[Sample], share: float = 0.99) -> float:
    """Return the milliseconds between two chunks: the 99th percentile, or another one."""
    return 1000 * percentile((after - before for one in samples for before, after in pairwise(one.chunks)), share)


def chunks_in(samples: Iterable[Sample], start: float, end: float) -> int:
    """Return how many chunks came from `start` until before `end`."""
    return sum(start <= at < end for one in samples for at in one.chunks)


def _span(samples: Sequence[Sample]) -> float:
    return max(one.chunks[-1] for one in samples) - min(one.asked for one in samples)
