"""Several ranks train as one: the same losses, to rounding, for any number of them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memory_feed import MemoryFeed, tones
from test_loop import EVERYTHING, LABELS, MOVING, experiment, stop_after, without_costs
from torch import Tensor, distributed, nn

from raudio import checkpoint
from raudio.config import schema
from raudio.system import build_system
from raudio.training.keeper import Keeper
from raudio.training.loop import Report, train
from raudio.training.parallel import Ranks, Rows, see_whole_batches

CLIPS = 26  # batches of 8, and a last one of 2, of which a third rank has none
VALID = 5  # ranks evaluate different numbers of batches, with batches in parts


@given(total=st.integers(1, 40), first=st.integers(0, 40), world=st.integers(1, 5))
def test_every_row_of_a_part_is_one_ranks(total: int, first: int, world: int) -> None:
    whole = list(range(first + total + 3))  # rows of the whole batch
    part = whole[first : first + total]
    seen: list[int] = []
    for rank in range(world):
        rows = Rows(total, first, rank, world)
        mine = whole[rank::world][rows.held]
        assert len(mine) == max(1, rows.count) or not whole[rank::world]
        if rows.count:
            assert part[rows.own] == mine
            assert all(row % world == rank for row in mine)
            seen += mine
    assert sorted(seen) == part


# --- layers ------------------------------------------------------------------------------------


def _check_norms(rank: int, world: int) -> None:
    """Against PyTorch's on the batch of all ranks: outputs, gradients and running statistics."""
    for total, first in ((5, 0), (7, 2), (2, 1)):  # with three ranks, one has no row of the last
        ranks = Ranks(rank, world, torch.device("cpu"), 0)
        rows = ranks.part(first, first + total)
        for norm, shape in (
            (nn.BatchNorm2d(3), (3, 4, 5)),
            (nn.BatchNorm2d(3, momentum=None), (3, 4, 5)),
            (nn.BatchNorm1d(6, affine=False), (6, 7)),
            (nn.BatchNorm1d(4, track_running_stats=False), (4,)),
        ):
            torch.manual_seed(total)
            inputs = 3 * torch.randn(total, *shape) + 10
            if len(shape) == 3:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            down = torch.randn(total, *shape)
            own = copy.deepcopy(norm)
            see_whole_batches(own, ranks)
            for _ in range(2):
                whole = inputs.clone().requires_grad_()
                expected = norm(whole)
                expected.backward(down)
                part = inputs[rows.own] if rows.count else inputs[:1]
                part = part.clone().requires_grad_()
                found = own(part)
                found.backward(down[rows.own] if rows.count else 0 * down[:1])
                assert part.grad is not None
                assert whole.grad is not None
                if rows.count:
                    torch.testing.assert_close(found, expected[rows.own])
                    torch.testing.assert_close(part.grad, whole.grad[rows.own])
                else:
                    assert not part.grad.any()
            for name, buffer in norm.named_buffers():
                torch.testing.assert_close(own.get_buffer(name), buffer)
            for name, parameter in norm.named_parameters():
                gradient = own.get_parameter(name).grad
                assert gradient is not None
                distributed.all_reduce(gradient)
                torch.testing.assert_close(gradient, parameter.grad)
            torch.testing.assert_close(own.eval()(inputs), norm.eval()(inputs))
    ranks.part(0, 2)
    half = nn.BatchNorm1d(4)
    see_whole_batches(half, ranks)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = half(torch.randn(1, 4, 9).bfloat16().requires_grad_())
    assert outputs.dtype == torch.bfloat16
    outputs.sum().backward()
    ranks.part(0, 1)
    with pytest.raises(ValueError, match="a single value"):
        half(torch.ones(1, 4))


def _check_dropouts(rank: int, world: int) -> None:
    """Against PyTorch's on the batch of all ranks, from the same seed."""
    for total in (6, 2):
        ranks = Ranks(rank, world, torch.device("cpu"), seed=5)
        alone = Ranks(0, 1, torch.device("cpu"), seed=5)
        rows = ranks.part(0, total)
        for module, shape in (
            (nn.Dropout(0.4), (3, 4, 5)),
            (nn.Dropout(0.4), (7,)),
            (nn.Dropout2d(0.4), (3, 4, 5)),
        ):
            inputs = torch.randn(total, *shape)
            if len(shape) == 3 and total > 2:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            alone.seed(7)
            expected = [module(inputs), module(inputs.flatten(0, 1)).unflatten(0, (total, -1))]
            own = copy.deepcopy(module)
            see_whole_batches(own, ranks)
            ranks.seed(7)
            torch.rand(rank)  # a rank's other draws change nothing
            part = inputs[rows.own] if rows.count else inputs[:1]
            found = [own(part), own(part.flatten(0, 1)).unflatten(0, (len(part), -1))]
            if rows.count:
                for one, other in zip(found, expected, strict=True):
                    torch.testing.assert_close(one, other[rows.own])
            if len(part) > 1:  # not row by row
                assert own(part[1:]).shape == part[1:].shape
            assert torch.equal(own.eval()(part), part)


