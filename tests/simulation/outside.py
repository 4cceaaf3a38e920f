"""What stands on the far side of the workers: the gateway with its clients, and upstream."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.schedule import TaskPlan
from tests.simulation.world import Violation, World
from workernode.protocol import FaultInfo, FaultKind, RateLimitReport

KEY = FaultInfo(FaultKind.KEY, 401, "invalid_api_key", "")
QUOTA = FaultInfo(FaultKind.QUOTA, 429, "insufficient_quota", "")
AWAY = FaultInfo(FaultKind.PASSING, 0, "connection_refused", "")
FAILED = FaultInfo(FaultKind.PASSING, 500, "server_error", "")
FIRST_KEY = "key-of-the-simulation"
BUDGET, REFILL = 20, 10.0  # calls, and the seconds in which all of them come back
REFUSED = FaultInfo(FaultKind.CLIENT, 400, "invalid_request_error", "")
CERTIFICATE = FaultInfo(FaultKind.CERTIFICATE, 0, "certificate_not_trusted", "")
MODEL = FaultInfo(FaultKind.MODEL, 404, "model_not_found", "")
FORBIDDEN = FaultInfo(FaultKind.REFUSED, 403, "forbidden", "")
# What upstream answers to a call, by the names of schedule.UPSTREAM.
FAULTS = {
    "500": FAILED,
    "reset": FAILED,
    "400": REFUSED,
    "own 401": KEY,
    "own 403": FORBIDDEN,
    "own 404": MODEL,
    "429 far": FaultInfo(FaultKind.RATE_LIMIT, 429, "rate_limit_exceeded", "", 600.0),
    "slow down": FaultInfo(FaultKind.RAMP, 429, "slow_down", "", None),
}


# Without claims a text comes twice, or a frame after the end, for reasons that nobody can help; with claims for these.
LOST_AT_ONCE = "its node lost its connection a moment after it had got it"
TEXT_EXCUSES = {"published twice", LOST_AT_ONCE}


@dataclass
class Client:
    """Who waits at the gateway for the answer to one task, and what came."""

    plan: TaskPlan
    published: float
    registered: float
    is_gone: bool = False  # it waits no more: its connection was closed
    text: int = 0  # chunks that came
    errors: int = 0
    answers: int = 0  # ends, or POSTs that were taken
    speaker: str = ""  # which run of which node the last chunk came from
    first_at: float = 0.0
    told_at: float = 0.0
    dropped: int = 0  # frames that came before the gateway knew the id
    excuses: set[str] = field(default_factory=set)  # why no rule about it holds any more
    deaths: int = 0  # of workers that had its task
    deaths_telling: int = 0  # likewise, that were to tell it an error
    kept_at: float = 0.0  # since when its answer has waited at a node for its gateway
    kept_until: float = 0.0  # until when it waits; 0: no answer ever waited
    hindered: list[tuple[str, float, float]] = field(default_factory=list)  # as Gateway.outages: it cannot be offered


class Gateway:
    """The gateway. It knows a stream by its id, not by its connection."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.clients: dict[str, Client] = {}
        self.recorded: set[str] = set()  # request ids of which a final record is stored
        self.is_claimed = True  # nodes claim tasks
        self.were_claims_refused = False  # for a while
        self.away_until = 0.0  # all gateways
        self.second_away_until = 0.0  # the second alone
        self.refusing_until = 0.0  # they answer 500 to each answer
        self.outages: list[tuple[str, float, float]] = []  # of which gateway ("": all), from when until when

    def publish(self, plan: TaskPlan) -> None:
        """A client asks. The task is published first and registered after."""
        now = self._world.now
        late = self._world.dice_for(plan.id).uniform(0.02, 0.09) if plan.gateway == "late" else 0.001
        self.clients[plan.id] = Client(plan, now, now + late)

    def is_away(self, plan: TaskPlan) -> bool:
        """True while the gateway of a task does not answer."""
        now = self._world.now
        return now < self.away_until or (plan.server != "gateway" and now < self.second_away_until)

    def longest_back(self, client: Client) -> float:
        """For how many seconds at a stretch an answer that waited could be offered to its gateway."""
        plan, until = client.plan, client.kept_until
        longest, free_since = 0.0, client.kept_at
        for server, start, end in sorted([*self.outages, *client.hindered], key=lambda outage: outage[1]):
            if server in ("", plan.server) and end > free_since and start < until:
                longest = max(longest, start - free_since)
                free_since = max(free_since, end)
        return max(longest, until - free_since)

    @property
    def is_refusing(self) -> bool:
        """True while a gateway that can be reached takes no new stream and no answer."""
        return self._world.now < self.refusing_until

    def post(self, id: str, error: bool) -> str:
        """A POST arrives: "taken", "unknown" or "refused"."""
        client = self.clients[id]
        if client.plan.gateway == "refuses once" and not client.dropped:
            client.dropped += 1
            self._world.faults["gateway refuses once"] += 1
            return "refused"
        if self.is_refusing:
            self._world.faults["an answer is refused for a while"] += 1
            return "refused"
        if self._world.now < client.registered or client.answers or client.plan.gateway == "gone":
            return "unknown"
        client.errors += error
        self._told(client)
        return "taken"

    def frame(self, id: str, speaker: str, number: int | None, end: bool) -> None:
        """A frame of a stream arrives: chunk `number`, or an error (None)."""
        client = self.clients[id]
        if self._world.now < client.registered:
            client.dropped += 1
            raise Violation("no frame before its id is known", f"{id}: frame {number} of {speaker}")
        if client.answers and not self._is_excused(client):
            raise Violation("no frame after the end", f"{id}: frame {number} (end: {end}) of {speaker}")
        if number is None:
            client.errors += 1
        elif number >= 0:
            if number < client.text and not self._is_excused(client):
                same = speaker.split(".", maxsplit=1)[0] == client.speaker.split(".")[0]
                rule = "no text twice from one node" if same else "no text twice from two nodes"
                raise Violation(rule, f"{id}: chunk {number} of {speaker} after {client.text} of {client.speaker}")
            client.text, client.speaker = number + 1, speaker
            client.first_at = client.first_at or self._world.now
        if end:
            self._told(client)

    def _is_excused(self, client: Client) -> bool:
        are_claims_good = self.is_claimed and not self.were_claims_refused
        return bool(client.excuses & TEXT_EXCUSES if are_claims_good else client.excuses)

    def _told(self, client: Client) -> None:
        client.answers += 1
        client.told_at = client.told_at or self._world.now
        if client.answers > 1 and not self._is_excused(client):
            raise Violation("at most one end", client.plan.id)


