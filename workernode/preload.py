"""The forkserver imports this module before it forks the first worker. Nothing else imports it.

The forkserver is in the process group of the supervisor and its workers. A signal to the whole group (systemd,
`timeout`, a closed terminal) must not end the forkserver while the supervisor drains, because to the supervisor its end
looks like the end of every worker.
"""

import signal

from workernode import worker  # workers share these pages with the forkserver

for number in worker.SUPERVISORS_SIGNALS:
    signal.signal(number, signal.SIG_IGN)
