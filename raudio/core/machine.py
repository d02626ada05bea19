"""What this machine offers, without asking PyTorch or Ray."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_SHARED = Path("/dev/shm")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


def cpus() -> int:
    """CPUs that this process may use, at least 1: what the scheduler and a container leave it."""
    if hasattr(os, "sched_getaffinity"):
        present = len(os.sched_getaffinity(0))
    else:
        present = os.cpu_count() or 1
    return min(present, _quota(_CGROUP) or present)


def memory_bytes() -> int | None:
    """Bytes of memory that this process may use, where the system can say so."""
    try:
        present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return min(present, _memory_limit(_CGROUP) or present)


def shared_memory_free() -> int | None:
    """Bytes free where Ray keeps its objects in shared memory, where the system has that."""
    return shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else None


def gpus() -> list[str]:
    """Models of the NVIDIA GPUs, as their driver names them."""
    found = []
    for place in sorted(_NVIDIA.iterdir()) if _NVIDIA.is_dir() else ():
        try:
            lines = (place / "information").read_text().splitlines()
        except OSError:
            lines = []
        model = next((line for line in lines if line.startswith("Model:")), "Model: unknown")
        found.append(model.removeprefix("Model:").strip())
    return found


def _memory_limit(cgroup: Path) -> int | None:
    """Bytes that a container is limited to; None: it is not."""
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # versions 2 and 1
        try:
            limit = (cgroup / file).read_text().strip()
        except OSError:
            continue
        return int(limit) if limit.isdigit() else None
    return None


def _quota(cgroup: Path) -> int | None:
    """Whole CPUs, at least 1, that a container's time quota amounts to; None: it has none."""
    try:  # version 2: "200000 100000", or "max 100000"
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:  # version 1, where -1 is no quota
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return max(1, int(quota) // int(period)) if quota.isdigit() else None
