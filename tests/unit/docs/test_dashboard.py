"""deploy/grafana/dashboard.json: every query is PromQL, and asks for a metric, labels and values that the node has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import promql_parser
import pytest

from supervisor.observability.metric_table import SERIES, Series, Type
from tests.support.paths import ROOT
from tests.support.status import INFO

DASHBOARD = json.loads(ROOT.joinpath("deploy/grafana/dashboard.json").read_text(encoding="utf-8"))
FROM_PROMETHEUS = {"instance"}  # what a scrape adds
# Grafana's own variables, and what it puts in their place.
GRAFANA = {"$__rate_interval": "1m", "$instance": ".*"}


def metrics() -> dict[str, Series]:
    """Each name that can be asked for, with its row of the table."""
    known: dict[str, Series] = {}
    for series in SERIES:
        ends = ("_bucket", "_sum", "_count") if series.type is Type.HISTOGRAM else ("",)
        known |= {series.name + end: series for end in ends}
    return known


METRICS = metrics()


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def filled(query: str) -> str:
    """A query with Grafana's variables filled in."""
    for name, value in GRAFANA.items():
        query = query.replace(name, value)
    return query


def queries() -> list[str]:
    """Every query of every panel."""
    return [filled(target["expr"]) for panel in panels() for target in panel["targets"]]


class Selector(NamedTuple):
    """One metric that a query asks for."""

    name: str
    matchers: dict[str, str]  # label and value


class Seen:
    """What a query asks for."""

    def __init__(self, query: str) -> None:
        self.selectors: list[Selector] = []
        self.aggregates = False
        self.grouped_by: set[str] = set()
        self.calls: dict[str, list[Selector]] = {}
        self._walk(promql_parser.parse(query), [])

    def _walk(self, part: Any, inside: list[str]) -> None:
        match part:
            case promql_parser.VectorSelector():
                selector = Selector(part.name or "", {each.name: each.value for each in part.matchers.matchers})
                self.selectors.append(selector)
                for call in inside:
                    self.calls.setdefault(call, []).append(selector)
            case promql_parser.AggregateExpr():
                self.aggregates = True
                if part.modifier:
                    self.grouped_by |= set(part.modifier.labels)
                self._walk(part.expr, inside)
            case promql_parser.Call():
                for argument in part.args:
                    self._walk(argument, [*inside, part.func.name])
            case promql_parser.BinaryExpr():
                self._walk(part.lhs, inside)
                self._walk(part.rhs, inside)
            case promql_parser.ParenExpr():
                self._walk(part.expr, inside)
            case promql_parser.MatrixSelector():
                self._walk(part.vector_selector, inside)
            case promql_parser.NumberLiteral():
                pass
            case _:
                raise AssertionError(f"a kind of expression that this test does not know: {type(part)}")


def labels_of(selectors: list[Selector]) -> set[str]:
    """The labels that what is selected has."""
    known = set(FROM_PROMETHEUS)
    for selector in selectors:
        series = METRICS[selector.name]
        known |= {series.label} - {""}
        known |= set(series.info(INFO)) if series.info else set()
        known |= {"le"} if selector.name.endswith("_bucket") else set()
    return known


@pytest.mark.parametrize("query", queries())
def test_the_query_names_metrics_labels_and_values_that_exist(query: str) -> None:
    seen = Seen(query)
    assert seen.selectors
    assert [one.name for one in seen.selectors if one.name not in METRICS] == []
    assert seen.grouped_by <= labels_of(seen.selectors)
    for selector in seen.selectors:
        for label, value in selector.matchers.items():
            assert label in labels_of([selector])
            if label == METRICS[selector.name].label:
                assert value in METRICS[selector.name].values


@pytest.mark.parametrize("query", queries())
def test_only_what_counts_up_has_a_rate(query: str) -> None:
    seen = Seen(query)
    counted = [one for call in ("rate", "increase") for one in seen.calls.get(call, [])]
    assert {METRICS[one.name].type for one in counted} <= {Type.COUNTER, Type.HISTOGRAM}
    bare = [one.name for one in seen.selectors if one not in counted]
    assert [name for name in bare if METRICS[name].type is not Type.GAUGE] == []
    for selector in seen.calls.get("histogram_quantile", []):
        assert selector.name.endswith("_bucket")
        assert "le" in seen.grouped_by


def test_every_metric_is_shown() -> None:
    shown = {METRICS[selector.name].name for query in queries() for selector in Seen(query).selectors}
    assert {series.name for series in SERIES} - shown == set()


def test_legends_name_labels_that_are_left() -> None:
    for panel in panels():
        for target in panel["targets"]:
            seen = Seen(filled(target["expr"]))
            left = seen.grouped_by if seen.aggregates else labels_of(seen.selectors)
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left, panel["title"]


def test_variables_ask_for_what_exists() -> None:
    asked = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    for variable in asked:
        for text in (variable["definition"], variable["query"]["query"]):
            name, label = re.fullmatch(r"label_values\((\w+)(?:{.*})?, (\w+)\)", text).groups()  # type: ignore[union-attr]
            assert label in labels_of([Selector(name, {})])


def rectangles() -> Iterator[tuple[int, int, int, int]]:
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        yield at["x"], at["y"], at["x"] + at["w"], at["y"] + at["h"]


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["title"] and panel["description"] for panel in panels())
    placed = list(rectangles())
    assert max(right for _, _, right, _ in placed) <= 24
    for place, (left, top, right, bottom) in enumerate(placed):
        for x, y, far_x, far_y in placed[:place]:
            assert right <= x or far_x <= left or bottom <= y or far_y <= top
