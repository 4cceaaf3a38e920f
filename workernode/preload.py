"""What the forkserver imports before it makes the first worker. Imported nowhere else.

The forkserver is no worker and no supervisor, but it is in their process group: a SIGTERM to all of them (systemd,
`timeout`, a terminal that closes) must not take it away while the supervisor drains, because to the supervisor its end
looks like the end of every worker.
"""

import signal

from workernode import worker  # noqa: F401  # that is what it is for

signal.signal(signal.SIGTERM, signal.SIG_IGN)
