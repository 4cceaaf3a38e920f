"""300 kinds of rubbish among good tasks: dead-lettered with a reason, an error to its client, no other harm done."""

from __future__ import annotations

import gzip
import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.testbed import Testbed
from tests.support.wait import until_equal
from workernode.redaction import redact_message

LARGEST = 5 * 1024 * 1024  # bytes: what the broker takes

WRONG: list[Any] = [None, False, 7, -1, 3.5, "", "text", [], [1], {}, {"a": 1}]
ENDPOINTS = [
    "", " ", "res", "/res", "//HOST/res", "HOST/res", "file:///etc/passwd", "ftp://HOST/res", "gopher://HOST/res",
    "javascript:alert(1)", "data:,x", "unix:///run/x.sock", "http+unix://%2Frun%2Fx/res", "mailto:a@b", "redis://HOST/",
    "http:", "http:/", "http://", "http:///res", "http://:80/res", "ws://", "wss:///res", "https://?x", "http://#x",
    "http://user@HOST/res", "http://user:pass@HOST/res", "http://:@HOST/res", "ws://a@HOST/res/ws", "http://@HOST/res",
    "http://HOST/res\r\nX-Evil: 1", "http://HOST/\r\n\r\nGET /", "http://HOST/res\n", "\nhttp://HOST/res",
    "http://HOST/res\t",
    "http://HO\r\nST/res", "http://HOST/res\x00", "http://HOST/res\x7f", "http://HOST/ res", "http://HO ST/res",
    "http://HOST\\res", "\\\\HOST\\res", "http:\\\\HOST\\res", "http://127.0.0.1:0/res", "http://127.0.0.1:65536/res",
    "http://127.0.0.1:-1/res", "http://127.0.0.1:abc/res", "http://127.0.0.1:/res", "http://127.0.0.1:80:80/res",
    "http://[::1/res", "http://::1]/res", "http://[]/res", "http://[zz]/res", "http://[::1]x/res", "http://bücher.example/",
    "http://HOST/ré", "http://exa_mple..com/", "http://-/", "http://.../", "http://a..b/",
    "http://" + "a" * 64 + ".com/",
    "http://" + "a." * 130 + "com/", "http://%31%32%37.0.0.1/", "http://127.0.0.1%0d%0a/", "http://ho!st/", "http://ho$st/",
    "http://<host>/", "http://{HOST}/", "http://host|x/", "http://a,b/", "http://'/", 'http://"/', "htp://HOST/res",
    "HTTPS//HOST", "ws:HOST", "wsss://HOST/", "http;//HOST/", "http//:HOST/", "about:blank", "*", "null", "http",
    "http://HOST/\u2028", "http://\u3002/", "http://\ud83d\ude00/", "http://127.0.0.1:６５/",
]  # fmt: skip
IDS: list[Any] = ["x" * 257, "a\r\nb", "a\nb", "a\x00b", "\x1b[31m", "\u2028", "\ud800", "\x7f", "\t", "\u200b"]

