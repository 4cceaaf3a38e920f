"""The messages between the supervisor and its worker processes. All of them are in this file.

Each is a small frozen dataclass, which goes through a pipe as MessagePack, or pickled where MessagePack cannot hold a
value (pipe.py). This leaf imports the standard library and the leaves call_stats and trace_context only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, NamedTuple

from workernode.call_stats import CallStats
from workernode.trace_context import TraceContext

# A rate limit or an outage of upstream that lasts longer than this (or a rate limit that names a longer wait) does not
# pass by itself. Nobody waits for its end: the task goes to another node, and the node is unfit and reports (spec 5).
LONGEST_WAIT_FOR_UPSTREAM = 60.0  # seconds


class Decision(Enum):
    """What becomes of the message (spec 4)."""

    ACK = "ack"  # the broker may forget it
    NAK = "nak"  # the broker hands it out again, to whoever is free
    DEAD_LETTER = "dead_letter"  # it goes to the dead-letter topic, then it is acked


class AnswerState(IntEnum):
    """How much of an answer may have left for the client.

    A worker keeps one such byte for each slot in shared memory. It sets the byte *before* the answer's bytes leave, so
    that the byte is true whenever the worker is killed (docs/decisions/0005-answer-state.md).
    """

    NOT_STARTED = 0  # nothing has left: the task can be run again
    STARTED = 1  # a chunk of a stream has left, or is about to: running it again would repeat text
    ENDING = 2  # the frame that ends the stream is leaving: nothing may follow it
    ENDED = 3  # the gateway has the whole answer


class FaultKind(Enum):
    """What an upstream fault means for the node and for asking again; workernode/upstream/faults.py decides it."""

    CLIENT = "client"  # the request itself is refused: its client gets the error, nothing else is concerned
    PASSING = "passing"  # no usable answer (reset, timeout, 500, half an answer): asking again may help
    UNAVAILABLE = "unavailable"  # upstream is away, overloaded or loads its model: asking again later may help
    RATE_LIMIT = "rate_limit"  # too many requests or tokens a minute
    RAMP = "ramp"  # the rate grows too fast (slow_down)
    BROKEN = "broken"  # the answer failed after a part of it was relayed
    # Possibly the node's fault (NODE_KINDS): how the same upstream answers other tasks decides (spec 5).
    KEY = "key"  # the API key is refused
    QUOTA = "quota"  # money or quota is used up
    MODEL = "model"  # upstream does not know the node's own model
    ADDRESS = "address"  # there is no chat API at API_URL: 404 or 405 without JSON, a redirect, a page of HTML
    CERTIFICATE = "certificate"  # the TLS certificate of API_URL is not trusted
    REFUSED = "refused"  # 403 or 407 that does not show which of them it is


# Kinds that may be the node's fault or the fault of one task. A worker does not send the client an error for such a
# fault: it sends the task back with `Outcome.client_error`, and the supervisor decides (spec 5, blame by evidence).
NODE_KINDS = (
    FaultKind.KEY,
    FaultKind.QUOTA,
    FaultKind.MODEL,
    FaultKind.ADDRESS,
    FaultKind.CERTIFICATE,
    FaultKind.REFUSED,
)


@dataclass(frozen=True)
class Rejection:
    """The supervisor's decision about a task that is not run: a worker sends this error to its client."""

    status: str  # the outcome's status: "expired", "gave_up", "refused", "broken", "poison"
    decision: Decision
    error: dict[str, object]  # an OpenAI error body: {"error": {"message", "type", "param", "code"}}
    http_status: int  # upstream's status that led to it; 0: none
    reason: str = ""  # for the dead letter, and for people


@dataclass(frozen=True)
class Kept:
    """An answer, or an error, that its gateway has not got yet. It is offered again without asking upstream."""

    gateway: str  # the gateway's server: Endpoint.server
    is_reached: bool  # the gateway can be reached, and did not take this answer
    until: float  # monotonic: it is offered until then
    # Of a plain answer the one body, of a stream the frames that have not left. Empty: the task was not run yet, and
    # the worker only finds out whether the gateway can be reached.
    parts: tuple[bytes, ...] = ()
    asked: CallStats | None = None  # what asking upstream has brought
    # How the delivery ended. An upstream's answer has the status "": how it reaches the gateway decides.
    status: str = ""
    decision: Decision = Decision.ACK
    error: dict[str, Any] | None = None
    fault: FaultInfo | None = None
    reason: str = ""
    end_reason: str = ""


@dataclass(frozen=True)
class SavedStream:
    """What the client of a stream was sent by a worker that is dead: another worker goes on with it."""

    members: dict[str, Any]  # of the first chunk: id, created, model
    has_role: bool  # the client knows whose text it is
    text: str
    tokens: int
    resumes: int  # how often the stream goes on, as far as that counts against MOST_RESUMES
    is_finished: bool  # the text is whole, only the end is missing
    asked: CallStats  # what asking upstream has brought


@dataclass(frozen=True)
class Job:
    """One delivery of a task, handed to a worker."""

    number: int  # unique in this run of the node
    slot: int  # which byte of the worker's shared memory holds how much of the answer was sent
    payload: bytes  # the message as it came
    published: float  # seconds since the epoch: when the gateway published it
    received: float  # seconds since the epoch: when this node took it
    received_at: float  # the same on the monotonic clock
    deadline: float  # monotonic: after it nobody waits for the answer
    redeliveries: int  # how often it was handed out before
    rejection: Rejection | None = None  # send the client this instead of asking upstream
    attempts: int = 0  # times upstream was asked in this delivery before: it was refused, and kept (spec 5)
    kept: Kept | None = None  # offer this to the gateway instead of asking upstream
    resume: SavedStream | None = None  # go on with this stream
    is_claimed: bool = False  # a stream may be sent only with the supervisor's grants (ClaimAsked)
    supersedes: str = ""  # the node that had this task before, and is gone; "": none had
    has_tries: bool = False  # it may be handed out again, although `redeliveries` is MAX_REDELIVERIES or more


