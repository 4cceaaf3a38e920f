#!/usr/bin/env python3
"""Starts the node: `python3 WorkerNode.py`."""

import sys

# pip refuses an older Python, a checkout does not. This file has to be readable for it: no f-string.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("WorkerNode needs Python 3.10 or newer; " + sys.executable + " is Python " + sys.version.split()[0])

if __name__ == "__main__":
    try:
        from supervisor.main import main

        sys.exit(main())
    except ModuleNotFoundError as error:
        sys.exit("The Python package " + str(error.name) + " is not installed. Run: python3 -m pip install -e .")
