"""The dispatcher with fake effects: events in, calls out; no broker, no worker, no sleep."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.broker import STORE_RETRY
from supervisor.dispatcher import Dispatcher
from supervisor.events import Received, Stored
from supervisor.fitness import KEPT_FOR, Admission, Admit, Verdict
from supervisor.ledger import Delivery, Ledger
from supervisor.machine import Clock
from supervisor.workers.pool import WorkerDeath
from workernode import record
from workernode.protocol import AnswerState, Decision, FaultInfo, FaultKind, Job, Kept, Outcome
from workernode.settings import load

LIMIT = 2
NAK_DELAY = 1.0
SETTINGS = load(
    {
        "NODE_TYPE": "remote",
        "MODEL_NAME": "m",
        "API_URL": "http://up.example/v1",
        "API_KEY": "key-of-this-test",
        "PULSAR_URL": "pulsar://broker:6650",
        "MAX_REDELIVERIES": str(LIMIT),
        "NAK_DELAY": str(NAK_DELAY),
    }
)
GATEWAY = "http://gateway:8080"
RUN = Admission(Admit.RUN)
KEY_REFUSED = FaultInfo(FaultKind.KEY, 401, "invalid_api_key", "")


class Effects:
    """Everything that the dispatcher calls, noted; and a dispatcher."""

    def __init__(self, slots: int = 4) -> None:
        self.now = 100.0
        self.calls: list[tuple[Any, ...]] = []
        self.jobs: list[Job] = []
        self.slots = slots
        self.reserved = False
        self.admission = RUN
        self.room = 1000  # tasks that may ask upstream
        self.given_verdict = Verdict.OPEN
        self.settled_ids: list[str] = []
        clock = Clock(lambda: self.now, lambda: 1e9 + self.now)
        node = record.Node("node-1", "host", "remote", "1")
        self.dispatcher = Dispatcher(SETTINGS, node, self, self, self, clock)

    # broker

    def ack(self, received: Received) -> None:
        self.calls.append(("ack", received.message))

    def nak(self, received: Received, delay_s: float) -> None:
        self.calls.append(("nak", received.message, delay_s))

    def send_due_naks(self, now: float, batches: Ledger, everything: bool = False) -> None:
        self.calls.append(("burst", everything))

    def publish_record(self, number: int, record: bytes) -> None:
        self.calls.append(("record", number))

    def dead_letter(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        self.calls.append(("letter", number, properties["reason"]))

    # pool

    def free_slots(self) -> int:
        return self.slots

    def reserve(self) -> bool:
        self.reserved = True
        return self.slots == 4

    def release(self) -> None:
        self.reserved = False

    def submit(self, job: Job, alone: bool = False) -> tuple[int, int]:
        self.jobs.append(job)
        self.slots -= 1
        self.calls.append(("submit", job.number, alone))
        return 0, len(self.jobs)

    def free(self, index: int, slot: int) -> None:
        self.slots += 1

    # hooks

    def admit(self, now: float, age: float, request_id: str) -> Admission:
        return self.admission

    def may_ask(self, now: float) -> bool:
        self.room -= 1
        return self.room >= 0

    def refused(self, delivery: Delivery, outcome: Outcome) -> None:
        self.calls.append(("refused", outcome.status))

    def verdict(self, request_id: str) -> Verdict:
        return self.given_verdict

    def ended(self, delivery: Delivery, outcome: Outcome) -> None:
        self.calls.append(("ended", outcome.status))

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        self.settled_ids.append(delivery.request_id)

    # what the test does

    def receive(self, id: str, redeliveries: int = 0, entry: int | None = None, age: float = 0.0) -> Received:
        """Hand a message in, as the broker would."""
        payload = json.dumps({"request_id": id, "stream": False, "endpoint": f"{GATEWAY}/res"}).encode()
        key = (1, entry if entry is not None else abs(hash(id)) % 10**6, 0, -1)
        wall = 1e9 + self.now
        received = Received(id, key, payload, wall - age, wall, self.now, redeliveries)
        self.taken = self.dispatcher.receive(received)
        return received

    def run(self, id: str, redeliveries: int = 0) -> Job:
        """Have a message taken and given to a worker."""
        self.receive(id, redeliveries)
        self.dispatcher.hand_over()
        return self.jobs[-1]

    def decide(self, job: Job, decision: Decision, status: str = "answered", **more: Any) -> None:
        self.dispatcher.decided(Outcome(job.number, "id", decision, status, b"{}", **more))

    def stored(self, job: Job, fault: str = "", letter: bool = False) -> None:
        self.dispatcher.stored(Stored(job.number, fault, letter))

    def die(self, job: Job, state: AnswerState) -> None:
        self.slots += 1
        self.dispatcher.worker_died(WorkerDeath(0, {job.number: state}, "killed by SIGKILL", 0))

    def made(self, *kinds: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in kinds]


@pytest.fixture
def effects() -> Effects:
    return Effects()


def test_a_message_is_acked_only_after_its_record_is_stored(effects: Effects) -> None:
    job = effects.run("a")
    effects.decide(job, Decision.ACK)
    assert effects.made("record", "ack") == [("record", job.number)]
    assert (len(effects.dispatcher), effects.dispatcher.unrecorded) == (1, 1)
    effects.stored(job)
    assert effects.made("ack") == [("ack", "a")]
    assert effects.settled_ids == ["a"]
    assert len(effects.dispatcher) == 0
    effects.stored(job)  # told twice: once is enough
    assert len(effects.made("ack")) == 1


def test_a_record_that_could_not_be_stored_is_sent_again_until_it_is(effects: Effects) -> None:
    job = effects.run("a")
    effects.decide(job, Decision.ACK)
    for count in (1, 2, 3):
        assert len(effects.made("record")) == count
        effects.stored(job, "Timeout")
        effects.stored(job, "Timeout")  # two faults of one record: it is sent again once
        assert effects.dispatcher.next_retry() == effects.now + STORE_RETRY
        effects.dispatcher.retry_records(effects.now)
        assert len(effects.made("record")) == count
        effects.now += STORE_RETRY
        effects.dispatcher.retry_records(effects.now)
    effects.stored(job)
    assert effects.made("ack") == [("ack", "a")]
    assert effects.dispatcher.next_retry() == float("inf")


def test_a_dead_letter_is_acked_after_both_record_and_letter_are_stored(effects: Effects) -> None:
    job = effects.run("a")
    effects.decide(job, Decision.DEAD_LETTER, "malformed", reason="no JSON")
    assert ("letter", job.number, "no JSON") in effects.calls
    effects.stored(job)
    assert not effects.made("ack")
    effects.stored(job, "Timeout", letter=True)
    effects.now += STORE_RETRY
    effects.dispatcher.retry_records(effects.now)
    assert (len(effects.made("record")), len(effects.made("letter"))) == (1, 2)  # only what is missing
    effects.stored(job, letter=True)
    assert effects.made("ack") == [("ack", "a")]


def test_a_nak_waits_for_nak_delay_or_for_as_long_as_upstream_asked(effects: Effects) -> None:
    pauses = []
    for number, fault in enumerate((None, FaultInfo(FaultKind.RATE_LIMIT, 429, "", "", 7.0))):
        job = effects.run(f"id-{number}")
        effects.decide(job, Decision.NAK, "upstream_failed", fault=fault)
        effects.stored(job)
        pauses.append(effects.made("nak")[-1][2])
    assert pauses == [NAK_DELAY, 7.0]


def test_the_wait_of_a_nak_counts_from_the_decision_however_late_the_record_is_stored(effects: Effects) -> None:
    for late, wait in ((0.4, NAK_DELAY - 0.4), (30.0, 0.0)):
        job = effects.run(f"late-{late}")
        effects.decide(job, Decision.NAK, "upstream_trouble")
        effects.now += late
        effects.stored(job)
        assert effects.made("nak")[-1][2] == pytest.approx(wait)


def test_a_message_handed_out_twice_while_it_is_here_is_run_once(effects: Effects) -> None:
    job = effects.run("a")
    effects.receive("a", redeliveries=1)
    assert not effects.taken
    effects.dispatcher.hand_over()
    assert effects.jobs == [job]
    assert not effects.made("ack", "nak")


def test_a_message_delivered_again_after_it_was_answered_is_acked_and_not_run(effects: Effects) -> None:
    job = effects.run("a")
    effects.decide(job, Decision.ACK)
    effects.stored(job)
    effects.receive("a", redeliveries=1)
    assert not effects.taken
    assert effects.made("ack") == [("ack", "a")] * 2
    assert effects.jobs == [job]


def test_a_request_published_twice_waits_until_the_first_is_answered(effects: Effects) -> None:
    effects.run("a")
    effects.receive("a", entry=-5)
    assert not effects.taken
    assert effects.made("nak") == [("nak", "a", NAK_DELAY)]


def test_jobs_wait_for_a_free_slot_in_their_order() -> None:
    effects = Effects(slots=1)
    for id in ("a", "b", "c"):
        effects.receive(id)
    effects.dispatcher.hand_over()
    assert effects.dispatcher.queued == 2
    for _ in range(2):
        effects.decide(effects.jobs[-1], Decision.ACK)
        effects.dispatcher.hand_over()
    assert [json.loads(job.payload)["request_id"] for job in effects.jobs] == ["a", "b", "c"]


def test_of_a_batch_no_more_tasks_ask_upstream_than_the_pace_allows(effects: Effects) -> None:
    for id in ("a", "b", "c"):
        effects.receive(id)
    effects.room = 1
    effects.dispatcher.hand_over()
    assert (len(effects.jobs), effects.dispatcher.queued) == (1, 2)
    effects.room = 2
    effects.dispatcher.hand_over()
    assert [json.loads(job.payload)["request_id"] for job in effects.jobs] == ["a", "b", "c"]


def test_an_error_for_a_client_does_not_wait_for_the_pace(effects: Effects) -> None:
    job = effects.run("a")
    effects.receive("b")
    effects.room = 0
    effects.die(job, AnswerState.STARTED)
    effects.dispatcher.hand_over()
    assert [job.rejection is not None for job in effects.jobs] == [False, True]
    assert effects.dispatcher.queued == 1


def test_the_deadline_counts_from_publishing_and_a_clock_ahead_gains_nothing(effects: Effects) -> None:
    effects.receive("old", age=100.0)
    effects.receive("from the future", age=-50.0)
    effects.dispatcher.hand_over()
    left = [job.deadline - effects.now for job in effects.jobs]
    assert left == [SETTINGS.task_timeout - 100.0, SETTINGS.task_timeout]


def test_an_outcome_of_a_job_that_is_at_no_worker_is_dropped(effects: Effects) -> None:
    job = effects.run("a")
    effects.die(job, AnswerState.NOT_STARTED)
    effects.decide(job, Decision.ACK)
    assert effects.made("ended") == [("ended", "worker_died")]
    effects.dispatcher.decided(Outcome(999, "x", Decision.ACK, "answered", b""))
    assert len(effects.made("record")) == 1


def test_an_unfit_node_naks_a_task_without_a_worker(effects: Effects) -> None:
    effects.admission = Admission(Admit.SEND_BACK, KEY_REFUSED)
    effects.receive("a")
    effects.dispatcher.hand_over()
    assert not effects.jobs
    assert effects.made("ended") == [("ended", "unfit")]


def test_an_unfit_node_sends_the_error_when_redeliveries_are_used_up(effects: Effects) -> None:
    effects.admission = Admission(Admit.SEND_BACK, KEY_REFUSED)
    job = effects.run("a", redeliveries=LIMIT)
    assert job.rejection is not None
    assert (job.rejection.status, job.rejection.http_status) == ("gave_up", 401)


# A worker died.


def test_a_dead_workers_task_of_which_nothing_was_seen_is_nakd_at_once(effects: Effects) -> None:
    job = effects.run("a")
    effects.die(job, AnswerState.NOT_STARTED)
    effects.stored(job)
    assert effects.made("nak") == [("nak", "a", 0.0)]


def test_a_dead_workers_begun_stream_is_ended_by_another_worker_and_acked(effects: Effects) -> None:
    job = effects.run("a")
    effects.die(job, AnswerState.STARTED)
    effects.dispatcher.hand_over()
    again = effects.jobs[-1]
    assert again is not job
    assert again.rejection is not None
    assert again.rejection.status == "broken"
    effects.decide(again, Decision.ACK, "broken")
    effects.stored(again)
    assert effects.made("ack") == [("ack", "a")]


def test_a_task_that_kills_workers_runs_alone_before_it_is_poison(effects: Effects) -> None:
    for redeliveries in range(LIMIT):
        job = effects.run("a", redeliveries)
        effects.die(job, AnswerState.NOT_STARTED)
        effects.stored(job)
    effects.receive("neighbour")
    effects.dispatcher.hand_over()
    effects.receive("a", LIMIT)
    effects.dispatcher.hand_over()
    assert effects.reserved  # a worker is emptied for it
    assert effects.made("submit")[-1][0::2] == ("submit", False)
    effects.decide(effects.jobs[-1], Decision.ACK)
    effects.dispatcher.hand_over()
    assert effects.made("submit")[-1][0::2] == ("submit", True)
    effects.die(effects.jobs[-1], AnswerState.NOT_STARTED)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert (rejection.status, rejection.decision) == ("poison", Decision.DEAD_LETTER)


# The node stops.


def test_a_draining_node_naks_what_no_worker_has_begun() -> None:
    effects = Effects(slots=1)
    effects.run("running")
    effects.receive("waiting")
    effects.dispatcher.nak_queued()
    assert effects.made("ended") == [("ended", "drained")]
    assert (effects.dispatcher.queued, effects.dispatcher.running) == (0, 1)


def test_a_draining_node_keeps_the_stream_that_still_has_to_be_ended() -> None:
    effects = Effects(slots=1)
    job = effects.run("begun")
    effects.slots = -1
    effects.die(job, AnswerState.STARTED)
    effects.dispatcher.nak_queued()
    assert not effects.made("ended")
    assert effects.dispatcher.queued == 1


def test_when_the_time_to_drain_is_over_each_message_is_decided(effects: Effects) -> None:
    jobs = {id: effects.run(id) for id in ("begun", "unseen", "ending", "recording")}
    effects.decide(jobs["recording"], Decision.ACK)
    states = {
        jobs["begun"].number: AnswerState.STARTED,
        jobs["unseen"].number: AnswerState.NOT_STARTED,
        jobs["ending"].number: AnswerState.ENDING,
    }
    assert sorted(effects.dispatcher.request_ids()) == sorted(jobs)
    (end,) = effects.dispatcher.decide_rest(states)
    assert end.number == jobs["begun"].number
    assert end.rejection is not None
    outcome = Outcome(end.number, "begun", Decision.ACK, "broken", b"{}")
    effects.dispatcher.streams_ended([outcome])
    for job in jobs.values():
        effects.stored(job)
    assert sorted(call[1] for call in effects.made("ack")) == ["begun", "ending", "recording"]
    assert effects.made("nak") == [("nak", "unseen", 0.0)]
    assert len(effects.dispatcher) == 0


def test_a_begun_stream_that_could_not_be_ended_in_time_is_acked(effects: Effects) -> None:
    """Another node would send its text from the start again."""
    job = effects.run("begun")
    states = {job.number: AnswerState.STARTED}
    effects.dispatcher.decide_rest(states)
    effects.dispatcher.streams_ended([])
    effects.stored(job)
    assert effects.made("ended", "ack", "nak") == [("ended", "broken"), ("ack", "begun")]


def test_a_begun_stream_that_waits_for_a_worker_to_end_it_is_ended_when_the_time_to_drain_is_over() -> None:
    effects = Effects(slots=1)
    job = effects.run("begun")
    effects.slots = -1
    effects.die(job, AnswerState.STARTED)
    effects.dispatcher.hand_over()
    (end,) = effects.dispatcher.decide_rest({})
    assert end.rejection is not None
    assert end.rejection.status == "broken"
    effects.dispatcher.streams_ended([Outcome(end.number, "begun", Decision.ACK, "broken", b"{}")])
    effects.stored(job)
    assert effects.made("ack", "nak") == [("ack", "begun")]


@pytest.mark.parametrize(
    ("state", "ends"),
    [(AnswerState.NOT_STARTED, 1), (AnswerState.STARTED, 1), (AnswerState.ENDING, 0), (AnswerState.ENDED, 0)],
)
def test_a_begun_stream_whose_second_worker_was_killed_too_is_ended_once(state: AnswerState, ends: int) -> None:
    """The second worker was to end it. How far it came decides whether the end is still to be sent."""
    effects = Effects()
    job = effects.run("begun")
    effects.die(job, AnswerState.STARTED)
    effects.dispatcher.hand_over()
    states = {job.number: state}
    assert len(effects.dispatcher.decide_rest(states)) == ends
    effects.dispatcher.streams_ended([])
    effects.stored(job)
    assert effects.made("ended", "ack", "nak") == [("ended", "broken"), ("ack", "begun")]


def test_nothing_waits_for_a_worker_when_the_time_to_drain_is_over() -> None:
    effects = Effects(slots=1)
    job = effects.run("begun")
    effects.slots = -1
    effects.die(job, AnswerState.STARTED)
    effects.dispatcher.decide_rest({})
    effects.slots = 4
    effects.dispatcher.hand_over()
    assert effects.jobs == [job]  # its stream has been ended: no worker may end it again


# --- a refusal that may be the node's ---

FIREWALL = FaultInfo(FaultKind.REFUSED, 403, "", "")
UPSTREAM_ERROR = {"error": {"message": "no", "type": "x", "param": None, "code": None}}


def refuse(effects: Effects, job: Job) -> None:
    """Upstream refuses the task, with an error that its client may get."""
    effects.slots += 1
    effects.decide(job, Decision.NAK, "access_refused", fault=FIREWALL, client_error=UPSTREAM_ERROR)


def test_a_refused_task_is_kept_until_it_is_known_whose_fault_that_is(effects: Effects) -> None:
    job = effects.run("a")
    refuse(effects, job)
    assert effects.made("refused", "record", "nak") == [("refused", "access_refused")]
    assert len(effects.dispatcher) == 1
    effects.given_verdict = Verdict.TASK
    effects.dispatcher.decide_refused(effects.now)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert (rejection.status, rejection.decision, rejection.error) == ("refused", Decision.ACK, UPSTREAM_ERROR)


def test_the_calls_of_a_refused_task_count_in_its_next_job(effects: Effects) -> None:
    effects.given_verdict = Verdict.AGAIN
    job = effects.run("a")
    effects.slots += 1
    more = {"fault": FIREWALL, "client_error": UPSTREAM_ERROR, "attempts": 2}
    effects.decide(job, Decision.NAK, "access_refused", **more)
    effects.dispatcher.hand_over()
    assert [job.attempts for job in effects.jobs] == [0, 2]


def test_a_refused_task_is_asked_once_more_when_the_node_is_found_well(effects: Effects) -> None:
    effects.given_verdict = Verdict.AGAIN
    refuse(effects, effects.run("a"))
    effects.dispatcher.hand_over()
    assert [job.rejection for job in effects.jobs] == [None, None]


@pytest.mark.parametrize("verdict", [Verdict.NODE, Verdict.OPEN])
def test_a_refused_task_goes_to_another_node_when_the_fault_is_the_nodes_or_stays_unknown(
    effects: Effects, verdict: Verdict
) -> None:
    job = effects.run("a")
    refuse(effects, job)
    effects.given_verdict = verdict
    effects.now += KEPT_FOR
    effects.dispatcher.decide_refused(effects.now)
    effects.stored(job)
    assert effects.made("nak") == [("nak", "a", NAK_DELAY)]


@pytest.mark.parametrize(("verdict", "words"), [(Verdict.NODE, "refuses the node"), (Verdict.OPEN, "not available")])
def test_a_refused_task_whose_redeliveries_are_used_up_gets_the_nodes_error_and_not_upstreams(
    effects: Effects, verdict: Verdict, words: str
) -> None:
    refuse(effects, effects.run("a", redeliveries=LIMIT))
    effects.given_verdict = verdict
    effects.now += KEPT_FOR
    effects.dispatcher.decide_refused(effects.now)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert rejection.status == "gave_up"
    assert words in str(rejection.error)


def test_a_refused_task_goes_back_when_the_node_stops(effects: Effects) -> None:
    job = effects.run("a")
    refuse(effects, job)
    effects.dispatcher.decide_rest({})
    effects.dispatcher.decide_refused(effects.now + KEPT_FOR)
    effects.stored(job)
    assert effects.made("nak") == [("nak", "a", 0.0)]


def test_a_client_is_told_at_once_when_a_rate_limit_outlasts_the_tasks_time(effects: Effects) -> None:
    effects.receive("a", age=290.0)
    effects.dispatcher.hand_over()
    limit = FaultInfo(FaultKind.RATE_LIMIT, 429, "rate_limit_exceeded", "", 30.0)
    effects.decide(effects.jobs[-1], Decision.NAK, "rate_limited", fault=limit)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert rejection.status == "gave_up"


@pytest.mark.parametrize(
    ("kind", "asked", "delay"),
    [
        (FaultKind.RATE_LIMIT, 7.0, 7.0),
        (FaultKind.RATE_LIMIT, 86_400.0, NAK_DELAY),
        (FaultKind.UNAVAILABLE, 600.0, NAK_DELAY),
    ],
    ids=["a limit", "a day", "another node's upstream may be well"],
)
def test_a_nak_waits_for_a_rate_limit_and_no_longer_than_a_minute(
    effects: Effects, kind: FaultKind, asked: float, delay: float
) -> None:
    job = effects.run("a")
    effects.decide(job, Decision.NAK, "rate_limited", fault=FaultInfo(kind, 429, "", "", asked))
    effects.stored(job)
    assert effects.made("nak") == [("nak", "a", delay)]


def test_a_probe_that_found_upstream_away_does_not_count_as_a_delivery(effects: Effects) -> None:
    effects.admission = Admission(Admit.PROBE)
    away = FaultInfo(FaultKind.UNAVAILABLE, 503, "", "")
    for count in range(5):
        received = effects.receive("a", redeliveries=count, entry=7)
        effects.dispatcher.hand_over()
        assert effects.jobs[-1].redeliveries == 0
        effects.decide(effects.jobs[-1], Decision.NAK, "upstream_trouble", fault=away)
        effects.stored(effects.jobs[-1])
    assert received.redeliveries == 4


# --- a gateway that is away ---


def away(
    effects: Effects,
    job: Job,
    parts: tuple[bytes, ...] = (b"{}",),
    *,
    is_reached: bool = False,
    seconds: float = 60.0,
) -> None:
    """A worker reports that it could not deliver the job's answer, which is to be offered for so long."""
    kept = Kept(GATEWAY, is_reached, effects.now + seconds, parts)
    effects.decide(job, Decision.ACK, "gateway_unreachable", upstream_answered=True, kept=kept)


