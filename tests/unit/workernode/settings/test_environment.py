"""The environment becomes Settings, or all errors are reported at once (spec 2)."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from pathlib import Path

import pytest

from tests.unit.workernode.settings.environments import LOCAL, REMOTE, faults
from workernode.resume_style import ResumeStyle
from workernode.settings import VARIABLES, SettingsError, load, read_environment


def test_a_local_node_lets_streams_go_on_and_a_remote_one_only_where_it_is_told_how() -> None:
    assert [load(each).resume_style for each in (LOCAL, REMOTE)] == [ResumeStyle.LLAMACPP, ResumeStyle.OFF]
    assert load({**LOCAL, "STREAM_RESUME": "off"}).resume_style is ResumeStyle.OFF


def credentials_url(value: object) -> str:
    return f"data:application/json;base64,{b64encode(json.dumps(value).encode()).decode()}"


def oauth2_with(private_key: str) -> str:
    return json.dumps({"issuer_url": "https://a", "private_key": private_key})


def test_the_required_variables_alone_give_the_defaults_of_the_spec() -> None:
    got = load(REMOTE)
    assert (got.max_process_num, got.res_topic_name, got.debug, got.log_format) == (128, "res-topic", False, None)
    assert (got.aimodel_name, got.aimodel_namespace, got.upstream_model, got.pulsar_token) == ("", "default", "", "")
    assert (got.task_timeout, got.connect_timeout, got.read_timeout, got.drain_timeout) == (300, 5, 120, 30)
    assert (got.max_redeliveries, got.nak_delay, got.status_addr) == (3, 1, ("127.0.0.1", 9464))
    assert (got.local_command, got.local_port) == ("./local.sh", 0)
    assert (got.cpu_high, got.memory_high, got.sample_interval, got.reply_hosts) == (95, 90, 1, ())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        pytest.param("NODE_TYPE", "api", "remote", id="older-name-of-remote"),
        pytest.param("NODE_TYPE", "Remote", "remote", id="capitals"),
        pytest.param("MODEL_NAME", "llama3.1:8b-q4_K", "llama3.1:8b-q4_K", id="model-with-a-tag"),
        pytest.param("API_KEY", "sk-1\n", "sk-1", id="newline-after-the-key"),
        pytest.param("PULSAR_TOKEN", " eyJ.a-b_c\r\n", "eyJ.a-b_c", id="space-around-the-token"),
        pytest.param("PULSAR_URL", "PULSAR+SSL://a:6651,b", "pulsar+ssl://a:6651,b", id="several-brokers"),
        pytest.param("PULSAR_URL", "pulsar://a:6650, b:6650", "pulsar://a:6650,b:6650", id="space-after-the-comma"),
        pytest.param("REPLY_HOSTS", "[::1],[ab]c", ("::1", "[ab]c"), id="ipv6-in-brackets"),
        pytest.param("PULSAR_URL", "pulsar://a:6650/", "pulsar://a:6650", id="slash-after-the-broker"),
        pytest.param("RES_TOPIC_NAME", "persistent://t/n/bills", "persistent://t/n/bills", id="whole-topic-name"),
        pytest.param("DEBUG", "TRUE", True, id="debug-in-capitals"),
        pytest.param("LOG_FORMAT", "text", "text", id="log-format"),
        pytest.param("STREAM_RESUME", "vLLM", ResumeStyle.VLLM, id="stream-resume"),
        pytest.param("READ_TIMEOUT", ".5", 0.5, id="fraction"),
        pytest.param("TASK_TIMEOUT", "3e2", 300.0, id="exponent"),
        pytest.param("PULSAR_URL", "pulsar://a:1, b:2", "pulsar://a:1,b:2", id="hosts-with-a-space"),
        pytest.param("STATUS_ADDR", "OFF", None, id="no-status-server"),
        pytest.param("STATUS_ADDR", "[::]:80", ("::", 80), id="ipv6"),
        pytest.param("STATUS_ADDR", "localhost:0", ("localhost", 0), id="any-port"),
        pytest.param("REPLY_HOSTS", "*.Example.com, 10.0.0.? ::1", ("*.example.com", "10.0.0.?", "::1"), id="hosts"),
        pytest.param("UPSTREAM_MODEL", "meta/llama-3 70B", "meta/llama-3 70B", id="upstream-model-with-a-slash"),
        pytest.param("LOCAL_PORT", "abc", 0, id="a-remote-node-does-not-read-local-variables"),
    ],
)
def test_a_valid_value_is_parsed(name: str, text: str, value: object) -> None:
    assert getattr(load({**REMOTE, name: text}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        pytest.param("NODE_TYPE", "gpu", "is 'gpu'; it must be `remote` or `local`", id="node-type"),
        pytest.param("MODEL_NAME", "meta/llama", "holds a slash", id="model-with-a-slash"),
        pytest.param("MODEL_NAME", "a b", "is 'a b'", id="model-with-a-space"),
        pytest.param("MODEL_NAME", "a\r\nb", r"is 'a\r\nb'", id="model-with-a-line-end"),
        pytest.param("MODEL_NAME", "m" * 201, "has 201 characters", id="model-too-long"),
        pytest.param("MODEL_NAME", "m-partition-3", "partitioned topic", id="model-like-a-partition"),
        pytest.param("API_URL", "api.example.com", "starts with none of http://, https://", id="url-without-scheme"),
        pytest.param("API_URL", "ftp://api.example.com", "starts with none of", id="url-of-another-scheme"),
        pytest.param("API_URL", "https:api.example.com", "starts with none of", id="url-without-slashes"),
        pytest.param("API_URL", "https://u:p4ss@api.example.com", "holds credentials", id="url-with-credentials"),
        pytest.param("API_URL", "https://api.example.com:99999", "a port that cannot be read", id="url-port-too-high"),
        pytest.param("API_URL", "https://api.example.com:0", "a port that cannot be read", id="url-port-0"),
        pytest.param("API_URL", "https:///v1", "a host or a port that cannot be read", id="url-without-host"),
        pytest.param("API_URL", "https://[::1/v1", "a host or a port that cannot be read", id="url-open-bracket"),
        pytest.param("API_URL", "https://a\\b/v1", "a host or a port that cannot be read", id="url-backslash"),
        pytest.param("API_URL", "https://api.example.com/\tv1", "holds a space, a line end", id="url-with-a-tab"),
        pytest.param("API_URL", "https://api.example.com/#v1", "holds a '#'", id="url-with-a-fragment"),
        pytest.param("API_URL", "https://api.example.com/v1/models", "another service", id="url-of-another-service"),
        pytest.param("API_KEY", "sk-1\r\nX: y", "holds a space, a line end", id="line-end-inside-the-key"),
        pytest.param("API_KEY", "Bearer sk-1", "holds a space", id="key-with-bearer"),
        pytest.param("API_KEY", '"sk-1"', "stands in quotes", id="key-in-quotes"),
        pytest.param("API_KEY", "sk-ключ", "a letter outside ASCII", id="key-outside-ascii"),
        pytest.param("PULSAR_TOKEN", "a\x00b", "a control character", id="nul-in-the-token"),
        pytest.param("PULSAR_TOKEN", "x" * 16385, "has 16385 characters", id="token-too-long"),
        pytest.param("MAX_PROCESS_NUM", "abc", "is 'abc', not a whole number", id="count-abc"),
        pytest.param("MAX_PROCESS_NUM", "-1", "is -1, out of range; it must be a whole number from 1", id="count-neg"),
        pytest.param("MAX_PROCESS_NUM", "0", "is 0, out of range", id="count-zero"),
        pytest.param("MAX_PROCESS_NUM", "NaN", "is 'NaN', not a whole number", id="count-nan"),
        pytest.param("MAX_PROCESS_NUM", "1e9", "is '1e9', not a whole number", id="count-1e9"),
        pytest.param("MAX_PROCESS_NUM", "1_0", "is '1_0', not a whole number", id="count-underscore"),
        pytest.param("MAX_PROCESS_NUM", "１２", "not a whole number", id="count-of-other-digits"),
        pytest.param("MAX_PROCESS_NUM", "9" * 5000, "is a text of 5000 characters", id="count-of-5000-digits"),
        pytest.param("TASK_TIMEOUT", "abc", "is 'abc', not a number", id="seconds-abc"),
        pytest.param("TASK_TIMEOUT", "-1", "is '-1', out of range; it must be a number from 1 to 86400 sec", id="neg"),
        pytest.param("TASK_TIMEOUT", "NaN", "is 'NaN', not a number", id="seconds-nan"),
        pytest.param("TASK_TIMEOUT", "inf", "is 'inf', not a number", id="seconds-inf"),
        pytest.param("TASK_TIMEOUT", "1e9", "is '1e9', out of range", id="seconds-1e9"),
        pytest.param("TASK_TIMEOUT", "1e999", "is '1e999', out of range", id="seconds-infinite-after-all"),
        pytest.param("CPU_HIGH", "101", "is '101', out of range", id="percent"),
        pytest.param("DEBUG", "maybe", "is 'maybe'; it must be `true` or `false`", id="debug"),
        pytest.param("LOG_FORMAT", "xml", "is 'xml'", id="log-format"),
        pytest.param("PULSAR_URL", "http://broker:8080", "starts with neither pulsar://", id="broker-over-http"),
        pytest.param("PULSAR_URL", "pulsar://u:p4ss@broker", "holds credentials", id="broker-with-credentials"),
        pytest.param("PULSAR_URL", "pulsar://a:6650,", "a host or a port", id="broker-after-the-comma-missing"),
        pytest.param("PULSAR_URL", "pulsar://a:b", "a host or a port", id="broker-port"),
        pytest.param("PULSAR_URL", "pulsar://[::1]:6650", "an IPv6 address, which pulsar-client", id="broker-ipv6"),
        pytest.param("PULSAR_NAMESPACE", "tenant", "is 'tenant'; it must be tenant/namespace", id="no-namespace"),
        pytest.param("PULSAR_OAUTH2", "token", "is no JSON", id="oauth2-no-json"),
        pytest.param("PULSAR_OAUTH2", '{"issuer_url": "https://a"}', "has no private_key", id="oauth2-incomplete"),
        pytest.param(
            "PULSAR_OAUTH2",
            '{"issuer_url": "https://a", "private_key": "the-key-itself"}',
            "has a private_key that is no absolute path",
            id="oauth2-key",
        ),
        *(
            pytest.param("PULSAR_OAUTH2", oauth2_with(key), "in a data: URL that is not", id=f"oauth2-data-{name}")
            for name, key in {
                "no-json": "data:application/json;base64,c2VjcmV0",
                "no-secret": credentials_url({"client_id": "a", "secret": "b"}),
                "no-object": credentials_url(["client_id", "client_secret"]),
                "no-base64": "data:application/json;base64,%secret",
                "not-coded": 'data:application/json,{"client_id": "a", "client_secret": "b"}',
            }.items()
        ),
        pytest.param("RES_TOPIC_NAME", "a/b", "is 'a/b'", id="half-a-topic-name"),
        pytest.param("RES_TOPIC_NAME", "non-persistent://a/b/c", "is 'non-persistent://a/b/c'", id="not-kept"),
        pytest.param("AIMODEL_NAME", "My_Model", "is 'My_Model'", id="not-a-kubernetes-name"),
        pytest.param("STATUS_ADDR", "9464", "is '9464'; it must be host:port", id="port-alone"),
        pytest.param("STATUS_ADDR", "::1:80", "is '::1:80'", id="ipv6-without-brackets"),
        pytest.param("STATUS_ADDR", "a:65536", "is 'a:65536'", id="status-port-too-high"),
        pytest.param("REPLY_HOSTS", "http://gw", "holds 'http://gw'", id="reply-host-with-scheme"),
        pytest.param("REPLY_HOSTS", "gw:8081", "holds 'gw:8081'", id="reply-host-with-port"),
        pytest.param("UPSTREAM_MODEL", "a\nb", "holds a control character", id="upstream-model-with-a-line-end"),
        pytest.param("UPSTREAM_MODEL", "\udcff", "bytes that are not UTF-8", id="upstream-model-not-utf-8"),
    ],
)
def test_a_wrong_value_is_reported_with_its_variable_and_what_it_must_be(name: str, text: str, wrong: str) -> None:
    (line,) = faults({**REMOTE, name: text})
    assert line.startswith(f"{name} ")
    assert wrong in line
    assert line.endswith(VARIABLES[name].format.expected)


def test_oauth2_credentials_may_stand_in_a_data_url() -> None:
    text = oauth2_with(credentials_url({"client_id": "a", "client_secret": "b"}))
    assert load({**REMOTE, "PULSAR_OAUTH2": text}).pulsar_oauth2 == text


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("text", ["", " \n"], ids=["empty", "blank"])
def test_an_empty_required_variable_is_reported_as_not_set(name: str, text: str) -> None:
    assert any(line.startswith(f"{name} is not set; it must be ") for line in faults({**REMOTE, name: text}))


def test_all_errors_are_reported_at_once_on_a_line_each() -> None:
    environ = {"NODE_TYPE": "remote", "MODEL_NAME": "a/b", "DEBUG": "x", "NAK_DELAY": "a\n\nb", "STATUS_ADDR": "y"}
    lines = faults(environ)
    names = [line.split(" ")[0] for line in lines]
    assert names == ["MODEL_NAME", "API_URL", "API_KEY", "PULSAR_URL", "DEBUG", "NAK_DELAY", "STATUS_ADDR"]
    assert str(SettingsError(lines)).splitlines() == list(lines)


def test_with_a_wrong_node_type_the_variables_of_one_type_are_not_required() -> None:
    lines = faults({**LOCAL, "NODE_TYPE": "gpu"})
    assert [line.split(" ")[0] for line in lines] == ["NODE_TYPE"]


def test_a_local_node_ignores_the_variables_of_a_remote_one() -> None:
    got = load({**LOCAL, "API_URL": "not an address", "API_KEY": "sk 1", "LOCAL_PARALLEL": "8", "LOCAL_PORT": ""})
    assert (got.api_url, got.api_key, got.local_parallel, got.local_port) == ("", "", 8, 0)


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        pytest.param("LOCAL_PORT", "65536", "is 65536, out of range", id="port"),
        pytest.param("LOCAL_COMMAND", "'./local.sh", "cannot be split into words", id="open-quote"),
        pytest.param("LOCAL_COMMAND", "'' x", "begins with an empty word", id="no-command"),
        pytest.param("LOCAL_EXTRA_ARGS", "a\x00b", "holds a control character", id="nul"),
        pytest.param("LLAMAFILE_URL", "https://u:p@host/x", "holds credentials", id="download-with-credentials"),
        pytest.param("LLAMAFILE_SHA256", "abc", "is 'abc'; it must be 64 hexadecimal digits", id="checksum"),
        pytest.param("LOCAL_IDLE_STOP", "15 minutes", "is '15 minutes', not a time; it must be", id="time"),
        pytest.param("LOCAL_IDLE_STOP", "-1s", "not a time", id="negative-time"),
        pytest.param("LOCAL_IDLE_STOP", "0", "out of range", id="no-time"),
        pytest.param("LOCAL_IDLE_STOP", "9000h", "out of range", id="year"),
    ],
)
def test_a_local_node_checks_the_variables_of_the_local_model(name: str, text: str, wrong: str) -> None:
    (line,) = faults({**LOCAL, name: text})
    assert wrong in line


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 0), ("off", 0), ("90", 90), ("90s", 90), ("15m", 900), ("1.5H", 5400)]
)
def test_a_time_is_given_in_seconds_minutes_or_hours(text: str, seconds: float) -> None:
    assert load({**LOCAL, "LOCAL_IDLE_STOP": text}).local_idle_stop == seconds


@pytest.mark.parametrize(
    ("asked", "cpus", "ceiling", "workers"),
    [
        pytest.param("", 1, "128", 2, id="one-cpu"),
        pytest.param("", 3, "128", 3, id="one-a-cpu"),
        pytest.param("", 64, "128", 4, id="four-at-most"),
        pytest.param("", 64, "1", 1, id="never-more-than-slots"),
        pytest.param("9", 1, "128", 9, id="as-asked"),
        pytest.param("9", 1, "5", 5, id="as-asked-but-a-slot-each"),
    ],
)
def test_the_default_number_of_worker_processes_follows_the_cpus(
    asked: str, cpus: int, ceiling: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    assert load({**REMOTE, "WORKER_PROCESSES": asked, "MAX_PROCESS_NUM": ceiling}).worker_processes == workers


def test_the_env_file_fills_only_what_is_missing(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text('\ufeffNODE_TYPE=local\nAPI_KEY="a${HOME}$b"\nMODEL_NAME=\nPULSAR_URL=from-file\nDEBUG\n')
    got = read_environment({"NODE_TYPE": "", "PULSAR_URL": "from-environment", "HOME": "/h", "EMPTY": ""}, env)
    assert got == {"NODE_TYPE": "local", "API_KEY": "a${HOME}$b", "PULSAR_URL": "from-environment", "HOME": "/h"}


def test_a_missing_env_file_is_no_error(tmp_path: Path) -> None:
    assert read_environment({"A": "b"}, tmp_path / ".env") == {"A": "b"}


def test_an_env_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"API_KEY=\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env cannot be read \(it is not UTF-8\)"):
        read_environment({}, tmp_path / ".env")
