"""What a trial needs of its GPU's memory, which decides how many trials share one."""

from __future__ import annotations

import torch

#: Bytes that a process takes beside what PyTorch's allocator holds: CUDA's context and kernels.
CONTEXT = 600 * 10**6


def forget_peak(device: torch.device) -> None:
    """Begins a new trial in this process: what the one before held counts no more."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def gpu_costs(device: torch.device) -> dict[str, float]:
    """On a GPU "cost/gpu_memory", the most bytes that this process has held of it since
    `forget_peak`, and "cost/gpu_share", the same as a share of all it has; else nothing."""
    if device.type != "cuda":
        return {}
    held = torch.cuda.max_memory_reserved(device) + CONTEXT
    total = torch.cuda.get_device_properties(device).total_memory
    return {"cost/gpu_memory": float(held), "cost/gpu_share": held / total}
