"""A log that nobody reads costs lines, never the node."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT
from workernode.logs import output as output_module
from workernode.logs.output import Output


@pytest.fixture(params=["opened-again", "asking-first", "socket"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Output, int]]:
    """An Output, and the file descriptor where what it writes can be read."""
    held: list[socket.socket] = []
    if request.param == "socket":
        held = list(socket.socketpair())
        reader, writer = (each.detach() for each in held)
    else:
        reader, writer = os.pipe()
    with monkeypatch.context() as patch:
        if request.param == "asking-first":
            patch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError()))
        output = Output(writer)
    yield output, reader
    output.close()
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


def test_lines_are_written_unchanged(ends: tuple[Output, int]) -> None:
    output, reader = ends
    output.write(b"one\n")
    output.write(b"x" * 10_000 + b"\n")
    assert read_all(reader) == b"one\n" + b"x" * 10_000 + b"\n"


def test_a_reader_that_does_not_read_loses_lines_and_gets_their_number(
    ends: tuple[Output, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, reader = ends
    monkeypatch.setattr(output_module, "PATIENCE_S", 0.01)
    for number in range(3000):
        output.write(b"%d " % number + b"x" * 990 + b"\n")
    before = read_all(reader)
    assert before.startswith(b"0 x")
    output.write(b"afterwards\n")
    report, last = read_all(reader).split(b"\n")[-3:-1]
    whole = before.count(b"\n")
    assert 0 < whole < 3000
    assert json.loads(report)["lost"] == 3000 - whole
    assert last == b"afterwards"


def test_writing_to_a_reader_that_is_gone_raises_nothing(ends: tuple[Output, int]) -> None:
    output, reader = ends
    os.close(reader)
    for _ in range(100):
        output.write(b"line\n")


def test_lines_of_several_processes_do_not_mix() -> None:
    program = """if True:
        import logging, sys
        from workernode import logs
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
def test_a_process_goes_on_when_its_log_is_not_read(how: str) -> None:
    program = """if True:
        import logging
        from workernode import logs
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
