"""A plain answer on its way to the gateway: one POST, repeated until the gateway has it or the time is over."""

from __future__ import annotations

import json
import time
from http.client import HTTPException

from tenacity import RetryCallState, retry_if_exception_type, wait_random_exponential

from workernode import __version__
from workernode.gateway import timing
from workernode.gateway.connections import Connections
from workernode.gateway.result import AnswerResult, is_final
from workernode.net.errors import AnswerTooLarge
from workernode.net.exchange import Exchange
from workernode.net.waiting import sleep
from workernode.retry import call_with_retries
from workernode.task import Endpoint

LONGEST_BODY = 65536  # bytes of the gateway's answer to a POST that are read; a longer one costs its connection


class _Failed(Exception):
    """The gateway could not take the answer now.

    Attributes:
        is_reached: it was reached.
    """

    def __init__(self, is_reached: bool) -> None:
        super().__init__(is_reached)
        self.is_reached = is_reached


class _NotRegistered(Exception):
    """404."""


def post_answer(
    connections: Connections, endpoint: Endpoint, request_id: str, data: bytes, deadline: float, *, once: bool
) -> AnswerResult:
    """Deliver a plain answer, with a few tries within OFFER_TIME.

    Args:
        data: JSON, passed on as it is.
        deadline: monotonic; one offer is made even when it is over.
        once: a gateway that cannot take it is not tried again.
    """
    body = b'{"request_id":' + json.dumps(request_id).encode() + b',"data":' + data + b"}"
    deadline = timing.offered_until(deadline, time.monotonic())
    give_up_at = min(deadline, time.monotonic() + timing.OFFER_TIME)
    first_404: list[float] = []
    place = connections.offers.place()

    def stop(state: RetryCallState) -> bool:
        exc = state.outcome.exception() if state.outcome else None
        now = time.monotonic()
        if isinstance(exc, _NotRegistered):
            first_404[:] = first_404 or [now]
            return now - first_404[0] >= timing.REGISTERING_TIME or now >= deadline
        return once or now + state.upcoming_sleep >= give_up_at or not place.may_wait()

    try:
        return call_with_retries(
            lambda: _post(connections, endpoint, body, deadline),
            retry=retry_if_exception_type((_Failed, _NotRegistered)),
            wait=_pause,
            stop=stop,
            sleep=sleep,
        )
    except _NotRegistered:
        return AnswerResult.CLIENT_GONE
    except _Failed as failed:
        return AnswerResult.FAILED if failed.is_reached else AnswerResult.UNREACHABLE
    finally:
        place.release()


def _post(connections: Connections, endpoint: Endpoint, body: bytes, deadline: float) -> AnswerResult:
    """One POST. A kept connection that was closed is replaced: only what the last connection sent counts."""
    sent: list[bool] = []
    try:
        exchange = connections.pool(endpoint).post(
            endpoint.target,
            {"Content-Type": "application/json", "User-Agent": f"WorkerNode/{__version__}"},
            body,
            deadline=deadline,
            silence=timing.POST_TIME,
            meanwhile=lambda: sent.append(True),
            on_resend=sent.clear,
        )
    except TimeoutError:
        if sent:
            return AnswerResult.UNCONFIRMED
        raise _Failed(is_reached=False) from None
    except (OSError, HTTPException, AnswerTooLarge):
        raise _Failed(is_reached=bool(sent)) from None
    _skip_body(exchange)
    if exchange.status == 404:
        raise _NotRegistered
    if exchange.status < 300:
        return AnswerResult.TAKEN
    if is_final(exchange.status):
        return AnswerResult.REFUSED
    raise _Failed(is_reached=True)


def _skip_body(exchange: Exchange) -> None:
    """Read the rest of the gateway's answer, so that the connection can be used again. The status alone decides."""
    exchange.limit(time.monotonic() + timing.BODY_TIME)
    size = 0
    try:
        while size < LONGEST_BODY and (piece := exchange.read_some()):
            size += len(piece)
    except (OSError, HTTPException, AnswerTooLarge):
        exchange.abort()
    else:
        exchange.finish()


_backoff = wait_random_exponential(multiplier=0.2, max=5.0, min=0.1)


def _pause(state: RetryCallState) -> float:
    """Seconds before the answer is offered again; few after a 404, because the id is registered within moments."""
    exc = state.outcome.exception() if state.outcome else None
    return min(0.1 * state.attempt_number, 0.4) if isinstance(exc, _NotRegistered) else _backoff(state)
