"""When a model server is stopped because it has no task."""

from __future__ import annotations

from supervisor.model_server.sleep import Idleness


def test_a_server_is_idle_for_long_enough_only_if_no_task_was_there_meanwhile() -> None:
    idleness = Idleness(60.0)
    assert not idleness.note(100.0, 0)
    assert idleness.ends_at == 160.0
    assert not idleness.note(159.0, 1)
    assert not idleness.note(160.0, 0)
    assert not idleness.note(219.9, 0)
    assert idleness.note(220.0, 0)


def test_a_server_without_a_limit_is_never_idle_for_too_long() -> None:
    assert not Idleness(0.0).note(0.0, 0)
    assert not Idleness(0.0).note(1e9, 0)
