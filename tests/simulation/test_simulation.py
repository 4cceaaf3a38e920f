"""Schedules by seed: those that once found a fault, and some hundred others. `python -m tests.simulation` runs more."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.events import Received, RetryHere
from supervisor.states import NodeState
from tests.simulation.__main__ import ROOT, kept_seeds, measure_coverage, run_all, story
from tests.simulation.memory import BOUNDED
from tests.simulation.run import Simulation, run
from tests.simulation.schedule import make

REACHED = 86  # percent of the deciders' branches that thirty schedules reach


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The nodes' logs would be most of what a run does."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", kept_seeds())
def test_a_seed_that_once_found_a_fault_finds_it_no_more(seed: int) -> None:
    result = run(make(seed))
    assert result.violation is None, story(result)


def test_a_node_that_waits_for_its_model_server_to_end_takes_no_message_in() -> None:
    """The broker hands the message out again when the consumer is closed. What is begun then has no time to end."""
    simulation = Simulation(replace(make(1_000_000), steps=(), nodes=1, local=True))
    simulation._start_node(0)
    (node,), world = simulation.nodes, simulation.world
    world.run(world.now + 30.0, lambda: node.node.state is NodeState.SERVING)
    node.signal(signal.SIGTERM)
    world.run(world.now + 30.0, lambda: node.node.state is NodeState.STOPPING)
    assert node.node.state is NodeState.STOPPING
    payload = b'{"request_id":"r","stream":true,"endpoint":"http://gateway/res","data":{}}'
    received = Received(None, (1, 1, 0, -1), payload, world.now, world.now, world.now, 0)
    node.loop.post(received)
    node.loop.post(RetryHere(received))
    world.run(world.now + 0.01)
    assert (node.node.state, len(node.dispatcher)) == (NodeState.STOPPING, 0)


@pytest.mark.parametrize("first", [110_000, 1_000_000])
def test_a_hundred_schedules_keep_every_rule(first: int) -> None:
    tally = run_all(range(first, first + 100))
    print(tally)
    assert not tally.violated, "\n\n".join(story(results[0]) for results in tally.violated.values())


def test_the_simulation_reaches_nearly_all_branches_of_the_deciders(tmp_path: Path) -> None:
    arguments = ["--seed", "420000", "--count", "30", "--keep-going", "--no-shrink"]
    percent, text = measure_coverage(arguments, tmp_path)
    print(text)
    assert percent >= REACHED, text


def test_what_the_rule_about_memory_passes_over_is_in_the_code_by_that_name() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "supervisor").rglob("*.py"))
    # With what follows it where it is made: one of the names is the beginning of another.
    assert [name for name in BOUNDED if f"self.{name} = " not in code and f"self.{name}: " not in code] == []


def test_a_seed_gives_the_same_story_each_time() -> None:
    first, second = run(make(1234)), run(make(1234))
    assert first.story == second.story
    assert str(first.violation) == str(second.violation)
