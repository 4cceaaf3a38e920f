#!/usr/bin/env python3
"""Starts the node: `python3 WorkerNode.py`."""

import sys

from supervisor.main import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except ModuleNotFoundError as error:
        sys.exit(f"The Python package {error.name} is not installed. Run: python3 -m pip install -e .")
