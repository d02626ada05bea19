"""Optimizers, schedules and budgets: against PyTorch's own and by hand."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from raudio.config import schema
from raudio.core.errors import ConfigError, DataError
from raudio.training import schedules
from raudio.training.budget import Budget, budget, count_epochs
from raudio.training.build import build_optimizer, build_schedule
from raudio.training.optim import parameter_groups
from raudio.training.schedules import Schedule

TOTAL = 60


def rates(scheduler: type, total: int = TOTAL, **settings: float) -> list[float]:
    """The learning rates that a scheduler of PyTorch gives, for a peak of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    torch_schedule = scheduler(optimizer, **settings)
    found = []
    for _ in range(total):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        torch_schedule.step()
    return found


def factors(schedule: Schedule, total: int = TOTAL) -> list[float]:
    return [schedule(step, total) for step in range(total)]


@pytest.mark.parametrize("final", [0.0, 0.2])
def test_cosine_is_cosine_annealing(final: float) -> None:
    expected = rates(lr_scheduler.CosineAnnealingLR, T_max=TOTAL, eta_min=final)
    assert factors(schedules.cosine(warmup=0, final=final)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5])
def test_onecycle_is_one_cycle(warmup: float) -> None:
    expected = rates(
        lr_scheduler.OneCycleLR,
        max_lr=1.0,
        total_steps=TOTAL + 1,  # it is stepped once more than it is used
        pct_start=warmup,
        div_factor=25,
        final_div_factor=1e4,
        cycle_momentum=False,
    )
    mine = [schedules.onecycle(warmup=warmup)(step, TOTAL + 1) for step in range(TOTAL)]
    assert mine == pytest.approx(expected, abs=1e-9)


def test_onecycle_starts_peaks_and_ends_where_it_says() -> None:
    found = factors(schedules.onecycle(warmup=0.25, start=0.1, final=0.01), total=40)
    assert found[0] == pytest.approx(0.1)
    assert max(found) == found[9] == pytest.approx(1)
    assert found[-1] == pytest.approx(0.1 * 0.01)


def test_step_is_step_lr() -> None:
    expected = rates(lr_scheduler.StepLR, step_size=TOTAL // 3, gamma=0.1)
    assert factors(schedules.step(drops=2, gamma=0.1)) == pytest.approx(expected)


def test_warmup_is_linear_lr_then_the_schedule_over_the_rest() -> None:
    rising = 12
    linear = rates(lr_scheduler.LinearLR, start_factor=1 / (rising + 1), total_iters=rising)
    assert factors(schedules.constant(warmup=0.2)) == pytest.approx(linear)
    rest = factors(schedules.cosine(warmup=0), TOTAL - rising)
    assert factors(schedules.cosine(warmup=0.2)) == pytest.approx(linear[:rising] + rest)


@pytest.mark.parametrize("name", ["constant", "cosine", "onecycle", "step"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
def test_every_factor_is_a_share_of_the_peak(name: str, warmup: float, total: int) -> None:
    settings = dataclasses.replace(schema.VARIANTS["schedule"][name](), warmup=warmup)
    found = factors(build_schedule(settings), total)
    assert all(0 <= factor <= 1 + 1e-12 for factor in found), found
    assert found[0] > 0


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_biases_and_norms_do_not_decay() -> None:
    module = model()
    for settings in (schema.AdamW(weight_decay=0.5), schema.SGD(weight_decay=0.5)):
        before = [parameter.detach().clone() for parameter in module.parameters()]
        optimizer = build_optimizer(settings, module)
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for old, new in zip(before, module.parameters(), strict=True):
            assert torch.equal(old, new) == (old.ndim < 2)


def test_frozen_parameters_are_left_out() -> None:
    module = model()
    module[0].weight.requires_grad_(False)
    found = {id(p) for group in parameter_groups(module) for p in group["params"]}
    assert found == {id(p) for p in module.parameters()} - {id(module[0].weight)}


def test_sgd_by_hand() -> None:
    """Two steps: v = m v + (g + d w), w -= lr (g + d w + m v) with Nesterov's look ahead."""
    weight = nn.Parameter(torch.tensor([[2.0]]))
    module = nn.Module()
    module.register_parameter("weight", weight)
    optimizer = build_optimizer(
        schema.SGD(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True), module
    )
    w, v = 2.0, 0.0
    for gradient in (1.0, -3.0):
        weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        slope = gradient + 0.01 * w
        v = 0.9 * v + slope
        w -= 0.1 * (slope + 0.9 * v)
    assert weight.item() == pytest.approx(w, rel=1e-6)


@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_by_hand(decoupled: bool) -> None:
    weight = nn.Parameter(torch.tensor([[2.0]]))
    module = nn.Module()
    module.register_parameter("weight", weight)
    settings = (schema.AdamW if decoupled else schema.Adam)(
        lr=0.1, weight_decay=0.3, beta1=0.8, beta2=0.95
    )
    optimizer = build_optimizer(settings, module)
    w, mean, square = 2.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, -3.0, 0.5), 1):
        weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        slope = gradient if decoupled else gradient + 0.3 * w
        w -= 0.1 * 0.3 * w if decoupled else 0.0
        mean = 0.8 * mean + 0.2 * slope
        square = 0.95 * square + 0.05 * slope**2
        w -= 0.1 * (mean / (1 - 0.8**step)) / (math.sqrt(square / (1 - 0.95**step)) + 1e-8)
    assert weight.item() == pytest.approx(w, rel=1e-5)


def test_nesterov_without_momentum_is_plain_descent() -> None:
    weight = nn.Parameter(torch.tensor([[2.0]]))
    module = nn.Module()
    module.register_parameter("weight", weight)
    settings = schema.SGD(lr=0.5, momentum=0.0, weight_decay=0.0, nesterov=True)
    weight.grad = torch.tensor([[1.0]])
    build_optimizer(settings, module).step()
    assert weight.item() == 1.5


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"unknown optimizer 'sdg' \(closest: 'sgd'\)"):
        build_optimizer(schema.AdamW(name="sdg"), model())
    with pytest.raises(ConfigError, match=r"unknown schedule 'cosin' \(closest: 'cosine'\)"):
        build_schedule(schema.Cosine(name="cosin"))


def test_budget() -> None:
    training = schema.Training
    assert budget(training(epochs=3), 7) == Budget(steps=21, epoch_steps=7, pass_steps=7)
    by_steps = budget(training(steps=25, steps_per_epoch=10), 7)
    assert by_steps == Budget(steps=25, epoch_steps=10, pass_steps=7)
    assert (by_steps.epochs, by_steps.passes) == (3, 4)
    assert budget(training(steps=25), 7).epoch_steps == 3
    with pytest.raises(DataError, match="too small to make one batch"):
        budget(training(), 0)


@pytest.mark.parametrize(
    "training",
    [
        schema.Training(epochs=4),
        schema.Training(steps=25),
        schema.Training(steps=3),
        schema.Training(steps=25, steps_per_epoch=10),
        schema.Training(steps=25, steps_per_epoch=30),
    ],
)
def test_the_count_of_epochs_needs_no_data(training: schema.Training) -> None:
    assert count_epochs(training) == budget(training, 7).epochs


@pytest.mark.slow
def test_training_does_not_import_the_compiler() -> None:
    """`torch._dynamo` takes most of a second of a process's start; nothing is compiled."""
    script = """
import sys, torch
from raudio.training.optim import adam, adamw, parameter_groups, sgd
for make in (adam, adamw, sgd):
    model = torch.nn.Linear(2, 2)
    optimizer = make(parameter_groups(model))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
