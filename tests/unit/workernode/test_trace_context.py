"""A client's trace goes on, whatever breaks W3C's rules is ignored, and every task has a trace."""

from __future__ import annotations

from typing import Any

import pytest

from workernode.trace_context import MOST_CHARACTERS, TraceContext, trace_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def trace(**headers: Any) -> TraceContext:
    return trace_of({name.replace("_", "-"): value for name, value in headers.items()}, "id-1", makes_spans=False)


@pytest.mark.parametrize(
    ("text", "passed_on"),
    [
        pytest.param(PARENT, PARENT, id="sampled"),
        pytest.param(f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00", id="not-sampled"),
        pytest.param(f"00-{TRACE}-{SPAN}-03", f"00-{TRACE}-{SPAN}-03", id="random"),
        pytest.param(f"00-{TRACE}-{SPAN}-ff", f"00-{TRACE}-{SPAN}-03", id="flags-that-do-not-exist"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01", PARENT, id="a-later-version"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01-more", PARENT, id="a-later-version-with-more"),
        pytest.param(f" {PARENT}\t", PARENT, id="blanks-around-it"),
    ],
)
def test_upstream_gets_the_trace_of_the_client(text: str, passed_on: str) -> None:
    found = trace(Traceparent=[text])
    assert found.headers() == {"traceparent": passed_on}
    assert (found.trace_id, found.parent_id) == (TRACE, SPAN)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([], id="none"),
        pytest.param([""], id="empty"),
        pytest.param(None, id="null"),
        pytest.param(7, id="a-number"),
        pytest.param([7], id="a-number-in-a-list"),
        pytest.param([PARENT, PARENT], id="twice"),
        pytest.param([f"ff-{TRACE}-{SPAN}-01"], id="version-ff"),
        pytest.param([f"00-{TRACE}-{SPAN}-01-more"], id="version-00-with-more"),
        pytest.param([f"cc-{TRACE}-{SPAN}-01.more"], id="a-later-version-with-more-but-no-dash"),
        pytest.param([f"00-{'0' * 32}-{SPAN}-01"], id="trace-id-of-zeros"),
        pytest.param([f"00-{TRACE}-{'0' * 16}-01"], id="span-id-of-zeros"),
        pytest.param([PARENT.upper()], id="upper-case"),
        pytest.param([f"00-{TRACE[:-1]}-{SPAN}-01"], id="short-trace-id"),
        pytest.param([f"00-{TRACE}-{SPAN}-1"], id="short-flags"),
        pytest.param([f"00-{TRACE}-{SPAN}-0x"], id="flags-that-are-no-digits"),
        pytest.param([f"0-{TRACE}-{SPAN}-01"], id="short-version"),
        pytest.param([f"{PARENT}\n"], id="a-line-end"),
        pytest.param([f"{PARENT}\r\nX-Evil: 1"], id="another-header"),
    ],
)
def test_a_new_trace_begins_where_the_client_names_none_that_can_be_used(value: object) -> None:
    found = trace(Traceparent=value, Tracestate=["a=1"])
    assert found.trace_id != TRACE
    assert (found.parent_id, found.state) == ("", "")
    assert trace(Traceparent=[found.headers()["traceparent"]]).trace_id == found.trace_id  # the new one keeps the rules


def test_all_deliveries_of_a_task_are_one_trace_and_other_tasks_are_others() -> None:
    ids = [trace_of({}, task_id, makes_spans=makes).trace_id for task_id in ("a", "b\ud800") for makes in (True, False)]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_a_node_that_makes_spans_is_upstreams_parent_and_the_client_is_its_own() -> None:
    first, second = (trace_of({"traceparent": PARENT}, "id-1", makes_spans=True) for _ in range(2))
    assert (first.trace_id, first.parent_id) == (TRACE, SPAN)
    assert first.headers() == {"traceparent": f"00-{TRACE}-{first.span_id}-01"}
    assert len({first.span_id, second.span_id, SPAN}) == 3
    assert trace_of({}, "id-1", makes_spans=True).is_sampled
    assert not trace_of({}, "id-1", makes_spans=False).is_sampled


@pytest.mark.parametrize(
    ("values", "passed_on"),
    [
        pytest.param(["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", id="two"),
        pytest.param(["a=1 , b=2", "c=3"], "a=1,b=2,c=3", id="two-headers"),
        pytest.param(["a=1,,b=2,"], "a=1,b=2", id="empty-members"),
        pytest.param(["fw529a3039@dt=FfxQ"], "fw529a3039@dt=FfxQ", id="a-tenant"),
        pytest.param(["a=b c"], "a=b c", id="a-blank-in-the-value"),
        pytest.param([f"{'k' * 256}={'v' * 255}"], f"{'k' * 256}={'v' * 255}", id="a-member-of-512"),
        pytest.param([",".join(f"k{n}=v" for n in range(32))], ",".join(f"k{n}=v" for n in range(32)), id="32-members"),
        pytest.param([",".join(f"k{n}=v" for n in range(33))], "", id="33-members"),
        pytest.param(["a=1,a=2"], "", id="a-key-twice"),
        pytest.param(["A=1"], "", id="upper-case-key"),
        pytest.param(["a"], "", id="no-value"),
        pytest.param(["a=1=2"], "", id="two-equals-signs"),
        pytest.param(["a=\u00e9"], "", id="not-ascii"),
        pytest.param(["a=1\r\nX-Evil: 1"], "", id="another-header"),
        pytest.param([f"{'k' * 257}=v"], "", id="a-long-key"),
        pytest.param([7], "", id="a-number"),
    ],
)
def test_a_tracestate_is_passed_on_whole_or_not_at_all(values: list[Any], passed_on: str) -> None:
    assert trace(Traceparent=[PARENT], Tracestate=values).state == passed_on


def test_of_a_tracestate_that_is_too_long_the_longest_and_the_oldest_members_are_left_out() -> None:
    short = [f"k{number}={'v' * 60}" for number in range(9)]
    state = trace(Traceparent=[PARENT], Tracestate=[",".join(["long=" + "v" * 200, *short])]).state
    assert state == ",".join(short[:8])
    assert len(state) <= MOST_CHARACTERS


@pytest.mark.parametrize(
    ("value", "passed_on"),
    [
        (["req-1"], "req-1"),
        ("req-1", "req-1"),
        (["a" * 256], "a" * 256),
        (["a" * 257], None),
        (["a b"], None),
        (["a\r\nX-Evil: 1"], None),
        (["a", "b"], None),
        ([], None),
        ([None], None),
    ],
    ids=["a-list", "a-text", "longest", "too-long", "blank", "another-header", "twice", "none", "null"],
)
def test_the_clients_request_id_is_passed_on(value: object, passed_on: str | None) -> None:
    others = {"Authorization": ["Bearer zz"], "Cookie": ["c"]}
    headers = trace_of({"X-Request-ID": value, **others}, "id-1", makes_spans=False).headers()
    assert headers.pop("traceparent")
    assert headers == ({"X-Request-Id": passed_on} if passed_on else {})
