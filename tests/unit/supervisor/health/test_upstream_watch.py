"""What passes between the node and its judgement of upstream: calls in, calls out."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.events import Received
from supervisor.fitness import Begin, Change, End
from supervisor.health import UpstreamWatch
from supervisor.ledger import Delivery
from supervisor.states import FitnessState
from workernode.protocol import Decision, FaultInfo, FaultKind, Outcome, Rejection
from workernode.settings import load

SETTINGS = load(
    {
        "NODE_TYPE": "remote",
        "MODEL_NAME": "m",
        "API_URL": "http://up.example/v1",
        "API_KEY": "key-of-this-test",
        "PULSAR_URL": "pulsar://broker:6650",
    }
)
UNREACHABLE = FaultInfo(FaultKind.PASSING, 0, "", "")


class Fakes:
    """Fitness, pool and incidents in one; what is called is noted."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.hold = "none"
        self.check_due = False
        self.pending: list[Any] = []
        fake: Any = self
        self.watch = UpstreamWatch(fake, fake, fake, self.self_check, lambda seen: None)

    # fitness

    def takes_self_check(self, now: float) -> bool:
        is_due, self.check_due = self.check_due, False
        return is_due

    def changes(self) -> list[Change]:
        return [Change(FitnessState.UNFIT, "the key is refused")]

    def reports(self) -> list[Any]:
        pending, self.pending = self.pending, []
        return pending

    def ended(self, now: float, asked_at: float, fault: FaultInfo | None, **about: Any) -> None:
        self.calls.append(("ended", asked_at, fault, about["was_probe"]))

    # pool

    def set_target(self, target: Any) -> None:
        self.calls.append(("target", target.url))

    def broadcast(self, hold: Any) -> None:
        self.calls.append(("hold", hold))

    # incidents

    def begin(self, key: str, reason: str, message: str) -> None:
        self.calls.append(("begin", key, reason, message))

    def end(self, key: str) -> None:
        self.calls.append(("end", key))

    def self_check(self, target: Any, is_starting: bool, done: Any) -> None:
        self.calls.append(("check", target.url, is_starting))


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


def _delivery(**about: Any) -> Delivery:
    delivery = Delivery(1, Received(1, (1, 1, 0, -1), b"{}", 0.0, 0.0, 0.0, 0), request_id="id")
    delivery.handed_at = 7.0
    for name, value in about.items():
        setattr(delivery, name, value)
    return delivery


def _outcome(fault: FaultInfo | None = None) -> Outcome:
    return Outcome(1, "id", Decision.ACK, "answered", b"{}", fault=fault)


def test_upstream_is_checked_with_the_target_in_use(fakes: Fakes) -> None:
    fakes.watch.use(SETTINGS)
    fakes.watch.check_at_start()
    fakes.check_due = True
    fakes.watch.pass_on(1.0)
    url = "http://up.example/v1/chat/completions"
    assert fakes.calls == [("target", url), ("check", url, True), ("check", url, False)]


def test_a_hold_is_passed_on_once(fakes: Fakes) -> None:
    fakes.watch.pass_on(1.0)
    fakes.hold = "until 5"
    fakes.watch.pass_on(2.0)
    fakes.watch.pass_on(3.0)
    assert fakes.calls == [("hold", "until 5")]


def test_what_a_person_must_know_becomes_an_incident(fakes: Fakes) -> None:
    fakes.pending = [Begin("key", "UpstreamAuthenticationError", "the key is refused"), End("quota")]
    fakes.watch.pass_on(1.0)
    assert fakes.calls == [("begin", "key", "UpstreamAuthenticationError", "the key is refused"), ("end", "quota")]


def test_an_outcome_is_evidence_if_a_worker_ran_the_task(fakes: Fakes) -> None:
    fakes.watch.ended(9.0, _delivery(), _outcome(), True)
    assert fakes.calls == [("ended", 7.0, None, False)]


@pytest.mark.parametrize(
    "delivery",
    [
        pytest.param(_delivery(handed_at=0.0), id="no worker had it"),
        pytest.param(_delivery(rejection=Rejection("gave_up", Decision.ACK, {}, 503)), id="it was rejected unasked"),
    ],
)
def test_an_outcome_without_a_call_is_no_evidence(fakes: Fakes, delivery: Delivery) -> None:
    fakes.watch.ended(9.0, delivery, _outcome(), True)
    assert fakes.calls == []


def test_that_a_stopped_model_does_not_answer_is_no_fault(fakes: Fakes) -> None:
    fakes.watch.ended(9.0, _delivery(), _outcome(UNREACHABLE), False)
    fakes.watch.ended(9.0, _delivery(), _outcome(UNREACHABLE), True)
    assert [call[2] for call in fakes.calls] == [None, UNREACHABLE]
