"""`--check`: is STATUS_ADDR free? Where a node has it already, what does that node say of itself?"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import requests

from supervisor.check.findings import Check, Context, Finding, Mark
from workernode.settings import Address

NAME = "status address"
PATIENCE = 3.0  # seconds


def checks() -> list[Check]:
    """What is looked at."""
    return [Check((NAME,), look)]


def look(context: Context) -> Iterator[Finding]:
    """Whether STATUS_ADDR is free. Where a node has it, what that node says of itself."""
    settings, model = context.settings, ""
    try:
        finding = Finding(NAME, Mark.OK, "off")
        if settings.status_addr is not None:
            finding, model = listener(settings.status_addr, settings.model_name)
        yield finding
    finally:
        context.node_here.set_result(model)


def listener(address: Address, ours: str) -> tuple[Finding, str]:
    """Who listens there, and the model of the node, if it is one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  # read, not listened on
    shown = f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    try:
        with requests.Session() as session:
            session.trust_env = False
            told = session.get(f"http://{shown}/readyz", timeout=PATIENCE, allow_redirects=False).json()
        model, ready, why = str(told["model"]), told["ready"] is True, "; ".join(map(str, told["why"]))
    except requests.ConnectionError:
        return nobody(address, shown), ""
    except (requests.RequestException, ValueError, KeyError, TypeError):
        said = f"something else than a node listens at {shown}"
        return Finding(NAME, Mark.FAULT, said, "set STATUS_ADDR to a free address, or to off"), ""
    if model != ours:
        said = f"the node for {model} has {shown}"
        return Finding(NAME, Mark.FAULT, said, "give this node a STATUS_ADDR of its own"), model
    if ready:
        return Finding(NAME, Mark.OK, f"a node for {model} runs here and is ready ({shown})"), model
    advice = "see the lines below, or stop it before another one is started"
    return Finding(NAME, Mark.LOOK, f"a node for {model} runs here and is not ready: {why}", advice), model


def nobody(address: Address, shown: str) -> Finding:
    """Nobody answers there: whether it can be listened on."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what the node does, too
            probe.bind(address)
    except OSError as error:
        said = f"{shown} cannot be listened on: {error.strerror}"
        return Finding(NAME, Mark.FAULT, said, "set STATUS_ADDR to a free address, or to off")
    return Finding(NAME, Mark.OK, f"{shown} is free")
