"""What the operator's guards change, what they leave byte for byte, and that the client's request stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from workernode.guards import Guards
from workernode.settings import SettingsError, load
from workernode.strict_json import dumps

REMOTE = {
    "NODE_TYPE": "remote", "MODEL_NAME": "m", "API_URL": "http://h", "API_KEY": "k", "PULSAR_URL": "pulsar://h"
}  # fmt: skip


def guards(**variables: str) -> Guards:
    made = load({**REMOTE, **variables}).guards
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("variables", "data", "sent", "changed"),
    [
        pytest.param({"REQUEST_SET": '{"seed": 1}'}, {"n": 2}, {"n": 2, "seed": 1}, ["seed"], id="set-what-is-missing"),
        pytest.param({"REQUEST_SET": '{"seed": 1}'}, {"seed": 2, "n": 2}, {"seed": 1, "n": 2}, ["seed"], id="replace"),
        pytest.param({"REQUEST_SET": '{"seed": 1}'}, {"seed": 1}, {"seed": 1}, [], id="it-is-so-already"),
        pytest.param({"REQUEST_SET": '{"seed": true}'}, {"seed": 1}, {"seed": True}, ["seed"], id="true-is-not-1"),
        pytest.param({"REQUEST_SET": '{"a": null}'}, {}, {"a": None}, ["a"], id="null-is-a-value"),
        pytest.param(
            {"REQUEST_SET": '{"metadata.team": "a"}'}, {"metadata": {"team": "b", "x": [1]}},
            {"metadata": {"team": "a", "x": [1]}}, ["metadata.team"], id="a-member-of-a-member",
        ),
        pytest.param({"REQUEST_SET": '{"a.b.c": 1}'}, {"a": 5}, {"a": {"b": {"c": 1}}}, ["a.b.c"], id="no-object"),
        pytest.param({"REQUEST_STRIP": "user, logit_bias"}, {"user": "u", "n": 1}, {"n": 1}, ["user"], id="strip"),
        pytest.param(
            {"REQUEST_STRIP": "metadata.team"}, {"metadata": {"team": "b", "x": 1}}, {"metadata": {"x": 1}},
            ["metadata.team"], id="strip-a-member-of-a-member",
        ),
        pytest.param({"REQUEST_STRIP": "metadata.team"}, {"metadata": "t"}, {"metadata": "t"}, [], id="not-there"),
        pytest.param(
            {"REQUEST_STRIP": "metadata", "REQUEST_SET": '{"metadata.team": "a"}'}, {"metadata": {"x": 1}},
            {"metadata": {"team": "a"}}, ["metadata", "metadata.team"], id="stripped-before-it-is-set",
        ),
        pytest.param({"MAX_TOKENS": "100"}, {}, {"max_tokens": 100}, ["max_tokens"], id="the-default"),
        pytest.param({"MAX_TOKENS": "100"}, {"max_tokens": None}, {"max_tokens": 100}, ["max_tokens"], id="null"),
        pytest.param({"MAX_TOKENS": "100"}, {"max_tokens": 100}, {"max_tokens": 100}, [], id="up-to-the-ceiling"),
        pytest.param({"MAX_TOKENS": "100"}, {"max_tokens": 101}, {"max_tokens": 100}, ["max_tokens"], id="above-it"),
        pytest.param({"MAX_TOKENS": "100"}, {"n_predict": -1}, {"n_predict": 100}, ["n_predict"], id="endless"),
        pytest.param({"MAX_TOKENS": "100"}, {"max_tokens": "999"}, {"max_tokens": 100}, ["max_tokens"], id="a-text"),
        pytest.param({"MAX_TOKENS": "100"}, {"max_tokens": True}, {"max_tokens": 100}, ["max_tokens"], id="a-boolean"),
        pytest.param(
            {"MAX_TOKENS": "100"}, {"max_completion_tokens": 50}, {"max_completion_tokens": 50}, [], id="the-newer-name"
        ),
        pytest.param(
            {"MAX_TOKENS": "100"}, {"max_tokens": 5, "max_completion_tokens": 500},
            {"max_tokens": 5, "max_completion_tokens": 100}, ["max_completion_tokens"], id="both-names",
        ),
        pytest.param(
            {"MAX_TOKENS": "100", "REQUEST_SET": '{"max_tokens": 500}'}, {}, {"max_tokens": 100}, ["max_tokens"],
            id="the-ceiling-holds-for-what-is-set",
        ),
        pytest.param(
            {"MAX_TOKENS": "100", "API_URL": "https://api.openai.com/v1"}, {}, {"max_completion_tokens": 100},
            ["max_completion_tokens"], id="the-default-for-openai",
        ),
    ],
)  # fmt: skip
def test_a_request_is_changed_as_the_operator_wants(
    variables: dict[str, str], data: dict[str, Any], sent: dict[str, Any], changed: list[str]
) -> None:
    before = copy.deepcopy(data)
    got, names = guards(**variables).apply(data)
    assert dumps(got) == dumps(sent)  # in the same order, and with the same types
    assert list(names) == changed
    assert data == before


def test_what_is_not_changed_is_the_clients_very_object() -> None:
    data = {"messages": [{"role": "user", "content": "wörd"}], "metadata": {"x": {"y": 1}}, "max_tokens": 7}
    got, changed = guards(REQUEST_SET='{"metadata.team": "a"}', MAX_TOKENS="100").apply(data)
    assert changed == ("metadata.team",)
    assert got["messages"] is data["messages"]
    assert got["metadata"]["x"] is data["metadata"]["x"]  # type: ignore[index]


def test_without_the_variables_there_are_no_guards() -> None:
    assert load(REMOTE).guards is None


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("REQUEST_SET", "temperature=1", "cannot be read: it is not JSON"),
        ("REQUEST_SET", "[1]", "cannot be read"),
        ("REQUEST_SET", "{}", "has 0 members"),
        ("REQUEST_SET", '{"model": "x"}', "has 'model': model, stream, stream_options, messages cannot be changed"),
        ("REQUEST_SET", '{"stream_options.include_usage": false}', "cannot be changed"),
        ("REQUEST_SET", '{"a..b": 1}', "has 'a..b', not a name"),
        ("REQUEST_SET", '{"a b": 1}', "has 'a b', not a name"),
        ("REQUEST_SET", '{"a": 1, "a.b": 2}', "has 'a' and a member of it"),
        ("REQUEST_SET", '{"a": 1e999}', "cannot be read"),
        ("REQUEST_SET", '{"a": NaN}', "cannot be read"),
        ("REQUEST_SET", "{" + ",".join(f'"a{n}": 1' for n in range(13)) + "}", "has 13 members"),
        ("REQUEST_STRIP", ",", "has 0 names"),
        ("REQUEST_STRIP", "messages", "cannot be changed"),
        ("REQUEST_STRIP", "a;b", "not a name"),
        ("REQUEST_STRIP", "a" * 49, "not a name"),
        ("MAX_TOKENS", "0", "out of range"),
        ("MAX_TOKENS", "many", "not a whole number"),
    ],
)
def test_guards_that_cannot_be_used_are_named(name: str, text: str, why: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load({**REMOTE, name: text})
    (line,) = raised.value.faults
    assert line.startswith(name)
    assert why in line
