"""A record → bytes of JSON, every part of it bounded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from workernode.prices import Cost
from workernode.record.members import Node, Record, Resume
from workernode.record.moments import rfc3339
from workernode.record.readers import FIGURES, MAX_MESSAGE, NAMES
from workernode.record.values import MAX_NUMBER, clean_text, is_number
from workernode.strict_json import dumps

SCHEMA = "workernode.record/1"  # the number changes when a member is taken away or changes its meaning
MAX_BYTES = 16384  # far below the 5 MB of a Pulsar message, so that records that wait for the broker cost little memory
MAX_USAGE_FIGURES = 40
_NO_SETTINGS = dict.fromkeys((*FIGURES, *NAMES))


def encode(record: Record) -> bytes:
    """Return the record as JSON, valid against docs/record.schema.json."""
    node, client, request, times, durations = record.node, record.client, record.request, record.times, record.durations
    error, asked = record.error, request.settings
    request_id, node_id = clean_text(record.request_id), _node(node)["id"]
    members = {
        "schema": SCHEMA,
        "request_id": request_id,
        "trace_id": record.trace_id,
        "attempt_id": f"{request_id or ''}/{node_id}/{record.delivery}",
        "usage": _usage(record.usage),
        "usage_source": record.usage_source,
        "cost": _cost(record.cost),
        "model": clean_text(record.model),
        "upstream_model": clean_text(record.upstream_model),
        "ai_model_name": clean_text(record.ai_model_name),
        "ai_model_namespace": clean_text(record.ai_model_namespace),
        "node": _node(node),
        "client": {
            "user_agent": clean_text(client.user_agent),
            "address": clean_text(client.address),
            "user": clean_text(client.user),
            "key_id": client.key_id,
        },
        "request": {
            "stream": request.stream,
            "messages": request.messages,
            "bytes": request.bytes,
            "tools": request.tools,
            "response_format": clean_text(request.response_format),
            "changed": list(request.changed),
            **_NO_SETTINGS,
            **asked,
        },
        "timestamps": {
            "published": rfc3339(times.published),
            "received": rfc3339(times.received),
            "upstream_sent": rfc3339(times.upstream_sent),
            "first_token": rfc3339(times.first_token),
            "upstream_done": rfc3339(times.upstream_done),
            "answered": rfc3339(times.answered),
        },
        "durations_ms": {
            "queued": _milliseconds(durations.queue),
            "waiting": _milliseconds(durations.waiting),
            "upstream_first_token": _milliseconds(durations.first_token),
            "upstream": _milliseconds(durations.upstream),
            "answer": _milliseconds(durations.answer),
            "total": _milliseconds(durations.total),
        },
        "attempts": record.attempts,
        "resumes": [_resume(each) for each in record.resumes],
        "redeliveries": record.redeliveries,
        "supersedes": clean_text(record.supersedes),
        "outcome": {
            "status": clean_text(record.status) or "unknown",
            "decision": record.decision.value,
            "end_reason": clean_text(record.end_reason, 64),
            "http_status": record.http_status or None,
            "error": error
            and {
                "type": clean_text(error.type, 100),
                "code": clean_text(error.code, 100),
                "message": clean_text(error.message, MAX_MESSAGE),
            },
        },
    }
    return dumps(members)


@lru_cache(maxsize=16)  # a process makes records of one node, a supervisor of one for each worker as well
def _node(node: Node) -> dict[str, Any]:
    return {
        "id": clean_text(node.id) or "unknown",
        "host": clean_text(node.host),
        "type": clean_text(node.type),
        "version": clean_text(node.version),
        "worker": node.worker,
    }


def _resume(resume: Resume) -> dict[str, Any]:
    return {
        "reason": clean_text(resume.reason, 100) or "unknown",
        "at": rfc3339(resume.at),
        "after_tokens": resume.after_tokens,
    }


def _milliseconds(seconds: float | None) -> float | None:
    if seconds is None or not seconds < MAX_NUMBER:  # a NaN fails the comparison
        return None
    return int(seconds * 10000 + 0.5) / 10 if seconds > 0 else 0.0  # two machines' clocks may make `queued` negative


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """The numbers of upstream's usage; the three that everybody bills by are always there."""
    kept: dict[str, Any] = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
    room = MAX_USAGE_FIGURES
    for name, value in (usage or {}).items():
        if room <= 0:
            break
        if isinstance(value, dict):  # prompt_tokens_details and the like
            if _word_of_usage(name) and name not in kept:
                figures = {each: figure for each, figure in islice(value.items(), room) if _is_figure(each, figure)}
                room -= 1 + len(figures)
                kept[name] = figures
        elif _is_figure(name, value) and (name not in kept or value == int(value)):  # no half tokens
            room -= 1
            kept[name] = int(value) if name in kept else value
    return kept


def _cost(cost: Cost | None) -> dict[str, str] | None:
    """The amount as text, because not every JSON reader keeps all digits of a number."""
    if cost is None:
        return None
    return {"amount": f"{cost.amount.normalize():f}", "currency": cost.currency, "prices": cost.version}


def _word_of_usage(name: object) -> bool:
    return isinstance(name, str) and len(name) <= 48 and name.isascii() and name.isidentifier()


def _is_figure(name: object, value: object) -> bool:
    return _word_of_usage(name) and is_number(value) and value >= 0  # type: ignore[operator]
