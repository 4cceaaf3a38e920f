"""The figures for Prometheus: counted by the owner of the state, written out by whoever asks.

Counting is plain arithmetic (a few microseconds a task) and takes no lock: figures that must agree are in one tuple
that is replaced as a whole. Only this room imports prometheus_client, which does the writing; it is imported at the
first scrape, because it costs a node that starts more than several rooms of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from supervisor.observability.metric_table import (
    BUCKETS,
    LIMITS,
    SERIES,
    STATUSES,
    Counts,
    Histogram,
    Look,
    Series,
    Type,
    Value,
)
from supervisor.observability.snapshot import About, Accounts, Snapshot
from workernode.protocol import Decision, Outcome, RateLimitReport

if TYPE_CHECKING:
    from prometheus_client import Metric


class Metrics:
    """The node's figures since its start. All but `render` is for the thread that owns the state."""

    def __init__(self, about: About) -> None:
        self._about = about
        self._counts = Counts()

    @property
    def accounts(self) -> Accounts:
        """Where all messages went."""
        return self._counts.accounts

    def taken(self, redeliveries: int) -> None:
        """A message was taken; it is in flight until `settled`.

        Args:
            redeliveries: how often it was handed out before.
        """
        taken, *decided = self._counts.accounts
        self._counts.accounts = Accounts(taken + 1, *decided)
        self._counts.redeliveries += redeliveries > 0

    def duplicate(self) -> None:
        """A message came that this node has, or has answered: it is not taken."""
        self._counts.duplicates += 1

    def decided(self, outcome: Outcome) -> None:
        """A delivery ended. Its message is still in flight."""
        counts = self._counts
        counts.statuses[outcome.status if outcome.status in STATUSES else "other"] += 1
        counts.retries += max(0, outcome.attempts - 1)
        counts.prompt_tokens += outcome.prompt_tokens
        counts.completion_tokens += outcome.completion_tokens
        for stage, histogram in counts.stages.items():
            seconds = getattr(outcome.durations, stage)
            if seconds is not None:
                histogram.observe(seconds)

    def settled(self, decision: Decision) -> None:
        """The decision was carried out: the message is not in flight any more."""
        taken, acked, sent_back, dead_lettered = self._counts.accounts
        match decision:
            case Decision.ACK:
                acked += 1
            case Decision.NAK:
                sent_back += 1
            case Decision.DEAD_LETTER:
                dead_lettered += 1
        self._counts.accounts = Accounts(taken, acked, sent_back, dead_lettered)

    def record_stored(self) -> None:
        """A billing record is safely with the broker."""
        self._counts.records += 1

    def limit_seen(self, seen: RateLimitReport) -> None:
        """A worker saw what upstream says of its limits."""
        if seen.kind is not None and seen.kind.value in LIMITS:
            self._counts.limits[seen.kind.value] += 1
        self._counts.unread_headers += seen.unknown_formats

    def worker_died(self) -> None:
        """A worker process is gone, and will be replaced."""
        self._counts.deaths += 1

    def render(self, now: Snapshot) -> bytes:
        """Return the figures in Prometheus' text form. For any thread.

        Args:
            now: the node at this moment; what is counted is known here.
        """
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Scrape(Look(self._about, self._counts.accounts, self._counts, now)))
        return generate_latest(registry)


class _Scrape:
    """One look, as the library asks for it."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        for series in SERIES:
            yield _family(series, series.read(self._look))


def _family(series: Series, value: Value) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if isinstance(value, Histogram):
        bounds = [*map(str, BUCKETS), "+Inf"]
        buckets = list(zip(bounds, accumulate(value.counts), strict=True))
        return HistogramMetricFamily(series.name, series.meaning, buckets=buckets, sum_value=value.sum)
    made = CounterMetricFamily if series.type is Type.COUNTER else GaugeMetricFamily
    family = made(series.name, series.meaning, labels=[series.label] if series.label else [])
    for label, number in _samples(series, value).items():
        family.add_metric([label] if series.label else [], number)
    return family


def _samples(series: Series, value: float | Mapping[str, float] | str) -> Mapping[str, float]:
    """A number for each value of the label; for the one value "" where there is no label."""
    if isinstance(value, str):
        return {each: float(each == value) for each in series.values}
    return value if isinstance(value, Mapping) else {"": value}
