"""Secrets that change while the node runs, and the signals that must not end it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pulsar
import pytest

from devstack.broker import Broker
from tests.support.gateway import FakeGateway
from tests.support.node import Node
from tests.support.platform import Platform
from tests.support.tokens import ADMIN, token_for
from tests.support.upstream import FakeUpstream
from tests.support.wait import until

TIMEOUT = 30
FIRST, SECOND = "sk-rotated-first-1", "sk-rotated-second-2"


def swap(folder: Path, version: int, text: str) -> None:
    """Replace the file `key` as the kubelet does: by a symbolic link to a folder."""
    (folder / f"..{version}").mkdir()
    (folder / f"..{version}" / "key").write_text(text)
    (folder / "..data_tmp").symlink_to(f"..{version}")
    os.replace(folder / "..data_tmp", folder / "..data")
    if not (folder / "key").is_symlink():
        (folder / "key").symlink_to(Path("..data", "key"))


def test_a_key_that_is_rotated_in_its_file_is_used_and_an_unfit_node_serves_again(
    node: Callable[..., Node], platform: Platform, gateway: FakeGateway, upstream: FakeUpstream, tmp_path: Path
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    swap(folder, 1, FIRST)
    upstream.only_key = FIRST
    one = node(API_KEY=None, API_KEY_FILE=folder / "key", MAX_PROCESS_NUM=4)
    assert platform.ask_and_wait("hi").error is None
    upstream.only_key = SECOND
    ids = platform.ask_many(["hi"] * 4)
    gateway.wait_all(ids, TIMEOUT)
    until(lambda: one.status("/readyz")[0] == 503, TIMEOUT, "the node to be unfit")
    swap(folder, 2, SECOND)
    one.wait_log("settings_reloaded")
    assert platform.ask_and_wait("hi").error is None, "the first task after the change is the probe"
    until(lambda: one.status("/readyz")[0] == 200, TIMEOUT, "the node to be fit")
    [line] = [line for line in one.logs() if line.get("event") == "settings_reloaded"]
    assert line["changed"] == ["API_KEY"]
    assert not any(key in one.tail(10_000) for key in (FIRST, SECOND))


def test_headers_that_are_rotated_in_their_file_are_sent_with_the_next_task(
    node: Callable[..., Node], platform: Platform, upstream: FakeUpstream, tmp_path: Path
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    swap(folder, 1, f'{{"X-Gateway-Key": "{FIRST}"}}')
    one = node(UPSTREAM_HEADERS_FILE=folder / "key")
    assert platform.ask_and_wait("hi").error is None
    assert upstream.requests[-1].headers["x-gateway-key"] == FIRST
    swap(folder, 2, f'{{"X-Gateway-Key": "{SECOND}"}}')
    one.wait_log("settings_reloaded")
    assert platform.ask_and_wait("hi").error is None
    assert upstream.requests[-1].headers["x-gateway-key"] == SECOND
    assert not any(key in one.tail(10_000) for key in (FIRST, SECOND))


def test_a_broker_token_that_is_rotated_in_its_file_is_used_before_the_old_one_expires(
    guarded: Broker, upstream: FakeUpstream, gateway: FakeGateway, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    with contextlib.ExitStack() as parts:
        client = pulsar.Client(guarded.url, authentication=pulsar.AuthenticationToken(ADMIN))
        parts.callback(client.close)
        platform = Platform(guarded, gateway, client=client)
        parts.callback(platform.close)
        expires = int(time.time()) + 12
        file.write_text(token_for("admin", expires=expires))
        one = parts.enter_context(
            Node(
                {
                    "NODE_TYPE": "remote", "MODEL_NAME": platform.model, "API_URL": upstream.api_url, "API_KEY": FIRST,
                    "PULSAR_URL": guarded.url, "PULSAR_TOKEN": f"file://{file}", "WORKER_PROCESSES": 1,
                },
                tmp_path,
            )
        )  # fmt: skip
        one.wait_ready()
        assert platform.ask_and_wait("hi").error is None
        file.write_text(ADMIN)
        one.wait_log("settings_reloaded")
        until(lambda: time.time() > expires + 2, TIMEOUT, "the moment after the first token expired")
        assert platform.ask_and_wait("hi").error is None
        assert [line for line in one.logs() if line.get("event") == "broker_down"] == []


def test_sighup_reads_the_env_file_again_and_names_what_needs_a_restart(
    node: Callable[..., Node], platform: Platform, upstream: FakeUpstream, tmp_path: Path
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"API_KEY={FIRST}\n")
    one = node(API_KEY=None)
    upstream.only_key = SECOND
    dotenv.write_text(f"API_KEY={SECOND}\nUPSTREAM_HEADERS={{\"X-Team\": \"research\"}}\nTASK_TIMEOUT=77\n")
    one.process.send_signal(signal.SIGHUP)
    one.wait_log("settings_reloaded")
    [line] = [line for line in one.logs() if line.get("event") == "settings_reloaded"]
    assert (set(line["changed"]), line["need_restart"]) == ({"API_KEY", "UPSTREAM_HEADERS"}, ["TASK_TIMEOUT"])
    assert platform.ask_and_wait("hi").error is None
    assert upstream.wait_for_requests(1)[-1].headers["x-team"] == "research"
    dotenv.write_text("API_KEY=two words\n")
    one.process.send_signal(signal.SIGHUP)
    one.wait_log("reload_failed")
    assert platform.ask_and_wait("hi").error is None


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_the_whole_group_does_not_end_the_node(
    number: signal.Signals, node: Callable[..., Node], platform: Platform
) -> None:
    one = node()
    os.killpg(one.pid, number)
    one.wait_log("settings_reloaded" if number is signal.SIGHUP else "signal_ignored")
    assert platform.ask_and_wait("hi").error is None
    assert [line for line in one.logs() if line.get("event") == "worker_died"] == []
    assert one.status("/readyz")[0] == 200


def test_sigquit_to_the_whole_group_drains(node: Callable[..., Node]) -> None:
    one = node()
    os.killpg(one.pid, signal.SIGQUIT)
    assert one.process.wait(TIMEOUT) == 0
    assert [line for line in one.logs() if line.get("event") == "worker_died"] == []
