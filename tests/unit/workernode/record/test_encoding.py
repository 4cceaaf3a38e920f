"""What is known of a delivery becomes a record (spec 6): always valid, always small, never a word of the task."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.support.paths import ROOT
from workernode import record
from workernode.prices import Cost
from workernode.protocol import Decision, Durations
from workernode.record import (
    MAX_BYTES,
    Client,
    Error,
    Node,
    Record,
    Request,
    Resume,
    Times,
    client_of,
    encode,
    error_of,
    request_of,
)

SCHEMA = json.loads(ROOT.joinpath("docs", "record.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
NODE = Node("node-1", "host-a", "remote", "1.2.3", worker=2)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def read(encoded: bytes) -> dict[str, Any]:
    """The record as a strict reader sees it."""
    assert len(encoded) < MAX_BYTES
    assert b"\n" not in encoded
    read_back: dict[str, Any] = json.loads(encoded.decode("utf-8"), parse_constant=_refuse)
    VALIDATOR.validate(read_back)
    return read_back


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema"]["const"] == record.SCHEMA


def test_the_record_of_an_answered_task_is_complete() -> None:
    data = {
        "model": "gpt-4o", "messages": [{"role": "user", "content": "a secret of mine"}], "user": "u-7",
        "max_tokens": 100, "temperature": 0.5, "frequency_penalty": -1, "reasoning_effort": "low", "tools": [{}, {}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "private"}},
    }  # fmt: skip
    headers = {"User-Agent": ["curl/8"], "X-Forwarded-For": ["203.0.113.9, 10.0.0.1"], "Authorization": ["Bearer zz"]}
    usage = {
        "prompt_tokens": 3, "completion_tokens": 4.0, "total_tokens": 7, "cost": 0.25,
        "prompt_tokens_details": {"cached_tokens": 1, "note": "text"}, "note": "text", "is_byok": True,
    }  # fmt: skip
    encoded = encode(
        Record(
            request_id="id-1", delivery=5, node=NODE, status="answered", decision=Decision.ACK,
            model="gpt-4o", upstream_model="gpt-4o-2024", ai_model_name="m", ai_model_namespace="default",
            usage=usage, usage_source="upstream", client=client_of(headers, data, "salt-1"),
            request=request_of(data, stream=True, size=812, changed=("user", "metadata.team")),
            times=Times(published=0, received=1.5, answered=1763920000.1234),
            durations=Durations(queue=-0.003, waiting=0.0012, total=1.2345), attempts=2, redeliveries=1,
            end_reason="stop", http_status=200, supersedes="node-0",
        )
    )  # fmt: skip
    got = read(encoded)
    assert got["supersedes"] == "node-0"
    assert got["attempt_id"] == "id-1/node-1/5"
    assert got["usage"] == {
        "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost": 0.25,
        "prompt_tokens_details": {"cached_tokens": 1},
    }  # fmt: skip
    assert got["node"] == {"id": "node-1", "host": "host-a", "type": "remote", "version": "1.2.3", "worker": 2}
    assert got["client"] == {"user_agent": "curl/8", "address": "203.0.113.9", "user": "u-7",
        "key_id": "b6fac33aff86e629",
    }  # fmt: skip
    stated = {name: value for name, value in got["request"].items() if value is not None}
    assert stated == {
        "stream": True, "messages": 1, "bytes": 812, "tools": 2, "response_format": "json_schema", "max_tokens": 100,
        "temperature": 0.5, "frequency_penalty": -1, "reasoning_effort": "low", "changed": ["user", "metadata.team"],
    }  # fmt: skip
    assert got["timestamps"]["published"] == "1970-01-01T00:00:00.000Z"
    assert got["timestamps"]["received"] == "1970-01-01T00:00:01.500Z"
    assert got["timestamps"]["answered"] == "2025-11-23T17:46:40.123Z"
    assert got["timestamps"]["first_token"] is None
    assert got["durations_ms"] == {
        "queued": 0, "waiting": 1.2, "upstream_first_token": None, "upstream": None, "answer": None, "total": 1234.5,
    }  # fmt: skip
    assert got["outcome"] == {
        "status": "answered", "decision": "ack", "end_reason": "stop", "http_status": 200, "error": None,
    }  # fmt: skip
    for word in (b"secret of mine", b"private", b"text", b"zz"):
        assert word not in encoded


def test_a_record_of_which_nearly_nothing_is_known_is_valid() -> None:
    got = read(encode(Record("", 3, Node("", "", "", ""), "worker_died", Decision.NAK)))
    assert (got["request_id"], got["attempt_id"]) == (None, "/unknown/3")
    assert got["usage"] == {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
    assert (got["usage_source"], got["outcome"]["http_status"], got["outcome"]["error"]) == ("none", None, None)
    assert got["request"].pop("changed") == []
    assert set(got["request"].values()) | set(got["timestamps"].values()) | set(got["client"].values()) == {None}


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 10**5000, 1e16, True, "100", [], {}],
    ids=["nan", "inf", "minus-inf", "5000-digits", "too-large", "boolean", "text", "list", "object"],
)
def test_numbers_out_of_range_are_dropped(value: object) -> None:
    request = request_of({"max_tokens": value}, stream=False, size=1)
    got = read(encode(Record("i", 1, NODE, "answered", Decision.ACK, request=request, usage={"prompt_tokens": value})))
    assert got["request"]["max_tokens"] is None
    assert got["usage"]["prompt_tokens"] is None


def test_negative_and_half_tokens_are_left_out() -> None:
    usage = {"prompt_tokens": -1, "completion_tokens": 1.5, "total_tokens": 0}
    got = read(encode(Record("i", 1, NODE, "answered", Decision.ACK, usage=usage)))
    assert got["usage"] == {"prompt_tokens": None, "completion_tokens": None, "total_tokens": 0}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=60), inner, max_size=3),
    max_leaves=4,
)
READ_BY_US = ["user", "messages", "tools", "max_tokens", "temperature", "n", "seed", "top_p", "reasoning_effort"]
ASKED = st.dictionaries(st.sampled_from([*READ_BY_US, "service_tier", "response_format"]), JSON)
HEADERS = st.dictionaries(st.sampled_from(["User-Agent", "X-Forwarded-For", "X-Real-Ip"]), JSON)
MOMENT = st.none() | st.floats()
TEXT = st.text(st.characters(exclude_categories=()), max_size=400)
NAMES = st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"]) | st.text()


ERROR = ["message", "type", "code", "param"]
USAGE = st.dictionaries(NAMES, JSON | st.dictionaries(st.text(), st.floats() | st.integers()))
ANY_RECORD = st.builds(
    Record,
    request_id=TEXT,
    delivery=st.integers(1, 2**63),
    node=st.builds(Node, TEXT, TEXT, TEXT, TEXT, st.none() | st.integers(0, 64)),
    status=TEXT,
    decision=st.sampled_from(Decision),
    model=TEXT,
    upstream_model=TEXT,
    ai_model_name=st.none() | TEXT,
    usage=st.none() | USAGE,
    usage_source=st.sampled_from(["upstream", "counted", "estimated", "none"]),
    client=st.builds(client_of, HEADERS, ASKED),
    request=st.builds(request_of, ASKED, stream=st.booleans(), size=st.integers(0, 5_000_000)),
    times=st.builds(Times, *[MOMENT] * 6),
    durations=st.builds(Durations, *[MOMENT] * 6),
    end_reason=st.none() | TEXT,
    error=st.builds(error_of, st.fixed_dictionaries({"error": st.dictionaries(st.sampled_from(ERROR), JSON | TEXT)})),
)


@given(ANY_RECORD)
def test_whatever_a_task_holds_its_record_is_valid(anything: Record) -> None:
    read(encode(anything))


@pytest.mark.parametrize("sign", ["\U0001f600", "\\", "\x00"], ids=["four-bytes", "escaped", "blank"])
def test_the_largest_record_is_below_the_limit(sign: str) -> None:
    wide = sign * 10_000
    node = Node(wide, wide, wide, wide, worker=10**9)
    changed = tuple(f"{'m' * 62}{number:02}" for number in range(27))
    request = Request(settings=dict.fromkeys(("max_tokens", "n", "seed"), -1.2345678901234567e-300), changed=changed)
    figures = {f"{'d' * 46}{number}": 0.1234567890123456 for number in range(9)}
    for value in (figures, 999_999_999_999_999, {}):
        usage = {f"{'k' * 45}{number}": value for number in range(99)}
        whole = Record(
            wide, 10**9, node, wide, Decision.DEAD_LETTER, wide, wide, wide, wide, usage, "upstream",
            Client(wide, wide, wide), request, Times(*[1e9] * 6), Durations(*[1e14] * 6), 10**9, 10**9, wide, 999,
            Error(wide, wide, wide), Cost(Decimal("1" * 15 + "." + "1" * 15), "c" * 64, "v" * 64),
            (Resume(wide, 1e9, 10**9),) * 2, "f" * 32,
        )  # fmt: skip
        read(encode(whole))
