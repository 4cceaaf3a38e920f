#!/usr/bin/env python3
"""The front door: `python3 WorkerNode.py`."""

import sys

from supervisor.main import main

if __name__ == "__main__":
    sys.exit(main())
