"""What a machine offers, from files as the kernel and its drivers write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raudio.core import machine


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({}, 8),
    ],
)
def test_a_container_s_quota_limits_the_cpus(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert machine.cpus() == expected


def test_gpus_are_named_as_their_driver_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path)
    assert machine.gpus() == []
    for place, content in [("0000:01:00.0", "Model: \t\t NVIDIA H200\nIRQ: 7\n"), ("0000:02", "")]:
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(content)
    assert machine.gpus() == ["NVIDIA H200", "unknown"]


def test_memory_is_more_than_a_gigabyte() -> None:
    found = machine.memory_bytes()
    assert found is None or found > 10**9
