"""What the node may use: a container's limits, recorded and made up, and the host's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from supervisor.machine import resources
from supervisor.machine.cgroups import Cgroups, CpuClock, Memory
from supervisor.machine.resources import Sampler
from tests.support.paths import ROOT

RECORDED = ROOT / "tests" / "data" / "cgroup" / "v1"
MIB = 1 << 20
HOST = Memory(limit=24_000 * MIB, used=6_000 * MIB)


def files(root: Path, texts: Mapping[str, str]) -> Path:
    """A file system of these files."""
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# As a container with a cgroup namespace of its own sees them (Docker, containerd).
V2 = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup ro,nosuid,nodev - cgroup2 cgroup rw,nsdelegate\n",
    "sys/fs/cgroup/memory.max": f"{1000 * MIB}\n",
    "sys/fs/cgroup/memory.current": f"{900 * MIB}\n",
    "sys/fs/cgroup/memory.stat": f"anon {300 * MIB}\nfile {580 * MIB}\nkernel {20 * MIB}\nshmem {30 * MIB}\n"
    f"inactive_anon 0\nactive_anon {330 * MIB}\ninactive_file {500 * MIB}\nactive_file {50 * MIB}\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 7000000\nuser_usec 6000000\nsystem_usec 1000000\nnr_periods 12\n",
}

# A service under systemd: its slice has the limit, the service has none, the root of the hierarchy has no such files.
SLICE = {
    "proc/self/cgroup": "0::/work.slice/node.service\n",
    "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    "sys/fs/cgroup/work.slice/memory.max": f"{2000 * MIB}\n",
    "sys/fs/cgroup/work.slice/memory.current": f"{1900 * MIB}\n",
    "sys/fs/cgroup/work.slice/memory.stat": f"anon {1800 * MIB}\ninactive_file {90 * MIB}\nactive_file {10 * MIB}\n",
    "sys/fs/cgroup/work.slice/node.service/memory.max": "max\n",
    "sys/fs/cgroup/work.slice/node.service/memory.current": f"{500 * MIB}\n",
    "sys/fs/cgroup/work.slice/node.service/memory.stat": "anon 0\ninactive_file 0\nactive_file 0\n",
    "sys/fs/cgroup/work.slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/work.slice/cpu.stat": "usage_usec 1\n",
    "sys/fs/cgroup/work.slice/node.service/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/work.slice/node.service/cpu.stat": "usage_usec 2000000\n",
}

# v1 in a container without a namespace: /proc/self/cgroup holds the host's path, the mount shows the part below it.
V1_DOCKER = {
    "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
    "proc/self/mountinfo": "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    "36 31 0:33 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4000 * MIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{1000 * MIB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {100 * MIB}\ntotal_active_file {100 * MIB}\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpuacct.usage": "3000000000\n",
}


def test_page_cache_does_not_count_in_the_recorded_cgroup() -> None:
    cgroups = Cgroups(RECORDED)
    (memory,) = cgroups.memory()
    assert memory.limit == 512 * MIB
    assert 205 * MIB < memory.used < 225 * MIB  # 208 MiB anonymous; 458 MiB with the page cache
    (quota,) = cgroups.quotas()
    assert quota.cpus == 0.5
    assert cgroups.used_s() is not None


@pytest.mark.parametrize(
    ("texts", "memory", "quotas", "used_s"),
    [
        pytest.param(V2, [Memory(1000 * MIB, 350 * MIB)], [CpuClock(1.5, 7.0)], 7.0, id="v2 container"),
        pytest.param(SLICE, [Memory(2000 * MIB, 1800 * MIB)], [CpuClock(0.5, 2.0)], 2.0, id="v2, limit of the slice"),
        pytest.param(V1_DOCKER, [Memory(4000 * MIB, 800 * MIB)], [], 3.0, id="v1 container, no quota"),
        pytest.param({}, [], [], None, id="no cgroups: macOS"),
        pytest.param({"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": ""}, [], [], None, id="not mounted"),
    ],
)
def test_finds_the_limits_of_every_kind_of_container(
    tmp_path: Path, texts: Mapping[str, str], memory: list[Memory], quotas: list[CpuClock], used_s: float | None
) -> None:
    cgroups = Cgroups(files(tmp_path, texts))
    assert cgroups.memory() == memory
    assert cgroups.quotas() == quotas
    assert cgroups.used_s() == used_s


@pytest.mark.parametrize("text", ["", "max", "a b c", "-5", "\n"])
@pytest.mark.parametrize("name", [name for name in V2 if name.startswith("sys/")])
def test_a_file_that_cannot_be_read_is_no_limit(tmp_path: Path, name: str, text: str) -> None:
    cgroups = Cgroups(files(tmp_path, {**V2, name: text}))
    assert len(cgroups.memory()) <= 1
    assert len(cgroups.quotas()) <= 1
    (tmp_path / name).unlink()
    cgroups.memory()
    cgroups.quotas()


def test_a_limit_that_is_changed_is_seen(tmp_path: Path) -> None:
    cgroups = Cgroups(files(tmp_path, V2))
    files(tmp_path, {"sys/fs/cgroup/memory.max": f"{2000 * MIB}\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert [memory.limit for memory in cgroups.memory()] == [2000 * MIB]
    assert cgroups.quotas() == []


class Host:
    """A host with its clock, both held by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cpus: int = 8) -> None:
        self.now, self.used_s, self.memory, self.allowed = 100.0, 0.0, HOST, cpus
        monkeypatch.setattr(resources, "host_memory", lambda: self.memory)
        monkeypatch.setattr(resources, "host_clock", lambda: CpuClock(float(cpus), self.used_s))
        monkeypatch.setattr(resources, "affinity", lambda: self.allowed)

    def clock(self) -> float:
        return self.now


