"""Checkpoints in a store: kept while training goes on, told of when they are there, and gone on
from wherever a trial was interrupted. The store is fsspec's in memory, or moto's.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import flaky
import pytest
import torch
from flaky import Fault
from memory_feed import MemoryFeed, tones
from test_loop import CLIPS, EVERYTHING, LABELS, experiment, same, without_seconds
from typer.testing import CliRunner

from raudio import checkpoint
from raudio.checkpoint import BEST, LAST
from raudio.cli.main import app
from raudio.config.schema import Resources
from raudio.core import storage
from raudio.core.errors import PreemptedError
from raudio.core.storage import StoreError
from raudio.data.feeds import Batch
from raudio.system import System, build_system
from raudio.training import keeper as keepers
from raudio.training import notice as notices
from raudio.training.keeper import Keeper
from raudio.training.loop import Report, train
from raudio.training.pace import Pace, young_daly

STORE = "memory://runs/a/trials/0000"


@pytest.fixture(autouse=True)
def store() -> Iterator[None]:
    yield
    storage.remove("memory://runs")


class Gate:
    """A store that takes nothing until it is opened; what it took, and how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.taken: list[str] = []
        write = storage.write_atomic

        def slow(path: Any, content: bytes | str) -> None:
            assert self.open.wait(20)
            write(path, content)
            self.taken.append(str(path).rpartition("/")[2])

        monkeypatch.setattr(keepers, "write_atomic", slow)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def epoch(number: int) -> dict[str, Any]:
    return {"epoch": number}


# --- the keeper --------------------------------------------------------------------------------


def test_on_a_disk_it_is_kept_at_once(tmp_path: Path) -> None:
    with Keeper(str(tmp_path), 1.0) as keeper:
        assert keeper.load() is None
        keeper.save(LAST, epoch(1))
        assert keeper.settled()
        assert keeper.load() == epoch(1)
    assert [file.name for file in tmp_path.iterdir()] == [LAST]


def test_in_a_store_it_is_kept_later_and_the_newest_counts(gate: Gate) -> None:
    with Keeper(STORE, 1.0) as keeper:
        keeper.save(BEST, epoch(1))
        keeper.save(LAST, epoch(1))
        assert not keeper.settled()
        assert not keeper.wait(0.01)
        for number in (2, 3):  # while the first is on its way
            keeper.save(LAST, epoch(number))
        gate.open.set()
        assert keeper.wait()
        assert gate.taken == [BEST, LAST]
        assert keeper.load() == epoch(3)
        keeper.save(LAST, epoch(4))
        keeper.save(BEST, epoch(5))
        assert keeper.wait()
        assert gate.taken[2:] == [LAST, BEST]


def test_the_best_is_never_behind_the_last(gate: Gate) -> None:
    with Keeper(STORE, 1.0) as keeper:
        keeper.save(LAST, epoch(0))
        while not keeper._sending:  # it is on its way
            time.sleep(0.001)
        keeper.save(LAST, epoch(1))
        keeper.save(BEST, epoch(2))
        keeper.save(LAST, epoch(2))
        gate.open.set()
        assert keeper.wait()
        assert gate.taken == [LAST, BEST, LAST]


def test_what_nobody_waited_for_is_not_sent(gate: Gate) -> None:
    with Keeper(STORE, 1.0) as keeper:
        keeper.save(LAST, epoch(1))
        while not keeper._sending:
            time.sleep(0.001)
        keeper.save(LAST, epoch(2))
    gate.open.set()
    assert keeper._thread is not None
    keeper._thread.join(10)
    assert checkpoint.load(storage.join(STORE, LAST)) == epoch(1)


@pytest.fixture(scope="module")
def front() -> Iterator[flaky.Proxy]:
    with flaky.s3() as front:
        yield front