class Upstream:
    """Upstream, as far as the supervisor learns of it."""

    def __init__(self, world: World, headers: bool, names_limits: bool = True) -> None:
        self._world = world
        self._names_limits = names_limits
        self.calls: dict[str, int] = {}
        self.killed: dict[str, int] = {}
        self.headers = headers
        self._budget, self._budget_at = float(BUDGET), world.now
        self.keys = {FIRST_KEY}  # those that are let in
        self.newest_key = FIRST_KEY
        self.key_refused_until = self.no_quota_until = self.down_until = self.limited_until = 0.0
        self.untrusted_until = self.unknown_until = self.forbidden_until = self.slow_until = 0.0
        self.killed_telling: dict[str, int] = {}
        self.killed_after_end: set[str] = set()

    def ask(self, plan: TaskPlan, key: str = FIRST_KEY) -> tuple[str, FaultInfo | None]:
        """Answer one call: ("ok" or what else is special about the answer, None) or ("fault", which)."""
        now, count = self._world.now, self.calls.get(plan.id, 0)
        self.calls[plan.id] = count + 1
        if now < self.down_until:
            return "fault", AWAY
        if now < self.key_refused_until or key not in self.keys:
            return "fault", KEY
        if now < self.no_quota_until:
            return "fault", QUOTA
        refusal = self._refusal()
        if refusal is not None:
            return "fault", refusal
        if now < self.limited_until and self._world.dice.random() < 0.7:
            return "fault", self._limit()
        if self.headers:
            if self._left() < 1:
                self._world.faults["upstream's budget is used up"] += 1
                return "fault", FaultInfo(FaultKind.RATE_LIMIT, 429, "rate_limit_exceeded", "", REFILL / BUDGET)
            self._budget -= 1
        what = plan.upstream[count] if count < len(plan.upstream) else "slow" if now < self.slow_until else "ok"
        if what != "ok":
            self._world.faults[f"upstream: {what}"] += 1
        fault = self._limit() if what == "429" else FAULTS.get(what)
        return (what, None) if fault is None else ("fault", fault)

    def self_check(self, key: str = FIRST_KEY) -> FaultInfo | None:
        """Answer a chat request of a node's own."""
        now = self._world.now
        if now < self.down_until:
            return AWAY
        if now < self.key_refused_until or key not in self.keys:
            return KEY
        return QUOTA if now < self.no_quota_until else self._refusal()

    def _refusal(self) -> FaultInfo | None:
        """Why every call is refused at the moment, of the faults that came from WIDE on."""
        now = self._world.now
        if now < self.untrusted_until:
            return CERTIFICATE
        if now < self.unknown_until:
            return MODEL
        return FORBIDDEN if now < self.forbidden_until else None

    def report(self, asked: float) -> RateLimitReport | None:
        """What the headers of an answer show of the limit, if upstream has such headers."""
        if not self.headers:
            return None
        left = int(self._left())
        if not self._names_limits:
            reset = (BUDGET - left) / BUDGET * REFILL
            return RateLimitReport(
                self._world.now, None, asked, remaining_requests=left, reset_requests=reset,
                remaining_tokens=100 * left, reset_tokens=reset,
            )  # fmt: skip
        return RateLimitReport(
            self._world.now, None, asked, limit_requests=BUDGET, remaining_requests=left,
            reset_requests=(BUDGET - left) / BUDGET * REFILL, limit_tokens=100 * BUDGET, remaining_tokens=100 * left,
            reset_tokens=(BUDGET - left) / BUDGET * REFILL,
        )  # fmt: skip

    def _left(self) -> float:
        """Calls that are left of the budget, which fills up steadily."""
        self._budget = min(float(BUDGET), self._budget + (self._world.now - self._budget_at) * BUDGET / REFILL)
        self._budget_at = self._world.now
        return self._budget

    def kills(self, plan: TaskPlan) -> bool:
        """Whether a worker dies with this task now."""
        count = self.killed.get(plan.id, 0)
        if count >= plan.kills:
            return False
        self.killed[plan.id] = count + 1
        self._world.faults["task kills its worker"] += 1
        return True

    def kills_telling(self, plan: TaskPlan) -> bool:
        """Whether a worker dies that begins to tell the client an error."""
        count = self.killed_telling.get(plan.id, 0)
        if count >= plan.deaths_telling:
            return False
        self.killed_telling[plan.id] = count + 1
        self._world.faults["worker dies as it tells an error"] += 1
        return True

    def kills_after_end(self, plan: TaskPlan) -> bool:
        """Whether the worker dies that has just sent the end; once for each task."""
        if plan.id in self.killed_after_end:
            return False
        self.killed_after_end.add(plan.id)
        self._world.faults["worker dies after the end"] += 1
        return True

    def _limit(self) -> FaultInfo:
        wait = self._world.dice.choice((None, 0.3, 1.0, 3.0))
        return FaultInfo(FaultKind.RATE_LIMIT, 429, "rate_limit_exceeded", "", wait)
