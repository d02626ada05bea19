"""Optimizers: thin names for PyTorch's own, with their settings as flat keyword arguments.

All are fused where PyTorch can: one kernel over all parameters, on CPUs as on GPUs, which saves
most of a step's overhead on a small model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

Groups: TypeAlias = list[dict[str, Any]]


def parameter_groups(model: nn.Module) -> Groups:
    """The model's trainable parameters as two groups; the second, of biases and norms, no decay.

    What has fewer than two dimensions shifts or scales, and is not shrunk towards zero.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _uncompiled(kind: type[Optimizer]) -> Callable[..., Optimizer]:
    """`kind` without the wrappers that make it known to torch.compile.

    They import the compiler's machinery, which takes most of a second of each process's start;
    nothing is compiled here.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


_ADAMW, _ADAM, _SGD = map(_uncompiled, (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD))


def adamw(
    groups: Groups,
    *,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        groups: of `parameter_groups`.
        lr: peak learning rate.
        weight_decay: each step shrinks weights by lr * weight_decay.
        beta1: decay of the mean gradient.
        beta2: decay of the mean square.
    """
    return _ADAMW(groups, lr=lr, weight_decay=weight_decay, betas=(beta1, beta2), fused=True)


def adam(
    groups: Groups,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> Optimizer:
    """Adam (Kingma and Ba 2015) with an L2 penalty.

    Args:
        groups: of `parameter_groups`.
        lr: peak learning rate.
        weight_decay: added to the gradient as weight_decay * weight.
        beta1: decay of the mean gradient.
        beta2: decay of the mean square.
    """
    return _ADAM(groups, lr=lr, weight_decay=weight_decay, betas=(beta1, beta2), fused=True)


def sgd(
    groups: Groups,
    *,
    lr: float = 1e-2,
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        groups: of `parameter_groups`.
        lr: peak learning rate.
        weight_decay: added to the gradient as weight_decay * weight.
        momentum: decay of the velocity.
        nesterov: look ahead by one step of the velocity; without momentum there is none.
    """
    sharded = any(hasattr(p, "full_tensor") for group in groups for p in group["params"])
    return _SGD(
        groups,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
        fused=not sharded,  # PyTorch has no such kernel for them
    )