def test_the_tighter_of_host_and_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    sampler = Sampler(files(tmp_path, V2), host.clock)
    sample = sampler.sample()
    assert (sample.memory_source, sample.memory_percent) == ("cgroup", 35.0)
    assert sample.memory_limit_bytes == 1000 * MIB
    assert sample.memory_free_bytes == 650 * MIB
    host.memory = Memory(24_000 * MIB, 23_000 * MIB)
    sample = sampler.sample()
    assert sample.memory_source == "host"
    assert sample.memory_percent == pytest.approx(100 * 23 / 24)


def test_cpu_is_counted_against_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    sampler = Sampler(files(tmp_path, V2), host.clock)
    assert sampler.sample().cpus == 1.5
    host.now += 2
    host.used_s += 2 * 8 * 0.2  # the host is at 20 %
    files(tmp_path, {"sys/fs/cgroup/cpu.stat": f"usage_usec {7_000_000 + 2_700_000}\n"})  # 2.7 s of 3 s
    assert sampler.sample().cpu_percent == pytest.approx(90.0)
    host.now += 1
    host.used_s += 8 * 0.95  # others fill the host
    assert sampler.sample().cpu_percent == pytest.approx(95.0)


def test_cpu_is_counted_against_the_processors_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch)
    host.allowed = 2
    sampler = Sampler(files(tmp_path, V1_DOCKER), host.clock)
    host.now += 1
    host.used_s += 2
    files(tmp_path, {"sys/fs/cgroup/cpu,cpuacct/cpuacct.usage": "5000000000\n"})
    sample = sampler.sample()
    assert sample.cpus == 2
    assert sample.cpu_percent == pytest.approx(100.0)


def test_readings_that_are_too_close_return_the_last_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    sampler = Sampler(tmp_path, host.clock)
    host.now, host.used_s = host.now + 1, 4.0
    assert sampler.sample().cpu_percent == pytest.approx(50.0)
    host.now, host.used_s = host.now + 0.01, 4.08
    assert sampler.sample().cpu_percent == pytest.approx(50.0)


def test_the_machine_it_runs_on_can_be_read() -> None:
    sample = Sampler().sample()
    assert 0 <= sample.memory_percent <= 100
    assert 0 < sample.memory_limit_bytes <= psutil.virtual_memory().total
    assert 0 < sample.cpus <= (os.cpu_count() or 1)
    assert resources.cpu_seconds(os.getpid()) > 0
    assert resources.host_clock().used_s > 0
