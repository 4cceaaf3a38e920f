"""What the dispatcher does with a message from its coming to its ack: events in, calls out."""

from __future__ import annotations

import json

import pytest

from supervisor.broker import STORE_RETRY
from supervisor.fitness import Admission, Admit
from tests.unit.supervisor.dispatcher.effects import KEY_REFUSED, LIMIT, NAK_DELAY, SETTINGS, Effects
from workernode.protocol import AnswerState, Decision, FaultInfo, FaultKind, Outcome


def test_a_message_is_acked_only_after_its_record_is_stored(effects: Effects) -> None:
    job = effects.run("a")
    effects.decide(job, Decision.ACK)
    assert effects.made("record", "ack") == [("record", job.number)]
    assert (len(effects.dispatcher), effects.dispatcher.unrecorded) == (1, 1)
    effects.stored(job)
    assert effects.made("ack") == [("ack", "a")]
    assert effects.settled_ids == ["a"]
    assert len(effects.dispatcher) == 0
    effects.stored(job)  # a second report changes nothing
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
    effects.may_ask_calls = 1
    effects.dispatcher.hand_over()
    assert (len(effects.jobs), effects.dispatcher.queued) == (1, 2)
    effects.may_ask_calls = 2
    effects.dispatcher.hand_over()
    assert [json.loads(job.payload)["request_id"] for job in effects.jobs] == ["a", "b", "c"]


def test_an_error_for_a_client_does_not_wait_for_the_pace(effects: Effects) -> None:
    job = effects.run("a")
    effects.receive("b")
    effects.may_ask_calls = 0
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


def test_an_unfit_node_leaves_a_task_to_other_nodes_that_serve_while_it_has_the_time(effects: Effects) -> None:
    effects.admission = Admission(Admit.SEND_BACK, KEY_REFUSED)
    effects.others_serve = True
    effects.receive("a", redeliveries=LIMIT + 5)
    effects.dispatcher.hand_over()
    assert effects.made("submit") == []
    assert effects.made("ended") == [("ended", "unfit")]
    effects.receive("b", redeliveries=LIMIT + 5, age=SETTINGS.task_timeout - 1)
    effects.dispatcher.hand_over()
    assert effects.jobs[-1].rejection is not None


@pytest.mark.parametrize("others_serve", [False, True])
def test_a_worker_gives_no_task_up_that_other_nodes_will_serve(effects: Effects, others_serve: bool) -> None:
    effects.others_serve = others_serve
    job = effects.run("a", redeliveries=LIMIT + 5)
    assert (job.redeliveries, job.has_tries) == (LIMIT + 5, others_serve)


def test_an_unfit_node_sends_the_error_when_redeliveries_are_used_up(effects: Effects) -> None:
    effects.admission = Admission(Admit.SEND_BACK, KEY_REFUSED)
    job = effects.run("a", redeliveries=LIMIT)
    assert job.rejection is not None
    assert (job.rejection.status, job.rejection.http_status) == ("gave_up", 401)


def test_a_task_whose_time_is_over_waits_for_nothing(effects: Effects) -> None:
    """A worker sends its client the error, even while the local model is asleep."""
    effects.may_ask_calls = 0
    effects.receive("a")
    effects.dispatcher.hand_over()
    assert effects.jobs == []
    effects.now += SETTINGS.task_timeout
    effects.dispatcher.hand_over()
    assert len(effects.jobs) == 1