def test_an_answer_whose_gateway_is_away_holds_no_slot_and_is_offered_again(effects: Effects) -> None:
    job = effects.run("a")
    away(effects, job)
    assert (effects.slots, effects.dispatcher.running, effects.dispatcher.beyond_cap) == (4, 0, 1)
    assert effects.made("refused") == [("refused", "gateway_unreachable")], "what it shows of upstream is passed on"
    assert effects.made("record") == []
    effects.now = effects.dispatcher.next_retry()
    effects.dispatcher.hand_over()
    again = effects.jobs[-1]
    assert again.kept is not None
    assert (again.number, again.kept.parts) == (job.number, (b"{}",))
    effects.decide(again, Decision.ACK)
    effects.stored(again)
    assert effects.made("ack") == [("ack", "a")]
    assert len(effects.dispatcher) == effects.dispatcher.beyond_cap == 0


def test_no_task_of_a_gateway_that_is_away_is_run_before_it_is_back(effects: Effects) -> None:
    job = effects.run("a")
    away(effects, job)
    effects.receive("b")
    effects.dispatcher.hand_over()
    assert (len(effects.jobs), effects.dispatcher.beyond_cap) == (1, 2)
    effects.now = effects.dispatcher.next_retry()
    effects.dispatcher.hand_over()
    effects.decide(effects.jobs[-1], Decision.ACK)
    effects.dispatcher.hand_over()
    assert (len(effects.jobs), effects.jobs[-1].kept) == (3, None)