def kinds(testbed: Testbed) -> Iterator[tuple[str, bytes, str, bool]]:
    """Names, bytes, the id under which an answer must come ("" for none), and whether it is a stream."""
    dice = random.Random(4)

    def good() -> bytes:
        return json.dumps(testbed.platform.task("hello")).encode()  # with an id of its own: none is taken for another

    def with_(way: bool = False, /, **fields: Any) -> bytes:
        whole = {**testbed.platform.task("hello", stream=way), **fields}
        return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()

    for name, raw in {
        "empty": b"", "a space": b" ", "NUL": b"\0", "BOM only": b"\xef\xbb\xbf", "BOM": b"\xef\xbb\xbf" + good(),
        "UTF-16": good().decode().encode("utf-16"), "UTF-32": good().decode().encode("utf-32"),
        "gzip": gzip.compress(good()),
        "two": good() + good(), "two lines": good() + b"\n" + good(), "behind": good() + b"x", "before": b"x" + good(),
        "single quotes": good().replace(b'"', b"'"), "comma": good()[:-1] + b",}", "comment": b"/* */" + good(),
        "list of it": b"[" + good() + b"]", "string of it": json.dumps(good().decode()).encode(),
        "NUL inside": good().replace(b": ", b":\0 ", 1),
        "not UTF-8": good().replace(b"hello", b"\xff\xfe"), "cut character": good().replace(b"hello", b"\xc3"),
        "overlong": good().replace(b"hello", b"\xc0\xaf"), "raw surrogate": good().replace(b"hello", b"\xed\xa0\x80"),
        "NaN": b"NaN", "Infinity": b"-Infinity", "number": b"1", "huge": b"9" * 5000, "1e999": b"1e999",
        "true": b"true", "null": b"null", "text": b'"text"', "[]": b"[]", "{}": b"{}", "bare word": b"hello",
        "HTML": b"<html></html>",
        "XML": b"<?xml version='1.0'?><a/>", "YAML": b"request_id: 1\nstream: false",
        "form": b"request_id=1&stream=false",
        "pickle": b"\x80\x04\x95\x00.", "NaN inside": good().replace(b'"hello"', b"NaN"), "deep": b"[" * 100_000,
        "deep and closed": b"[" * 100_000 + b"]" * 100_000, "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "deep data": good().replace(b'"hello"', b"[" * 100_000 + b"]" * 100_000),
        "as large as it goes": b"x" * (LARGEST - 200),
        "digits inside": good().replace(b'"hello"', b"9" * 5000),
    }.items():  # fmt: skip
        yield name, raw, "", False
    for count in range(50):
        yield f"noise {count}", bytes(dice.randrange(256) for _ in range(1 + count * 7)), "", False
    for count in range(24):
        yield f"cut at {count}", good()[: 250 * count // 24 or 1], "", False
    for count in range(30):
        spoilt = bytearray(good())
        spoilt[dice.randrange(len(spoilt))] = dice.choice(b"\x00\x01\x1f\x80\xff")
        yield f"spoilt {count}", bytes(spoilt), "", False
    for value in [..., *WRONG]:
        yield f"id {value!r}"[:40], with_(request_id=value) if value != "text" else b"{", "", False
        if not isinstance(value, bool):
            id = str(uuid.uuid4())
            yield f"stream {value!r}"[:40], with_(request_id=id, stream=value), id, False
            id = str(uuid.uuid4())
            yield f"stream {value!r} at /ws"[:40], with_(True, request_id=id, stream=value), id, True
        if not isinstance(value, dict):
            id = str(uuid.uuid4())
            yield f"data {value!r}"[:40], with_(request_id=id, data=value), id, False
            id = str(uuid.uuid4())
            yield f"streamed data {value!r}"[:40], with_(True, request_id=id, data=value), id, True
        if value is ... or not isinstance(value, str):
            yield f"endpoint {value!r}"[:40], with_(endpoint=value), "", False
    for value in IDS:
        yield f"id {value!r}"[:40], with_(request_id=value), "", False
    for value in ENDPOINTS:
        yield f"endpoint {value!r}"[:60], with_(endpoint=value.replace("HOST", testbed.gateway.address)), "", False


@pytest.fixture(scope="module")
def testbed(build: Callable[..., Testbed]) -> Testbed:
    """One node for all of it."""
    one = build()
    one.start()
    return one


def test_malformed_messages_are_dead_lettered_their_clients_get_errors_and_good_tasks_are_served(
    testbed: Testbed
) -> None:
    platform, node = testbed.platform, testbed.node
    workers = node.workers()
    rubbish = list(kinds(testbed))
    assert len(rubbish) >= 300
    good = []
    for number, (_, raw, id, _) in enumerate(rubbish):
        if id:
            testbed.gateway.register(id)
        platform.publish(raw)
        if number % 5 == 0:
            good.append(platform.ask("good", stream=number % 2 == 0))
    until_equal(lambda: len(platform.dead_letters()), len(rubbish), 60, "dead letters")
    letters = {letter.payload: letter.properties for letter in platform.dead_letters()}
    for name, raw, id, stream in rubbish:
        properties = letters[redact_message(raw)]  # byte for byte, but for the headers of what cannot be parsed
        assert properties["reason"], name
        assert (properties.get("request_id", "") == id) or not id, name
        assert testbed.gateway.post_url not in properties["reason"], name
        if id:
            answer = testbed.answer(id)
            assert answer.error is not None, name
            assert answer.error["type"] == "invalid_request_error", name
            assert answer.ends == (1 if stream else 0), name
            assert not answer.faults, answer.faults
    for one in good:
        assert testbed.answer(one).error is None
        assert testbed.asked(one) == 1
    assert len(testbed.upstream.requests) == len(good)  # nothing else was asked
    platform.wait_balanced(good)
    answered = sum(bool(id) for _, _, id, _ in rubbish)
    assert not testbed.gateway.strange
    assert node.workers() == workers
    assert not [line for line in node.logs() if line.get("level") in ("ERROR", "CRITICAL")]
    assert platform.dead_letter_subscriptions()  # so that they are kept
    print(f"{len(rubbish)} kinds of rubbish, {answered} with an error to the client, {len(good)} good tasks among them")


def test_a_malformed_message_that_is_redelivered_is_not_dead_lettered_twice(testbed: Testbed) -> None:
    before = len(testbed.platform.dead_letters())
    testbed.platform.publish(b"once")
    until_equal(lambda: len(testbed.platform.dead_letters()), before + 1, 20, "dead letters")
    testbed.platform.wait_backlog(0)
    topic, subscription = testbed.platform.topic, testbed.platform.subscription
    testbed.platform.admin("POST", f"persistent/public/default/{topic}/subscription/{subscription}/resetcursor/0")
    assert testbed.platform.ask_and_wait("after it").text
    testbed.platform.wait_backlog(0)
    assert len(testbed.platform.dead_letters()) == before + 1


# Endpoints that are addresses, and to which no answer may go: REPLY_HOSTS is 127.0.0.1.
FORBIDDEN = [
    "http://localhost:PORT/res", "http://LOCALHOST:PORT/res", "http://[::1]:PORT/res", "http://2130706433:PORT/res",
    "http://0x7f000001:PORT/res", "http://127.1:PORT/res", "http://0177.0.0.1:PORT/res", "http://[::ffff:127.0.0.1]:PORT/res",
    "http://127.0.0.1.:PORT/res", "http://0:PORT/res", "http://169.254.169.254/latest/meta-data", "http://example.org/res",
    "http://127.0.0.1.example.org/res", "ws://localhost:PORT/res/ws", "http://127.0.0.1@localhost:PORT/res",
    "http://localhost:PORT/?127.0.0.1", "http://localhost:PORT#127.0.0.1",
]  # fmt: skip


def test_answers_go_only_to_hosts_that_match(build: Callable[..., Testbed]) -> None:
    testbed = build(REPLY_HOSTS="127.0.0.1")
    testbed.start()
    for endpoint in FORBIDDEN:
        testbed.platform.ask("hello", task={"endpoint": endpoint.replace("PORT", str(testbed.gateway.port))})
    letters = testbed.platform.wait_dead_letters(len(FORBIDDEN))
    assert len(letters) == len(FORBIDDEN)
    assert all("endpoint" in letter.properties["reason"] for letter in letters)
    assert testbed.platform.ask_and_wait("hello").text
    assert testbed.platform.ask_and_wait("hello", stream=True).text
    assert len(testbed.upstream.requests) == 2
    assert not testbed.gateway.strange
    assert len(testbed.gateway.posts) == 1
    assert len(testbed.gateway.upgrades) == 1
    testbed.platform.wait_backlog(0)
    testbed.close_nodes()
