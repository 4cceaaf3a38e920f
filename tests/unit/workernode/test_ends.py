"""How a fault of upstream ends a delivery: rows of the table in spec 4."""

from __future__ import annotations

import pytest

from workernode.ends import ANSWER_STATUS, NAK_STATUS, end_of_fault
from workernode.errors import UpstreamFault
from workernode.gateway import AnswerResult
from workernode.protocol import NODE_KINDS, Decision, FaultKind, Job
from workernode.settings import load

KEY = "sk-canary-0123456789"
SETTINGS = load(
    {
        "NODE_TYPE": "remote",
        "MODEL_NAME": "m",
        "API_URL": "http://127.0.0.1:9/v1",
        "API_KEY": KEY,
        "PULSAR_URL": "pulsar://127.0.0.1",
    }
)
NOW = 100.0  # monotonic


def job(*, redeliveries: int = 0, left: float = 60.0, has_tries: bool = False) -> Job:
    return Job(1, 0, b"{}", 0.0, 0.0, NOW, NOW + left, redeliveries, has_tries=has_tries)


NEVER_AGAIN = {FaultKind.BROKEN: "broken", FaultKind.CLIENT: "refused"}


@pytest.mark.parametrize("kind", FaultKind)
def test_each_kind_of_fault_is_told_the_client_or_goes_back_to_the_broker(kind: FaultKind) -> None:
    end = end_of_fault(UpstreamFault(kind, "no"), job(), SETTINGS, NOW)
    if kind in NEVER_AGAIN:
        assert (end.status, end.decision) == (NEVER_AGAIN[kind], Decision.ACK)
    else:
        assert (end.status, end.decision) == (NAK_STATUS[kind], Decision.NAK)


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind not in NEVER_AGAIN])
def test_the_last_delivery_is_given_up_unless_the_fault_may_be_the_nodes(kind: FaultKind) -> None:
    end = end_of_fault(UpstreamFault(kind, "no"), job(redeliveries=SETTINGS.max_redeliveries), SETTINGS, NOW)
    assert end.status == (NAK_STATUS[kind] if kind in NODE_KINDS else "gave_up")


def test_a_task_with_tries_left_goes_back_to_the_broker_however_often_it_was_delivered() -> None:
    again = job(redeliveries=SETTINGS.max_redeliveries + 2, has_tries=True)
    end = end_of_fault(UpstreamFault(FaultKind.PASSING, "no"), again, SETTINGS, NOW)
    assert end.decision is Decision.NAK


def test_a_task_without_time_for_another_delivery_is_expired() -> None:
    end = end_of_fault(UpstreamFault(FaultKind.PASSING, "no"), job(left=SETTINGS.nak_delay / 2), SETTINGS, NOW)
    assert (end.status, end.decision) == ("expired", Decision.ACK)
    assert end.error is not None
    assert end.error["error"]["code"] == "timeout"


def test_the_error_for_the_client_holds_no_secret_of_the_node() -> None:
    end = end_of_fault(UpstreamFault(FaultKind.CLIENT, f"bad key {KEY}"), job(), SETTINGS, NOW)
    assert KEY not in str(end.error)


def test_each_way_of_an_answer_to_the_gateway_has_a_status() -> None:
    assert set(ANSWER_STATUS) == set(AnswerResult)