# --- trainings ---------------------------------------------------------------------------------


def cases() -> dict[str, schema.Experiment]:
    descent = schema.SGD(lr=0.05)
    every = {
        "cnn": experiment(epochs=3, clip_norm=0.5),
        "parts": experiment(epochs=1, accumulate=5, optimizer=descent),
        "mixed": experiment(epochs=2, augment=EVERYTHING),
        "moved": experiment(epochs=1, augment=MOVING, accumulate=2),
        "cnn10": experiment(epochs=1, model=schema.CNN10(width=4), optimizer=descent),
        "crnn": experiment(epochs=1, model=schema.CRNN(width=4, depth=2, rnn_units=8)),
    }
    sharded = {
        f"{name} sharded": dataclasses.replace(
            every[name], resources=schema.Resources(parallel="fsdp")
        )
        for name in ("cnn", "parts", "cnn10", "crnn")
    }
    return every | sharded


#: Two ranks train the first epoch, one the second, three the third.
TURNS = {2: 1, 1: 2, 3: 3}


def trained(
    settings: schema.Experiment,
    folder: Path | None = None,
    rank: int = 0,
    world: int = 1,
    after: Callable[[Report], None] = lambda report: None,
) -> dict[str, object]:
    """The weights, and the metrics of each epoch."""
    system, reports = build_system(settings, labels=LABELS), list[Report]()

    def report(told: Report) -> None:
        reports.append(told)
        after(told)

    with contextlib.suppress(SystemExit):
        train(
            settings,
            system,
            MemoryFeed(*tones(CLIPS), seed=settings.seed, rank=rank, world=world),
            MemoryFeed(*tones(VALID, seed=9), rank=rank, world=world),
            device="cpu",
            keeper=None if folder is None else Keeper(str(folder), patience=1.0),
            report=report,
            metric="valid/loss",
            mode="min",
            rank=rank,
            world=world,
        )
    metrics = [without_costs(told.metrics) for told in reports]
    return {"model": system.state_dict(), "metrics": metrics}


def _rank(rank: int, folder: Path) -> None:
    """One of three processes; each writes what each training ended with."""
    torch.set_num_threads(1)
    for world, last in TURNS.items():
        if rank >= world:
            continue
        if world > 1:
            distributed.init_process_group(
                "gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world
            )
            _check_norms(rank, world)
            _check_dropouts(rank, world)
            for name, settings in cases().items():
                found = trained(settings, None, rank, world)
                checkpoint.save(folder / f"{name} {world} {rank}", found)
        for name in ("cnn", "cnn sharded"):
            where = folder / name if rank == 0 else None  # another machine may not see the folder
            found = trained(cases()[name], where, rank, world, stop_after(last))
            checkpoint.save(folder / f"{name} by turns {rank}", found)
        if world > 1:
            distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(_rank, (folder,), nprocs=3)
    return folder


@functools.cache
def alone(name: str) -> dict[str, object]:
    """What one process trains; how several would have shared it makes no difference."""
    return trained(cases()[name.removesuffix(" sharded")])


def assert_same(found: dict, expected: dict) -> None:
    assert len(found["metrics"]) == len(expected["metrics"])
    for one, other in zip(found["metrics"], expected["metrics"], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    model: dict[str, Tensor] = found["model"]
    for key, value in expected["model"].items():
        torch.testing.assert_close(model[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(cases()))
def test_any_number_of_ranks_train_as_one(ended: Path, name: str) -> None:
    expected = alone(name)
    for world in (2, 3):
        for rank in range(world):
            assert_same(checkpoint.load(ended / f"{name} {world} {rank}"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "cnn sharded"])
def test_ranks_go_on_from_the_checkpoints_of_any_number(ended: Path, name: str) -> None:
    expected = alone(name)
    for rank in range(3):
        assert_same(checkpoint.load(ended / f"{name} by turns {rank}"), expected)
    # What is kept is whole, and one process opens it.
    kept = checkpoint.load(ended / name / checkpoint.LAST)
    assert kept["epoch"] == 3
    assert {key: value.shape for key, value in kept["model"].items()} == {
        key: value.shape for key, value in expected["model"].items()
    }
    assert_same(trained(cases()[name], ended / name), expected)
