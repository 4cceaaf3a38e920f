"""The way to upstream in a company's network: proxies and private authorities, for tasks, preflight and `--check`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import ROOT, Node
from tests.support.platform import Platform
from tests.support.proxy import FakeProxy
from tests.support.tls import server_context
from tests.support.upstream import FakeUpstream
from tests.support.wait import until

TIMEOUT = 30
PASSWORD = "canary-proxy-password"
HOST = "upstream.test"  # no name service knows it


@pytest.fixture
def proxy() -> Iterator[FakeProxy]:
    with FakeProxy(f"worker:{PASSWORD}") as one:
        yield one


@pytest.fixture(params=["http", "https"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[FakeUpstream, dict[str, str]]]:
    """An upstream behind a name that only the proxy can reach, and the variables that name it."""
    if request.param == "http":
        fake, variables = FakeUpstream(), {}
    else:
        context, authority = server_context(tmp_path)
        fake, variables = FakeUpstream(context), {"UPSTREAM_CA": str(authority)}
    port = fake.url.rpartition(":")[2]
    yield fake, {**variables, "API_URL": f"{request.param}://{HOST}:{port}/v1"}
    fake.close()


def check(platform: Platform, **variables: str) -> dict[str, Any]:
    """What `--check` finds of upstream."""
    environ = {
        "PATH": os.environ["PATH"], "NODE_TYPE": "remote", "MODEL_NAME": platform.model, "API_KEY": "sk-1",
        "PULSAR_URL": platform.broker.url, "STATUS_ADDR": "off", **variables,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "WorkerNode.py"), "--check", "--json"], env=environ, capture_output=True, text=True,
        check=False, cwd="/",
    )  # fmt: skip
    assert PASSWORD not in done.stdout + done.stderr
    [found] = [each for each in json.loads(done.stdout)["findings"] if each["name"] == "upstream"]
    return dict(found)


def test_tasks_preflight_and_check_go_through_the_proxy(
    node: Callable[..., Node], platform: Platform, proxy: FakeProxy, far: tuple[FakeUpstream, dict[str, str]]
) -> None:
    upstream, variables = far
    upstream.models = [platform.model]
    variables = {**variables, "all_proxy": f"http://worker:{PASSWORD}@127.0.0.1:{proxy.port}"}
    one = node(**variables)
    assert platform.ask_and_wait("hi").error is None
    assert platform.ask_and_wait("hi", stream=True).error is None
    until(lambda: upstream.other_requests, TIMEOUT, "the preflight's question")
    assert proxy.seen
    assert all(HOST in line for line in proxy.seen)
    found = check(platform, **variables)
    assert found["mark"] == "ok"
    assert f"through the proxy 127.0.0.1:{proxy.port}" in found["text"]
    assert PASSWORD not in one.output


def test_a_proxy_that_refuses_the_node_is_named_in_the_log_and_by_check(
    node: Callable[..., Node], platform: Platform, proxy: FakeProxy, far: tuple[FakeUpstream, dict[str, str]]
) -> None:
    _, variables = far
    variables = {**variables, "all_proxy": f"http://worker:wrong@127.0.0.1:{proxy.port}"}
    one = node(ready=False, **variables)
    platform.ask_many(["hi"] * 4)
    one.wait_log("The proxy in front of the upstream answered with status 407")
    found = check(platform, **variables)
    assert found["mark"] == "fault"
    assert "407" in found["text"] + (found["advice"] or "")


def test_no_proxy_exempts_the_upstream(
    node: Callable[..., Node], platform: Platform, upstream: FakeUpstream, proxy: FakeProxy
) -> None:
    node(HTTP_PROXY=f"http://127.0.0.1:{proxy.port}")
    assert platform.ask_and_wait("hi").error is None, "this machine itself is always asked directly"
    assert proxy.seen == []


def test_an_authority_of_the_environment_is_trusted(
    node: Callable[..., Node], platform: Platform, tls_upstream: tuple[FakeUpstream, Path]
) -> None:
    fake, authority = tls_upstream
    fake.models = [platform.model]
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "UPSTREAM_CA"):
        with node(API_URL=fake.api_url, **{name: authority}):
            assert platform.ask_and_wait("hi").error is None
        assert check(platform, API_URL=fake.api_url, **{name: str(authority)})["mark"] == "ok"


def test_a_file_of_authorities_that_cannot_be_used_is_reported_at_the_start(
    node: Callable[..., Node], platform: Platform, tmp_path: Path
) -> None:
    (tmp_path / "not.pem").write_text("no certificate")
    for path, why in ((tmp_path / "none.pem", "No such file"), (tmp_path / "not.pem", "it holds no certificate")):
        one = node(ready=False, UPSTREAM_CA=path)
        assert one.wait_exit() == 78
        assert f"UPSTREAM_CA names {path}, which cannot be used ({why}" in one.output
        found = check(platform, API_URL="https://127.0.0.1:9/v1", UPSTREAM_CA=str(path))
        assert (found["mark"], why in found["text"]) == ("fault", True)


def test_a_proxy_that_cannot_be_used_is_reported_at_the_start(node: Callable[..., Node]) -> None:
    one = node(ready=False, API_URL=f"https://{HOST}/v1", ALL_PROXY=f"socks5://u:{PASSWORD}@proxy:1080")
    assert one.wait_exit() == 78
    assert "HTTPS_PROXY (from ALL_PROXY) is no HTTP proxy; it must be http://[user:password@]host:port" in one.output
    assert PASSWORD not in one.output
