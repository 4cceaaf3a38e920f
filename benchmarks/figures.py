"""What a load gives: samples in, figures out. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Sample:
    """One answered task. Moments are monotonic, in seconds."""

    asked: float  # given to the broker, or to upstream
    chunks: Sequence[float]  # when each chunk came; a plain answer is one


class BenchmarkError(Exception):
    """What was measured cannot be trusted, and why: a sentence."""


def percentile(values: Iterable[float], share: float) -> float:
    """The value that so great a share of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        raise BenchmarkError("there is nothing to take a percentile of")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def per_s(samples: Sequence[Sample]) -> float:
    """Answers a second, from the first question to the last answer."""
    return len(samples) / _span(samples)


def chunks_per_s(samples: Sequence[Sample]) -> float:
    """Chunks a second, over the same time."""
    return sum(len(one.chunks) for one in samples) / _span(samples)


def answer_ms(samples: Sequence[Sample], share: float = 0.5) -> float:
    """From question to the whole answer, in milliseconds."""
    return 1000 * percentile((one.chunks[-1] - one.asked for one in samples), share)


def first_ms(samples: Sequence[Sample], share: float = 0.5) -> float:
    """From question to the first chunk, in milliseconds."""
    return 1000 * percentile((one.chunks[0] - one.asked for one in samples), share)


def gap_ms(samples: Sequence[Sample], share: float = 0.99) -> float:
    """Between a chunk and the next, in milliseconds."""
    return 1000 * percentile((after - before for one in samples for before, after in pairwise(one.chunks)), share)


def chunks_in(samples: Iterable[Sample], start: float, end: float) -> int:
    """How many chunks came in that time."""
    return sum(start <= at < end for one in samples for at in one.chunks)


def _span(samples: Sequence[Sample]) -> float:
    return max(one.chunks[-1] for one in samples) - min(one.asked for one in samples)
