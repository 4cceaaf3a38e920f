"""What is known of a delivery → the members of its billing record (spec 6). Pure.

The package workernode.record has their shape, and makes bytes of them.
"""

from __future__ import annotations

import logging
from typing import Any

from workernode import record
from workernode.call_stats import BrokenPart
from workernode.facts import End, Facts
from workernode.prices import Cost
from workernode.protocol import Durations
from workernode.redaction import redact
from workernode.settings import Settings
from workernode.usage import billed_usage

log = logging.getLogger(__name__)

MOST_LOGGED_MODELS = 100  # a client decides what model it asks for


class RecordBuilder:
    """Makes the billing records of one node. Shared by the tasks of a process."""

    def __init__(self, settings: Settings, node: record.Node) -> None:
        self._settings = settings
        self._node = node
        self._without_price: set[str] = set()  # models that were logged

    def build(self, end: End, facts: Facts, now: float) -> record.Record:
        """Return the record of a delivery that ended now.

        Args:
            now: monotonic seconds.
        """
        settings, job, task, asked, fault = self._settings, facts.job, facts.task, facts.asked, end.fault
        model = task.data.get("model") if task else None
        size = len(job.payload)
        usage, usage_source = billed_usage(asked, facts.estimate)
        return record.Record(
            request_id=facts.request_id,
            trace_id=facts.trace.trace_id if facts.trace else None,
            delivery=job.number,
            node=self._node,
            status=end.status,
            decision=end.decision,
            model=model if isinstance(model, str) else settings.model_name,
            upstream_model=asked.model or (settings.upstream_model or None if task else None),
            ai_model_name=settings.aimodel_name or None,
            ai_model_namespace=settings.aimodel_namespace or None,
            usage=usage,
            usage_source=usage_source,
            cost=self._cost(facts, usage),
            client=record.client_of(task.headers, task.data, settings.record_salt) if task else record.Client(),
            request=record.request_of(task.data, stream=task.stream, size=size, changed=facts.changed)
            if task
            else record.Request(bytes=size),
            times=_times(facts),
            durations=_durations(facts, now),
            attempts=asked.attempts,
            resumes=tuple(self._resume(facts, part) for part in asked.broken),
            redeliveries=job.redeliveries,
            supersedes=job.supersedes or None,
            end_reason=end.end_reason or asked.finish_reason or (self._redact(fault.code) if fault else end.status),
            http_status=fault.http_status if fault else asked.http_status,
            error=record.error_of(end.error, upstream_status=fault.http_status if fault else 0),
        )

    def _cost(self, facts: Facts, usage: dict[str, Any] | None) -> Cost | None:
        """What upstream's answer cost; a model without a price is logged once."""
        prices, asked = self._settings.prices, facts.asked
        if prices is None or usage is None:
            return None
        wanted = facts.task.data.get("model") if facts.task else None
        sent = self._settings.upstream_model or (wanted if isinstance(wanted, str) else self._settings.model_name)
        cost = prices.cost((asked.model, sent), usage)
        if cost is None and sent not in self._without_price and len(self._without_price) < MOST_LOGGED_MODELS:
            self._without_price.add(sent)
            about = {"event": "price_missing", "upstream_model": sent}
            log.warning("PRICES has no price for model %s: its records have no cost", sent, extra=about)
        return cost

    def _resume(self, facts: Facts, part: BrokenPart) -> record.Resume:
        at = facts.job.received + (part.at - facts.job.received_at)
        return record.Resume(self._redact(part.reason), at, part.tokens)

    def _redact(self, text: str) -> str:
        return redact(text, self._settings.secrets)


def _times(facts: Facts) -> record.Times:
    job, asked = facts.job, facts.asked

    def wall(moment: float | None) -> float | None:
        return None if moment is None else job.received + (moment - job.received_at)

    return record.Times(
        job.published,
        job.received,
        wall(asked.sent_at),
        wall(asked.first_token_at),
        wall(asked.done_at),
        wall(facts.answered_at),
    )


def _durations(facts: Facts, now: float) -> Durations:
    job, asked = facts.job, facts.asked
    return Durations(
        queue=max(0.0, job.received - job.published),
        waiting=_between(job.received_at, asked.first_sent_at),
        first_token=_between(asked.began_at, asked.first_token_at),
        upstream=_between(asked.began_at, asked.done_at),
        answer=_between(facts.answering_since, facts.answered_at),
        total=now - job.received_at,
    )


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