@pytest.mark.slow
def test_a_failing_store_is_asked_again_until_the_patience_is_over(
    front: flaky.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in flaky.environment(front).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(keepers, "PAUSE", 0.02)
    place = "s3://sounds/runs/b/trials/0000"
    large = {"weights": torch.arange(2**18)}
    with Keeper(place, 60.0) as keeper:
        keeper.save(LAST, epoch(1))
        assert keeper.wait()
        front.reset(
            Fault("reset", times=3, method="PUT"),
            Fault("503", times=8, method="PUT"),
            Fault("403", times=3, method="PUT"),  # a key that is replaced a little late
        )
        keeper.save(LAST, large)
        time.sleep(0.05)
        assert checkpoint.load(storage.join(place, LAST)) == epoch(1)  # whole, all the time
        assert keeper.wait()
        front.reset(Fault("503", times=12, method="GET"))
        found = keeper.load()
        assert found is not None
        assert torch.equal(found["weights"], large["weights"])
    with Keeper(place, 0.1) as keeper:
        front.reset(Fault("503", times=10**6, method="PUT"))
        keeper.save(LAST, epoch(2))
        with pytest.raises(StoreError, match=r"could not be written for 0\.1 s \(run\.patience\)"):
            keeper.wait()
        with pytest.raises(StoreError):
            keeper.settled()
    front.reset(Fault("403", times=10**6, method="GET"))
    with (
        Keeper(place, 0.1) as keeper,
        pytest.raises(StoreError, match=f"{place} could not be read for"),
    ):
        keeper.load()
    front.reset()


# --- training with it ---------------------------------------------------------------------------


class Evaluated(MemoryFeed):
    """Counts the batches that it gives to be evaluated, two an epoch."""

    def __init__(self, **share: int) -> None:
        super().__init__(*tones(12, seed=9), **share)
        self.batches, self.at_it = 0, False

    def windows(self, batch_size: int) -> Iterator[Batch]:
        self.at_it = True
        for batch in super().windows(batch_size):
            self.batches += 1
            yield batch
        self.at_it = False


def run(
    settings: Any,
    place: str,
    *,
    feed: MemoryFeed | None = None,
    valid: Evaluated | None = None,
    report: Callable[[Report], None] | None = None,
    step: Callable[[int], None] = lambda step: None,
    notice: Callable[[], float | None] = lambda: None,
    pace: Pace | None = None,
) -> tuple[System, list[Report]]:
    """Trains with checkpoints in `place`; `step` is told of each step that begins, from 1."""
    reports: list[Report] = []
    begun, valid = 0, valid or Evaluated()
    feed = feed or MemoryFeed(*tones(CLIPS), seed=settings.seed)

    def asked() -> float | None:
        nonlocal begun
        if not valid.at_it:
            begun += 1
            step(begun)
        return notice()

    def keep(told: Report) -> None:
        reports.append(told)
        if report is not None:
            report(told)

    system = build_system(settings, labels=LABELS)
    with Keeper(place, 10.0) as keeper:
        train(
            settings,
            system,
            feed,
            valid,
            device="cpu",
            keeper=keeper,
            report=keep,
            metric="valid/accuracy",
            mode="max",
            pace=pace,
            notice=asked,
        )
    return system, reports


def kept(told: Report) -> None:
    """What a report promises is in the store when it is told."""
    last, best = (checkpoint.load(storage.join(STORE, name)) for name in (LAST, BEST))
    reports = {each["epoch"] for each in (*last["earlier"], last["report"])}
    assert told.epoch in reports
    assert best["epoch"] <= told.epoch
    assert best["metrics"]["valid/accuracy"] == last["best"]


@pytest.mark.parametrize("late", [1, 3, 4])
def test_a_report_is_told_when_its_checkpoints_are_kept(gate: Gate, late: int) -> None:
    """Four steps make an epoch; the store takes what it gave at the `late`th of the next one, or,
    where that is the last, while it is evaluated."""
    settings = experiment()
    told: list[tuple[int, int]] = []
    steps = 0

    def step(number: int) -> None:
        nonlocal steps
        steps = number
        if number % 4 == late % 4 and number > 4:  # before, nothing has been saved
            if late == 4:
                threading.Timer(0.3, gate.open.set).start()
            else:
                gate.open.set()
                time.sleep(0.1)
        if number % 4 == 0:
            gate.open.clear()
        if number == 16:
            threading.Timer(0.3, gate.open.set).start()

    def report(report: Report) -> None:
        kept(report)
        told.append((report.epoch, steps))

    whole, expected = run(settings, STORE + "-whole", step=lambda step: gate.open.set())
    trained, reports = run(settings, STORE, report=report, step=step)
    assert same(whole.state_dict(), trained.state_dict())
    assert without_seconds(reports) == without_seconds(expected)
    assert [epoch for epoch, _ in told] == [1, 2, 3, 4]
    after = [step - 4 * epoch for epoch, step in told]
    assert after[0] >= late  # not before the store had it
    assert all(steps <= 4 for steps in after)  # and not after the next epoch
    assert after[-1] == 0


# --- between two epochs -------------------------------------------------------------------------


class _InterruptedError(Exception):
    """The process is gone."""


def at(wanted: int) -> Callable[[int], None]:
    def step(number: int) -> None:
        if number == wanted:
            raise _InterruptedError

    return step


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(experiment(augment=EVERYTHING, checkpoint_every="1 step"), id="augmented"),
        pytest.param(
            experiment(steps=14, steps_per_epoch=4, checkpoint_every="3 steps", precision="fp16"),
            id="epochs that cut through passes, fp16",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_interrupted_at_any_step_it_ends_the_same(tmp_path: Path, settings: Any) -> None:
    every = settings.training.checkpoint_every
    whole, expected = run(settings, str(tmp_path / "whole"))
    for step in (2, 4, 5, 7, 12):
        place = str(tmp_path / f"{step}")
        with pytest.raises(_InterruptedError):
            run(settings, place, step=at(step), pace=Pace(every))
        last = Path(place, LAST)
        assert step - 1 - (checkpoint.load(last)["step"] if last.exists() else 0) < int(every[0])
        torch.manual_seed(step)  # another process is in another random state
        resumed, reports = run(settings, place, pace=Pace(every))
        assert same(whole.state_dict(), resumed.state_dict()), step
        assert without_seconds(reports) == without_seconds(expected), step


def test_one_that_is_told_to_leave_is_at_its_last_step(tmp_path: Path) -> None:
    settings = experiment()
    whole, expected = run(settings, str(tmp_path / "whole"))
    for stop in (1, 3, 4, 5, 15):
        place, steps = str(tmp_path / f"{stop}"), 0

        def step(number: int) -> None:
            nonlocal steps
            steps = number

        def notice() -> float | None:
            return time.time() + 30 if steps >= stop else None  # noqa: B023

        with pytest.raises(PreemptedError):
            run(settings, place, step=step, notice=notice)
        assert checkpoint.load(Path(place, LAST))["step"] == stop
        resumed, reports = run(settings, place)
        assert same(whole.state_dict(), resumed.state_dict()), stop
        assert without_seconds(reports) == without_seconds(expected), stop


@pytest.mark.parametrize(
    "batch", [1, 8, *(pytest.param(batch, marks=pytest.mark.slow) for batch in (2, 4))]
)
def test_one_that_is_told_to_leave_while_it_is_evaluated_leaves_at_once(
    tmp_path: Path, batch: int
) -> None:
    settings, valid = experiment(), Evaluated()
    whole, expected = run(settings, str(tmp_path / "whole"))
    place, told = str(tmp_path / "trial"), list[Report]()
    with pytest.raises(PreemptedError):
        run(
            settings,
            place,
            valid=valid,
            report=told.append,
            notice=lambda: time.time() + 30 if valid.batches >= batch else None,
        )
    assert valid.batches == batch
    before = (batch - 1) // 2  # epochs that had been evaluated
    last = checkpoint.load(Path(place, LAST))
    assert (last["step"], last["epoch"]) == (4 * (before + 1), before)
    assert [report.epoch for report in told] == [1, 2, 3][:before]
    resumed, reports = run(settings, place)
    assert same(whole.state_dict(), resumed.state_dict())
    assert without_seconds(reports) == without_seconds(expected)


@pytest.mark.parametrize(
    ("waits_in", "at", "step", "epoch"),
    [("epoch", 6, 5, 1), ("epoch", 9, 8, 2), ("windows", 1, 4, 0), ("windows", 4, 8, 1)],
)
def test_one_that_is_told_to_leave_while_it_waits_for_data_is_at_its_last_step(
    tmp_path: Path, waits_in: str, at: int, step: int, epoch: int
) -> None:
    """A feed that heeds a notice gives an error in place of its `at`th batch."""
    settings = experiment()
    whole, expected = run(settings, str(tmp_path / "whole"))
    train, valid = MemoryFeed(*tones(CLIPS), seed=settings.seed), Evaluated()
    waiting = train if waits_in == "epoch" else valid
    batches, before = getattr(waiting, waits_in), at

    def until_the_notice(*arguments: int) -> Iterator[Batch]:
        nonlocal before
        for batch in batches(*arguments):
            before -= 1
            if not before:
                raise PreemptedError
            yield batch

    setattr(waiting, waits_in, until_the_notice)
    place = str(tmp_path / "trial")
    with pytest.raises(PreemptedError):
        run(settings, place, feed=train, valid=valid)
    last = checkpoint.load(Path(place, LAST))
    assert (last["step"], last["epoch"]) == (step, epoch)
    resumed, reports = run(settings, place)
    assert same(whole.state_dict(), resumed.state_dict())
    assert without_seconds(reports) == without_seconds(expected)


@pytest.mark.parametrize("late", [pytest.param(4, marks=pytest.mark.slow), 16])
def test_one_that_is_told_to_leave_while_it_waits_for_its_store_leaves(
    gate: Gate, late: int
) -> None:
    """What it saves after so many steps is not kept: it waits an epoch later, or at its end."""
    settings = experiment()
    whole, expected = run(settings, STORE + "-whole", step=lambda step: gate.open.set())
    begun = 0

    def step(number: int) -> None:
        nonlocal begun
        begun = number
        if number == late:
            gate.open.clear()

    def notice() -> float | None:  # none while it makes steps
        return time.time() + 3 if begun > min(16, late + 4) else None

    with pytest.raises(PreemptedError):
        run(settings, STORE, step=step, notice=notice)
    gate.open.set()
    resumed, reports = run(settings, STORE)
    assert same(whole.state_dict(), resumed.state_dict())
    assert without_seconds(reports) == without_seconds(expected)


def test_a_machine_that_is_gone_before_the_store_took_it_costs_one_checkpoint(gate: Gate) -> None:
    settings = experiment()
    whole, expected = run(settings, STORE + "-whole", step=lambda step: gate.open.set())
    gone: list[int] = []

    def step(number: int) -> None:
        if number == 7:
            gate.open.clear()
            gone.append(number)

    def notice() -> float | None:
        return time.time() + 2.05 if gone else None

    with pytest.raises(PreemptedError):
        run(settings, STORE, step=step, notice=notice, pace=Pace("2 steps"))
    assert checkpoint.load(storage.join(STORE, LAST))["step"] in (4, 6)
    gate.open.set()
    resumed, reports = run(settings, STORE, report=kept)
    assert same(whole.state_dict(), resumed.state_dict())
    assert without_seconds(reports) == without_seconds(expected)


def test_the_pace() -> None:
    now = 0.0
    steps = Pace("200 steps", 3600.0)
    steps.begins(100)
    assert [steps.due(step) for step in (299, 300)] == [False, True]
    timed = Pace("90s", 3600.0, clock=lambda: now)
    timed.saved(5, cost=10.0)
    assert not timed.due(6)
    now = 90.0
    assert timed.due(6)
    assert not Pace(clock=lambda: 1e9).due(10**9)
    measured = Pace(None, 4 * 3600.0, clock=lambda: now)
    measured.saved(5, cost=2.0)
    assert measured.seconds == young_daly(2.0, 4 * 3600.0) == 240.0
    now += 239
    assert not measured.due(6)
    now += 1
    assert measured.due(6)


def test_the_interval_of_young_and_daly_wastes_least() -> None:
    """Of the first-order waste: what saving takes, and half an interval a loss."""
    cost, losses = 3.0, 5000.0

    def waste(interval: float) -> float:
        return cost / interval + interval / 2 / losses

    best = young_daly(cost, losses)
    assert all(waste(best) < waste(best * factor) for factor in (0.9, 0.99, 1.01, 1.1))


@pytest.mark.slow
def test_the_plan_proposes_it_from_this_experiment_s_state() -> None:
    """The largest part of what saving takes is what there is to save."""

    def proposed(*overrides: str) -> dict[str, float]:
        done = CliRunner().invoke(app, ["plan", "cluster.lost_every=4h", *overrides, "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, float] = json.loads(done.stdout)["checkpoints"]
        return found

    small, large = proposed("model=cnn", "model.width=8"), proposed("model=cnn", "model.width=64")
    for each in (small, large):
        assert each["every"] == pytest.approx((2 * each["saving"] * 4 * 3600) ** 0.5)
    assert large["size"] > 10 * small["size"]
    several = proposed("model=cnn", "model.width=8", "resources.workers=2", "resources.cpus=1")
    assert several["lost_every"] == 2 * 3600
    said = CliRunner().invoke(app, ["plan", "cluster.lost_every=4h", "model=cnn"]).output
    assert "a checkpoint every" in said
    assert "cluster.lost_every" in said


def _rank(rank: int, world: int, folder: Path, strategy: str) -> None:
    """One of two processes; the machine of the second is taken away after the third step, then in
    the first evaluation, and then while it waits there for its data."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    place = str(folder / "trial")
    for look, step, waits in ((3, 3, False), (2, 4, False), (10**6, 4, True)):
        with pytest.raises(PreemptedError):
            _ranked(
                rank,
                world,
                place,
                strategy,
                notice_at=look if rank else 10**6,
                waits=waits and rank == 1,
            )
        last = checkpoint.load(Path(place, LAST))
        assert (last["step"], last["epoch"]) == (step, 0)
    if rank == 0:
        shutil.copytree(place, folder / "alone")
    torch.distributed.barrier()
    for name, where in (("resumed", place), ("whole", str(folder / "whole"))):
        system, reports = _ranked(rank, world, where, strategy)
        metrics = [told.metrics for told in reports]
        state = {"model": system.state_dict(), "metrics": metrics}
        checkpoint.save(folder / f"{name}.rank{rank}", state)
    torch.distributed.destroy_process_group()


def _ranked(
    rank: int,
    world: int,
    place: str,
    strategy: str,
    notice_at: int = 10**6,
    waits: bool = False,
) -> tuple[System, list[Report]]:
    settings = replace(experiment(epochs=2), resources=Resources(parallel=strategy))
    system = build_system(settings, labels=LABELS)
    reports: list[Report] = []
    begun = 0

    def notice() -> float | None:
        nonlocal begun
        begun += 1
        return time.time() + 30 if begun >= notice_at else None

    keeper = Keeper(place, 1.0) if rank == 0 else None
    share = {"rank": rank, "world": world}
    train(
        settings,
        system,
        MemoryFeed(*tones(CLIPS), seed=settings.seed, batch_size=8, **share),
        (Waits if waits else MemoryFeed)(*tones(12, seed=9), **share),
        device="cpu",
        keeper=keeper,
        report=reports.append,
        metric="valid/accuracy",
        mode="max",
        notice=notice,
        **share,
    )
    return system, reports


def test_one_of_several_ranks_waits_on_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are in a step with it, and would lose theirs; one that is alone would not."""
    now, deadline = 100.0, list[float]()
    monkeypatch.setattr(notices.time, "monotonic", lambda: now)
    alone, one_of_two = (
        notices.heeding(lambda: deadline[0] if deadline else None, world) for world in (1, 2)
    )
    alone()
    one_of_two()
    deadline.append(now + 60)
    with pytest.raises(PreemptedError):
        alone()
    for now in (200.0, 205.0, 210.0):  # noqa: B007
        one_of_two()
    now = 210.1
    with pytest.raises(PreemptedError):
        one_of_two()


class Waits(MemoryFeed):
    """Waits for its data, and hears meanwhile that its machine goes."""

    def windows(self, batch_size: int) -> Iterator[Batch]:
        yield next(super().windows(batch_size))
        raise PreemptedError


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_ranks_leave_together_and_any_number_goes_on(tmp_path: Path, strategy: str) -> None:
    torch.multiprocessing.spawn(_rank, (2, tmp_path, strategy), nprocs=2)
    resumed, whole = (checkpoint.load(tmp_path / f"{n}.rank1") for n in ("resumed", "whole"))
    alone, reports = _ranked(0, 1, str(tmp_path / "alone"), strategy)
    for key, value in whole["model"].items():
        torch.testing.assert_close(resumed["model"][key], value)
        torch.testing.assert_close(alone.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    for again, told, expected in zip(resumed["metrics"], reports, whole["metrics"], strict=True):
        for name in ("train/loss", "train/padding", "valid/loss"):
            assert again[name] == pytest.approx(expected[name], rel=1e-4)
            assert told.metrics[name] == pytest.approx(expected[name], rel=1e-3)
