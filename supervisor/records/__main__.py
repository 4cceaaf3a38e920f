"""`python -m supervisor.records` runs `workernode-records`."""

import sys

from supervisor.records import main

if __name__ == "__main__":
    sys.exit(main())