class Lease(NamedTuple):
    """Until when a worker may send streams (supervisor/claims)."""

    until: float  # monotonic
    lapses: int = 0  # how often it had run out, so that other nodes may have taken streams over


@dataclass(frozen=True)
class Granted:
    """The answer to ClaimAsked; also sent unasked, when another node has taken the task over."""

    number: int  # of the job
    is_granted: bool  # False: nothing may be sent any more
    is_end: bool = False  # of what is granted: as in ClaimAsked


@dataclass(frozen=True)
class Hold:
    """For all workers: ask upstream nothing before this moment (a rate limit is the whole node's, spec 5).

    A call that waited for it starts at a random moment of the `spread` after it, so that they do not all come at once.
    """

    until: float  # monotonic
    spread: float = 0.0  # seconds
    # Upstream is away: a call that fails is not repeated here, its task goes back at once, to a node that may be well.
    no_retries: bool = False
    # It is not certain that upstream is well: streams that begin are reported (AnswerBegun).
    reports_begun: bool = False


@dataclass(frozen=True)
class Target:
    """For all workers, before the first job: where upstream is. It changes when a local model starts again with a new
    port and key, and when the operator changes the key.
    """

    url: str  # the whole address of chat completions
    key: str | None = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # UPSTREAM_HEADERS
    proxy: str = field(default="", repr=False)  # http://[user:password@]host:port; "": connect directly
    ca: str = ""  # the path of further authorities for its certificate (UPSTREAM_CA)


@dataclass(frozen=True)
class Stop:
    """For a worker: exit now. The supervisor sends it when the worker has no job left."""


@dataclass(frozen=True)
class Ready:
    """From a worker: it is ready for jobs."""

    pid: int


@dataclass(frozen=True)
class RateLimitReport:
    """From a worker, as soon as the headers of an answer have come: upstream's rate limits (spec 5)."""

    at: float  # monotonic: when the answer's headers came
    kind: FaultKind | None  # RATE_LIMIT, RAMP or QUOTA of a 429; None: an answer that carried figures
    asked: float | None = None  # monotonic: when the call was sent, which is what the figures count; None: unknown
    retry_after: float | None = None  # seconds to leave upstream alone
    limit_requests: int | None = None  # the most that `remaining` can be
    remaining_requests: int | None = None
    reset_requests: float | None = None  # seconds until `remaining` is at the limit again; no time to wait
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens: float | None = None  # seconds
    unknown_formats: int = 0  # figures that were there and could not be read


@dataclass(frozen=True)
class FaultInfo:
    """What a person needs to know of an upstream fault. It holds no secret."""

    kind: FaultKind
    http_status: int  # 0: no answer came
    code: str  # upstream's error.code or error.type; "" without
    message: str  # one sentence, cut to a bearable length
    retry_after: float | None = None  # seconds


@dataclass(frozen=True)
class CallFailed:
    """From a worker, as soon as a call to upstream has failed in a way that may pass. The task may be asked again."""

    request_id: str
    asked: float  # monotonic: when the call was sent
    fault: FaultInfo  # PASSING or UNAVAILABLE


@dataclass(frozen=True)
class AnswerBegun:
    """From a worker, where a Hold asks for it: the first chunks of a stream have come, so that upstream serves."""

    asked: float  # monotonic: when the call was sent


@dataclass(frozen=True)
class ClaimAsked:
    """From a worker: may the first frame of a stream leave, or its end? Granted is the answer."""

    number: int  # of the job
    is_end: bool


@dataclass(frozen=True)
class Durations:
    """How long the stages of one delivery took, in seconds; None: the delivery never got to that stage."""

    queue: float | None = None  # published to received
    waiting: float | None = None  # received to first asking upstream
    first_token: float | None = None  # asking upstream to its first chunk
    upstream: float | None = None  # asking upstream to its last byte
    answer: float | None = None  # upstream's last byte to the gateway having the whole answer
    total: float | None = None  # received to decided


@dataclass(frozen=True)
class Outcome:
    """How one delivery of a task ended, as a worker reports it to the supervisor."""

    number: int
    request_id: str  # "" where the message could not be read
    decision: Decision
    status: str  # a row of spec 4: "answered", "refused", "expired", "malformed", ...
    record: bytes  # the billing record (spec 6), JSON
    fault: FaultInfo | None = None  # the upstream fault, if one decided it
    upstream_answered: bool = False  # upstream answered this task well: what restores an unfit node
    reason: str = ""  # why it is dead-lettered or given up
    # Of a NAK whose fault is one of NODE_KINDS: upstream's error in OpenAI's shape, which the client gets if the fault
    # turns out to be its own task's: {"error": {"message", "type", "param", "code"}}.
    client_error: dict[str, Any] | None = None
    attempts: int = 0  # times upstream was asked
    asked_at: float | None = None  # monotonic: when the last of them was sent
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt: upstream had them in its cache
    cost: float = 0.0  # by PRICES, in its currency; the record has the exact amount
    kept: Kept | None = None  # not the end: the gateway has not got the answer, which is to be offered again
    durations: Durations = field(default_factory=Durations)
    resumes: int = 0  # times that a stream went on after a break
    trace: TraceContext | None = None  # None: the message could not be read


ToWorker = Job | Granted | Hold | Target | Stop
FromWorker = Ready | RateLimitReport | CallFailed | AnswerBegun | ClaimAsked | Outcome
