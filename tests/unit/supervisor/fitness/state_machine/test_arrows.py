"""supervisor/fitness/state_machine.py: the arrows of MOVES, and what a fit node may do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.events import SelfChecked
from supervisor.fitness import Admission, Admit, FitnessStateMachine
from supervisor.fitness.pacing import UNPACED
from supervisor.fitness.transitions import MOVES
from supervisor.states import FitnessState, Intake
from tests.support.paths import ROOT
from tests.support.ratelimit import Form, World, simulate
from tests.unit.supervisor.fitness.state_machine.machines import (
    KEY,
    LOADING,
    answer,
    away,
    fail,
    fail_all,
    limited,
    made,
    probe,
    refuse,
    suspect,
    unfit,
)
from workernode.protocol import (
    NODE_KINDS,
    FaultInfo,
    FaultKind,
    Hold,
)

# The arrows: how each state is reached, and the event that leaves it.
START: dict[FitnessState, Callable[[], FitnessStateMachine]] = {
    FitnessState.FIT: made,
    FitnessState.LIMITED: limited,
    FitnessState.SUSPECT: suspect,
    FitnessState.AWAY: away,
    FitnessState.UNFIT: unfit,
}
EVENTS: dict[str, Callable[[FitnessStateMachine], None]] = {
    "limited": lambda fitness: refuse(fitness, 110.0),
    "lifted": lambda fitness: answer(fitness, 110.0),
    "suspected": lambda fitness: fail(fitness, 105.0, KEY),
    "cleared": lambda fitness: answer(fitness, 105.0),
    "failed": lambda fitness: fail_all(fitness, 105.0, LOADING),
    "refused": lambda fitness: fitness.self_checked(105.0, SelfChecked(104.0, KEY)),
    "answered": lambda fitness: probe(fitness, 110.0, None, well=True),
}
LASTED: dict[FitnessState, Callable[[FitnessStateMachine], None]] = {
    FitnessState.LIMITED: lambda fitness: refuse(fitness, 170.0),
    FitnessState.AWAY: lambda fitness: fitness.tick(170.0),
}


@pytest.mark.parametrize(
    ("begin", "event", "end"),
    [(*pair, end) for pair, end in MOVES.items()],
    ids=[f"{begin.value}-{event}-{end.value}" for (begin, event), end in MOVES.items()],
)
def test_arrow(begin: FitnessState, event: str, end: FitnessState) -> None:
    fitness = START[begin]()
    fitness.changes()
    (LASTED[begin] if event == "lasted" else EVENTS[event])(fitness)
    assert fitness.state is end
    assert [change.state for change in fitness.changes()] == [end]


def test_a_fit_node_takes_and_runs_and_reports_nothing() -> None:
    fitness = made()
    gate = fitness.gate(0.0)
    assert gate.intake is Intake.OPEN
    assert gate.allowed > 0
    assert fitness.admit(0.0) == Admission(Admit.RUN)
    assert (fitness.cap, fitness.reports(), fitness.status(0.0).reason) == (64, [], "")


def test_a_thousand_bad_requests_never_make_it_unfit() -> None:
    fitness = made()
    for number in range(1000):
        status = (400, 404, 422)[number % 3]
        fitness.admit(number / 10)
        fail(fitness, number / 10, FaultInfo(FaultKind.CLIENT, status, "invalid_request_error", "no"))
    assert fitness.state is FitnessState.FIT
    assert fitness.reports() == []


@pytest.mark.parametrize("kind", sorted(set(FaultKind) - set(NODE_KINDS), key=lambda kind: kind.value))
def test_one_fault_that_is_not_the_nodes_leaves_it_fit(kind: FaultKind) -> None:
    fitness = made()
    fail(fitness, 1.0, FaultInfo(kind, 500, "", ""))
    assert fitness.state is FitnessState.FIT


def test_after_a_thousand_calls_without_a_refusal_nothing_paces() -> None:
    fitness = made()
    for number in range(1000):
        fitness.admit(number / 1000)
    assert fitness.gate(1.0).allowed == UNPACED


def test_tasks_that_are_here_already_may_ask_no_faster_than_the_pace() -> None:
    fitness = made()
    asked = 0
    while fitness.may_ask(1.0):
        fitness.admit(1.0)
        asked += 1
    assert 1 <= asked <= 20
    assert fitness.gate(1.0).allowed == 0
    assert fitness.may_ask(fitness.gate(1.0).again_at)


def test_an_unfit_node_decides_tasks_at_once_whatever_the_pace() -> None:
    fitness = made()
    while fitness.may_ask(1.0):
        fitness.admit(1.0)
    fail(fitness, 1.0, FaultInfo(FaultKind.CERTIFICATE, 0, "certificate_not_trusted", ""))
    assert fitness.state is FitnessState.UNFIT
    assert fitness.may_ask(1.0)


def test_nothing_was_held_at_the_start() -> None:
    assert made().hold == Hold(0.0)


def test_no_limit_of_a_whole_backlog_makes_a_node_unfit() -> None:
    assert simulate(World(Form.NONE, nodes=2, tasks=500)).accepted == 500  # the simulation looks at every gate


def test_the_page_names_the_test_of_every_arrow() -> None:
    page = (ROOT / "docs" / "fitness.md").read_text()
    for (begin, event), end in MOVES.items():
        assert f"test_arrow[{begin.value}-{event}-{end.value}]" in page
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for name in re.findall(r"test_[a-z_]{15,}", page):
        assert f"def {name}(" in tests
