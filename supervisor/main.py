"""The way in: arguments, settings, logs, and the node."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from supervisor.version import version
from workernode import logs
from workernode.settings import VARIABLES, SettingsError, describe, load, parse, read_environment

DOTENV = Path(".env")  # in the working directory
WIDTH = 120  # columns of the table in --help
INTERRUPTED = 130  # exit code of --check after Ctrl-C, as shells have it


def main(arguments: list[str] | None = None) -> int:
    """Run the node with the environment's settings, and return its exit code (supervisor.node.Exit).

    What a branch needs is imported in it: --help and --version answer at once, and on a machine where the broker's
    library cannot be loaded.
    """
    options = parsed(arguments)
    if options.check:
        from supervisor.check import command as check

        logging.disable()  # the table tells what matters
        try:
            code = check.check(os.environ, DOTENV, options.json)
        except KeyboardInterrupt:
            code = INTERRUPTED
        check.leave(code)
    # SIGABRT, which systemd's watchdog sends to a supervisor that hangs, tells where it hangs.
    faulthandler.enable()
    from supervisor.assembly import build
    from supervisor.node import Exit

    try:
        settings = load(read_environment(os.environ, DOTENV))
    except SettingsError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        report_fault(error)
        return Exit.BAD_SETTINGS.value
    logs.setup(settings)
    try:
        node = build(settings)
    except OSError as error:  # STATUS_ADDR cannot be listened on; strerror says what to do
        print(error.strerror, file=sys.stderr)
        return Exit.BAD_SETTINGS.value
    return node.run().value


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line says."""
    one = argparse.ArgumentParser(
        prog="workernode",
        description="Takes chat requests from Pulsar, asks a model, and sends the answers back.",
        epilog=variables(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("--version", action="version", version=f"WorkerNode {version()}")
    one.add_argument(
        "--check",
        action="store_true",
        help="look at environment, broker, upstream or model, Kubernetes and machine, say what to do, and exit: "
        "0 nothing is wrong, 1 something is",
    )
    one.add_argument("--json", action="store_true", help="what --check finds as JSON")
    options = one.parse_args(arguments)
    if options.json and not options.check:
        one.error("--json goes with --check")
    return options


def variables() -> str:
    """The table of the environment variables (spec 2)."""
    rows = describe()
    names, defaults = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = ["environment variables, also read from .env in the working directory (variable, default, meaning):"]
    for name, default, meaning in rows:
        head = f"  {name:{names}}  {default:{defaults}}  "
        lines += textwrap.wrap(meaning, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return "\n".join(lines)


def report_fault(error: SettingsError) -> None:
    """Report settings that cannot be used (spec 1.3, 2), if they say at least on which AIModel. Takes a few seconds at
    most.
    """
    from supervisor.report import Cluster, report_once

    try:
        environ = read_environment(os.environ, DOTENV)
        name, namespace = (read_one(environ, variable) for variable in ("AIMODEL_NAME", "AIMODEL_NAMESPACE"))
    except (SettingsError, ValueError):
        return
    if name:
        faults = "; ".join(error.faults)
        report_once(Cluster(name, namespace), "ConfigurationError", f"The node's settings cannot be used: {faults}")


def read_one(environ: Mapping[str, str], name: str) -> str:
    """One variable that holds text, or its default.

    Raises:
        ValueError: it is wrong.
    """
    return str(parse(VARIABLES[name], environ.get(name, "").strip()))
