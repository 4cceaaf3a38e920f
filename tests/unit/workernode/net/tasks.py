"""Runs functions as tasks of a hub."""

from __future__ import annotations

from collections.abc import Callable

from workernode.net.hub import Hub


def run_tasks(*works: Callable[[], object]) -> None:
    """Run each function as a task of a hub of its own, until all of them have returned or one has raised."""
    hub = Hub()
    left = [len(works)]

    def run(work: Callable[[], object]) -> None:
        work()
        left[0] -= 1
        if not left[0]:
            hub.stop()

    for work in works:
        hub.start(lambda work=work: run(work))
    hub.run()
