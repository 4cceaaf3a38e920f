"""No secret of the node or of a client gets out, however it is written; other words stay as they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode import redaction
from workernode.redaction import Redactor, hide_secrets_in_body, mask_keys, redact, redact_message

KEY = "sk-canary-0123456789"
TASK = {"request_id": "id", "stream": False, "endpoint": "http://gw:8080/res", "data": {"model": "m"}}

# --- text that looks like a key ---


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Incorrect API key provided: sk-abc***xyz. You can", "Incorrect API key provided: *** You can"),
        ("key sk-proj-A1b2-C3_d4 refused", "key *** refused"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ("{'Authorization': ['Bearer zz-1'], 'a': 'b'}", "{'Authorization': ['Bearer ***'], 'a': 'b'}"),
        ('{"authorization": "Basic dXNlcjpw", "x": 1}', '{"authorization": "Basic ***", "x": 1}'),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIi.c2ln expired", "token *** expired"),
        ("GET /v1?api-key=abc123&b=c", "GET /v1?api-key=***&b=c"),
        ("AIzaSyA-123456789 and AKIA1234567890", "*** and ***"),
        ("max_tokens: 100, token: 5, task-12345", "max_tokens: 100, token: 5, task-12345"),
        ("sk-learn, risk-20240101, disk_2000", "sk-learn, risk-20240101, disk_2000"),
        ("authorization failed; api_key: must be a string", "authorization failed; api_key: must be a string"),
        ("cannot reach http://me:pa55@gw:8080/res", "cannot reach http://***@gw:8080/res"),
        ("pulsar+ssl://u:p@ss@broker:6651, wss:\\/\\/u:p@gw", "pulsar+ssl://***@broker:6651, wss:\\/\\/***@gw"),
        ("see https://host/a@b or mail me@host", "see https://host/a@b or mail me@host"),
    ],
)
def test_what_looks_like_a_key_is_masked_and_other_words_stay(text: str, masked: str) -> None:
    assert mask_keys(text) == masked


@pytest.mark.parametrize("before", ["authorization:", "authorization: [", "authorization", "bearer", "api key="])
@pytest.mark.parametrize("filling", [" ", "\\", "\t\n"])
def test_a_long_text_is_searched_once(before: str, filling: str) -> None:
    """Once the time grew with the square of the length: one message of a publisher kept a node for hours."""
    assert mask_keys(f"{before}{filling * 200_000},").endswith(",")


# --- secrets of the node ---


@pytest.mark.parametrize(
    "secret",
    [KEY, 'quoted"and\\back/slash', "123456", "message"],
    ids=["key", "signs_that_json_escapes", "looks_like_a_number", "looks_like_a_member"],
)
def test_the_nodes_secrets_are_hidden_from_the_client(secret: str) -> None:
    """Upstreams repeat the key that they refuse: "Incorrect API key provided: sk-..."."""
    error = {"error": {"message": f"Incorrect key: {secret}.", "code": 123456, "inner": [{"k": secret}, None, 1.5]}}
    hidden = hide_secrets_in_body(error, [secret])
    assert hidden == {"error": {"message": "Incorrect key: ***.", "code": 123456, "inner": [{"k": "***"}, None, 1.5]}}
    assert secret in error["error"]["message"], "the given one was changed"  # type: ignore[operator]


def test_a_key_that_is_a_placeholder_is_no_secret() -> None:
    """Local servers are given `x`, `none` or `EMPTY`; hiding these would only make errors unreadable."""
    error = {"error": {"message": "EMPTY message, none of it", "type": "x"}}
    assert hide_secrets_in_body(error, ["EMPTY", "none", "x", ""]) == error


def test_an_error_that_is_nested_without_reason_is_cut() -> None:
    deep = json.loads('{"error":' + '{"a":' * 600 + "1" + "}" * 600 + "}")
    assert len(json.dumps(hide_secrets_in_body(deep, [KEY]))) < 1000


# --- messages that are stored ---


KEPT = {
    "authorization": ({"Authorization": ["Bearer sk-abc"]}, {"Authorization": ["***"]}),
    "any_spelling": ({"proxy-AUTHORIZATION": ["Basic abc"]}, {"proxy-AUTHORIZATION": ["***"]}),
    "api_key": ({"X-Api-Key": ["abcdef"]}, {"X-Api-Key": ["***"]}),
    "cookie": ({"Cookie": ["a=1; session=2"]}, {"Cookie": ["***"]}),
    "several_values": ({"Cookie": ["a=1; b=2", "session=3"]}, {"Cookie": ["***", "***"]}),
    "no_list": ({"Authorization": "Bearer sk-abc"}, {"Authorization": "***"}),
    "signs_that_json_escapes": ({"Authorization": ['Bearer "ä\\']}, {"Authorization": ["***"]}),
    "harmless": ({"User-Agent": ["curl/8"], "Accept": ["*/*"]}, {"User-Agent": ["curl/8"], "Accept": ["*/*"]}),
    "too_short_for_a_secret": ({"X-Api-Key": ["none"]}, {"X-Api-Key": ["none"]}),
    "of_wrong_types": ({"Authorization": [1, None, {}], "Cookie": 5}, {"Authorization": [1, None, {}], "Cookie": 5}),
}


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(("headers", "kept"), KEPT.values(), ids=KEPT.keys())
def test_what_is_kept_of_a_message_is_all_but_its_clients_secrets(
    headers: dict[str, Any], kept: dict[str, Any], ascii_only: bool
) -> None:
    payload, wanted = (
        json.dumps({**TASK, "metadata": {"headers": each}}, indent=1, ensure_ascii=ascii_only).encode()
        for each in (headers, kept)
    )
    assert redact_message(payload) == wanted


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        (b"", b""),
        (b"\x00\xff", b"\x00\xff"),
        (b"[]", b"[]"),
        (b'{"metadata": 5}', b'{"metadata": 5}'),
        (b'{"metadata": {"headers": []}}', b'{"metadata": {"headers": []}}'),
        (
            b'{"headers": {"Authorization": ["Bearer abc123"], \xff',
            b'{"headers": "***"',
        ),
        (b'"Authorization: Bearer abc123', b'"Authorization: Bearer ***'),
    ],
)
def test_what_is_kept_of_a_malformed_message(payload: bytes, kept: bytes) -> None:
    assert redact_message(payload) == kept


HEADERS = {"Cookie": ["session=canary; a={}"], "X-Api-Key": ["canary"], "Accept": ["*/*"], "X-Trace": ['{"a": "}"}']}
WHOLE = json.dumps({**TASK, "metadata": {"headers": HEADERS}, "data": {"model": "x/1"}})


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        pytest.param(WHOLE[:-2].encode(), b"x/1", id="cut at the end"),
        pytest.param(WHOLE[: WHOLE.index("canary") + 4].encode(), b"request_id", id="cut in a header"),
        pytest.param(WHOLE.encode("utf-16-le")[:-2], b"x/1", id="UTF-16, cut"),
        pytest.param(WHOLE.replace("/res", "/r\xe9s").encode("latin-1")[:-1], b"x/1", id="Latin-1, cut"),
        pytest.param(json.dumps(WHOLE).encode(), b"request_id", id="JSON inside JSON"),
        pytest.param(f"{WHOLE}{WHOLE}".encode(), b"x/1", id="two objects"),
        pytest.param(WHOLE.replace('"headers"', '"Headers"')[:-1].encode(), b"x/1", id="another name"),
        pytest.param(str(HEADERS).encode(), b"Accept", id="no JSON, headers alone"),
    ],
)
def test_a_message_that_cannot_be_parsed_loses_its_headers(payload: bytes, kept: bytes) -> None:
    stored = redact_message(payload).replace(b"\0", b"")
    assert b"cana" not in stored
    assert kept in stored


@given(st.binary(max_size=300))
def test_any_bytes_can_be_stored(payload: bytes) -> None:
    redact_message(payload)


# --- upstream's texts, and log lines ---


def test_a_known_secret_and_text_that_looks_like_a_key_are_both_hidden() -> None:
    assert redact(f"{KEY} and sk-abc***123 failed", [KEY]) == "*** and *** failed"
    assert redact("my-own-secret failed", ["my-own-secret"]) == "*** failed"


@pytest.mark.parametrize(
    "line", ["a secret\\key", "a secret%5Ckey", "a secret\\\\key"], ids=["plain", "address", "repr"]
)
def test_a_log_line_holds_a_secret_in_none_of_its_forms(line: str) -> None:
    assert Redactor(["secret\\key"], as_json=False)(line) == "a ***"


def test_a_secret_that_is_added_later_is_hidden_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_added", ())
    redactor = Redactor([], as_json=False)
    assert redactor("a second-key") == "a second-key"
    redaction.add_secrets(["second-key"])
    assert redactor("a second-key") == Redactor([], as_json=False)("a second-key") == "a ***"
    assert hide_secrets_in_body({"error": {"message": "no second-key"}}, ()) == {"error": {"message": "no ***"}}


def test_a_json_log_line_stays_json_when_the_secret_looks_like_a_number() -> None:
    assert json.loads(Redactor(["123456"], as_json=True)('{"a": 123456}')) == {"a": 1}


LOGIN = "user:canary-8f3a2b"


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps({**TASK, "endpoint": f"http://{LOGIN}@host/res"}).encode(),
        json.dumps({**TASK, "endpoint": f"ws://{LOGIN}@x@host:81/res/ws"}, indent=1).encode(),
        json.dumps({**TASK, "endpoint": f"http://{LOGIN}@host/res"}).replace("/", "\\/").encode(),
        json.dumps({**TASK, "endpoint": f"http://{LOGIN}@host/res"}).encode()[:-1],
        json.dumps(json.dumps({**TASK, "endpoint": f"http://{LOGIN}@host/res"})).encode(),
        json.dumps({**TASK, "endpoint": f"http://{LOGIN}@host/res"}).encode("utf-16"),
    ],
    ids=["plain", "an @ in the password", "escaped slashes", "cut", "JSON inside JSON", "UTF-16"],
)
def test_a_password_in_the_endpoint_is_masked_and_the_host_is_kept(payload: bytes) -> None:
    kept = redact_message(payload).replace(b"\0", b"")
    assert b"canary" not in kept
    assert b"***@" in kept
    assert b"host" in kept


def test_an_endpoint_without_a_password_is_kept_as_it_is() -> None:
    payload = json.dumps({**TASK, "endpoint": "http://host/res/a@b?c=@"}).encode()
    assert redact_message(payload) == payload


MISPLACED = {"headers": {"Authorization": ["Bearer canary-8f3a2b"], "Cookie": "canary-8f3a2b", "User-Agent": ["x/1"]}}


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps([{**TASK, "metadata": MISPLACED}]).encode(),
        json.dumps({**TASK, **MISPLACED}).encode(),
        json.dumps({**TASK, "metadata": {"Headers": MISPLACED["headers"]}}).encode(),
        json.dumps({**TASK, "metadata": MISPLACED}).encode("utf-16"),
        json.dumps({**TASK, "metadata": MISPLACED}).encode("utf-32-be"),
        b"\xef\xbb\xbf" + json.dumps({"task": {"metadata": MISPLACED}}).encode(),
    ],
    ids=["a list", "no metadata", "another case", "UTF-16", "UTF-32", "nested deeper, with a byte order mark"],
)
def test_secrets_in_a_message_of_another_shape_are_masked(payload: bytes) -> None:
    kept = redact_message(payload)
    text = kept.replace(b"\0", b"")
    assert b"canary" not in text
    assert b"***" in text
    assert b"x/1" in text
