"""ai.sh as its user runs it, against a gateway that the test answers for."""

from __future__ import annotations

import json
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.gateway import Gateway
from tests.integration.checkout import PATIENCE, Checkout
from tests.support.wait import until


@pytest.fixture
def asked(checkout: Checkout) -> Iterator[queue.SimpleQueue[Any]]:
    """The bodies that the gateway at the checkout's port has taken; each is answered."""
    bodies: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def publish(topic: str, payload: bytes) -> None:
        task = json.loads(payload)
        bodies.put(task["data"])
        threading.Thread(target=answer, args=(task["request_id"], task["stream"]), daemon=True).start()

    def answer(request_id: str, stream: bool) -> None:
        waiting = gateway.state.stream if stream else gateway.state.plain
        channel = until(lambda: waiting.find(request_id), PATIENCE, "registered id")
        assert channel is not None
        channel.send('{"answer":1}', lambda: False)
        if stream:
            channel.close()

    gateway = Gateway(publish, checkout.port)
    gateway.start()
    yield bodies
    gateway.close()


def test_ai_asks_and_shows_the_output_of_curl(checkout: Checkout, asked: queue.SimpleQueue[Any]) -> None:
    done = checkout.ask()
    assert (done.returncode, done.stdout) == (0, '{"answer":1}\n')
    assert f"POST /api/v1/chat/completions HTTP/1.1\n> Host: localhost:{checkout.port}" in done.stderr.replace("\r", "")
    message = {"role": "user", "content": "Hello!"}
    assert asked.get() == {"model": "gemma3-270m", "messages": [message], "stream": False}


def test_ai_streams(checkout: Checkout, asked: queue.SimpleQueue[Any]) -> None:
    done = checkout.ask("stream", "Who", "are you?")
    assert (done.returncode, done.stdout) == (0, 'data: {"answer":1}\n\ndata: [DONE]\n\n')
    body = asked.get()
    assert body["stream"] is True
    assert body["messages"] == [{"role": "user", "content": "Who are you?"}]


def test_ai_asks_the_served_model_unless_model_name_is_set(checkout: Checkout, asked: queue.SimpleQueue[Any]) -> None:
    checkout.run_folder.mkdir(parents=True)
    (checkout.run_folder / "model").write_text("served")
    checkout.ask()
    checkout.ask(MODEL_NAME="asked for")
    assert [asked.get()["model"], asked.get()["model"]] == ["served", "asked for"]


QUESTIONS = [
    *('a "quote" and \\ and é\nand a line', "@etc", "%x", ":y", '{"a":1}', "[1]", "true", "12", "null", "$(id) `id`")
]


def with_jo(checkout: Checkout) -> None:
    """A stand-in that knows the two forms that ai.sh uses, where the real jo is not installed."""
    if not shutil.which("jo"):
        checkout.program("jo", f'exec "{sys.executable}" -c "$(cat <<\'E\'\n{JO}\nE\n)" "$@"')


JO = """
import json, sys
def value(text):
    if text.startswith("@"):
        return open(text[1:]).read()
    try:
        return json.loads(text)
    except ValueError:
        return text
words = sys.argv[1:]
if words[0] == "-a":
    made = [value(word) for word in words[1:]]
else:
    made = {name: value(text) for name, _, text in (word.partition("=") for word in words)}
print(json.dumps(made))
"""


def without_jo(checkout: Checkout) -> None:
    """A PATH on which jo is not."""
    folder = Path(checkout.env["PATH"].partition(":")[0])
    for program in ("bash", "dirname", "cat", "curl", "apt-get"):
        (folder / program).symlink_to(shutil.which(program) or "/bin/true")
    (folder / "python3").symlink_to(sys.executable)
    checkout.env["PATH"] = str(folder)


@pytest.mark.parametrize("builder", [with_jo, without_jo])
def test_any_question_arrives_unchanged(
    checkout: Checkout, asked: queue.SimpleQueue[Any], builder: Callable[[Checkout], None]
) -> None:
    builder(checkout)
    for question in QUESTIONS:
        assert checkout.ask(question).returncode == 0
        assert asked.get()["messages"] == [{"role": "user", "content": question}]


def test_without_jo_one_line_says_how_to_install_it(checkout: Checkout, asked: queue.SimpleQueue[Any]) -> None:
    without_jo(checkout)
    done = checkout.ask()
    assert done.returncode == 0
    [hint] = [line for line in done.stderr.splitlines() if line.startswith("ai.sh:")]
    assert hint == "ai.sh: python3 builds the JSON, because jo is not installed: sudo apt-get install jo"


def test_if_nothing_listens_ai_says_what_to_do(checkout: Checkout) -> None:
    done = checkout.ask()
    assert done.returncode == 7
    assert "Run ./start.sh in another terminal" in done.stderr
