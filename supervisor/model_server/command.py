"""What the local model server is started with: its command, its environment, its port. Nothing is started here."""

from __future__ import annotations

import errno
import os
import random
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from supervisor.model_server.diagnosis import CONFIGURATION, Diagnosis, told
from workernode.settings import Settings

HOST = "127.0.0.1"
# Above the ports of known services and below those that systems give to outgoing connections (Linux from 32768, macOS
# from 49152): none of these takes the port away while the child is being restarted.
PORTS = range(20_000, 32_000)
PORT_TRIES = 100
NOT_FOR_THE_CHILD = ("API_KEY", "PULSAR_TOKEN", "UPSTREAM_HEADERS")
PROJECT = Path(__file__).resolve().parents[2]


def command_line(local_command: str) -> list[str]:
    """LOCAL_COMMAND as words. Its program, where it has a folder, stands in the working directory or the project's."""
    program, *arguments = shlex.split(local_command)
    path = Path(program)
    if "/" in program and not path.is_absolute():
        path = path if path.exists() else PROJECT / path
        program = str(path.absolute())
    return [program, *arguments]


def environment(settings: Settings, environ: Mapping[str, str], port: int, key: str) -> dict[str, str]:
    """The child's whole environment: the node's without the node's secrets, and what the server is to know.

    The key goes here because `ps` shows arguments to everybody; LLAMA_API_KEY is what llama.cpp's server reads.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name not in NOT_FOR_THE_CHILD and not any(secret in value for secret in settings.secrets)
    }
    told_to_it = {
        # The embedded model is found in the node's own environment, even if nobody has activated it.
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), kept.get("PATH", os.defpath)]),
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
    return kept | told_to_it


def free_port() -> int:
    """A port of PORTS on which nobody listens."""
    for port in random.sample(PORTS, PORT_TRIES):
        if port_fault(port) is None:
            return port
    raise OSError(errno.EADDRINUSE, f"none of {PORT_TRIES} ports from {PORTS.start} on is free")


def port_fault(port: int) -> Diagnosis | None:
    """Why the port cannot be listened on, None if it can. Asked before a start: another program's answer to /health
    would pass for the child's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections of the last run do not count
        try:
            probe.bind((HOST, port))
        except OSError as fault:
            what = f"was not started, because port {port} cannot be used ({fault.strerror})"
            advice = "stop the program that holds it, or set LOCAL_PORT to a free one (0 or unset: it is chosen)"
            return told(CONFIGURATION, what, advice)
    return None
