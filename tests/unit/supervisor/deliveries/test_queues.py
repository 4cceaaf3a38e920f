"""The queues of deliveries that wait for a worker."""

from __future__ import annotations

from supervisor.deliveries.queues import EMPTIED_WITHIN
from tests.unit.supervisor.dispatcher.effects import LIMIT, Effects
from workernode.protocol import AnswerState, Decision


def waiting_for_a_worker() -> Effects:
    """Return a dispatcher whose task `a`, with which workers died, waits for the worker that runs another task."""
    effects = Effects()
    for redeliveries in range(LIMIT):
        job = effects.run("a", redeliveries)
        effects.die(job, AnswerState.NOT_STARTED)
        effects.stored(job)
    effects.run("lasting")
    effects.run("a", LIMIT)
    assert effects.made("submit")[-1] == ("submit", effects.jobs[-1].number, False)
    assert effects.reserved
    return effects


def test_a_task_waits_until_a_worker_is_empty_and_runs_alone() -> None:
    effects = waiting_for_a_worker()
    lasting = effects.jobs[-1]
    effects.now += EMPTIED_WITHIN - 0.1
    effects.dispatcher.hand_over()
    assert effects.jobs[-1] is lasting
    effects.decide(lasting, Decision.ACK)
    effects.dispatcher.hand_over()
    assert effects.made("submit")[-1] == ("submit", effects.jobs[-1].number, True)


def test_a_task_for_which_no_worker_can_be_emptied_in_time_shares_one() -> None:
    """Its death then does not show that it is the cause."""
    effects = waiting_for_a_worker()
    effects.now += EMPTIED_WITHIN
    effects.dispatcher.hand_over()
    job = effects.jobs[-1]
    assert effects.made("submit")[-1] == ("submit", job.number, False)
    assert not effects.reserved
    effects.die(job, AnswerState.NOT_STARTED)
    effects.stored(job)
    assert effects.made("nak")[-1] == ("nak", "a", 0.0)


def test_the_time_in_which_no_worker_is_up_does_not_count() -> None:
    """After some deaths one after the other a worker is started only after a pause, which may be 30 s."""
    effects = waiting_for_a_worker()
    effects.ready_workers = 0
    effects.now += 30.0
    effects.dispatcher.hand_over()
    effects.ready_workers = 1
    effects.now += EMPTIED_WITHIN - 0.1
    effects.dispatcher.hand_over()
    effects.decide(effects.jobs[-1], Decision.ACK)
    effects.dispatcher.hand_over()
    assert effects.made("submit")[-1] == ("submit", effects.jobs[-1].number, True)


def test_the_next_task_that_is_to_run_alone_gets_the_whole_time_for_it() -> None:
    effects = waiting_for_a_worker()
    effects.now += EMPTIED_WITHIN
    effects.dispatcher.hand_over()
    effects.die(effects.jobs[-1], AnswerState.NOT_STARTED)
    effects.stored(effects.jobs[-1])
    effects.receive("a", LIMIT + 1)
    effects.dispatcher.hand_over()
    assert effects.reserved
    count = len(effects.jobs)
    effects.now += EMPTIED_WITHIN - 0.1
    effects.dispatcher.hand_over()
    assert len(effects.jobs) == count
