"""The command line of the development broker.

python -m devstack.broker find              print the installed Pulsar's home; exit 1 without one
python -m devstack.broker fetch             the same, fetched through Maven if need be
python -m devstack.broker run --dir DIR     in the foreground, until a signal or its parent's end
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from devstack.broker.distribution import find_or_get, installed
from devstack.broker.standalone import ADMIN_PORT, PORT, Broker
from devstack.terminal import StackError

LOOP_S = 0.5  # between two checks of the parent


def _run(broker: Broker) -> None:
    """Run the broker until SIGTERM, SIGINT or the end of the parent process. Raises StackError if it ends by itself."""
    parent = os.getppid()

    def stop(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):  # a second signal would interrupt the stop
            signal.signal(number, signal.SIG_IGN)
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with broker:
        print(f"ready {broker.url}", flush=True)
        while not broker.wait(LOOP_S):
            if os.getppid() != parent:
                return
    raise StackError(f"The broker ended by itself. Its log is {broker.log_path}.")


def main(argv: list[str] | None = None) -> int:
    """Run the command line (see the top of this file), and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m devstack.broker", description="Finds, fetches, runs Pulsar.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("find", help="print the home of the installed Pulsar; exit 1 if there is none")
    commands.add_parser("fetch", help="print the home of a Pulsar, fetched through Maven if there is none")
    run = commands.add_parser("run", help="run it in the foreground; prints 'ready URL' when it can be used")
    run.add_argument("--dir", type=Path, required=True, help="data, conf and log")
    run.add_argument("--port", type=int, default=int(os.environ.get("PULSAR_PORT") or PORT))
    run.add_argument("--admin-port", type=int, default=int(os.environ.get("PULSAR_ADMIN_PORT") or ADMIN_PORT))
    options = parser.parse_args(argv)
    try:
        if options.command == "run":
            _run(Broker(find_or_get(), options.dir, port=options.port, admin_port=options.admin_port))
            return 0
        home = installed(os.environ) if options.command == "find" else find_or_get()
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if home is None:
        return 1
    print(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
