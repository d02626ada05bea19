"""Weights in fewer bytes: what is stored, and what it becomes again when it is read.

Matrices and kernels, the tensors of two dimensions and more, are stored in 16 or 8 bits; vectors
(biases, normalisation, the front end's statistics) stay as they are: they are small, and some hold
values that half precision can't. What is read computes in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raudio.core.errors import RunError

PRECISIONS = ("fp32", "fp16", "int8")

#: Beside a tensor in int8: what each of its rows is to be multiplied with.
SCALE = "::scale"
_LARGEST = 127


def compact(weights: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """The tensors that are stored for `weights`.

    In int8, each row (of a kernel: output channel) is divided by its largest magnitude over 127 and
    rounded.

    Args:
        weights: by name.
        precision: one of `PRECISIONS`.

    Raises:
        RunError: a weight is beyond what half precision holds.
    """
    found = {}
    for name, tensor in weights.items():
        if precision == "fp32" or not tensor.is_floating_point() or tensor.ndim < 2:
            found[name] = tensor.contiguous().clone()
        elif precision == "fp16":
            found[name] = tensor.half().contiguous()
            if not found[name].isfinite().all():
                raise RunError(
                    f"--precision fp16: {name} holds {float(tensor.abs().max()):g}, and half "
                    "precision ends at 65504; export it as fp32"
                )
        else:
            rows = tensor.float().flatten(1)  # (R, rest)
            scale = (rows.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
            found[name] = (rows / scale[:, None]).round().to(torch.int8).reshape(tensor.shape)
            found[name + SCALE] = scale
    return found


def restored(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, in float32, of what `compact` gave.

    Raises:
        ValueError: a tensor in int8 without its scales, or scales without their tensor.
    """
    found = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE):
            if stored.get(name.removesuffix(SCALE), tensor).dtype != torch.int8:
                raise ValueError(f"{name} belongs to no tensor in int8")
        elif tensor.dtype == torch.int8:
            scale = stored.get(name + SCALE)
            if scale is None or tensor.ndim < 2 or scale.shape != tensor.shape[:1]:
                raise ValueError(f"{name} is in int8, without a scale for each of its rows")
            found[name] = (tensor.flatten(1).float() * scale.float()[:, None]).reshape(tensor.shape)
        elif tensor.dtype == torch.float16:
            found[name] = tensor.float()
        else:
            found[name] = tensor
    return found
