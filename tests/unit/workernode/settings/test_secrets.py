"""What becomes of secrets when they stand in files or headers, and that no error message shows one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.workernode.settings.environments import LOCAL, REMOTE, faults
from workernode.settings import VARIABLES, load

OTLP = "OTEL_EXPORTER_OTLP_HEADERS"


@pytest.mark.parametrize(
    ("variable", "of", "text", "value"),
    [
        pytest.param("API_KEY_FILE", "api_key", "sk-1\n", "sk-1", id="key"),
        pytest.param("API_KEY_FILE", "api_key", "\ufeffsk-1\r\n", "sk-1", id="key-from-windows"),
        pytest.param("PULSAR_TOKEN_FILE", "pulsar_token", " eyJ.a\n\n", "eyJ.a", id="token"),
        pytest.param("UPSTREAM_HEADERS_FILE", "upstream_headers", '{"X-A": "b c"}\n', (("X-A", "b c"),), id="headers"),
    ],
)
def test_a_secret_is_read_from_its_file(tmp_path: Path, variable: str, of: str, text: str, value: object) -> None:
    (tmp_path / "secret").write_text(text, newline="")
    environ = {name: value for name, value in REMOTE.items() if name != variable.removesuffix("_FILE")}
    got = load({**environ, variable: str(tmp_path / "secret")})
    assert getattr(got, of) == value
    assert getattr(got, f"{of}_file") == str(tmp_path / "secret")


@pytest.mark.parametrize("prefix", ["file:", "file://"])
def test_a_token_may_be_named_as_pulsars_tools_do(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "token").write_text("eyJ.a")
    got = load({**REMOTE, "PULSAR_TOKEN": f"{prefix}{tmp_path / 'token'}"})
    assert (got.pulsar_token, got.pulsar_token_file) == ("eyJ.a", str(tmp_path / "token"))


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        pytest.param({"API_KEY_FILE": "/nowhere"}, "API_KEY_FILE is set, and API_KEY, too; it must be one", id="both"),
        pytest.param(
            {"PULSAR_TOKEN": "file:/a", "PULSAR_TOKEN_FILE": "/b"},
            "PULSAR_TOKEN_FILE is set, and PULSAR_TOKEN",
            id="two",
        ),
        pytest.param(
            {"API_KEY": "", "API_KEY_FILE": "/nowhere"},
            "API_KEY_FILE names /nowhere, which cannot be read (No such file or directory); it must be",
            id="none",
        ),
        pytest.param({"API_KEY": "", "API_KEY_FILE": "sk-canary"}, "API_KEY_FILE names a file that cannot", id="key"),
        pytest.param(
            {"API_KEY": "", "API_KEY_FILE": "/dev/null"}, "API_KEY_FILE names /dev/null, which is", id="empty"
        ),
        pytest.param({"PULSAR_TOKEN_FILE": "/tmp"}, "which cannot be read (Is a directory)", id="folder"),
        pytest.param({"UPSTREAM_HEADERS": "X-A: canary"}, "UPSTREAM_HEADERS is not JSON; it must be", id="no-json"),
        pytest.param({"UPSTREAM_HEADERS": '["canary"]'}, "is not an object whose values are texts", id="no-object"),
        pytest.param({"UPSTREAM_HEADERS": '{"X-A": 1}'}, "is not an object whose values are texts", id="no-text"),
        pytest.param({"UPSTREAM_HEADERS": '{"X A": "canary"}'}, "a name that no header can have (number 1)", id="name"),
        pytest.param({"UPSTREAM_HEADERS": '{"A": "canary\\r\\nB: c"}'}, "no printable ASCII (number 1)", id="line-end"),
        pytest.param({"UPSTREAM_HEADERS": '{"Host": "canary"}'}, "sets Host, which the node sets itself", id="host"),
        pytest.param({"UPSTREAM_HEADERS": '{"A": "canary", "a": "b"}'}, "has a name twice", id="twice"),
        pytest.param({OTLP: "x-key: canary"}, "no name and `=` where they must be (number 1)", id="otlp-colon"),
        pytest.param({OTLP: "a=b,canary"}, "no name and `=` where they must be (number 2)", id="otlp-no-name"),
        pytest.param({OTLP: "=canary"}, "no name and `=` where they must be (number 1)", id="otlp-empty-name"),
        pytest.param({OTLP: "a="}, "is empty or no printable ASCII (number 1)", id="otlp-empty"),
        pytest.param({OTLP: "a=canary%0d%0aB: c"}, "is empty or no printable ASCII (number 1)", id="otlp-line-end"),
    ],
)
def test_a_file_or_headers_that_cannot_be_used_are_reported_without_the_secret(
    environ: dict[str, str], message: str
) -> None:
    (fault,) = faults({**REMOTE, **environ})
    assert message in fault
    assert "canary" not in fault


@pytest.mark.parametrize(
    ("variable", "text", "fault"),
    [
        ("UPSTREAM_HEADERS_FILE", "x", "UPSTREAM_HEADERS (from UPSTREAM_HEADERS_FILE) is not JSON"),
        ("PULSAR_TOKEN_FILE", "a b", "PULSAR_TOKEN (from PULSAR_TOKEN_FILE) holds a space"),
        ("ALL_PROXY", "5\x00", "HTTP_PROXY (from ALL_PROXY) holds a control character"),
        ("https_proxy", "ä", "HTTPS_PROXY (from https_proxy) has a host or a port that cannot be read"),
        ("HTTPS_PROXY", "ä", "HTTPS_PROXY has a host or a port that cannot be read"),
    ],
)
def test_a_fault_names_the_variable_that_was_set(tmp_path: Path, variable: str, text: str, fault: str) -> None:
    if variable.endswith("_FILE"):
        (tmp_path / "value").write_text(text)
        text = str(tmp_path / "value")
    assert faults({**REMOTE, variable: text})[0].startswith(fault)


def test_a_local_node_reads_no_file_of_a_remote_one() -> None:
    assert load({**LOCAL, "API_KEY_FILE": "/nowhere", "UPSTREAM_HEADERS": "{"}).api_key == ""


def test_the_values_of_headers_are_secrets() -> None:
    assert {"Basic canary-1", "canary-1"} <= set(
        load({**REMOTE, "UPSTREAM_HEADERS": '{"X": "Basic canary-1"}'}).secrets
    )


CANARY = "Zq7-canary-Zq7"


@given(
    st.dictionaries(st.sampled_from(sorted(VARIABLES)), st.text() | st.just(CANARY) | st.just(f"x {CANARY}")),
    st.sampled_from(["API_KEY", "PULSAR_TOKEN"]),
)
@example({"MODEL_NAME": CANARY, "MAX_PROCESS_NUM": CANARY, "API_URL": f"http://{CANARY}@h"}, "API_KEY")
@example({"REPLY_HOSTS": f"{CANARY}:1", "STATUS_ADDR": CANARY}, "PULSAR_TOKEN")
def test_no_error_message_shows_a_secret_and_each_is_one_line(environ: dict[str, str], where: str) -> None:
    lines = faults({**environ, "NODE_TYPE": "remote", "DEBUG": "no boolean", where: CANARY})
    assert CANARY.lower() not in "\n".join(lines).lower()
    assert all(line.isprintable() for line in lines)
