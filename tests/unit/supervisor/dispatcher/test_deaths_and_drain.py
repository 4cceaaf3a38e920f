"""What the dispatcher does with the tasks of a dead worker, and with all of them when the node stops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.ledger import KILLS_PER_DEATH
from tests.unit.supervisor.dispatcher.effects import LIMIT, Effects
from workernode.call_stats import CallStats
from workernode.protocol import AnswerState, Decision, Outcome, SavedStream

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


def saved(text: str = "so far", resumes: int = 0) -> SavedStream:
    return SavedStream({"id": "x"}, True, text, 2, resumes, False, CallStats())


def test_another_worker_goes_on_with_a_dead_workers_stream(effects: Effects) -> None:
    job = effects.run("a")
    effects.die(job, AnswerState.STARTED, saved())
    effects.dispatcher.hand_over()
    again = effects.jobs[-1]
    assert (again.number, again.rejection, again.resume) == (job.number, None, saved(resumes=1))
    effects.decide(again, Decision.ACK)
    effects.stored(again)
    assert effects.made("ack") == [("ack", "a")]


@pytest.mark.parametrize(
    ("state", "second"),
    [(AnswerState.NOT_STARTED, None), (AnswerState.STARTED, saved("more", resumes=1))],
    ids=["it had sent nothing", "it had sent more"],
)
def test_a_third_worker_goes_on_with_what_the_client_was_sent_by_both(
    effects: Effects, state: AnswerState, second: SavedStream | None
) -> None:
    effects.die(effects.run("a"), AnswerState.STARTED, saved())
    effects.dispatcher.hand_over()
    effects.die(effects.jobs[-1], state, second)
    effects.dispatcher.hand_over()
    assert effects.jobs[-1].resume == replace(second or saved(), resumes=2)
    effects.die(effects.jobs[-1], AnswerState.NOT_STARTED)  # the third death with it: it ends with an error
    effects.dispatcher.hand_over()
    assert effects.jobs[-1].rejection is not None


def test_of_deaths_from_outside_every_fourth_counts_among_the_times_that_a_stream_goes_on(effects: Effects) -> None:
    """Its worker has sent more each time."""
    effects.die(effects.run("a"), AnswerState.STARTED, saved(), is_from_outside=True)
    went_on = []
    while True:
        effects.dispatcher.hand_over()
        resume = effects.jobs[-1].resume
        if effects.jobs[-1].rejection is not None:
            break
        assert resume is not None
        went_on.append(resume.resumes)
        effects.die(effects.jobs[-1], AnswerState.STARTED, resume, is_from_outside=True)
    assert went_on == [0] * 3 + [1] * 4 + [2] * 4


def test_a_stream_ends_with_an_error_if_it_is_not_known_what_its_second_worker_has_sent(effects: Effects) -> None:
    effects.die(effects.run("a"), AnswerState.STARTED, saved())
    effects.dispatcher.hand_over()
    effects.die(effects.jobs[-1], AnswerState.STARTED)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert rejection.status == "broken"


def test_a_stream_that_waits_for_a_worker_to_go_on_never_goes_back_to_the_broker() -> None:
    effects = Effects(slots=1)
    job = effects.run("begun")
    effects.slots = -1
    effects.die(job, AnswerState.STARTED, saved())
    effects.dispatcher.nak_queued()
    assert not effects.made("ended")
    (ending,) = effects.dispatcher.decide_rest({})
    assert ending.rejection is not None
    assert ending.rejection.status == "broken"


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


def test_a_task_whose_workers_are_killed_from_outside_is_run_again_and_keeps_its_tries(effects: Effects) -> None:
    for redeliveries in range(LIMIT + 2):
        job = effects.run("a", redeliveries)
        assert job.rejection is None
        assert job.has_tries or job.redeliveries < LIMIT  # a fault of upstream is no reason for an error
        effects.die(job, AnswerState.NOT_STARTED, is_from_outside=True)
        effects.stored(job)
    assert effects.made("nak") == [("nak", "a", 0.0)] * (LIMIT + 2)
    assert not effects.made("letter")


@pytest.mark.parametrize("kills", [0, 1, 3])
def test_a_task_that_kills_its_workers_is_poison_after_as_many_whoever_else_kills_them(
    effects: Effects, kills: int
) -> None:
    for redeliveries in range(LIMIT + kills):
        job = effects.run("a", redeliveries)
        effects.die(job, AnswerState.NOT_STARTED, is_from_outside=redeliveries < kills)
        effects.stored(job)
    effects.die(effects.run("a", LIMIT + kills), AnswerState.NOT_STARTED)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert rejection.status == "poison"


def test_a_task_for_which_something_else_kills_its_workers_without_end_is_poison(effects: Effects) -> None:
    deaths = (LIMIT + 1) * KILLS_PER_DEATH
    for redeliveries in range(deaths):
        job = effects.run("a", redeliveries)
        assert job.rejection is None
        effects.die(job, AnswerState.NOT_STARTED, is_from_outside=True)
        if redeliveries < deaths - 1:
            effects.stored(job)
    effects.dispatcher.hand_over()
    rejection = effects.jobs[-1].rejection
    assert rejection is not None
    assert rejection.status == "poison"


def test_an_error_that_workers_killed_from_outside_could_not_send_is_sent(effects: Effects) -> None:
    effects.die(effects.run("a"), AnswerState.STARTED)
    for _ in range(KILLS_PER_DEATH - 1):
        effects.dispatcher.hand_over()
        rejection = effects.jobs[-1].rejection
        assert rejection is not None
        assert rejection.status == "broken"
        effects.die(effects.jobs[-1], AnswerState.NOT_STARTED, is_from_outside=True)
    effects.dispatcher.hand_over()
    assert effects.jobs[-1].rejection is not None
    assert not effects.made("letter", "ack")


def test_a_task_that_must_run_alone_waits_for_the_pace_as_well(effects: Effects) -> None:
    for redeliveries in range(LIMIT):
        job = effects.run("a", redeliveries)
        effects.die(job, AnswerState.NOT_STARTED)
        effects.stored(job)
    effects.may_ask_calls, effects.slots = 0, 4
    effects.receive("a", LIMIT)
    effects.dispatcher.hand_over()
    assert (len(effects.jobs), effects.dispatcher.queued) == (LIMIT, 1)
    assert not effects.reserved  # an empty worker that waits with it would serve nobody
    effects.may_ask_calls = 1
    effects.dispatcher.hand_over()
    assert effects.made("submit")[-1][0::2] == ("submit", True)


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
