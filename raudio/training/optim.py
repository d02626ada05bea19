"""Optimizers: thin names for PyTorch's own, with their settings as flat keyword arguments.

All are fused: one kernel over all parameters, on CPUs as on GPUs, which saves most of a step's
overhead on a small model.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn

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


def adamw(
    groups: Groups,
    *,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        groups: of `parameter_groups`.
        lr: peak learning rate.
        weight_decay: each step shrinks weights by lr * weight_decay.
        beta1: decay of the mean gradient.
        beta2: decay of the mean square.
    """
    return torch.optim.AdamW(
        groups, lr=lr, weight_decay=weight_decay, betas=(beta1, beta2), fused=True
    )


def adam(
    groups: Groups,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015) with an L2 penalty.

    Args:
        groups: of `parameter_groups`.
        lr: peak learning rate.
        weight_decay: added to the gradient as weight_decay * weight.
        beta1: decay of the mean gradient.
        beta2: decay of the mean square.
    """
    return torch.optim.Adam(
        groups, lr=lr, weight_decay=weight_decay, betas=(beta1, beta2), fused=True
    )


def sgd(
    groups: Groups,
    *,
    lr: float = 1e-2,
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        groups: of `parameter_groups`.
        lr: peak learning rate.
        weight_decay: added to the gradient as weight_decay * weight.
        momentum: decay of the velocity.
        nesterov: look ahead by one step of the velocity; without momentum there is none.
    """
    return torch.optim.SGD(
        groups,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
        fused=True,
    )
