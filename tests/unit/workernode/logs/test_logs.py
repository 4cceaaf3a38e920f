"""One line an event, strict JSON, no secret in it; floods are folded; a log that nobody reads harms nothing."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT
from tests.support.wait import until
from workernode.logs import setup as logs
from workernode.logs.setup import Fold, JsonLines, LineHandler, Pipe, Sort, TextLines
from workernode.redaction import Redactor

KEY = "sk-canary/0\"1'2\\3+4"


class Log:
    """A log that is written into a file: what is said to `log` is in `lines`."""

    def __init__(self, path: Path, *, as_json: bool = True, secrets: tuple[str, ...] = (KEY,)) -> None:
        self.now = 1000.0
        self._path = path
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        redactor = Redactor(secrets, as_json=as_json)
        formatter = JsonLines(redactor, {"model": "m", "worker": 3}) if as_json else TextLines(redactor)
        self.handler = LineHandler(Pipe(self._fd), formatter, redactor, clock=lambda: self.now)
        self.log = logging.Logger("workernode.test")
        self.log.addHandler(self.handler)

    @property
    def text(self) -> str:
        return self._path.read_text(encoding="utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line, parse_constant=pytest.fail) for line in self.text.split("\n")[:-1]]

    @property
    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines]

    def close(self) -> None:
        self.handler.close()
        os.close(self._fd)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "log")
    yield made
    made.close()


@pytest.fixture
def text_log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "log", as_json=False)
    yield made
    made.close()


def test_a_line_is_one_json_object_with_its_members_in_order(log: Log) -> None:
    log.log.info("task %s", "answered", extra={"event": "task_done", "request_id": "id-1", "attempt": 2})
    (line,) = log.lines
    assert list(line) == ["time", "level", "event", "message", "model", "worker", "request_id", "attempt"]
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO", "event": "task_done", "message": "task answered", "model": "m", "worker": 3,
        "request_id": "id-1", "attempt": 2,
    }  # fmt: skip


def test_another_librarys_line_has_its_logger_as_event(log: Log) -> None:
    log.log.warning("retrying")
    assert log.lines[0]["event"] == "workernode.test"


def test_a_text_line_is_short_and_cannot_steer_the_terminal(text_log: Log) -> None:
    text_log.log.warning("gone\x1b[2J\n%s", KEY, extra={"event": "x", "attempt": 2, "why": None})
    assert text_log.text[12:] == " WARNING gone\\x1b[2J\\n***  attempt=2\n"


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_secrets_are_in_no_line_wherever_they_stand(tmp_path: Path, as_json: bool) -> None:
    made = Log(tmp_path / "log", as_json=as_json)
    made.log.info("key %s", KEY, extra={"request_id": KEY, "nested": {"a": [KEY]}})
    made.log.info(f"{KEY} in the text itself, {'x' * 470} and then again {KEY}")
    made.log.info("GET /?key=sk-canary%2F0%221%272%5C3%2B4")
    made.log.info("header Authorization: Basic canary, and {'authorization': ['Bearer canary']}")
    made.log.info("upstream said: Incorrect API key provided: sk-canary***1234")
    try:
        raise ValueError(f"bad {KEY}")
    except ValueError:
        made.log.exception("failed", extra={"long": "y" * 495 + KEY})
    assert "canary" not in made.text
    assert made.text.count("***") >= 10
    assert "ValueError: bad ***" in made.text
    made.close()


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens=100 and prompt_tokens, token: 5",
        "task-123456789 on disk-20000000",
        "EMPTY is not none",
        "authorization failed",
        "API_KEY is not set",
    ],
)
def test_innocent_words_stay(tmp_path: Path, words: str) -> None:
    made = Log(tmp_path / "log", secrets=("none", "EMPTY", ""))
    made.log.info(words)
    assert made.messages == [words]
    made.close()


def test_a_secret_made_while_running_is_hidden_too(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [log.handler])
    logs.hide("dynamic-secret")
    log.log.info("started with dynamic-secret and %s", KEY)
    assert log.messages == ["started with *** and ***"]


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=40)


@given(secret=SECRETS | st.from_regex("[0-9.]{6,12}", fullmatch=True), text=st.text(), number=st.integers(0, 10**12))
def test_whatever_the_secret_is_the_line_stays_json_without_it(secret: str, text: str, number: int) -> None:
    formatter = JsonLines(Redactor([secret], as_json=True), {})
    extra = {"field": secret, "number": number, "again": int(secret) if secret.isdigit() else 0}
    record = logging.Logger("x").makeRecord("x", 20, "", 0, "%s %s", (text, secret), None, None, extra)
    line = formatter.format(record)
    assert "\n" not in line
    values = [str(value) for value in json.loads(line).values()]
    assert not any(secret in value for value in values)


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("say", "told"),
    [
        pytest.param(lambda log: log.info("%d", "x"), "a log line failed: TypeError", id="wrong-format"),
        pytest.param(lambda log: log.info("%s", Unspeakable()), "a log line failed: RuntimeError", id="str-fails"),
        pytest.param(lambda log: log.info("a", extra={"b": Unspeakable()}), "a log line failed: Run", id="field-fails"),
        pytest.param(lambda log: log.info("a", extra={"b": float("nan")}), "a", id="nan"),
        pytest.param(lambda log: log.info("a", extra={"b": {(1, 2): 3}}), "a", id="strange-keys"),
        pytest.param(lambda log: log.info("a\udc80b"), "a?b", id="lone-surrogate"),
        pytest.param(lambda log: log.info("a\r\n\x00\u2028b"), "a\r\n\x00\u2028b", id="line-ends"),
        pytest.param(lambda log: log.info("a" * 10_000), "a" * logs.MAX_MESSAGE + "...", id="long"),
        pytest.param(lambda log: log.info("a", extra={"b": ["c"] * 9999}), "a log line of 4", id="much-too-long"),
    ],
)
def test_logging_raises_nothing_and_still_writes_a_line(
    log: Log, say: Callable[[logging.Logger], None], told: str
) -> None:
    say(log.log)
    assert log.text.count("\n") == 1
    assert log.messages[0].startswith(told)


def test_a_long_traceback_keeps_its_end(log: Log) -> None:
    def deeper(depth: int) -> None:
        if depth:
            (deeper if depth % 2 else lambda less: deeper(less))(depth - 1)
        else:
            raise ValueError("the end of it")

    try:
        deeper(100)
    except ValueError:
        log.log.exception("failed")
    assert len(log.lines[0]["traceback"]) == logs.MAX_TRACEBACK
    assert log.lines[0]["traceback"].endswith("ValueError: the end of it")


# --- Floods ---------------------------------------------------------------------------------------------------------


def test_the_first_lines_of_a_sort_pass_and_the_window_starts_anew() -> None:
    fold = Fold(first=2, window=10)
    one, other = Sort(30, "a", "x", ""), Sort(30, "a", "y", "")
    assert [fold.admits(one, now) for now in (0, 1, 2, 9)] == [True, True, False, False]
    assert fold.admits(other, 5)
    assert fold.folds()
    assert fold.close(9.9) == []
    assert fold.close(10) == [(one, 2)]
    assert not fold.folds()
    assert fold.close(15) == []
    assert [fold.admits(one, now) for now in (15, 16, 17)] == [True, True, False]


def test_more_sorts_than_are_remembered_pass() -> None:
    fold = Fold(first=1, window=10)
    sorts = [Sort(30, "a", str(number), "") for number in range(logs.FOLD_KINDS + 1)]
    for sort in sorts:
        assert fold.admits(sort, 0)
    assert not fold.admits(sorts[0], 0)
    assert fold.admits(sorts[-1], 0)


def test_a_flood_of_warnings_is_told_as_a_number(log: Log) -> None:
    for number in range(1244):
        log.log.warning("no connection: %d", number, extra={"event": "broker_down"})
    log.log.warning("something else")
    assert log.messages == [*(f"no connection: {number}" for number in range(10)), "something else"]
    log.now += logs.FOLD_WINDOW
    log.log.warning("something else")
    told = log.lines[-2]
    assert (told["level"], told["event"], told["folded"]) == ("WARNING", "broker_down", 1234)
    assert told["message"] == "and 1234 more like it in 10 s"


@pytest.mark.parametrize(
    ("say", "written"),
    [
        pytest.param(lambda log, n: log.error("fault %d", n, extra={"event": "report"}), 50, id="different-errors"),
        pytest.param(lambda log, n: log.error("fault", extra={"event": "report"}), 10, id="the-same-error"),
        pytest.param(lambda log, n: log.info("task %s", "done", extra={"event": "t", "request_id": n}), 50, id="tasks"),
        pytest.param(lambda log, n: log.info(f"output {n}", extra={"event": "model_output"}), 50, id="output"),
        pytest.param(lambda log, n: log.info("retry %d", n, extra={"event": "retry"}), 10, id="the-same-info"),
        pytest.param(lambda log, n: log.debug("stage", extra={"event": "stage"}), 50, id="debug"),
        pytest.param(lambda log, n: log.warning(f"a{n % 2}"), 20, id="warnings-without-an-event"),
    ],
)
def test_only_floods_are_folded(log: Log, say: Callable[[logging.Logger, int], None], written: int) -> None:
    for number in range(50):
        say(log.log, number)
    assert len(log.lines) == written


def test_the_number_is_told_even_if_nothing_else_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FOLD_WINDOW", 0.05)
    made = Log(tmp_path / "log")
    for _ in range(15):
        made.log.warning("again", extra={"event": "again"})
    made.now += 1
    until(lambda: made.messages[-1] == "and 5 more like it in 0.05 s", 30, "number of folded lines")
    made.close()


def test_what_is_folded_is_told_when_the_process_ends(log: Log) -> None:
    for _ in range(15):
        log.log.warning("again", extra={"event": "again"})
    log.handler.flush()
    assert log.messages[-1] == "and 5 more like it in 10 s"


# --- The way out ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["opened-again", "asking-first", "socket"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pipe, int]]:
    """A Pipe, and the file descriptor where what it writes can be read."""
    held: list[socket.socket] = []
    if request.param == "socket":
        held = list(socket.socketpair())
        reader, writer = (each.detach() for each in held)
    else:
        reader, writer = os.pipe()
    with monkeypatch.context() as patch:
        if request.param == "asking-first":
            patch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError()))
        pipe = Pipe(writer)
    yield pipe, reader
    pipe.close()
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue  # the test closed it


def read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    read = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except BlockingIOError:
            return read
        if not piece:
            return read
        read += piece


def test_lines_come_out_as_they_were(ends: tuple[Pipe, int]) -> None:
    pipe, reader = ends
    pipe.write(b"one\n")
    pipe.write(b"x" * 10_000 + b"\n")
    assert read_all(reader) == b"one\n" + b"x" * 10_000 + b"\n"


def test_a_reader_that_does_not_read_costs_lines_and_is_told_how_many(
    ends: tuple[Pipe, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, reader = ends
    monkeypatch.setattr(logs, "PATIENCE", 0.01)
    for number in range(3000):
        pipe.write(b"%d " % number + b"x" * 990 + b"\n")
    before = read_all(reader)
    assert before.startswith(b"0 x")
    pipe.write(b"afterwards\n")
    told, last = read_all(reader).split(b"\n")[-3:-1]
    whole = before.count(b"\n")
    assert 0 < whole < 3000
    assert json.loads(told)["lost"] == 3000 - whole
    assert last == b"afterwards"


def test_a_reader_that_is_gone_harms_nothing(ends: tuple[Pipe, int]) -> None:
    pipe, reader = ends
    os.close(reader)
    for _ in range(100):
        pipe.write(b"line\n")


def test_lines_of_several_processes_do_not_mix() -> None:
    program = """if True:
        import logging, sys
        from workernode.logs import setup as logs
        logs.configure(worker=int(sys.argv[1]))
        for number in range(300):
            logging.getLogger("workernode").info("x" * 1000, extra={"event": "e", "request_id": number})
    """
    reader, writer = os.pipe()
    command = [sys.executable, "-c", program]
    children = [subprocess.Popen([*command, str(number)], cwd=ROOT, stderr=writer) for number in range(3)]
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as output:
        lines = [json.loads(line) for line in output]
    assert [child.wait(30) for child in children] == [0, 0, 0]
    for worker in range(3):
        assert [line["request_id"] for line in lines if line["worker"] == worker] == list(range(300))


@pytest.mark.parametrize("how", ["closed", "unread"])
def test_a_process_without_a_log_goes_on(how: str) -> None:
    program = """if True:
        import logging
        from workernode.logs import setup as logs
        logs.configure()
        opened = open("/dev/null")  # may get number 2
        for number in range(1000):
            logging.getLogger("workernode").info("x" * 1000, extra={"event": "e", "request_id": number})
        print("goes on")
    """
    reader, writer = os.pipe()
    close = (lambda: os.close(2)) if how == "closed" else None
    child = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=writer, preexec_fn=close, timeout=60,
        check=True,
    )  # fmt: skip
    assert child.stdout == b"goes on\n"
    os.close(reader)
    os.close(writer)


# --- Setting it up --------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Logging as it is when a process starts, put back afterwards. Gives a descriptor to write to, and read from."""
    root = logging.getLogger()
    kept = (root.level, root.handlers[:], {name: logging.getLogger(name).level for name in logs.OURS})
    for name in ("logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, True)
    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)
    fd = os.memfd_create("log")
    yield fd
    for handler in root.handlers:
        if handler not in kept[1]:
            handler.close()
    os.close(fd)
    root.setLevel(kept[0])
    root.handlers[:] = kept[1]
    for name, level in kept[2].items():
        logging.getLogger(name).setLevel(level)


