"""supervisor/fitness/refused_task.py: what becomes of a task that upstream refused."""

from __future__ import annotations

from supervisor.fitness import KEPT_FOR, RefusedTasks, Verdict
from workernode.protocol import Decision, Outcome

OUTCOME = Outcome(1, "id", Decision.NAK, "key_refused", b"{}")


def test_a_task_is_kept_until_it_is_decided() -> None:
    tasks, verdicts = RefusedTasks(), {"id": Verdict.OPEN}
    tasks.keep(100.0, 1, OUTCOME)
    assert tasks.decided(100.5, verdicts.__getitem__) == []
    verdicts["id"] = Verdict.TASK
    assert tasks.decided(100.6, verdicts.__getitem__) == [(1, OUTCOME, Verdict.TASK)]
    assert tasks.decided(100.7, verdicts.__getitem__) == []


def test_a_task_is_not_kept_for_longer_than_a_moment() -> None:
    tasks = RefusedTasks()
    tasks.keep(100.0, 1, OUTCOME)
    assert tasks.decided(100.0 + KEPT_FOR, lambda request_id: Verdict.OPEN) == [(1, OUTCOME, Verdict.OPEN)]
