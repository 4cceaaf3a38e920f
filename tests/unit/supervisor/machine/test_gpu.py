"""Readings of GPUs, from a stand-in of NVIDIA's library and from recorded files of AMD's driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.machine.gpu import NvidiaGpus, find_gpus
from supervisor.machine.resources import Sampler
from supervisor.readings import Gpu
from tests.support.nvml_standin import NvmlStandin

GIB = 1 << 30
# As an RTX 4090 with a model of 14 B reads, and a card of which the driver reports little.
RTX = {
    "name": "NVIDIA GeForce RTX 4090", "total": 25_757_220_864, "used": 23_152_885_760, "load": 87, "temperature": 63,
}  # fmt: skip
OLD = {"name": b"Tesla K40c", "total": 12 * GIB, "used": GIB}


def nvidia_box(root: Path) -> Path:
    """A file system where NVIDIA's driver runs."""
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").touch()
    return root


def amd_card(root: Path, number: int, **files: str) -> None:
    """A card of amdgpu, with these files in its folder."""
    device = root / f"sys/class/drm/card{number}/device"
    (device / "hwmon/hwmon3").mkdir(parents=True)
    for name, text in files.items():
        (device / ("hwmon/hwmon3/temp1_input" if name == "temp1_input" else name)).write_text(text)


def test_nvidias_library_gives_memory_load_and_temperature() -> None:
    read = NvidiaGpus.found(NvmlStandin(RTX, OLD))
    assert read is not None
    first, second = read()
    assert first == Gpu("0", "NVIDIA GeForce RTX 4090", 23_152_885_760, 25_757_220_864, 87.0, 63.0)
    assert round(first.memory_percent) == 90
    assert second == Gpu("1", "Tesla K40c", GIB, 12 * GIB, None, None)


def test_a_card_that_cannot_be_read_is_left_out() -> None:
    nvml = NvmlStandin({**RTX, "is_lost": True}, {"name": "GB10", "load": 5}, OLD)  # GB10: no memory of its own
    read = NvidiaGpus.found(nvml)
    assert read is not None
    assert [gpu.number for gpu in read()] == ["2"]
    nvml.driver_answers = False
    assert read() == ()


def test_a_driver_that_does_not_answer_is_logged_and_not_read(caplog: pytest.LogCaptureFixture) -> None:
    assert NvidiaGpus.found(NvmlStandin(driver_answers=False)) is None
    assert [getattr(line, "event", "") for line in caplog.records] == ["gpu_unread"]


def test_where_nvidias_driver_runs_its_library_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", NvmlStandin(RTX))  # type: ignore[arg-type]
    read = find_gpus(nvidia_box(tmp_path))
    assert read is not None
    assert [gpu.name for gpu in read()] == ["NVIDIA GeForce RTX 4090"]


def test_without_the_library_the_log_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked: Any = None
    monkeypatch.setitem(sys.modules, "pynvml", blocked)
    assert find_gpus(nvidia_box(tmp_path)) is None
    assert "workernode[gpu]" in caplog.text


def test_amds_driver_is_read_from_sysfs(tmp_path: Path) -> None:
    amd_card(tmp_path, 0)  # the processor's own graphics: no memory of its own is shown
    amd_card(
        tmp_path, 1, mem_info_vram_total="25753026560\n", mem_info_vram_used="21474836480\n", gpu_busy_percent="99\n",
        temp1_input="71000\n", product_name="Radeon RX 7900 XTX\n",
    )  # fmt: skip
    amd_card(tmp_path, 2, mem_info_vram_total="8589934592\n", mem_info_vram_used="1\n", gpu_busy_percent="\n")
    amd_card(tmp_path, 3, mem_info_vram_total="8589934592\n")
    read = find_gpus(tmp_path)
    assert read is not None
    assert read() == (
        Gpu("1", "Radeon RX 7900 XTX", 21_474_836_480, 25_753_026_560, 99.0, 71.0),
        Gpu("2", "AMD", 1, 8 * GIB, None, None),
    )


def test_without_a_gpu_nothing_is_imported_and_nothing_is_read(tmp_path: Path) -> None:
    assert find_gpus(tmp_path) is None
    assert Sampler(read_gpus=find_gpus(tmp_path)).sample().gpus == ()
    code = (
        "import pathlib, sys; from supervisor.machine import find_gpus; "
        f"find_gpus(pathlib.Path({str(tmp_path)!r})); sys.exit('pynvml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_sampler_reads_the_gpus_with_the_machine() -> None:
    gpu = Gpu("0", "x", 1, 2)
    assert Sampler(read_gpus=lambda: (gpu,)).sample().gpus == (gpu,)
