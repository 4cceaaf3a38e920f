"""What a model server is started with, and which model it must serve. Its life is tried in tests/faults."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from supervisor.model_server import command
from supervisor.model_server.http_api import ServerInfo
from supervisor.model_server.model_server import ModelServer
from workernode import settings

VARIABLES = {"NODE_TYPE": "local", "MODEL_NAME": "gemma", "PULSAR_URL": "pulsar://localhost", "PULSAR_TOKEN": "secret"}


def model_server(**more: str) -> ModelServer:
    return ModelServer(settings.load({**VARIABLES, **more}), lambda: None, {})


def test_a_server_of_several_models_must_have_the_nodes_own() -> None:
    child = model_server()
    child.info = ServerInfo(models=("qwen", "llama"))
    fault = child.wrong_model()
    assert fault
    assert "qwen, llama" in fault.message
    assert "UPSTREAM_MODEL" in fault.message
    child.info = ServerInfo(models=("qwen", "gemma"))
    assert child.wrong_model() is None
    child = model_server(UPSTREAM_MODEL="llama")
    child.info = ServerInfo(models=("qwen", "llama"))
    assert child.wrong_model() is None


def test_the_port_is_the_chosen_one_or_a_free_one() -> None:
    assert model_server(LOCAL_PORT="8123").base_url == "http://127.0.0.1:8123/v1/chat/completions"
    child = model_server()
    assert child.port in command.PORTS
    assert command.port_fault(child.port) is None


def test_the_key_of_the_model_server_is_long_and_new_each_time() -> None:
    assert len(model_server().api_key) >= 32
    assert model_server().api_key != model_server().api_key


def test_the_command_is_looked_for_in_the_working_directory_then_in_the_project(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert command.command_line("./local.sh 'two words'") == [str(command.PROJECT / "local.sh"), "two words"]
    with open("local.sh", "w", encoding="utf-8"):
        pass
    assert command.command_line("./local.sh") == [f"{tmp_path}/local.sh"]
    assert command.command_line("./no-such.sh") == [f"{tmp_path}/no-such.sh"]
    assert command.command_line("/opt/server --x") == ["/opt/server", "--x"]
    assert command.command_line("python3 -m server") == ["python3", "-m", "server"]


def test_where_only_the_package_is_installed_the_command_is_the_packages_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = tmp_path / "site-packages" / "devstack"
    packaged.mkdir(parents=True)
    (packaged / "local.sh").touch()
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setattr(command, "PROJECT", tmp_path / "site-packages")
    monkeypatch.setattr(command, "PACKAGED", packaged)
    assert command.command_line("./local.sh") == [str(packaged / "local.sh")]


def test_the_model_servers_command_and_environment_are_complete_and_have_no_secret() -> None:
    variables = {
        **VARIABLES,
        "LOCAL_PARALLEL": "8",
        "LOCAL_CTX": "8192",
        "LOCAL_THREADS": "3",
        "LOCAL_EXTRA_ARGS": "--mlock",
        "LLAMAFILE": "/m/x.llamafile",
        "LLAMAFILE_URL": "https://host/x.llamafile",
        "LLAMAFILE_SHA256": "0" * 64,
    }
    environ = {"PATH": "/bin", "PULSAR_TOKEN": "secret", "API_KEY": "left over", "ELSEWHERE": "the secret too"}
    environment = command.environment(settings.load(variables), environ, port=8123, key="key")
    assert environment == {
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), "/bin"]),
        "LOCAL_PYTHON": sys.executable,
        "LOCAL_PORT": "8123",
        "LOCAL_PARALLEL": "8",
        "LOCAL_CTX": "8192",
        "LOCAL_THREADS": "3",
        "LOCAL_EXTRA_ARGS": "--mlock",
        "LLAMAFILE": "/m/x.llamafile",
        "LLAMAFILE_URL": "https://host/x.llamafile",
        "LLAMAFILE_SHA256": "0" * 64,
        "LOCAL_API_KEY": "key",
        "LLAMA_API_KEY": "key",
    }
