"""The command line of the node: arguments, settings, log, and the node itself."""

from __future__ import annotations

import argparse
import faulthandler
import io
import logging
import os
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from workernode.settings import VARIABLES, Settings, SettingsError, describe, load, parse, read_environment
from workernode.version import version

log = logging.getLogger(__name__)

DOTENV = Path(".env")  # in the working directory
WIDTH = 120  # columns of the table in --help
INTERRUPTED = 130  # exit code of --check after Ctrl-C, as shells have it


def main(arguments: list[str] | None = None) -> int:
    """Run the node with the environment's settings, and return its exit code (supervisor.states.Exit).

    Each branch imports what it needs: --help and --version answer at once, and where no package is installed.
    """
    open_standard_streams()
    options = parse_arguments(arguments)
    if options.check:
        from supervisor import check
        from supervisor.model_server import ModelServer
        from supervisor.telemetry import is_installed

        logging.disable()  # the table has all that matters
        try:
            code = check.check(os.environ, DOTENV, options.json, ModelServer, is_installed)
        except KeyboardInterrupt:
            code = INTERRUPTED
        exit_now(code)
    if options.subscribe:
        return subscribe(os.environ)
    return run_node()


def run_node() -> int:
    """Run the node, and return its exit code (supervisor.states.Exit)."""
    # systemd's watchdog sends SIGABRT to a supervisor that hangs. The dump then shows where it hangs.
    faulthandler.enable()
    from supervisor.assembly import build
    from supervisor.machine import leave_unusable_directory
    from supervisor.states import Exit
    from supervisor.workers import do_without_resource_tracker, end_all_children, prepare_environment
    from workernode import logs

    environ = prepare_environment()
    do_without_resource_tracker()
    left_directory = leave_unusable_directory()
    dotenv = Path(os.devnull) if left_directory else DOTENV

    def read_settings() -> Settings:
        return load(read_environment(environ, dotenv))

    try:
        settings = read_settings()
        check_files(settings)
    except SettingsError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        report_settings(error)
        return Exit.BAD_SETTINGS.value
    logs.setup(settings)
    if left_directory:
        text = "the working directory cannot be entered (%s): / is used instead, and no .env is read"
        log.warning(text, left_directory, extra={"event": "working_directory"})
    prepare_open_files(settings)
    try:
        node = build(settings, read_settings, environ)
    except OSError as error:  # STATUS_ADDR cannot be listened on; strerror says what to do
        print(error.strerror, file=sys.stderr)
        return Exit.BAD_SETTINGS.value
    try:
        code = node.run().value
    finally:
        end_all_children()
    exit_now(code)


def exit_now(code: int) -> NoReturn:
    """End the process without waiting for threads, and without the clean-up of libraries.

    A thread that hangs in a library would keep the process alive. The broker's library aborts it (SIGABRT) when it is
    cleaned up while it still tries to reach the broker.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def open_standard_streams() -> None:
    """Open the null device for each standard stream that is closed (`2>&-`), and let stdout take any character.

    A socket would get the closed stream's descriptor otherwise, and whatever a library prints would go into that
    connection. A locale without UTF-8 has no arrow, and Python would raise where --check prints one.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # something else in a program that calls us
        sys.stdout.reconfigure(errors="replace")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line; exits for --help, --version and wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="workernode",
        description="Takes chat requests from Pulsar, asks a model, and sends the answers back.",
        epilog=variable_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"WorkerNode {version()}")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check environment, broker, upstream or model, Kubernetes and machine, print what to do, and exit: "
        "0 nothing is wrong, 1 something is",
    )
    parser.add_argument("--json", action="store_true", help="print the findings of --check as JSON")
    parser.add_argument(
        "--subscribe",
        action="store_true",
        help="make the subscription of MODEL_NAME and exit, so that tasks published while no node runs are kept",
    )
    options = parser.parse_args(arguments)
    if options.json and not options.check:
        parser.error("--json goes with --check")
    return options


def subscribe(environ: Mapping[str, str]) -> int:
    """Make the model's subscription, for an autoscaler that starts the first node when a task waits.

    Without a subscription the broker deletes a topic that nobody uses together with its messages, and an autoscaler has
    nothing to count (docs/operations.md).

    Returns:
        The exit code: 0 the subscription exists, 1 the broker refused or is away, 78 the settings cannot be used.
    """
    from supervisor.broker import Access, Answer, Topics, may_take, short_name
    from supervisor.states import Exit

    try:
        settings = load(read_environment(environ, DOTENV))
    except SettingsError as error:
        print(*error.faults, sep="\n", file=sys.stderr)
        return Exit.BAD_SETTINGS.value
    topics = Topics.of(settings)
    answer, text = may_take(Access.of(settings), topics)
    if answer is not Answer.ALLOWED:
        why = f"{answer.value}: {text}" if text else answer.value
        where = f"{topics.subscription} on {short_name(topics.tasks)}"
        print(f"cannot make the subscription {where} ({why})", file=sys.stderr)
        print("workernode --check says what to do", file=sys.stderr)
        return 1
    print(f"the subscription {topics.subscription} on {short_name(topics.tasks)} exists")
    return 0


def variable_table() -> str:
    """Return the table of the environment variables (spec 2) for --help."""
    rows = describe()
    names, defaults = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = ["environment variables, also read from .env in the working directory (variable, default, meaning):"]
    for name, default, meaning in rows:
        head = f"  {name:{names}}  {default:{defaults}}  "
        lines += textwrap.wrap(meaning, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return "\n".join(lines)


def prepare_open_files(settings: Settings) -> None:
    """Raise the limit of open files to what the slots need, or log that it is too low."""
    from supervisor.machine import allow_files, files_allowed, files_needed

    needed = files_needed(settings.max_process_num, settings.worker_processes)
    allow_files(needed)
    allowed = files_allowed()
    if allowed is not None and allowed < needed:
        text = "a process may open %d files and may need %d: raise the limit (ulimit -n), or lower MAX_PROCESS_NUM"
        log.warning(text, allowed, needed, extra={"event": "few_files"})


def check_files(settings: Settings) -> None:
    """Check the files and folders without which the workers would end as soon as they start.

    Raises:
        SettingsError: one cannot be used.
    """
    from supervisor.machine import unwritable_folder

    if (unwritable := unwritable_folder()) is not None:
        raise SettingsError(("; ".join(unwritable),))
    if fault := _unusable_authorities(settings):
        raise SettingsError((fault,))


def _unusable_authorities(settings: Settings) -> str:
    """Return what is wrong with a file of authorities; "" if nothing is."""
    from workernode.net.tls import CA_VARIABLES, tls_context

    if not settings.upstream_ca and not any(os.environ.get(name) for name in CA_VARIABLES):
        return ""  # reading the system's authorities takes a tenth of a second
    try:
        tls_context(settings.upstream_ca)
    except OSError as error:
        name = "UPSTREAM_CA" if error.filename == settings.upstream_ca else "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE"
        return f"{name} names {error.filename}, which cannot be used ({error.strerror}); it must be a PEM file"
    return ""


def report_settings(error: SettingsError) -> None:
    """Report settings that cannot be used (spec 1.3, 2), if they name the AIModel. Takes a few seconds at most."""
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
    """Return the text of one variable, or its default.

    Raises:
        ValueError: the text is wrong.
    """
    return str(parse(VARIABLES[name], environ.get(name, "").strip()))