def test_a_task_that_was_not_run_finds_out_whether_its_gateway_is_back_without_asking_upstream(
    effects: Effects,
) -> None:
    away(effects, effects.run("a"), seconds=0.1)
    effects.receive("b")
    for _ in range(2):  # the answer is offered for the last time, then its time is over
        effects.dispatcher.hand_over()
        effects.now = effects.dispatcher.next_retry()
        effects.dispatcher.hand_over()
        if effects.jobs[-1].number == 1:
            away(effects, effects.jobs[-1], seconds=0.0)
    check = effects.jobs[-1]
    assert check.kept is not None
    assert check.kept.parts == ()
    away(effects, check, (), is_reached=True)
    effects.dispatcher.hand_over()
    assert effects.jobs[-1].kept is None


def test_an_answer_ends_when_its_gateway_was_away_until_its_time_was_over(effects: Effects) -> None:
    job = effects.run("a")
    away(effects, job)
    for _ in range(30):
        effects.now = effects.dispatcher.next_retry()
        effects.dispatcher.hand_over()
        if effects.made("record"):
            break
        kept = effects.jobs[-1].kept
        assert kept is not None
        effects.decide(effects.jobs[-1], Decision.ACK, "gateway_unreachable", kept=kept)
    assert effects.made("ended") == [("ended", "gateway_unreachable")]
    assert effects.dispatcher.next_retry() == float("inf")


def test_an_answer_survives_the_worker_that_offered_it(effects: Effects) -> None:
    away(effects, effects.run("a"))
    effects.now = effects.dispatcher.next_retry()
    effects.dispatcher.hand_over()
    effects.die(effects.jobs[-1], AnswerState.NOT_STARTED)
    effects.now = effects.dispatcher.next_retry()
    effects.dispatcher.hand_over()
    again = effects.jobs[-1]
    assert again.kept is not None
    assert again.kept.parts == (b"{}",)


def test_a_node_that_stops_sends_back_the_tasks_that_wait_for_their_gateway(effects: Effects) -> None:
    away(effects, effects.run("a"))
    effects.receive("b")
    effects.dispatcher.hand_over()
    effects.dispatcher.nak_queued()
    assert effects.made("ended") == [("ended", "drained")]
    assert len(effects.dispatcher) == 2
