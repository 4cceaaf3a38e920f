"""A message's bytes become a Task or a MalformedTask with a reason, and never anything else (spec 1.1, 7)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workernode.task import Endpoint, MalformedTask, Task, envelope_id, parse

TASK: dict[str, Any] = {
    "request_id": "id-1",
    "stream": False,
    "endpoint": "http://gw:8080/res",
    "data": {"model": "m", "messages": [{"role": "user", "content": "hällo"}]},
    "metadata": {"headers": {"User-Agent": ["curl"]}},
}


def message(**changes: Any) -> bytes:
    """The task above with changes; `...` leaves a member out."""
    whole = {name: value for name, value in {**TASK, **changes}.items() if value is not ...}
    return json.dumps(whole, ensure_ascii=False).encode("utf-8", "surrogatepass")


# --- what is a task ---


def test_a_task_as_the_platform_writes_it() -> None:
    assert parse(message()) == Task(
        "id-1", False, Endpoint(False, "gw", 8080, "/res"), TASK["data"], {"User-Agent": ["curl"]}
    )


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"metadata": ...}, id="no_metadata"),
        pytest.param({"metadata": None}, id="metadata_null"),
        pytest.param({"metadata": {}}, id="metadata_without_headers"),
        pytest.param({"metadata": {"headers": None}}, id="headers_null"),
        pytest.param({"metadata": [1]}, id="metadata_of_a_wrong_type"),
        pytest.param({"metadata": {"headers": "x"}}, id="headers_of_a_wrong_type"),
    ],
)
def test_metadata_may_be_missing(changes: dict[str, Any]) -> None:
    assert parse(message(**changes)).headers == {}


@pytest.mark.parametrize("value", [True, False, None, "yes"])
@pytest.mark.parametrize("stream", [True, False])
def test_stream_of_the_task_overrides_stream_of_the_body(stream: bool, value: object) -> None:
    assert parse(message(stream=stream, data={"stream": value})).stream is stream


def test_the_clients_body_is_untouched() -> None:
    data = {"x": [1, 2.5, None, {"y": "\u2028"}], "unknown": True, "stream": "maybe", "model": 7}
    assert parse(message(data=data, further="member")).data == data


# --- what is none ---

BAD_BYTES = {
    "empty": (b"", "not JSON"),
    "text": (b"hello", "not JSON"),
    "binary": (b"\x00\xff\xfe", "not UTF-8"),
    "utf16": (message().decode().encode("utf-16"), "not UTF-8"),
    "byte_order_mark": (b"\xef\xbb\xbf" + message(), "not JSON"),
    "null": (b"null", "not a JSON object but null"),
    "list": (b"[]", "not a JSON object but a list"),
    "string": (b'"x"', "not a JSON object but a string"),
    "number": (b"1.5", "not a JSON object but a number"),
    "boolean": (b"true", "not a JSON object but a boolean"),
}


@pytest.mark.parametrize(("payload", "reason"), BAD_BYTES.values(), ids=BAD_BYTES.keys())
def test_bytes_that_are_no_task(payload: bytes, reason: str) -> None:
    with pytest.raises(MalformedTask) as caught:
        parse(payload)
    assert caught.value.reason.startswith(reason)
    assert (caught.value.request_id, caught.value.endpoint) == ("", None)


DEEP = b"[" * 100_000 + b"]" * 100_000
UNREADABLE = {
    "half": (message()[:-1], "not JSON"),
    "nan": (message(data={"temperature": float("nan")}), "not JSON: NaN"),
    "infinity": (message(data={"temperature": float("inf")}), "not JSON: Infinity"),
    "a_number_of_5000_digits": (message().replace(b'"m"', b"1" * 5000), "not JSON: a number has 5000 digits"),
    "nested_100000_deep": (message().replace(b'"m"', DEEP), "JSON nested too deep"),
    "with_spaces": (b"\n" + json.dumps(TASK, indent=2).encode().replace(b'"m"', DEEP), "JSON nested too deep"),
}


@pytest.mark.parametrize(("payload", "reason"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_message_whose_data_is_unreadable_still_names_its_client(payload: bytes, reason: str) -> None:
    """The gateway writes id, stream and endpoint before it. Untold, the client of a stream would wait for ever."""
    with pytest.raises(MalformedTask) as caught:
        parse(payload)
    assert caught.value.reason.startswith(reason)
    assert (caught.value.request_id, caught.value.endpoint) == ("id-1", Endpoint(False, "gw", 8080, "/res"))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"data": NaN, ' + message()[1:],
        b'{"data": {"endpoint": "http://evil/", "request_id": "x", "deep": ' + DEEP + b"}, " + message()[1:],
        b'[{"request_id": "x", "endpoint": "http://evil/"}, NaN',
        b'x{"request_id": "x", "endpoint": "http://evil/"}',
        b'{"a": 1 {"request_id": "x", "endpoint": "http://evil/"}',
        b'{, "request_id": "x", "endpoint": "http://evil/"}',
    ],
    ids=["behind_it", "in_the_clients_data", "in_a_list", "behind_rubbish", "without_a_comma", "comma_first"],
)
def test_members_after_the_unreadable_one_are_ignored(payload: bytes) -> None:
    """It could be the client's own words, and its answer would go where the client wants."""
    with pytest.raises(MalformedTask) as caught:
        parse(payload)
    assert (caught.value.request_id, caught.value.endpoint) == ("", None)


