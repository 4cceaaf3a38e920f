"""The kernel's count of processes killed for want of memory: each place where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from supervisor.machine import oom_kills

V1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n0::/\n",
    "proc/self/mountinfo": "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
    "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
}
V2 = {
    "proc/self/cgroup": "0::/work.slice/node.service\n",
    "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/work.slice/node.service/memory.events": "low 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n",
    "sys/fs/cgroup/work.slice/memory.events": "low 0\nhigh 0\nmax 0\noom 8\noom_kill 8\n",
}
V2_ROOT = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2["proc/self/mountinfo"]}
MACHINE = {"proc/vmstat": "nr_free_pages 6133\noom_kill 5\n"}


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        pytest.param({**V1, **MACHINE}, 3, id="v1"),
        pytest.param({**V2, **MACHINE}, 2, id="v2: its own cgroup, not one above it"),
        pytest.param({**V2_ROOT, **MACHINE}, 5, id="root cgroup: the machine"),
        pytest.param(MACHINE, 5, id="no cgroups: the machine"),
        pytest.param(
            {**V1, "sys/fs/cgroup/memory/memory.oom_control": "under_oom 0\n", "proc/vmstat": "nr_free_pages 6133\n"},
            None, id="a kernel older than the counts",
        ),
        pytest.param({}, None, id="macOS"),
    ],
)  # fmt: skip
def test_the_count_is_that_of_the_nodes_own_cgroup_or_of_the_machine(
    tmp_path: Path, texts: Mapping[str, str], count: int | None
) -> None:
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert oom_kills(tmp_path) == count
