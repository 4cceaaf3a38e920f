"""What the dispatcher does with answers and tasks of a gateway that cannot be reached."""

from __future__ import annotations

from tests.unit.supervisor.dispatcher.effects import GATEWAY, Effects
from workernode.protocol import AnswerState, ClaimAsked, Decision, Job, Kept


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


def test_a_stream_that_is_offered_and_waits_for_its_claim_shows_that_its_gateway_is_back(effects: Effects) -> None:
    """Claims may be away for a minute. The other tasks of the gateway do not wait for that: found by the simulation."""
    job = effects.run("a")
    away(effects, job)
    effects.receive("b")
    effects.dispatcher.hand_over()
    effects.now = effects.dispatcher.next_retry()
    effects.dispatcher.hand_over()
    effects.dispatcher.claim_asked(ClaimAsked(job.number, is_end=False))
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


def offer_and_die(effects: Effects) -> None:
    """The answer that waits is offered again, and the worker that offers it dies."""
    effects.now = effects.dispatcher.next_retry()
    effects.dispatcher.hand_over()
    effects.slots = 4
    effects.die(effects.jobs[-1], AnswerState.NOT_STARTED)


def test_without_redeliveries_an_answer_survives_two_workers_too(effects: Effects) -> None:
    effects.dispatcher._limit = 0
    away(effects, effects.run("a"))
    for _ in range(2):
        offer_and_die(effects)
        assert (effects.dispatcher.beyond_cap, effects.made("record")) == (1, [])
    offer_and_die(effects)
    assert len(effects.made("record")) == 1, "offering it kills workers"


def test_the_deaths_of_workers_that_ran_a_task_do_not_count_when_its_answer_is_offered(effects: Effects) -> None:
    effects.dispatcher._limit = 0
    effects.die(effects.run("a"), AnswerState.STARTED)
    effects.dispatcher.hand_over()
    away(effects, effects.jobs[-1])
    for _ in range(2):
        offer_and_die(effects)
    assert (effects.dispatcher.beyond_cap, effects.made("record")) == (1, [])


def test_an_answer_of_which_a_part_had_left_is_not_offered_again_when_the_time_to_drain_is_over(
    effects: Effects,
) -> None:
    """Its client would get the text twice: it gets an error and the end."""
    away(effects, effects.run("a"))
    effects.now = effects.dispatcher.next_retry()
    effects.dispatcher.hand_over()
    (end,) = effects.dispatcher.decide_rest({effects.jobs[-1].number: AnswerState.STARTED})
    assert (end.kept, end.rejection is not None) == (None, True)


def test_a_node_that_stops_sends_back_the_tasks_that_wait_for_their_gateway(effects: Effects) -> None:
    away(effects, effects.run("a"))
    effects.receive("b")
    effects.dispatcher.hand_over()
    effects.dispatcher.nak_queued()
    assert effects.made("ended") == [("ended", "drained")]
    assert len(effects.dispatcher) == 2


def test_at_the_end_of_a_drain_an_answer_that_waits_goes_back_and_is_offered_no_more(effects: Effects) -> None:
    away(effects, effects.run("a"))
    effects.dispatcher.decide_rest({})
    assert effects.made("record") == [("record", 1)]
    effects.now += 3600.0
    effects.dispatcher.hand_over()
    assert (effects.made("record"), effects.dispatcher.queued, len(effects.jobs)) == ([("record", 1)], 0, 1)
