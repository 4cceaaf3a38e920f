"""The metrics: counted by the main thread with prometheus_client, rendered by the status server's threads.

Events are counted in the library's counters and histograms. What is read at the moment of a scrape (the snapshot, and
the totals that must agree with each other in every scrape) is rendered beside them. metric_table.py lists all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from supervisor.observability.metric_table import BUCKETS, SERIES, STATUSES, Reading, Series, Type
from supervisor.observability.snapshot import MessageTotals, NodeInfo, Snapshot
from workernode.protocol import Decision, Durations, Outcome, RateLimitReport

STAGES = tuple(each.name for each in fields(Durations))


class Metrics:
    """The node's metrics since its start. All but `render` is for the main thread."""

    def __init__(self, info: NodeInfo) -> None:
        # Else the library adds a series with the time of creation to each counter: twice as many series, of no use.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._info = info
        self._registry = CollectorRegistry(auto_describe=False)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for series in SERIES:
            if series.type is Type.HISTOGRAM:
                name = series.name.removeprefix("workernode_task_").removesuffix("_seconds")
                histogram = Histogram(series.name, series.meaning, buckets=BUCKETS, registry=self._registry)
                self._histograms[name] = histogram
            elif series.read is None and series.info is None:
                self._add_counter(series)
        self.cost = 0.0  # since the start, in the currency of PRICES
        self._totals = MessageTotals()  # replaced as a whole, so that its figures agree in every scrape

    def _add_counter(self, series: Series) -> None:
        labels = [series.label] if series.label else []
        counter = Counter(series.name, series.meaning, labels, registry=self._registry)
        short = series.name.removeprefix("workernode_").removesuffix("_total")
        if not series.label:
            self._counters[short] = counter
        for value in series.values:  # every series is there from the start
            self._counters[f"{short} {value}"] = counter.labels(value)

    @property
    def totals(self) -> MessageTotals:
        """How many messages were taken, and what became of them."""
        return self._totals

    def taken(self, redeliveries: int, time_left: float) -> None:
        """A message was taken; it is in flight until `settled`.

        Args:
            redeliveries: how often the broker had handed it out before.
            time_left: seconds until nobody waits for its answer; below 0 they are over.
        """
        self._totals = self._totals._replace(taken=self._totals.taken + 1)
        self._histograms["time_left"].observe(max(0.0, time_left))  # a negative one would make the sum fall
        if redeliveries > 0:
            self._counters["task_redeliveries"].inc()

    def duplicate(self) -> None:
        """A message came that this node has, or has answered: it is not taken."""
        self._counters["task_duplicates"].inc()

    def decided(self, outcome: Outcome) -> None:
        """A delivery ended. Its message is still in flight."""
        status = outcome.status if outcome.status in STATUSES else "other"
        self._counters[f"task_outcomes {status}"].inc()
        self._counters["stream_resumes"].inc(outcome.resumes)
        self._counters["upstream_retries"].inc(max(0, outcome.attempts - 1))
        self._counters["tokens prompt"].inc(outcome.prompt_tokens)
        self._counters["tokens completion"].inc(outcome.completion_tokens)
        self._counters["prompt_tokens_cached"].inc(outcome.cached_tokens)
        self._counters["cost"].inc(outcome.cost)
        self.cost += outcome.cost
        for stage in STAGES:
            seconds = getattr(outcome.durations, stage)
            if seconds is not None:
                self._histograms[stage].observe(seconds)

    def settled(self, decision: Decision) -> None:
        """The decision was carried out: the message is not in flight any more."""
        totals = self._totals
        match decision:
            case Decision.ACK:
                self._totals = totals._replace(acked=totals.acked + 1)
            case Decision.NAK:
                self._totals = totals._replace(nakked=totals.nakked + 1)
            case Decision.DEAD_LETTER:
                self._totals = totals._replace(dead_lettered=totals.dead_lettered + 1)

    def record_stored(self) -> None:
        """The broker has stored a billing record."""
        self._counters["records_sent"].inc()

    def limit_seen(self, report: RateLimitReport) -> None:
        """A worker saw a rate limit of upstream, or its headers."""
        counter = self._counters.get(f"upstream_429 {report.kind.value}") if report.kind else None
        if counter is not None:
            counter.inc()
        self._counters["upstream_limit_headers_unread"].inc(report.unknown_formats)

    def worker_died(self) -> None:
        """A worker process died and is replaced."""
        self._counters["worker_restarts"].inc()

    def render(self, now: Snapshot) -> bytes:
        """Return the metrics in Prometheus' text format. For any thread.

        Args:
            now: the node at this moment.
        """
        readings = CollectorRegistry(auto_describe=False)
        readings.register(_Readings(Reading(self._info, self._totals, now)))
        return generate_latest(readings) + generate_latest(self._registry)


class _Readings:
    """The series that are read at the moment of a scrape, as the library collects them."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        for series in SERIES:
            if series.read is not None:
                yield _family(series, series.read(self._reading))
            elif series.info is not None:
                labels = series.info(self._reading.info)
                family = GaugeMetricFamily(series.name, series.meaning, labels=list(labels))
                family.add_metric(list(labels.values()), 1)
                yield family


def _family(series: Series, value: float | Mapping[str, float] | str) -> Metric:
    make = CounterMetricFamily if series.type is Type.COUNTER else GaugeMetricFamily
    family = make(series.name, series.meaning, labels=[series.label] if series.label else [])
    for label, number in _samples(series, value).items():
        family.add_metric([label] if series.label else [], number)
    return family


def _samples(series: Series, value: float | Mapping[str, float] | str) -> Mapping[str, float]:
    """A number for each value of the label; for the one value "" where there is no label."""
    if isinstance(value, str):
        return {each: float(each == value) for each in series.values}
    return value if isinstance(value, Mapping) else {"": value}
