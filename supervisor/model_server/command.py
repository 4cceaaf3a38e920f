"""What the local model server is started with: command, environment, port. Nothing is started here."""

from __future__ import annotations

import errno
import os
import random
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from supervisor.model_server.diagnosis import CONFIGURATION, Diagnosis, compose
from workernode.settings import Settings

HOST = "127.0.0.1"
# Above the ports of known services and below those that systems give to outgoing connections (Linux from 32768, macOS
# from 49152): none of these takes the port away while the child is being restarted.
PORTS = range(20_000, 32_000)
PORT_TRIES = 100
HIDDEN_FROM_CHILD = ("API_KEY", "PULSAR_TOKEN", "UPSTREAM_HEADERS")
PROJECT = Path(__file__).resolve().parents[2]  # the project's folder, or where the package is installed
PACKAGED = PROJECT / "devstack"  # a wheel has the project's local.sh here


def command_line(local_command: str) -> list[str]:
    """Return LOCAL_COMMAND as a list of arguments, split as a shell would.

    A relative path of the program is looked for in the working directory, then in the project's folder, then in the
    installed package.
    """
    program, *arguments = shlex.split(local_command)
    path = Path(program)
    if "/" in program and not path.is_absolute():
        found = [each for each in (path, PROJECT / path, PACKAGED / path) if each.exists()]
        program = str((found[0] if found else path).absolute())
    return [program, *arguments]


def environment(settings: Settings, environ: Mapping[str, str], port: int, key: str) -> dict[str, str]:
    """Return the child's whole environment: the node's without its secrets, and the settings of the model server.

    The key is passed here because `ps` shows arguments to everybody; llama.cpp's server reads LLAMA_API_KEY.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name not in HIDDEN_FROM_CHILD and not any(secret in value for secret in settings.secrets)
    }
    added = {
        # The embedded model is found in the node's own virtual environment, even if it is not activated.
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), kept.get("PATH", os.defpath)]),
        "LOCAL_PYTHON": sys.executable,
        "LOCAL_PORT": str(port),
        "LOCAL_PARALLEL": str(settings.local_parallel),
        "LOCAL_CTX": str(settings.local_ctx),
        "LOCAL_THREADS": str(settings.local_threads or ""),
        "LOCAL_EXTRA_ARGS": settings.local_extra_args,
        "LLAMAFILE": settings.llamafile,
        "LLAMAFILE_URL": settings.llamafile_url,
        "LLAMAFILE_SHA256": settings.llamafile_sha256,
        "LOCAL_API_KEY": key,
        "LLAMA_API_KEY": key,
    }
    return kept | added


def free_port() -> int:
    """Return a port of PORTS on which nobody listens.

    Raises:
        OSError: PORT_TRIES ports were all in use.
    """
    for port in random.sample(PORTS, PORT_TRIES):
        if port_fault(port) is None:
            return port
    raise OSError(errno.EADDRINUSE, f"none of {PORT_TRIES} ports from {PORTS.start} on is free")


def port_fault(port: int) -> Diagnosis | None:
    """Return why the port cannot be listened on; None: it can.

    Called before each start: else another program's answer to /health would be taken for the child's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections of the last run do not count
        try:
            probe.bind((HOST, port))
        except OSError as fault:
            what = f"was not started, because port {port} cannot be used ({fault.strerror})"
            advice = "stop the program that holds it, or set LOCAL_PORT to a free one, or leave it unset"
            return compose(CONFIGURATION, what, advice)
    return None