def written(fd: int) -> list[dict[str, Any]]:
    os.lseek(fd, 0, os.SEEK_SET)
    return [json.loads(line) for line in os.read(fd, 1_000_000).splitlines()]


@pytest.mark.parametrize(("debug", "levels"), [(False, ["INFO", "WARNING"]), (True, ["DEBUG", "INFO", "WARNING"])])
def test_debug_shows_our_own_stages_and_no_other_librarys(fresh_logging: int, debug: bool, levels: list[str]) -> None:
    logs.configure(debug=debug, fd=fresh_logging, model="m", worker=None)
    for name in ("websockets.client", "workernode.x"):
        logging.getLogger(name).debug("debug")
        logging.getLogger(name).info("info")
    logging.getLogger("urllib3").warning("warning")
    lines = written(fresh_logging)
    assert [line["level"] for line in lines] == levels
    assert all(line["model"] == "m" and "worker" not in line for line in lines)


def test_setting_up_again_replaces_the_first(fresh_logging: int) -> None:
    logs.configure(fd=fresh_logging)
    logs.configure(fd=fresh_logging)
    logging.getLogger("workernode").info("once")
    assert len(written(fresh_logging)) == 1


def test_an_unexpected_exception_goes_into_the_log_without_its_secrets(fresh_logging: int) -> None:
    logs.configure(secrets=[KEY], fd=fresh_logging)
    thread = threading.Thread(target=lambda: int(KEY), name="t")
    thread.start()
    thread.join()
    try:
        int(f"x{KEY}")
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    lines = written(fresh_logging)
    assert [(line["level"], line["event"], line["message"]) for line in lines] == [
        ("CRITICAL", "uncaught", "unexpected ValueError"),
    ] * 2
    assert all("ValueError: invalid literal" in line["traceback"] for line in lines)
    assert "canary" not in json.dumps(lines)
