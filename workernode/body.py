"""The client's chat request → the body that upstream gets (spec 6). Pure."""

from __future__ import annotations

from typing import Any

from workernode.strict_json import dumps


class UnsendableBody(ValueError):
    """The client's body can be read but not be written as JSON again (it holds 1e999, for example)."""


def for_upstream(data: dict[str, Any], *, stream: bool, model: str | None, ask_usage: bool = True) -> bytes:
    """Return the body that upstream gets: the client's, with `model`, `stream` and the wish for usage set.

    Args:
        data: the client's chat request.
        stream: how the gateway waits (`.stream`, which rules over `data.stream`).
        model: UPSTREAM_MODEL, or None to leave the client's.
        ask_usage: False for an upstream that rejects `stream_options`.

    Raises:
        UnsendableBody: it has no JSON form.
    """
    body = dict(data)
    if model is not None:
        body["model"] = model
    body["stream"] = stream
    options = body.pop("stream_options", None)  # upstreams refuse it on a plain request
    if stream and ask_usage:
        kept = options if isinstance(options, dict) else {}
        body["stream_options"] = {**kept, "include_usage": True}
    try:
        return dumps(body)
    except (ValueError, RecursionError) as exc:
        raise UnsendableBody(f"the request cannot be written as JSON: {exc}") from None


def wants_usage(data: dict[str, Any]) -> bool:
    """True if the client of a stream asked for the usage chunk itself."""
    options = data.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
