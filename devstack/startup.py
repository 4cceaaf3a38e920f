"""The questions that start.sh has Python answer, because a shell has no safe way to answer them.

    python -m devstack.startup ports GATEWAY_PORT=8081 ...   which are taken, and by whom
    python -m devstack.startup dotenv .env                   the variables that it adds, NUL-separated
    python -m devstack.startup reachable PULSAR_URL          can any of its brokers be connected to
    python -m devstack.startup answer FILE                   is this body an answer of a model
    python -m devstack.startup stream FILE                   is this a stream of one, in several chunks and with its end

Each exits with 0 for yes; for no it prints why and exits with 1.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from devstack.ports import holder_of, is_taken
from devstack.terminal import StackError

CONNECT_S = 5.0


def ports(*wanted: str) -> str:
    """Return nothing if all these ports are free.

    Args:
        wanted: VARIABLE=PORT; the variable is the one that sets the port.
    """
    faults = []
    for one in wanted:
        variable, _, port = one.partition("=")
        if not (port.isdecimal() and 0 < int(port) < 65536):
            faults.append(f"{variable} is {port!r}; it must be a port from 1 to 65535.")
        elif is_taken(int(port)):
            holder = holder_of(int(port))
            faults.append(f"Port {port} is taken by {holder}. Stop it, or set {variable} to another port.")
    if faults:
        raise StackError("\n".join(faults))
    return ""


def dotenv(path: str) -> str:
    """Return what a .env file adds to the environment, as name, NUL, value, NUL. Empty values are left out."""
    found = dotenv_values(path, interpolate=False, encoding="utf-8-sig")  # as the node itself reads it
    return "".join(f"{name}\0{value}\0" for name, value in found.items() if value and not os.environ.get(name))


def reachable(url: str) -> str:
    """Return nothing if one of the brokers of the URL accepts a connection."""
    default = 6651 if url.startswith("pulsar+ssl:") else 6650
    faults = []
    for broker in urlsplit(url).netloc.split(","):
        try:
            address = urlsplit(f"//{broker}")
            socket.create_connection((address.hostname or "", address.port or default), CONNECT_S).close()
        except (OSError, ValueError) as error:
            faults.append(f"{broker}: {error}")
        else:
            return ""
    raise StackError(f"No broker of PULSAR_URL can be reached ({'; '.join(faults)}). Start it, or correct PULSAR_URL.")


def answer(path: str) -> str:
    """Return the text of the chat completion in the file."""
    completion = parsed(Path(path).read_text())
    text = content(completion, "message")
    if not text.strip():
        raise StackError(f"There is no text in the answer: {json.dumps(completion)[:300]}")
    return f"The model answered: {text.strip()}"


def stream(path: str) -> str:
    """Return the text of the events in the file, and the number of its chunks."""
    events = [line.removeprefix("data: ") for line in Path(path).read_text().splitlines() if line.startswith("data: ")]
    if events[-1:] != ["[DONE]"]:
        raise StackError(f"The stream did not end with [DONE]; its last event was: {''.join(events[-1:])[:300]!r}")
    chunks = [text for event in events[:-1] if (text := content(parsed(event), "delta"))]
    text = "".join(chunks).strip()
    if len(chunks) < 2 or not text:
        raise StackError(f"The stream brought {len(chunks)} chunks of text instead of several: {text[:300]!r}")
    return f"The model answered in {len(chunks)} chunks: {text}"


def parsed(text: str) -> dict[str, Any]:
    """Return one JSON object of an answer. Raises StackError if it is an error."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StackError(f"The gateway's answer is not a chat completion: {text[:300]!r}")
    if found.get("error"):
        raise StackError(f"The answer is an error: {json.dumps(found['error'])[:300]}")
    return found


def content(completion: dict[str, Any], part: str) -> str:
    """Return the text in the first choice's message or delta; empty without one."""
    for choice in completion.get("choices") or []:
        return (choice.get(part) or {}).get("content") or ""
    return ""


COMMANDS: dict[str, Callable[..., str]] = {
    "ports": ports,
    "dotenv": dotenv,
    "reachable": reachable,
    "answer": answer,
    "stream": stream,
}


def main() -> int:
    """Run one command, and return the exit code."""
    try:
        output = COMMANDS[sys.argv[1]](*sys.argv[2:])
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    if output:
        print(output, end="" if output.endswith("\0") else "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
