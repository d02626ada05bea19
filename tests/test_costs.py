"""What trials cost: parameters counted by hand, memory that is held, time that passes."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from raudio.config import compose, schema
from raudio.config.goal import Goal, goal_of
from raudio.config.schema import Search
from raudio.system import System, build_system
from raudio.training.costs import CostMeter, known_costs, measured_latency
from raudio.training.worker import OverLimitError, check_limits

CPU = torch.device("cpu")


def experiment(*overrides: str) -> schema.Experiment:
    given = ["dataset.sample_rate=8000", "dataset.clip_seconds=1", *overrides]
    return compose.compose(given).experiment


def system(*overrides: str) -> System:
    return build_system(experiment(*overrides), labels=["a", "b", "c"])


def test_parameters_by_hand() -> None:
    """A convolution of 3x3 without bias, batch normalisation, and a linear layer to 3 classes from
    4 channels of 16 bands (half of 32)."""
    settings = ("model=cnn", "model.width=4", "model.depth=1", "features.n_mels=32")
    found = known_costs(system(*settings), experiment(*settings), CPU, latency=False)
    assert found == {"cost/params": 1 * 4 * 3 * 3 + 2 * 4 + (4 * 16 + 1) * 3}


def test_frozen_parameters_count() -> None:
    built = system()
    before = known_costs(built, experiment(), CPU, latency=False)
    built.requires_grad_(False)
    assert known_costs(built, experiment(), CPU, latency=False) == before


def test_latency_is_the_median_of_one_clip_through_the_whole_system() -> None:
    built = system()
    seen: list[tuple[int, ...]] = []

    def slow(module: Any, given: tuple[Tensor, ...], gave: Any) -> None:
        seen.append(tuple(given[0].shape))
        # A few are disturbed, as on a real machine: the median does not mind.
        time.sleep(0.5 if len(seen) in (5, 9) else 0.02)

    built.front_end.register_forward_hook(slow)
    built.train()
    found = measured_latency(built, 8000, CPU)
    assert 0.02 <= found < 0.3
    assert set(seen) == {(1, 8000)}
    assert built.training  # as it was


def test_latency_is_measured_when_asked_for_and_changes_no_weight() -> None:
    built = system()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    found = known_costs(built, experiment(), CPU, latency=True)
    assert found["cost/latency"] > 0
    after = built.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_device_seconds_add_up_over_epochs_and_interruptions() -> None:
    meter = CostMeter({"cost/params": 5.0}, CPU, 1, 10.0)
    assert meter.read(2.0)["cost/device_seconds"] == 12.0
    found = meter.read(3.0)
    assert found["cost/device_seconds"] == 15.0
    assert found["cost/params"] == 5.0
    assert "cost/gpu_memory" not in found


def test_peak_memory_is_that_of_this_trial() -> None:
    """A process that held much before, for another trial, does not count it for this one."""
    size = 128 << 20
    first = CostMeter({}, CPU, 1, 0.0)
    idle = first.read(0.0)["cost/peak_memory"]
    block = bytearray(b"x") * size
    busy = first.read(0.0)["cost/peak_memory"]
    assert busy - idle == pytest.approx(size, rel=0.2)
    del block
    assert first.read(0.0)["cost/peak_memory"] == pytest.approx(busy, rel=0.01)
    again = CostMeter({}, CPU, 1, 0.0).read(0.0)["cost/peak_memory"]
    assert again < busy - size / 2


def test_a_limit_that_is_known_to_be_broken_says_which_and_how() -> None:
    goal = goal_of(
        Search(limits=("params < 70", "accuracy > 0.5")), None, {"valid/accuracy": "max"}
    )
    check_limits(goal, {"cost/params": 69.0})
    check_limits(Goal({"valid/accuracy": "max"}), {"cost/params": 71.0})
    with pytest.raises(OverLimitError) as caught:
        check_limits(goal, {"cost/params": 71.0})
    assert caught.value.reason == "over the limit params < 70: cost/params is 71"
    assert caught.value.costs == {"cost/params": 71.0}
