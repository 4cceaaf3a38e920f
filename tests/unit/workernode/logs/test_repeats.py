"""Of repeated lines the first few are written, and the rest is counted."""

from __future__ import annotations

from workernode.logs.repeats import IDS_PER_LINE, MAX_GROUPS, Fold, Folded, Group


def test_the_first_lines_of_a_group_are_written_and_again_in_the_next_window() -> None:
    fold = Fold(first_lines=2, window_s=10)
    one, other = Group(30, "a", "x", "", of_task=False), Group(30, "a", "y", "", of_task=False)
    assert [fold.admit(one, now) for now in (0, 1, 2, 9)] == [True, True, False, False]
    assert fold.admit(other, 5)
    assert fold.has_folded()
    assert fold.close(9.9) == []
    assert fold.close(10) == [Folded(one, 2, ())]
    assert not fold.has_folded()
    assert fold.close(15) == []
    assert [fold.admit(one, now) for now in (15, 16, 17)] == [True, True, False]


def test_lines_of_more_groups_than_are_remembered_are_written() -> None:
    fold = Fold(first_lines=1, window_s=10)
    groups = [Group(30, "a", str(number), "", of_task=False) for number in range(MAX_GROUPS + 1)]
    for group in groups:
        assert fold.admit(group, 0)
    assert not fold.admit(groups[0], 0)
    assert fold.admit(groups[-1], 0)


def test_the_ids_of_all_folded_tasks_are_kept_and_reported_before_they_are_too_many() -> None:
    fold = Fold(first_lines=2, window_s=10)
    group = Group(30, "a", "task_ended", "server_error", of_task=True)
    ids = [f"id-{number}" for number in range(2 * IDS_PER_LINE + 10)]
    written = [id for id in ids if fold.admit(group, 0, id)]
    folded = [*fold.close(5), *fold.close(10)]
    assert [*written, *(id for each in folded for id in each.request_ids)] == ids
    assert [each.lines for each in folded] == [IDS_PER_LINE, IDS_PER_LINE, 8]
    assert not fold.has_folded()
