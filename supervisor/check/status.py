"""`--check`: is STATUS_ADDR free? If a node listens there already, is it ready, and do the publishers' clocks agree?"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import requests

from supervisor.check.findings import Check, Context, Finding, Mark
from workernode.settings import Address

NAME = "status address"
PUBLISHERS = "clock of publishers"
CLOCK_METRIC = "workernode_clock_difference_seconds"
TIMEOUT = 3.0  # seconds
FREE_ADDRESS = "set STATUS_ADDR to a free address, or to off"


def checks() -> list[Check]:
    """Return the checks of this module."""
    return [Check((NAME, PUBLISHERS), _check)]


def _check(context: Context) -> Iterator[Finding]:
    settings, model = context.settings, ""
    try:
        finding = Finding(NAME, Mark.OK, "off: no status server")
        if settings.status_addr is not None:
            finding, model = _listener(settings.status_addr, settings.model_name)
        yield finding
    finally:
        context.running_node.set_result(model)
    if model == settings.model_name and settings.status_addr is not None:
        yield _publishers_clock(settings.status_addr)
    else:
        text = "known only while a node runs here: it compares the clocks when tasks come"
        yield Finding(PUBLISHERS, Mark.SKIPPED, text)


def _publishers_clock(address: Address) -> Finding:
    """What the node that runs here has seen of the clocks of those who publish tasks."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            metrics = session.get(f"http://{_shown(address)}/metrics", timeout=TIMEOUT, allow_redirects=False).text
        behind = next(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(CLOCK_METRIC))
    except (requests.RequestException, StopIteration, ValueError):
        return Finding(PUBLISHERS, Mark.SKIPPED, "the node that runs here does not answer with its metrics")
    if not behind:
        return Finding(PUBLISHERS, Mark.OK, "the node that runs here has found no difference from this machine's clock")
    which = "behind" if behind > 0 else "ahead of"
    text = f"{abs(behind):.0f} s {which} this machine's clock; the node takes it off the age of the tasks"
    advice = "synchronise both clocks (timedatectl set-ntp true); the line `clock` shows whether this one is right"
    return Finding(PUBLISHERS, Mark.WARNING, text, advice)


def _shown(address: Address) -> str:
    """Return the address as it stands in a URL; that of all interfaces is asked on loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  # read, not listened on
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


def _listener(address: Address, our_model: str) -> tuple[Finding, str]:
    """Who listens there, and the model of the node, if it is a node."""
    shown = _shown(address)
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"http://{shown}/readyz", timeout=TIMEOUT, allow_redirects=False).json()
        model, ready, why = str(answer["model"]), answer["ready"] is True, "; ".join(map(str, answer["why"]))
    except requests.ConnectionError:
        return _free(address, shown), ""
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return Finding(NAME, Mark.FAULT, f"a program that is not a node listens at {shown}", FREE_ADDRESS), ""
    if model != our_model:
        text = f"a node for another model, {model}, listens at {shown}"
        return Finding(NAME, Mark.FAULT, text, "give this node another STATUS_ADDR"), model
    if ready:
        return Finding(NAME, Mark.OK, f"a node for {model} already runs here and is ready ({shown})"), model
    advice = "see the lines below, or stop it before you start another node"
    return Finding(NAME, Mark.WARNING, f"a node for {model} already runs here and is not ready: {why}", advice), model


def _free(address: Address, shown: str) -> Finding:
    """Nobody answers there: try to listen."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what the node does, too
            probe.bind(address)
    except OSError as error:
        return Finding(NAME, Mark.FAULT, f"cannot listen at {shown}: {error.strerror}", FREE_ADDRESS)
    return Finding(NAME, Mark.OK, f"{shown} is free")
