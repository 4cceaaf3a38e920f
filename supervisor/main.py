"""The way in: arguments, settings, logs, and the node."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from supervisor.node import Exit, Node
from workernode import __version__, logs
from workernode.settings import SettingsError, load, read_environment


def main(arguments: list[str] | None = None) -> int:
    """Run the node with the environment's settings, and return its exit code (supervisor.node.Exit)."""
    parser = argparse.ArgumentParser(
        prog="workernode", description="Takes chat requests from Pulsar, asks a model, sends the answers back."
    )
    parser.add_argument("--version", action="version", version=f"WorkerNode {__version__}")
    parser.parse_args(arguments)
    try:
        settings = load(read_environment(os.environ, Path(".env")))
    except SettingsError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return Exit.BAD_SETTINGS.value
    logs.setup(settings)
    return Node(settings).run().value
