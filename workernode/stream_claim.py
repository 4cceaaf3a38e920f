"""May this stream be sent? A stream leaves a node only while the node holds the claim of its task (supervisor/claims).

The worker asks the supervisor before the first frame and before the end, and waits until that is stored. In between it
checks the lease, which ends by itself: a worker whose supervisor is gone or hangs sends nothing after it. When it had
run out and goes on, another node may have taken the task over meanwhile: the worker asks again.

Where upstream begins to answer soon, the worker asks for the first frame at the moment at which it asks upstream, so
that the first chunk need not wait. (The supervisor publishes it when the first frame may leave, spec 1.2.) The price:
if the whole node is gone before anything has left, the client gets an error, although another node could still answer.
So where upstream takes long, a stream asks with its first chunk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from workernode.errors import ClaimLost
from workernode.net.waiting import Event
from workernode.protocol import AnswerState, ClaimAsked, Granted, Job

CHECK_INTERVAL = 0.05  # seconds between two checks of a lease that has ended
# Seconds beyond the task's time that a stream waits for its claim, and for which it waits at least: a client whose task
# came too late gets an error.
GRACE = 10.0
ARRIVES_WITHIN = 0.5  # seconds from the end of a lease until what left before it has arrived at a gateway that is well
SOON = 1.0  # seconds from asking upstream to the first chunk; streams ask ahead while it comes that soon


class StreamClaims:
    """The claims of the jobs that run in a worker.

    Attributes:
        ask_ahead: the latest stream got its first chunk soon: the next ones ask for their claims ahead.

    Args:
        ask: sends a question to the supervisor.
        lease: returns the monotonic time until which frames may leave, and how often that had run out.
    """

    def __init__(self, ask: Callable[[ClaimAsked], None], lease: Callable[[], Sequence[float]]) -> None:
        self._ask, self._lease = ask, lease
        self._open: dict[int, StreamClaim] = {}  # by the job's number
        self.ask_ahead = False

    def open(self, job: Job) -> StreamClaim | None:
        """Return the claim of a job that begins; None if it needs none. `close` follows."""
        if not job.is_claimed:
            return None
        claim = self._open[job.number] = StreamClaim(job, self._ask, self._lease, self)
        return claim

    def close(self, job: Job) -> None:
        """The job has ended."""
        self._open.pop(job.number, None)

    def tick(self) -> None:
        """While the lease has ended: frames that left before, and that the kernel still has, must not arrive any more.

        Called every second: the time between the end of a lease and a takeover by another node is longer than that.
        """
        until, _ = self._lease()
        if time.monotonic() >= until + ARRIVES_WITHIN:
            for claim in tuple(self._open.values()):
                claim.on_lease_end()

    def answered(self, granted: Granted) -> None:
        """The supervisor has answered, or reports by itself that a claim is lost."""
        if (claim := self._open.get(granted.number)) is not None:
            claim.answered(granted)


class StreamClaim:
    """The claim of one delivery. Its job waits in it; `answered` is called by the worker's inbox.

    Attributes:
        on_lease_end: called while the lease has ended, by another task than the job's.
    """

    def __init__(
        self, job: Job, ask: Callable[[ClaimAsked], None], lease: Callable[[], Sequence[float]], claims: StreamClaims
    ) -> None:
        self._number = job.number
        self._send, self._lease = ask, lease
        self._claims = claims
        self._until = max(job.deadline, time.monotonic()) + GRACE
        self.on_lease_end: Callable[[], None] = lambda: None
        self._asked: ClaimAsked | None = None  # the latest question
        self._granted: Event | None = None  # its answer has come; a plain task asks nothing
        self._upstream_asked_at: float | None = None  # monotonic
        self._is_lost = False
        self._lapses = 0.0  # how often the lease had run out when the claim was granted last
        self._has_begun = self._has_ended = False

    def upstream_asked(self) -> None:
        """Upstream is asked for the stream: its first chunk may come soon."""
        self._upstream_asked_at = time.monotonic()
        if self._claims.ask_ahead:
            self._ask(is_end=False)

    def answered(self, granted: Granted) -> None:
        """The supervisor has answered, or reports by itself that the claim is lost."""
        if not granted.is_granted:
            self._is_lost = True
        elif self._asked is None or granted.is_end != self._asked.is_end:
            return  # the answer to an earlier question: its job had ended, or wants to end the stream by now
        if self._granted is not None:
            self._granted.set()

    def wait_for(self, state: AnswerState) -> None:
        """Wait until the answer may get into this state. Called before anything leaves that makes it true.

        Raises:
            ClaimLost: nothing may leave any more.
        """
        if state is AnswerState.STARTED and not (self._has_begun or self._has_ended):
            self._wait_to_begin()
            self._has_begun = True
        elif state is AnswerState.ENDING and not self._has_ended:
            self._ask(is_end=True)
            self._wait_for_answer()
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
                self._ask(is_end=False)
                self._wait_for_answer()
            elif now >= until:
                self._wait_once(Event(), now + CHECK_INTERVAL)
            else:
                return

    def _wait_to_begin(self) -> None:
        if self._upstream_asked_at is not None:
            self._claims.ask_ahead = time.monotonic() <= self._upstream_asked_at + SOON
        if self._asked is None:
            self._ask(is_end=False)
        self._wait_for_answer()

    def _ask(self, *, is_end: bool) -> None:
        self._granted = Event()
        self._asked = ClaimAsked(self._number, is_end)
        self._until = max(self._until, time.monotonic() + GRACE)  # a gateway may have kept it beyond the task's time
        _, self._lapses = self._lease()
        self._send(self._asked)

    def _wait_for_answer(self) -> None:
        assert self._granted is not None
        while not self._wait_once(self._granted, self._until):
            pass

    def _wait_once(self, event: Event, until: float) -> bool:
        is_set = self._is_lost or event.wait(min(until, self._until))
        if self._is_lost:
            raise ClaimLost("another node has taken the task over")
        if not is_set and time.monotonic() >= self._until:
            raise ClaimLost("its claim could not be stored before the time of the task was over")
        return is_set
