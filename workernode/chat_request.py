"""A task → what upstream is asked for it, and until when."""

from __future__ import annotations

from typing import Any

from workernode.body import for_upstream, wants_usage
from workernode.settings import Settings
from workernode.task import Task
from workernode.trace_context import TraceContext
from workernode.upstream import ChatRequest


def chat_request(
    task: Task, data: dict[str, Any], settings: Settings, deadline: float, trace: TraceContext | None = None
) -> ChatRequest:
    """Return the request to upstream.

    Args:
        data: the chat request in OpenAI's form: `task.data`, or what stands in its place.
        deadline: monotonic.
        trace: what upstream gets as `traceparent`, `tracestate` and `X-Request-Id`; None: none of them.

    Raises:
        UnsendableBody: the chat request has no JSON form.
    """
    model = settings.upstream_model or None
    if settings.node_type == "local":  # llamafiles of 2024 forget a prompt that they are not asked to keep
        data = {"cache_prompt": True, **data}
    body = for_upstream(data, stream=task.stream, model=model)
    asked_for, choices = data.get("model"), data.get("n")

    def without_options() -> bytes:
        return for_upstream(data, stream=True, model=model, ask_usage=False)

    return ChatRequest(
        body,
        without_options if task.stream else None,
        task.request_id,
        deadline,
        is_own_model=model is not None or asked_for is None or asked_for == settings.model_name,
        with_usage=wants_usage(data),
        choices=choices if isinstance(choices, int) and choices > 0 else 1,
        headers=trace.headers() if trace is not None else {},
    )
