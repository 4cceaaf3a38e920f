"""`workernode-records` without a broker: what is added up, how it looks, what its command line takes."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.broker import Access, NoConnection, NoRecords, Published
from supervisor.records import command as records
from supervisor.records import show as records_show
from supervisor.records.sums import GROUPS, Sums, percentile, read
from workernode.prices import Cost
from workernode.protocol import Decision, Durations
from workernode.record import Client, Node, Record, Times, encode

NODE = Node("host-a-1", "host-a", "remote", "0.1.0", worker=0)
NOW = 1_700_000_000.0
TOKEN = "canary-token-77"


def one(delivery: int = 1, **fields: Any) -> bytes:
    """A record as a node publishes it."""
    known: dict[str, Any] = {
        "request_id": f"id-{delivery}", "delivery": delivery, "node": NODE, "status": "answered",
        "decision": Decision.ACK, "model": "m", "times": Times(answered=NOW),
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "durations": Durations(first_token=0.1),
    }  # fmt: skip
    return encode(Record(**(known | fields)))


def added(*messages: bytes, by: tuple[str, ...] = ("model",)) -> Sums:
    sums = Sums(by)
    for message in messages:
        sums.add(message)
    return sums


# What is added up.


def test_a_record_that_was_sent_twice_counts_once() -> None:
    sums = added(one(1), one(1), one(2))
    assert sums.total.figures() == {
        "requests": 2, "errors": 0, "handed_back": 0, "counted": 0, "estimated": 0,
        "prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14,
        "cost": None,
        "first_token_p50_ms": 100.0, "first_token_p95_ms": 100.0,
    }  # fmt: skip
    assert sums.duplicates == 1


def test_costs_are_added_up_exactly_for_each_currency() -> None:
    costs = [Cost(Decimal("0.1"), "USD", "1"), Cost(Decimal("0.2000000000000000001"), "USD", "2"), None]
    costs.append(Cost(Decimal(5), "EUR", "1"))
    sums = added(*(one(number, cost=cost) for number, cost in enumerate(costs)))
    assert sums.total.figures()["cost"] == "5 EUR + 0.3000000000000000001 USD"


@pytest.mark.parametrize("amount", [5, None, "NaN", "1e9999999", "x", "-1"])
def test_a_cost_that_is_no_amount_is_not_added(amount: object) -> None:
    """Other programs may write to the topic, too."""
    message = json.loads(one(1, cost=Cost(Decimal(1), "USD", "1")))
    message["cost"]["amount"] = amount
    assert added(json.dumps(message).encode()).total.figures()["cost"] is None


def test_records_can_be_grouped_by_the_clients_key() -> None:
    sums = added(one(1, client=Client(key_id="00ff00ff00ff00ff")), one(2), by=("key",))
    assert {names for names, _ in sums.groups()} == {("00ff00ff00ff00ff",), ("-",)}


@pytest.mark.parametrize(
    ("status", "decision", "figures"),
    [
        ("answered", Decision.ACK, (1, 0, 0)),
        ("client_gone", Decision.ACK, (1, 0, 0)),
        ("gave_up", Decision.ACK, (1, 1, 0)),
        ("malformed", Decision.DEAD_LETTER, (1, 1, 0)),
        ("retry", Decision.NAK, (0, 0, 1)),
    ],
)
def test_a_request_counts_where_it_ends(status: str, decision: Decision, figures: tuple[int, int, int]) -> None:
    total = added(one(status=status, decision=decision)).total
    assert (total.requests, total.errors, total.handed_back) == figures


def test_what_upstream_billed_for_a_delivery_that_was_handed_back_is_counted() -> None:
    assert added(one(1, decision=Decision.NAK), one(2)).total.total_tokens == 14


def test_a_total_that_upstream_left_out_is_made_up() -> None:
    assert added(one(usage={"prompt_tokens": 3, "completion_tokens": 4})).total.total_tokens == 7


def test_records_are_grouped_by_what_is_asked_for() -> None:
    other = Node("host-b-1", "host-b", "remote", "0.1.0")
    sums = added(one(1), one(2, node=other), one(3, node=other, model="n"), by=("node", "model"))
    assert {names: each.requests for names, each in sums.groups()} == {
        ("host-a", "m"): 1, ("host-b", "m"): 1, ("host-b", "n"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("client", "name"),
    [
        (Client("curl/8", "203.0.113.9", "u-7"), "u-7"),
        (Client("curl/8", "203.0.113.9"), "203.0.113.9"),
        (Client("curl/8"), "curl/8"),
        (Client(), "-"),
    ],
)
def test_a_client_is_known_by_the_best_that_is_known(client: Client, name: str) -> None:
    assert [names for names, _ in added(one(client=client), by=("client",)).groups()] == [(name,)]


def test_the_group_with_most_tokens_stands_first() -> None:
    sums = added(one(1, model="few", usage={"total_tokens": 1}), one(2, model="many"))
    assert [names for names, _ in sums.groups()] == [("many",), ("few",)]


def test_percentiles_are_values_that_were_seen() -> None:
    waits = [float(number) for number in range(1, 101)]
    assert (percentile(waits, 50), percentile(waits, 95), percentile(waits[:1], 95)) == (50.0, 95.0, 1.0)
    assert percentile([], 50) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(json.loads(one()))), inner),
    max_leaves=12,
)


@given(JSON)
def test_any_message_on_the_topic_is_added_up_or_skipped(value: object) -> None:
    if isinstance(value, dict):
        value |= {"schema": "workernode.record/1", "attempt_id": "a"}
    sums = added(json.dumps(value).encode(), by=tuple(GROUPS))
    assert sums.total.requests + sums.total.handed_back + sums.unreadable == 1
    records_show.table(sums)
    json.loads(records_show.sums_json(sums))
    if (record := read(json.dumps(value).encode())) is not None:
        assert records_show.tail_line(records_show.tail_row(record)).endswith("\n")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"schema": "other/1", "attempt_id": "a"}', b"[" * 100_000])
def test_a_message_that_is_no_record_is_skipped(data: bytes) -> None:
    sums = added(data, one())
    assert (sums.unreadable, sums.total.requests) == (1, 1)


# How it looks.


def test_the_table_has_a_line_for_each_group_and_a_total() -> None:
    text = records_show.table(added(one(1), one(2, model="n", usage=None, durations=Durations()), by=("model", "node")))
    head, first, second, total = (line.split() for line in text.splitlines())
    assert head[:5] == ["model", "node", "requests", "errors", "nak'd"]
    assert first == ["m", "host-a", "1", "0", "0", "0", "0", "3", "4", "7", "100", "100"]
    assert second == ["n", "host-a", "1", "0", "0", "0", "0", "0", "0", "0"]  # no first token, so nothing stands there
    assert total == ["all", "2", "0", "0", "0", "0", "3", "4", "7", "100", "100"]


def test_control_characters_in_names_are_replaced() -> None:
    message = json.loads(one())
    message["model"] = "\x1b[2Jbad\n" + "x" * 100
    sums = added(json.dumps(message).encode())
    assert "\x1b" not in records_show.table(sums)
    assert len(records_show.table(sums).splitlines()) == 2
    line = records_show.tail_line(records_show.tail_row(message), width=80)
    assert "\x1b" not in line
    assert len(line) <= 80


def test_csv_and_json_have_the_same_figures() -> None:
    sums = added(one(1), one(2, model='quo"te,d'), by=("model", "node"))
    lines = list(csv.DictReader(io.StringIO(records_show.sums_csv(sums))))
    groups = json.loads(records_show.sums_json(sums))["groups"]
    shown = [{name: "" if value is None else str(value) for name, value in group.items()} for group in groups]
    assert shown == lines


# The command line.


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of somebody else's
    for name in ("PULSAR_URL", "PULSAR_TOKEN", "RES_TOPIC_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command reads instead of a topic; `asked` is what it asked for."""
    made: dict[str, Any] = {"messages": [], "asked": None, "error": None}

    def fake(*asked: Any, follow: bool) -> Iterator[Published | None]:
        made["asked"] = (*asked, follow)
        for message in made["messages"]:
            yield message and Published(message, NOW)
        if made["error"]:
            raise made["error"]

    monkeypatch.setattr(records, "read_records", fake)
    return made


