"""A schedule: which nodes, which tasks, which faults at which moments. Made of a seed; pure data, so it can shrink."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

TASKS = 50

# What upstream does to a task at each of its calls, with its weight.
UPSTREAM: list[tuple[int, tuple[str, ...]]] = [
    (60, ()),
    (6, ("500",)),
    (4, ("reset", "500")),
    (3, ("500",) * 12),
    (3, ("400",)),
    (4, ("cut",)),
    (3, ("slow",)),
    (2, ("silent",)),
    (3, ("429",)),
    (1, ("slow down",)),
    (1, ("429 far",)),
    (2, ("own 401",)),
]
# What the gateway does with its answer.
GATEWAY: list[tuple[int, str]] = [(80, ""), (8, "late"), (4, "gone"), (4, "client leaves"), (4, "refuses once")]

# Faults of a world: name, weight, whether it lasts for a while.
FAULTS: list[tuple[str, int, bool]] = [
    ("worker killed", 10, False),
    ("all workers killed", 3, False),
    ("worker hangs", 4, True),
    ("worker starts slowly", 2, True),
    ("forkserver killed", 2, False),
    ("node stopped for a while", 3, True),
    ("wall clock jumps", 3, False),
    ("broker restarts", 4, True),
    ("topic unloaded", 3, False),
    ("node cut off from the broker", 4, True),
    ("records refused", 4, True),
    ("records late", 3, True),
    ("upstream refuses the key", 3, True),
    ("upstream's quota is used up", 3, True),
    ("upstream limits the rate", 4, True),
    ("upstream is down", 3, True),
    ("gateway is away", 3, True),
    ("SIGTERM", 5, False),
    ("SIGTERM twice", 3, False),
    ("supervisor killed", 3, False),
    ("worker killed, then SIGTERM", 4, False),
    ("machine is short of memory", 2, True),
    ("local model loads", 2, True),
]


# Newer faults. They are drawn from dice of their own, and only for seeds from NEWER on: seeds.txt keeps its schedules.
NEWER = 100_000
NEW_FAULTS: list[tuple[str, int, bool]] = [
    ("one of two gateways is away", 6, True),
    ("gateway refuses answers", 3, True),
    ("key is rotated", 3, True),
    ("settings cannot be reloaded", 1, False),
    ("token of the broker is rotated", 2, False),
    ("library connects late", 4, True),
    ("owner of the topic killed", 4, True),
    ("node and its workers stand still", 3, True),
    ("topic gets another partition", 2, False),
]
# From CLAIMED on: several nodes whose clocks differ, and what has a task handed out twice.
CLAIMED = 200_000
CLAIM_FAULTS: list[tuple[str, int, bool]] = [
    ("supervisor killed", 6, False),
    ("supervisor killed, its workers live on", 6, True),
    ("SIGTERM twice", 2, False),
    ("worker killed, then SIGTERM", 3, False),
    ("node cut off from the broker", 6, True),
    ("owner of the topic killed", 4, True),
    ("owner of the claims' topic killed", 4, True),
    ("topic unloaded", 3, False),
    ("broker restarts", 3, True),
    ("node and its workers stand still", 4, True),
    ("supervisor stands still", 3, True),
    ("library connects late", 3, True),
]
# From WIDE on there is also what the cap, the blame for refusals and the deaths of workers depend on. Some runs are
# four times as long, and local models are more frequent.
WIDE = 400_000
WIDE_FAULTS: list[tuple[str, int, bool]] = [
    ("requests wait inside the engine", 4, True),
    ("others use the CPU", 3, True),
    ("tasks take much memory", 3, True),
    ("tasks take much memory of the GPU", 2, True),
    ("claims are refused", 2, True),
    ("strange message among the claims", 1, False),
    ("certificate of upstream is not trusted", 3, True),
    ("upstream does not know the model", 3, True),
    ("upstream answers 403", 3, True),
    ("upstream is slow", 4, True),
    ("upstream limits the rate", 3, True),
    ("upstream is down", 3, True),
    ("upstream refuses the key", 2, True),
    ("records refused", 3, True),
    ("records late", 3, True),
    ("broker restarts", 2, True),
    ("pipe of a worker ends", 4, False),
]
WIDE_UPSTREAM: list[tuple[str, ...]] = [
    ("own 403",), ("own 403", "own 403"), ("own 404",), ("500", "own 403"), ("own 401", "own 401"),
]  # fmt: skip

# From UNKIND on broker and library do what a real broker showed later (decision 9): a killed broker forgets the acks of
# up to a minute, claims are stored late or after they were reported as failed, producers are made anew.
UNKIND = 1_000_000
UNKIND_FAULTS: list[tuple[str, int, bool]] = [
    ("claims are stored late", 4, True),
    ("receipts of claims come late", 4, True),
    ("broker restarts", 4, True),
    ("owner of the topic killed", 4, True),
    ("owner of the claims' topic killed", 3, True),
    ("node cut off from the broker", 4, True),
    ("library connects late", 3, True),
    ("supervisor killed", 2, False),
]


@dataclass(frozen=True)
class TaskPlan:
    """One task, and what is done to it."""

    id: str
    stream: bool
    chunks: int
    seconds: float  # how long upstream takes, undisturbed
    upstream: tuple[str, ...] = ()  # what it does at its first call, its second ...
    gateway: str = ""
    kills: int = 0  # how many workers die with it
    batch: int = 0  # tasks of the same number were published in one batch; 0: alone
    twice: bool = False  # published a second time
    malformed: bool = False  # the message is no JSON
    server: str = "gateway"  # which gateway has its client
    partition: int = 0
    deaths_telling: int = 0  # how many workers die as they begin to tell its client an error
    dies_after_end: bool = False  # a worker dies when it has sent the end, before it reports the outcome


@dataclass(frozen=True)
class Step:
    """Something that happens at a moment (seconds since the start)."""

    at: float
    kind: str  # "task", or a name of FAULTS
    node: int = 0
    seconds: float = 0.0  # for how long
    pick: float = 0.0  # 0 to 1: which worker, how much
    task: TaskPlan | None = None

    def __str__(self) -> str:
        if self.task is not None:
            plan = {name: value for name, value in vars(self.task).items() if value and value != "gateway"}
            return f"{self.at:8.3f}  task {plan}"
        return f"{self.at:8.3f}  {self.kind} (node {self.node}, {self.seconds:.2f} s, pick {self.pick:.2f})"


@dataclass(frozen=True)
class Schedule:
    """All that one run is made of."""

    seed: int
    nodes: int
    workers: int
    slots: int
    task_timeout: float
    drain_timeout: float
    max_redeliveries: int
    nak_delay: float
    index_acks: bool  # the broker keeps acks within a batch (acknowledgmentAtBatchIndexLevelEnabled)
    local: bool  # nodes of a local model
    headers: bool  # upstream tells its limits in headers
    cpu_percent: float  # what the machine's other users leave of its CPU, as the nodes read it
    partitions: int = 1  # of the topic
    skews: tuple[float, ...] = ()  # seconds by which the clock of each node is ahead
    claims_refused: bool = False  # no node may write the topic of claims
    names_limits: bool = True  # the headers name the limits, not only what is left of them (Azure does not)
    is_wide: bool = False  # its seed is one from WIDE on
    is_unkind: bool = False  # its seed is one from UNKIND on
    steps: tuple[Step, ...] = field(default=())

    def with_steps(self, steps: list[Step]) -> Schedule:
        """The same world, in which only these steps happen."""
        return replace(self, steps=tuple(steps))

    def __str__(self) -> str:
        head = ", ".join(f"{name}={value}" for name, value in vars(self).items() if name != "steps")
        return "\n".join([head, *map(str, self.steps)])


def make(seed: int, tasks: int = TASKS, only: str = "") -> Schedule:
    """Return the schedule of a seed.

    Args:
        seed: any number.
        tasks: how many tasks are published.
        only: inject faults of this kind only.
    """
    dice = random.Random(seed)
    span = dice.choice((2.0, 10.0, 30.0))
    schedule = Schedule(
        seed=seed,
        nodes=dice.choice((1, 1, 2, 2, 3)),
        workers=dice.choice((1, 2, 3)),
        slots=dice.choice((1, 2, 4, 8, 16)),
        task_timeout=dice.choice((20.0, 40.0, 60.0)),
        drain_timeout=dice.choice((0.0, 0.0, 1.0, 5.0)),
        max_redeliveries=dice.choice((0, 1, 2, 3)),
        nak_delay=dice.choice((0.2, 1.0)),
        index_acks=dice.random() < 0.5,
        local=dice.random() < 0.1,
        headers=dice.random() < 0.2,
        cpu_percent=dice.choice((30.0, 30.0, 97.0)),
    )
    schedule = replace(schedule, slots=max(schedule.slots, schedule.workers))
    batches = dice.random() < 0.3
    troubled = dice.random() < 0.7  # in the others upstream and gateway are well: every task must be answered
    steps = [_task(dice, number, span, batches, troubled) for number in range(tasks)]
    steps += _faults(dice, schedule, span, only)
    if seed >= NEWER:
        schedule, steps = _newer(schedule, steps, span, only)
    if seed >= CLAIMED:
        schedule, steps = _claimed(schedule, steps, span, only)
    if seed >= WIDE:
        schedule, steps = _widened(schedule, steps, span, only)
    if seed >= UNKIND:
        schedule = replace(schedule, is_unkind=True)
        dice = random.Random(f"{seed}/unkind")
        kinds = [one for one in UNKIND_FAULTS if only in ("", one[0])]
        steps += _some(dice, kinds, dice.choice((0, 1, 2, 3)), schedule.nodes, span)
    return replace(schedule, steps=tuple(sorted(steps, key=lambda step: step.at)))


def _task(dice: random.Random, number: int, span: float, batches: bool, troubled: bool) -> Step:
    plan = TaskPlan(
        id=f"t{number}",
        stream=dice.random() < 0.6,
        chunks=dice.randint(1, 5),
        seconds=dice.choice((0.05, 0.3, 1.0, 3.0)) * dice.uniform(0.5, 1.5),
        batch=1 + number // 5 if batches and dice.random() < 0.7 else 0,
        twice=dice.random() < 0.02,
    )
    if troubled:
        (upstream,) = dice.choices([what for _, what in UPSTREAM], [weight for weight, _ in UPSTREAM])
        (gateway,) = dice.choices([what for _, what in GATEWAY], [weight for weight, _ in GATEWAY])
        plan = replace(plan, upstream=upstream, gateway=gateway, kills=dice.choice((1, 2, 9)) * (dice.random() < 0.02))
        plan = replace(plan, malformed=dice.random() < 0.01)
    at = span * dice.random()
    if plan.batch:
        at = span * random.Random(f"{plan.batch}").random()
    return Step(at, "task", task=plan)


def _faults(dice: random.Random, schedule: Schedule, span: float, only: str) -> list[Step]:
    kinds = [one for one in FAULTS if only in ("", one[0])]
    steps = []
    for _ in range(dice.choice((0, 1, 2, 3, 5, 8)) if kinds else 0):
        ((kind, _, lasts),) = dice.choices(kinds, [weight for _, weight, _ in kinds])
        seconds = dice.choice((0.1, 1.0, 3.0, 12.0)) * dice.uniform(0.5, 1.5) if lasts else dice.uniform(0.0, 0.4)
        at = (span + 3.0) * dice.random()
        steps.append(Step(at, kind, dice.randrange(schedule.nodes), seconds, dice.random()))
    return steps


def _newer(schedule: Schedule, steps: list[Step], span: float, only: str) -> tuple[Schedule, list[Step]]:
    """Add what was thought of later: a second gateway, partitions, the newer faults."""
    dice = random.Random(f"{schedule.seed}/newer")
    schedule = replace(schedule, partitions=dice.choice((1, 1, 1, 1, 2, 3)))
    has_second = dice.random() < 0.5
    placed = []
    for step in steps:
        if step.task is None:
            placed.append(step)
            continue
        server = "gateway2" if has_second and dice.random() < 0.3 else "gateway"
        partition = step.task.batch or dice.randrange(100)  # a batch goes to one partition
        task = replace(step.task, server=server, partition=partition % schedule.partitions)
        placed.append(replace(step, task=task))
    kinds = [one for one in NEW_FAULTS if only in ("", one[0])]
    return schedule, placed + _some(dice, kinds, dice.choice((0, 0, 1, 2, 3)), schedule.nodes, span)


def _claimed(schedule: Schedule, steps: list[Step], span: float, only: str) -> tuple[Schedule, list[Step]]:
    dice = random.Random(f"{schedule.seed}/claimed")
    nodes = dice.choice((2, 2, 3))
    skews = tuple(dice.choice((0.0, 1.0)) * dice.uniform(-2.0, 2.0) for _ in range(nodes))
    schedule = replace(schedule, nodes=nodes, skews=skews, claims_refused=dice.random() < 0.03)
    kinds = [one for one in CLAIM_FAULTS if only in ("", one[0])]
    return schedule, steps + _some(dice, kinds, dice.choice((0, 1, 2, 3)), nodes, span)


def _widened(schedule: Schedule, steps: list[Step], span: float, only: str) -> tuple[Schedule, list[Step]]:
    dice = random.Random(f"{schedule.seed}/wide")
    local, names_limits = schedule.local or dice.random() < 0.2, dice.random() < 0.5
    schedule = replace(schedule, is_wide=True, local=local, names_limits=names_limits)
    stretch, slower = dice.choice((1.0, 1.0, 1.0, 4.0)), dice.choice((1.0, 1.0, 1.0, 4.0))
    is_troubled = any(step.task is not None and step.task.upstream for step in steps)
    kinds = [one for one in WIDE_FAULTS if only in ("", one[0])]
    steps = steps + _some(dice, kinds, dice.choice((0, 1, 2, 3, 5)), schedule.nodes, span, (3.0, 12.0, 40.0, 90.0))
    widened = []
    for step in steps:
        task = step.task
        if task is not None and is_troubled:
            if not task.upstream and dice.random() < 0.1:
                task = replace(task, upstream=dice.choice(WIDE_UPSTREAM))
            deaths = dice.choice((1, 2, 9)) * (dice.random() < 0.02)
            task = replace(task, deaths_telling=deaths, dies_after_end=dice.random() < 0.01)
            task = replace(task, malformed=task.malformed or dice.random() < 0.02)
        if task is not None:
            task = replace(task, seconds=task.seconds * slower)
        widened.append(replace(step, at=step.at * stretch, task=task))
    return schedule, widened


def _some(
    dice: random.Random, kinds: list[tuple[str, int, bool]], number: int, nodes: int, span: float,
    lengths: tuple[float, ...] = (0.3, 3.0, 12.0, 40.0),
) -> list[Step]:  # fmt: skip
    steps = []
    for _ in range(number if kinds else 0):
        ((kind, _, lasts),) = dice.choices(kinds, [weight for _, weight, _ in kinds])
        seconds = dice.choice(lengths) * dice.uniform(0.5, 1.5) if lasts else dice.uniform(0.0, 0.4)
        steps.append(Step((span + 3.0) * dice.random(), kind, dice.randrange(nodes), seconds, dice.random()))
    return steps
