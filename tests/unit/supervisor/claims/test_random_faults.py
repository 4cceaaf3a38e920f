"""What several nodes with claims make of random faults: one text and one end for each client."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.unit.supervisor.claims.tasks import Violation
from tests.unit.supervisor.claims.world import World


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log nothing."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def let_something_happen(world: World, within: float) -> None:
    """Let one fault come at some time, most likely while tasks are published."""
    random = world.random
    node, at = random.choice(world.nodes), random.uniform(0.0, within + 10.0 if within > 10.0 else within)
    match random.choice(["cut", "cut", "pause", "topic", "reader", "kill"]):
        case "cut":
            seconds = random.choice([0.3, 3.0, 8.0, 14.0, 16.0, 30.0, 60.0, 90.0])
            seen_after = min(seconds, random.choice([0.0, 0.0, 1.0, 30.0]))
            world.after(at, lambda: node.cut(seconds, seen_after))
        case "pause":
            seconds = random.choice([1.0, 5.0, 14.0, 16.0, 25.0, 40.0])
            world.after(at, lambda: node.pause(seconds))
        case "topic":
            seconds = random.choice([5.0, 13.0, 20.0])
            world.after(at, lambda: world.take_topic_away(seconds))
        case "reader":
            world.after(at, node.restart_reader)
        case "kill":
            world.after(at, node.kill)


def run_schedule(seed: int, faults: int = 4, tasks: int = 20, within: float = 60.0) -> None:
    """Run tasks and faults at random times, and check what is left at the end.

    Args:
        within: seconds in which the tasks are published.

    Raises:
        Violation: with what happened, in its notes.
    """
    world = World(seed)
    world.run(1.0)
    for number in range(tasks):
        world.after(world.random.uniform(0.0, within), lambda number=number: world.publish(f"r{number}"))
    for _ in range(world.random.randint(1, faults)):
        let_something_happen(world, within)
    try:
        world.run(400.0)
        world.check_end()
    except Violation as violation:
        violation.add_note("\n".join([f"seed {seed}", *world.trace]))
        raise


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("first", range(0, 40, 10))
def test_each_client_gets_one_text_and_one_end_whatever_happens_to_the_nodes(first: int) -> None:
    for seed in range(first, first + 10):
        run_schedule(seed)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("first", range(100000, 100010, 5))
def test_each_client_gets_one_text_and_one_end_from_busy_nodes(first: int) -> None:
    """Nodes that are never idle know by the order of the messages which of them are new."""
    for seed in range(first, first + 5):
        run_schedule(seed, tasks=300, within=3.0)