def test_defaults_come_from_the_environment(topic: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSAR_URL", "pulsar://b:6650")
    monkeypatch.setenv("PULSAR_TOKEN", f" {TOKEN}\n")
    monkeypatch.setenv("RES_TOPIC_NAME", "bills")
    before = time.time()
    assert records.main(["sum"]) == 0
    access, name, since, follow = topic["asked"]
    assert (access, name, follow) == (Access("pulsar://b:6650", TOKEN), "persistent://public/default/bills", False)
    assert before - 3600 <= since <= time.time() - 3600
    assert records.main(["tail", "--url", "pulsar://c", "--topic", "t", "--since", "2026-01-31T08:00:00Z"]) == 0
    assert topic["asked"] == (Access("pulsar://c", TOKEN), "persistent://public/default/t", 1769846400.0, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sum"], "--url"),
        (["sum", "--url", "http://b:8080"], "PULSAR_URL starts with neither pulsar:// nor"),
        (["sum", "--url", "pulsar://b", "--topic", "a b"], "RES_TOPIC_NAME is 'a b'"),
        (["sum", "--url", "pulsar://b", "--token", f"Bearer {TOKEN}"], "PULSAR_TOKEN holds a space"),
        (["sum", "--url", "pulsar://b", "--by", "model,colour"], "cannot group by 'colour'; choose from model, "),
        (["sum", "--url", "pulsar://b", "--since", "yesterday"], "'yesterday' is neither an age"),
        (["tail", "--url", "pulsar://b", "--json", "--csv"], "not allowed with"),
        ([], "required"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_right(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        records.main(arguments)
    output = capsys.readouterr().err
    assert left.value.code == 2
    assert expected in output
    assert TOKEN not in output


def test_sum_adds_up_the_records_of_the_topic(topic: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    topic["messages"] = [one(1), one(2), b"junk"]
    assert records.main(["sum", "--url", "pulsar://b", "--by", "node"]) == 0
    shown = capsys.readouterr()
    assert "host-a         2" in shown.out
    assert "1 messages of the topic are not records" in shown.out
    assert shown.err == ""  # no progress but on a terminal


def test_sum_as_json_has_its_time_span(topic: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    topic["messages"] = [one(1), one(1)]
    assert records.main(["sum", "--url", "pulsar://b", "--json", "--since", "1970-01-02"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["since"] == "1970-01-02T00:00:00.000Z"
    assert (output["duplicates"], output["total"]["requests"], output["groups"][0]["model"]) == (1, 1, "m")


def test_tail_shows_each_record_once(topic: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    topic["messages"] = [one(1), None, one(1), one(2), b"junk"]
    topic["error"] = KeyboardInterrupt()
    assert records.main(["tail", "--url", "pulsar://b"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["time", "status", "model"]
    assert [line.split()[-1] for line in lines] == ["id-1", "id-2"]
    assert lines[0].split()[0] == "22:13:20.000"


def test_tail_as_json_is_the_record_itself(topic: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    topic["messages"] = [one(1), one(2)]
    assert records.main(["tail", "--url", "pulsar://b", "--json"]) == 0
    assert capsys.readouterr().out.encode() == one(1) + b"\n" + one(2) + b"\n"


def test_tail_as_csv_has_one_header_line(topic: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    topic["messages"] = [one(1), one(2)]
    assert records.main(["tail", "--url", "pulsar://b", "--csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["request_id"] for line in lines] == ["id-1", "id-2"]


@pytest.mark.parametrize("error", [NoConnection("it is away", "start it"), NoRecords("no topic t")])
def test_an_unreadable_topic_is_an_error_of_one_line(
    topic: dict[str, Any], error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    topic["error"] = error
    assert records.main(["sum", "--url", "pulsar://b"]) == 1
    assert capsys.readouterr().err == f"workernode-records: {error}\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_line_is_erased_at_the_end() -> None:
    terminal, clock = Terminal(), iter([1.0, 1.0, 1.1, 2.0, 2.0])
    progress = records.ProgressLine(terminal, lambda: next(clock))
    assert progress.due()
    progress.show("10 %")
    assert not progress.due()  # too soon
    assert progress.due()
    progress.show("20 %")
    progress.clear()
    assert terminal.getvalue() == "\r10 %\x1b[K\r20 %\x1b[K\r\x1b[K"


def test_the_header_line_is_repeated_on_each_page_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "6")
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    screen = records.Screen("table", terminal)
    for number in range(8):
        screen.show(json.loads(one(number)), one(number))
    lines = terminal.getvalue().splitlines()
    assert [line.startswith("time") for line in lines] == [True, *[False] * 4] * 2
    assert max(map(len, lines)) < 60
