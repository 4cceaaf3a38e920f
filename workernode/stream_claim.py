"""May this stream be sent? A stream leaves a node only while the node holds the claim of its task (supervisor/claims).

The worker asks the supervisor before the first frame and before the end, and waits until that is stored. In between it
checks the lease, which ends by itself: a worker whose supervisor is gone or hangs sends nothing after it. When it had
run out and goes on, another node may have taken the task over meanwhile: the worker asks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from workernode.errors import ClaimLost
from workernode.net.waiting import Event
from workernode.protocol import AnswerState, ClaimAsked, Granted, Job

CHECK_INTERVAL = 0.05  # seconds between two checks of a lease that has ended
# Seconds beyond the task's time that a stream waits for its claim: a client whose task came too late gets an error.
GRACE = 10.0


class StreamClaim:
    """The claim of one delivery. Its job waits in it; `answered` is called by the worker's inbox.

    Args:
        job: whose claim it is.
        ask: sends a question to the supervisor.
        lease: returns the monotonic time until which frames may leave, and how often that had run out.
    """

    def __init__(self, job: Job, ask: Callable[[ClaimAsked], None], lease: Callable[[], Sequence[float]]) -> None:
        self._number = job.number
        self._ask = ask
        self._lease = lease
        self._until = max(job.deadline, time.monotonic()) + GRACE
        self._granted = Event()
        self._is_lost = False
        self._lapses = 0.0  # how often the lease had run out when the claim was granted last
        self._has_begun = self._has_ended = False

    def answered(self, granted: Granted) -> None:
        """The supervisor has answered, or reports by itself that the claim is lost."""
        self._is_lost = self._is_lost or not granted.is_granted
        self._granted.set()

    def wait_for(self, state: AnswerState) -> None:
        """Wait until the answer may get into this state. Called before anything leaves that makes it true.

        Raises:
            ClaimLost: nothing may leave any more.
        """
        if state is AnswerState.STARTED and not (self._has_begun or self._has_ended):
            self._wait_for_grant(is_end=False)
            self._has_begun = True
        elif state is AnswerState.ENDING and not self._has_ended:
            self._wait_for_grant(is_end=True)
            self._has_ended = True

    def check(self) -> None:
        """Wait until frames may leave. Called before each of them.

        Raises:
            ClaimLost: another node has taken the task over, or the time of the task is over.
        """
        while True:
            until, lapses = self._lease()
            now = time.monotonic()
            if lapses != self._lapses:
                self._wait_for_grant(is_end=False)
            elif now >= until:
                self._wait_once(Event(), now + CHECK_INTERVAL)
            else:
                return

    def _wait_for_grant(self, *, is_end: bool) -> None:
        self._granted = Event()
        _, self._lapses = self._lease()
        self._ask(ClaimAsked(self._number, is_end))
        while not self._wait_once(self._granted, self._until):
            pass

    def _wait_once(self, event: Event, until: float) -> bool:
        is_set = event.wait(min(until, self._until))
        if self._is_lost:
            raise ClaimLost("another node has taken the task over")
        if not is_set and time.monotonic() >= self._until:
            raise ClaimLost("its claim could not be stored before the time of the task was over")
        return is_set