def test_reply_hosts_apply_to_an_unreadable_message() -> None:
    with pytest.raises(MalformedTask) as caught:
        parse(message()[:-1], ("elsewhere",))
    assert (caught.value.request_id, caught.value.endpoint) == ("id-1", None)


BAD_MEMBERS = {
    "no_id": ({"request_id": ...}, "request_id must be"),
    "id_null": ({"request_id": None}, "request_id must be"),
    "id_empty": ({"request_id": ""}, "request_id must be"),
    "id_number": ({"request_id": 5}, "request_id must be"),
    "id_too_long": ({"request_id": "x" * 257}, "request_id must be"),
    "id_with_a_line_end": ({"request_id": "a\r\nb"}, "request_id must be"),
    "id_with_a_lone_surrogate": ({"request_id": "\ud800"}, "request_id must be"),
    "no_stream": ({"stream": ...}, "stream must be true or false, not null or missing"),
    "stream_as_text": ({"stream": "yes"}, "stream must be true or false, not a string"),
    "stream_as_number": ({"stream": 1}, "stream must be true or false, not a number"),
    "no_data": ({"data": ...}, "data must be the chat request, an object, not null or missing"),
    "data_as_list": ({"data": []}, "data must be the chat request, an object, not a list"),
    "data_as_text": ({"data": "{}"}, "data must be the chat request, an object, not a string"),
    "no_endpoint": ({"endpoint": ...}, "endpoint must be an address, not null or missing"),
    "endpoint_as_object": ({"endpoint": {}}, "endpoint must be an address, not an object"),
    "endpoint_of_another_kind": ({"endpoint": "file:///etc/passwd"}, "endpoint must begin with"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD_MEMBERS.values(), ids=BAD_MEMBERS.keys())
def test_a_message_with_a_wrong_member_is_no_task(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedTask) as caught:
        parse(json.dumps({k: v for k, v in {**TASK, **changes}.items() if v is not ...}).encode())
    assert caught.value.reason.startswith(reason)
    assert caught.value.request_id == ("" if "request_id" in changes else "id-1")
    assert (caught.value.endpoint is None) is ("endpoint" in changes)


def test_all_faults_are_listed() -> None:
    with pytest.raises(MalformedTask) as caught:
        parse(b"{}")
    for name in ("request_id", "stream", "data", "endpoint"):
        assert name in caught.value.reason


@pytest.mark.parametrize(
    ("endpoint", "stream"),
    [("ws://gw/res/ws", True), ("http://gw/res/ws/", True), ("http://gw/res", False), (None, False)],
)
def test_where_stream_is_missing_the_endpoint_shows_how_the_gateway_waits(endpoint: str | None, stream: bool) -> None:
    with pytest.raises(MalformedTask) as caught:
        parse(message(stream=..., endpoint=endpoint))
    assert caught.value.stream is stream


def test_a_task_for_a_host_that_is_not_allowed_is_no_task() -> None:
    with pytest.raises(MalformedTask, match="REPLY_HOSTS") as caught:
        parse(message(), ("elsewhere",))
    assert caught.value.endpoint is None, "its client would get an error, which REPLY_HOSTS forbids"


# --- the id alone ---


@pytest.mark.parametrize(
    ("payload", "id"),
    [
        (message(), "id-1"),
        (message(stream=5, data=None), "id-1"),
        (message(request_id=7), ""),
        (message(request_id="x" * 257), ""),
        (message(request_id="a\nb"), ""),
        (b"[]", ""),
        (b"rubbish \xff", ""),
        (b"[" * 100_000, ""),
        (b'{"request_id": ' + b"1" * 5000 + b"}", ""),
        (b'{"request_id":"a","data":"\\ud83d"}', "a"),
        (b'{"request_id":"a","data":1e999}', "a"),
        (b'{"request_id":"a","request_id":"b"}', "b"),
    ],
    ids=[
        *("task", "the_rest_is_wrong", "number", "too_long", "line_end", "list", "rubbish", "deep", "long_number"),
        *("half_a_surrogate_pair", "number_too_large", "twice"),
    ],
)
def test_the_id_is_read_without_judging_the_rest(payload: bytes, id: str) -> None:
    assert envelope_id(payload) == id


# --- whatever comes ---

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "request_id": VALUE | st.just("id"),
        "stream": VALUE | st.booleans(),
        "endpoint": VALUE | st.text(alphabet="htps:/w[]@%.-0a?#\\ \n\u00e9").map(lambda rest: "http://" + rest),
        "data": VALUE | st.just({}),
        "metadata": VALUE | st.just({"headers": {}}),
    },
)


@given(st.binary(max_size=300) | NEARLY.map(lambda value: json.dumps(value).encode()))
@example(message())
@example(b'{"endpoint":"http://[x]/"}')
@example(b'{"endpoint":"http://[::ffff:1.2.3.4.5]/"}')
@example(b'{"request_id":"cut"')
def test_any_bytes_are_a_task_or_malformed(payload: bytes) -> None:
    id = envelope_id(payload)
    try:
        task = parse(payload)
    except MalformedTask as caught:
        fault = caught
    else:
        assert task.request_id == id
        return
    assert fault.reason
    assert fault.reason.isprintable()
    assert fault.endpoint is None or isinstance(fault.endpoint, Endpoint)
    # Of a message that is cut, the id can be read where it stands before the cut; the envelope of one is not read.
    assert fault.request_id in ("", id) or not id
