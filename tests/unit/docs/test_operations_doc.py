"""docs/operations.md is true: every event, level, exit code and variable, and the sentences that it quotes."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

import pytest

from supervisor import states
from supervisor.fitness import half_open
from supervisor.health import REPORT_AFTER
from supervisor.model_server import command
from supervisor.model_server.diagnosis import diagnose
from supervisor.states import FitnessState
from supervisor.upstream import FaultMessages
from supervisor.workers import pool
from tests.support.paths import ROOT
from workernode import __version__
from workernode.protocol import FaultInfo, FaultKind
from workernode.settings import VARIABLES, SettingsError, load

PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Events whose names are made while running, by the expression that makes them. One that is not here fails the test.
MADE: dict[str, set[str]] = {
    "f'node_{change.state.value}'": {f"node_{state.value}" for state in FitnessState},
    "self.state.value": {state.value for state in states.NODE_MOVES.values()} - {"stopped"},
    "event": set(),  # LineHandler._own_record in workernode/logs: its callers are checked themselves
}
LEVELS = {name: name.upper() for name in ("debug", "info", "warning", "error", "critical")} | {"exception": "ERROR"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables under a heading."""
    section = re.split(rf"^## {re.escape(heading)}\n", PAGE, flags=re.MULTILINE)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def sources() -> Iterator[ast.AST]:
    """Every node of the code that a running node consists of."""
    for folder in ("supervisor", "workernode"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield from ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def event_of(mapping: ast.expr | None) -> ast.expr | None:
    """What a dictionary in the code has under "event"."""
    if isinstance(mapping, ast.Dict):
        for key, value in zip(mapping.keys, mapping.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "event":
                return value
    return None


def names_of(expression: ast.expr) -> set[str]:
    """The events that an expression may be."""
    if isinstance(expression, ast.Constant):
        return {str(expression.value)}
    made = ast.unparse(expression)
    assert made in MADE, f"an event is made by {made}: add to MADE what it may be"
    return MADE[made]


def events_in_the_code() -> dict[str, set[str]]:
    """Every event, with the levels that are plain to see where it is logged."""
    found: dict[str, set[str]] = defaultdict(set)
    for each in sources():
        if isinstance(each, ast.Dict) and (expression := event_of(each)):
            for name in names_of(expression):
                found[name]
        if not isinstance(each, ast.Call) or not isinstance(each.func, ast.Attribute):
            continue
        keywords = {keyword.arg: keyword.value for keyword in each.keywords}
        if (expression := event_of(keywords.get("extra"))) and each.func.attr in LEVELS:
            for name in names_of(expression):
                found[name].add(LEVELS[each.func.attr])
        if each.func.attr == "_own_record" and isinstance(each.args[2], ast.Constant):
            found[str(each.args[2].value)]
    return found


def test_every_event_is_in_the_table_and_every_one_in_the_table_is_in_the_code() -> None:
    documented = [row[0].strip("`") for row in rows("The log")[1:]]
    assert sorted(documented) == sorted(set(documented)), "an event has two rows"
    assert set(documented) == set(events_in_the_code())


def test_the_table_has_the_levels_of_the_code() -> None:
    documented = {row[0].strip("`"): set(row[1].split(", ")) for row in rows("The log")[1:]}
    for event, levels in events_in_the_code().items():
        assert levels <= documented[event], event


def test_every_exit_code_is_in_the_table_and_every_one_in_the_table_is_in_the_code() -> None:
    codes = [(str(code.value), code.name) for code in states.Exit]
    assert [(row[0], row[1]) for row in rows("Exit codes")[1:]] == codes


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_is_in_the_readme_or_here(name: str) -> None:
    assert re.search(rf"\b{name}\b", README + PAGE)


def quoted(sentence: str) -> bool:
    """Whether the page shows the sentence as a node prints it, in a block of its own."""
    return any(line.startswith("    ") and line.strip() == sentence for line in PAGE.splitlines())


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        pytest.param(FaultKind.KEY, 401, "invalid_api_key", id="key"),
        pytest.param(FaultKind.QUOTA, 429, "insufficient_quota", id="quota"),
        pytest.param(FaultKind.MODEL, 404, "model_not_found", id="model"),
        pytest.param(FaultKind.RATE_LIMIT, 429, "rate_limit_exceeded", id="limit"),
    ],
)
def test_the_sentences_about_upstream_are_those_of_the_node(kind: FaultKind, status: int, code: str) -> None:
    assert quoted(FaultMessages("https://api.example.com", "gpt-5o")(FaultInfo(kind, status, code, "")))


@pytest.mark.parametrize(
    ("code", "tail"),
    [
        pytest.param(127, "", id="missing"),
        pytest.param(126, "", id="not executable"),
        pytest.param(1, "failed to allocate buffer of size 68719476736", id="memory"),
        pytest.param(-9, "", id="killed"),
    ],
)
def test_the_sentences_about_the_local_model_are_those_of_the_node(code: int, tail: str) -> None:
    assert quoted(diagnose(code, [tail]).message.partition(" Its output:")[0])


def test_the_faults_of_the_settings_are_those_of_the_node() -> None:
    with pytest.raises(SettingsError) as remote:
        load({"NODE_TYPE": "remote", "API_URL": "https://api.example.com", "MODEL_NAME": "a", "MAX_PROCESS_NUM": "0"})
    with pytest.raises(SettingsError) as neither:
        load({"NODE_TYPE": "remot", "MODEL_NAME": "a", "PULSAR_URL": "pulsar://broker:6650"})
    faults = {*remote.value.faults, *neither.value.faults}
    assert len(faults) == 4
    assert [fault for fault in faults if not quoted(fault)] == []


def test_the_figures_in_words_are_those_of_the_code() -> None:
    assert f"free port from {command.PORTS.start} to {command.PORTS.stop - 1}" in PAGE
    assert f"after {REPORT_AFTER:g} s it is reported" in PAGE
    assert f"`no sign of life for {pool.HUNG_AFTER:g} s`" in PAGE
    assert f"within {pool.SHORT_LIFE:g} s of the start" in PAGE
    assert pool.CRASHES_TO_REPORT == 4
    assert f"the pauses between starts grow to {pool.BACKOFF_LONGEST:g} s" in PAGE
    assert f"intervals from {half_open.FIRST_INTERVAL:g} s to {half_open.LONGEST_INTERVAL:g} s" in PAGE


def test_the_changelog_begins_with_this_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest
    assert f"{newest[1]}.".startswith(__version__.partition(".dev")[0] + ".")
