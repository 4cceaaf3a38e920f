"""`--check`: what is found at the status address, and what a node that runs there knows of the publishers' clocks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devstack.ports import free_port
from supervisor.check import status as check_status
from supervisor.check.findings import Finding, Mark
from tests.support.check import Api, context
from workernode.settings import Address


def status_finding(address: str, model: str = "gpt-4o") -> tuple[Finding, str]:
    known = context(STATUS_ADDR=address, MODEL_NAME=model)
    return next(check_status._check(known)), known.running_node.result(0)


def test_a_status_address_that_is_off_or_free_passes() -> None:
    assert status_finding("off")[0].text == "off: no status server"
    found, model = status_finding(f"0.0.0.0:{free_port()}")
    assert (found.mark, model) == (Mark.OK, "")


def test_a_status_address_of_another_machine_is_a_fault() -> None:
    # 192.0.2.0/24 is nobody's (RFC 5737); what answers there on some networks is no node either.
    assert status_finding("192.0.2.1:1")[0].mark is Mark.FAULT


@pytest.mark.parametrize(
    ("answer", "mark", "expected"),
    [
        ({"model": "gpt-4o", "ready": True, "why": []}, Mark.OK, "a node for gpt-4o already runs here and is ready"),
        ({"model": "gpt-4o", "ready": False, "why": ["no broker"]}, Mark.WARNING, "not ready: no broker"),
        ({"model": "other", "ready": True, "why": []}, Mark.FAULT, "a node for another model, other, listens"),
        ({"some": "thing"}, Mark.FAULT, "a program that is not a node listens"),
    ],
    ids=["ready", "not ready", "another model", "another program"],
)
def test_the_program_at_the_status_address_is_named(
    api: Api, answer: dict[str, Any], mark: Mark, expected: str
) -> None:
    api.open, api.body = True, json.dumps(answer).encode()
    found, model = status_finding(api.url.removeprefix("http://"))
    assert (found.mark, model) == (mark, answer.get("model", ""))
    assert expected in found.text


def test_addresses_of_all_interfaces_are_asked_on_loopback(api: Api) -> None:
    api.open, api.body = True, b'{"model": "m", "ready": true, "why": []}'
    found, model = check_status._listener(Address("0.0.0.0", api.server.server_address[1]), "m")  # noqa: S104
    assert (found.mark, model) == (Mark.OK, "m")


def test_the_publishers_clocks_are_known_only_while_a_node_runs() -> None:
    _, clock = check_status._check(context(STATUS_ADDR=f"127.0.0.1:{free_port()}"))
    assert (clock.name, clock.mark) == (check_status.PUBLISHERS, Mark.SKIPPED)


@pytest.mark.parametrize(
    ("metrics", "mark", "expected"),
    [
        ("workernode_clock_difference_seconds 0.0\n", Mark.OK, "no difference"),
        ("# HELP x\nworkernode_clock_difference_seconds 360.2\n", Mark.WARNING, "360 s behind this machine's clock"),
        ('workernode_clock_difference_seconds{model="m"} -61.0\n', Mark.WARNING, "61 s ahead of this machine's clock"),
        ("workernode_clock_difference_seconds many\n", Mark.SKIPPED, "does not answer with its metrics"),
        ("", Mark.SKIPPED, "does not answer with its metrics"),
    ],
)
def test_the_publishers_clocks_are_those_that_the_running_node_has_seen(
    api: Api, metrics: str, mark: Mark, expected: str
) -> None:
    api.open, api.body = True, metrics.encode()
    found = check_status._publishers_clock(Address("127.0.0.1", api.server.server_address[1]))
    assert (found.mark, expected in found.text) == (mark, True)
