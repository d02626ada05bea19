"""The training loop: exact resume, exact arithmetic, and every way it ends."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from memory_feed import MemoryFeed, tones
from torch import Tensor, nn

from raudio import checkpoint
from raudio.audio.frontends import FrontEnd
from raudio.config import augment, schema
from raudio.core.errors import ConfigError, DataError, NonFiniteError, RunError
from raudio.system import System, build_system
from raudio.tasks.classification import Classification
from raudio.training import loop
from raudio.training.keeper import Keeper
from raudio.training.loop import FIT_CLIPS, Report, train

LABELS = ("low", "middle", "high")
CLIPS = 26


def experiment(
    *,
    augment: schema.Augment | None = None,
    model: Any = None,
    optimizer: Any = None,
    schedule: Any = None,
    seed: int = 3,
    **training: Any,
) -> schema.Experiment:
    """A small experiment; further keywords are settings of `training`."""
    return schema.Experiment(
        dataset=schema.Dataset(sample_rate=8000, clip_seconds=0.1),
        features=schema.LogMel(n_mels=16),
        augment=augment or schema.Augment(),
        model=model or schema.CNN(width=4, depth=2, dropout=0.2),
        task=schema.Classification(),
        optimizer=optimizer or schema.AdamW(lr=3e-3),
        schedule=schedule or schema.Cosine(),
        training=schema.Training(**{"epochs": 4, "batch_size": 8, **training}),
        resources=schema.Resources(),
        seed=seed,
    )


EVERYTHING = schema.Augment(
    gain=augment.Gain(p=0.7),
    noise=augment.Noise(p=0.7),
    shift=augment.Shift(p=0.7),
    time_mask=augment.TimeMask(p=0.7),
    freq_mask=augment.FreqMask(p=0.7),
    mixup=augment.Mixup(p=0.7),
)

# What changes lengths, moves frames or mixes at every stage.
MOVING = schema.Augment(
    speed=augment.Speed(p=0.5),
    roll=augment.Roll(p=0.5),
    reverb=augment.Reverb(p=0.5, max_rt60=0.3),
    concat=augment.Concat(p=0.5),
    cutmix=augment.CutMix(p=0.5),
    between_class=augment.BetweenClass(p=0.5),
    time_warp=augment.TimeWarp(p=0.5),
    freq_mixstyle=augment.FreqMixStyle(p=0.5),
)


def run(
    settings: schema.Experiment,
    folder: Path | None = None,
    *,
    system: System | None = None,
    report: Callable[[Report], None] | None = None,
    feed: MemoryFeed | None = None,
    **arguments: Any,
) -> tuple[System, list[Report]]:
    """Trains and returns the system and what was reported."""
    reports: list[Report] = []

    def keep(told: Report) -> None:
        reports.append(told)
        if report is not None:
            report(told)

    system = system or build_system(settings, labels=LABELS)
    batch_size = settings.training.batch_size
    given = {"metric": "valid/accuracy", "mode": "max", "device": "cpu", **arguments}
    train(
        settings,
        system,
        feed or MemoryFeed(*tones(CLIPS), seed=settings.seed, batch_size=batch_size),
        MemoryFeed(*tones(12, seed=9)),
        keeper=None if folder is None else Keeper(str(folder), 1.0),
        report=keep,
        **given,
    )
    return system, reports


def stop_after(epoch: int) -> Callable[[Report], None]:
    """Ends the training as Ray Tune ends a pruned trial's: with SystemExit from within `report`."""

    def report(told: Report) -> None:
        if told.epoch == epoch:
            raise SystemExit

    return report


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def without_seconds(reports: Iterable[Report]) -> list[Report]:
    return [
        dataclasses.replace(report, seconds=0.0, metrics=without_costs(report.metrics))
        for report in reports
    ]


def without_costs(metrics: Mapping[str, float]) -> dict[str, float]:
    """Times and memory are never twice the same."""
    return {name: value for name, value in metrics.items() if not name.startswith("cost/")}


# --- going on ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(experiment(augment=EVERYTHING), id="augmented"),
        pytest.param(experiment(augment=MOVING), id="augmented, lengths and targets changed"),
        pytest.param(experiment(optimizer=schema.SGD(), accumulate=2), id="sgd, accumulated"),
        pytest.param(experiment(steps=14, steps_per_epoch=4), id="epochs that cut through passes"),
        pytest.param(experiment(precision="fp16"), id="fp16"),
    ],
)
def test_interrupted_equals_uninterrupted(tmp_path: Path, settings: schema.Experiment) -> None:
    whole, expected = run(settings, tmp_path / "whole")
    for epoch in (1, 2):
        place = tmp_path / f"after {epoch}"
        with pytest.raises(SystemExit):
            run(settings, place, report=stop_after(epoch))
        torch.manual_seed(12345)  # another process is in another random state
        resumed, reports = run(settings, place)
        assert same(whole.state_dict(), resumed.state_dict()), epoch
        # Also those before the checkpoint's: with the power, records of more than one may be lost.
        assert without_seconds(reports) == without_seconds(expected), epoch
        for name in (checkpoint.LAST, checkpoint.BEST):
            first, second = (checkpoint.load(way / name) for way in (tmp_path / "whole", place))
            assert same(first["model"], second["model"]), (epoch, name)


def test_killed_between_epochs_repeats_the_unfinished_one(tmp_path: Path) -> None:
    settings = experiment()
    whole, expected = run(settings)
    (tmp_path / f".{checkpoint.LAST}.half").write_bytes(b"left by a killed writer")

    class _Killed(MemoryFeed):
        def _batch(self, clips: Any) -> Any:
            if len(self.given) == 11:  # the third of four steps of epoch 3
                raise ConnectionError
            return super()._batch(clips)

    with pytest.raises(ConnectionError):
        run(settings, tmp_path, feed=_Killed(*tones(CLIPS), seed=settings.seed))
    resumed, reports = run(settings, tmp_path)
    assert [told.epoch for told in reports] == [1, 2, 3, 4]
    assert same(whole.state_dict(), resumed.state_dict())
    assert without_seconds(reports) == without_seconds(expected)
    assert {file.name for file in tmp_path.iterdir()} == {checkpoint.LAST, checkpoint.BEST}


def test_a_finished_training_only_reports_again(tmp_path: Path) -> None:
    settings = experiment(epochs=2)
    _, first = run(settings, tmp_path)
    feed = MemoryFeed(*tones(CLIPS), seed=settings.seed)
    _, again = run(settings, tmp_path, feed=feed)
    assert again == first
    assert again[-1].final
    assert not feed.given


def test_so_many_reports_are_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_EARLIER", 2)
    with pytest.raises(SystemExit):
        run(experiment(epochs=6), tmp_path, report=stop_after(5))
    _, reports = run(experiment(epochs=6), tmp_path)
    assert [told.epoch for told in reports] == [3, 4, 5, 6]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    run(experiment(epochs=1), tmp_path, dataset="abc")
    content = (tmp_path / checkpoint.LAST).read_bytes()
    with pytest.raises(RunError, match="its dataset is 'abc', not 'xyz'"):
        run(experiment(epochs=1), tmp_path, dataset="xyz")
    with pytest.raises(RunError, match="its steps is 4, not 8"):
        run(experiment(epochs=2), tmp_path, dataset="abc")
    with pytest.raises(RunError, match="does not fit"):
        run(experiment(epochs=1, model=schema.CNN(width=6, depth=2)), tmp_path, dataset="abc")
    assert (tmp_path / checkpoint.LAST).read_bytes() == content


def test_a_donor_s_checkpoint_is_taken_over(tmp_path: Path) -> None:
    """Weights, moments and step are the donor's; settings, last report and best value its own."""
    for name, seed, epoch in (("donor", 3, 2), ("trial", 4, 1)):
        settings = experiment(optimizer=schema.AdamW(lr=3e-3, weight_decay=0.1), seed=seed)
        with pytest.raises(SystemExit):
            run(settings, tmp_path / name, report=stop_after(epoch))
    donor = checkpoint.load(tmp_path / "donor" / checkpoint.LAST)
    own = checkpoint.load(tmp_path / "trial" / checkpoint.LAST)
    content = (tmp_path / "donor" / checkpoint.LAST).read_bytes()
    (tmp_path / "trial" / checkpoint.DONOR).write_bytes(content)

    other = experiment(optimizer=schema.AdamW(lr=1e-3, weight_decay=0.3), seed=4)
    system = build_system(other, labels=LABELS)
    with pytest.raises(SystemExit):  # before a step is made
        run(other, tmp_path / "trial", system=system, report=stop_after(1))
    assert same(dict(system.state_dict()), donor["model"])
    assert not (tmp_path / "trial" / checkpoint.DONOR).exists()

    _, reports = run(other, tmp_path / "trial")
    assert [told.epoch for told in reports] == [1, 3, 4]
    assert dataclasses.asdict(reports[0]) == own["report"]
    last = checkpoint.load(tmp_path / "trial" / checkpoint.LAST)
    groups = last["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    steps = {int(state["step"]) for state in last["optimizer"]["state"].values()}
    assert steps == {last["step"]} == {2 * donor["step"]}
    values = [told.metrics["valid/accuracy"] for told in reports]
    assert last["best"] == max(values)
    best = checkpoint.load(tmp_path / "trial" / checkpoint.BEST)
    assert best["metrics"]["valid/accuracy"] == max(values)


def test_same_seed_same_weights_other_seed_others() -> None:
    first, _ = run(experiment(epochs=1, augment=EVERYTHING))
    second, _ = run(experiment(epochs=1, augment=EVERYTHING))
    other, _ = run(experiment(epochs=1, augment=EVERYTHING, seed=4))
    assert same(first.state_dict(), second.state_dict())
    assert not same(first.state_dict(), other.state_dict())


# --- arithmetic --------------------------------------------------------------------------------


class _Mean(nn.Module):
    """Linear in the mean of the frames: no state and nothing random, computable by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(40, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.arange(parameter.numel()).sin().reshape(parameter.shape))

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.mean(1))
        return logits


class _Frames(FrontEnd):
    """Frames of 40 samples, divided by a scale that is fitted."""

    n_features = 40

    def __init__(self, fit: bool = False) -> None:
        super().__init__()
        self.needs_fit = fit
        self.fitted: list[Tensor] = []
        self.register_buffer("scale", torch.ones(()))

    def transform(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return waves.unflatten(1, (-1, 40)), lengths // 40

    def standardise(self, features: Tensor, frame_lengths: Tensor) -> Tensor:
        return features / self.scale

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.fitted = [frames.flatten(1) for frames, _ in batches]
        self.scale.fill_(torch.cat(self.fitted).std())
        self.needs_fit = False


def by_hand(fit: bool = False) -> System:
    return System(_Frames(fit), _Mean(), Classification(LABELS))


PLAIN = schema.SGD(lr=0.5, momentum=0.0, weight_decay=0.0, nesterov=False)


def test_plain_descent_by_hand() -> None:
    settings = experiment(
        optimizer=PLAIN, schedule=schema.Step(drops=1, gamma=0.1), epochs=2, clip_norm=None
    )
    trained, reports = run(settings, system=by_hand())
    waves, targets = tones(CLIPS)
    feed = MemoryFeed(waves, targets, seed=settings.seed)
    linear = _Mean().linear
    for epoch, lr in enumerate((0.5, 0.05)):
        losses = []
        for batch in feed.epoch(epoch):
            loss = F.cross_entropy(
                linear(batch.inputs.unflatten(1, (-1, 40)).mean(1)), batch.targets
            )
            gradients = torch.autograd.grad(loss, list(linear.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(linear.parameters(), gradients, strict=True):
                    parameter -= lr * gradient
            losses.append((loss.item(), len(batch.targets)))
        total = sum(loss * clips for loss, clips in losses) / sum(clips for _, clips in losses)
        assert reports[epoch].metrics["train/loss"] == pytest.approx(total, rel=1e-6)
        assert reports[epoch].metrics["lr"] == pytest.approx(lr)
    torch.testing.assert_close(trained.model.linear.weight, linear.weight)
    torch.testing.assert_close(trained.model.linear.bias, linear.bias)
    # The last batch of a pass has 2 clips: the mean of its loss counts 2, not 8.
    assert [clips for _, clips in losses] == [8, 8, 8, 2]


@pytest.mark.parametrize("accumulate", [2, 3, 8, 50])
def test_accumulated_parts_make_the_whole_batch(accumulate: int) -> None:
    """Also under mixup, which pairs clips of different parts, and with clipping."""
    settings = experiment(augment=EVERYTHING, clip_norm=0.5, optimizer=PLAIN)
    parts = dataclasses.replace(
        settings, training=dataclasses.replace(settings.training, accumulate=accumulate)
    )
    whole, first = run(settings, system=by_hand())
    added, second = run(parts, system=by_hand())
    torch.testing.assert_close(whole.model.linear.weight, added.model.linear.weight)
    for one, other in zip(first, second, strict=True):
        expected = pytest.approx(without_costs(other.metrics), rel=1e-5)
        assert without_costs(one.metrics) == expected


def test_the_gradient_is_clipped() -> None:
    before = _Mean().linear
    short, _ = run(experiment(optimizer=PLAIN, steps=1, clip_norm=0.01), system=by_hand())
    moved = torch.cat(
        [
            (new - old).flatten()
            for new, old in zip(short.model.parameters(), before.parameters(), strict=True)
        ]
    )
    assert moved.norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_the_front_end_is_fitted_on_plain_clips_and_no_batch_is_lost() -> None:
    settings = experiment(augment=EVERYTHING, epochs=2)
    feed = MemoryFeed(*tones(CLIPS), seed=settings.seed)
    system = by_hand(fit=True)
    run(settings, system=system, feed=feed)
    clips = [clip for epoch, batch in feed.given[:4] for clip in batch]
    assert sorted(clips) == list(range(CLIPS))
    assert torch.equal(torch.cat(system.front_end.fitted), feed.waves[clips])
    assert [epoch for epoch, _ in feed.given] == [0] * 4 + [1] * 4


class _Augmented(MemoryFeed):
    """What a streamed feed gives with augment.where=stream: here every wave is turned over."""

    def epoch(self, epoch: int, start: int = 0) -> Any:
        for batch in super().epoch(epoch, start):
            yield dataclasses.replace(batch, inputs=-batch.inputs, augmented=True)

    def plain(self, epoch: int, steps: int) -> Any:
        return itertools.islice(super().epoch(epoch), steps)


def test_waves_augmented_on_the_way_are_not_augmented_again() -> None:
    turned = schema.Augment(polarity=augment.Polarity(p=1.0), mixup=augment.Mixup(p=0.7))
    settings = experiment(augment=turned)
    expected, reports = run(settings, system=by_hand(fit=True))
    system, again = run(
        settings, system=by_hand(fit=True), feed=_Augmented(*tones(CLIPS), seed=settings.seed)
    )
    assert same(expected.state_dict(), system.state_dict()), "mixed all the same"
    fitted = [torch.cat(each.front_end.fitted) for each in (expected, system)]
    assert torch.equal(*fitted), "fitted on plain clips"
    assert without_seconds(reports) == without_seconds(again)


def test_targets_of_frames_do_not_stay_behind_their_waves() -> None:
    class _OfFrames(Classification):
        def targets(self, encoded: Tensor) -> Tensor:
            return super().targets(encoded)[:, None].expand(-1, 4, -1)

    system = System(_Frames(), _Mean(), _OfFrames(LABELS))
    with pytest.raises(ConfigError, match=r"of frames.*set augment\.where=device$"):
        run(experiment(), system=system, feed=_Augmented(*tones(CLIPS), seed=3))


def test_the_front_end_is_fitted_on_a_part_of_much_data() -> None:
    system = by_hand(fit=True)
    feed = MemoryFeed(*tones(FIT_CLIPS + 100, samples=80))
    run(experiment(steps=1), system=system, feed=feed)
    assert sum(map(len, system.front_end.fitted)) == FIT_CLIPS


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_float32_weights(precision: str) -> None:
    settings = experiment(precision=precision, epochs=8, optimizer=schema.AdamW(lr=1e-2))
    trained, reports = run(settings)
    plain, _ = run(dataclasses.replace(settings, training=schema.Training(epochs=8, batch_size=8)))
    assert all(parameter.dtype == torch.float32 for parameter in trained.parameters())
    assert not same(trained.state_dict(), plain.state_dict()), "it computed in float32"
    assert reports[-1].metrics["train/loss"] < 0.7 * reports[0].metrics["train/loss"]


def test_it_learns() -> None:
    settings = experiment(epochs=10, model=schema.CNN(width=8, depth=2, dropout=0.0))
    _, reports = run(settings, feed=MemoryFeed(*tones(60)))
    assert reports[-1].metrics["valid/accuracy"] == 1.0


# --- reports, checkpoints, ends ----------------------------------------------------------------


def test_reports_of_epochs() -> None:
    _, reports = run(experiment(epochs=3))
    assert [(told.epoch, told.final) for told in reports] == [(1, False), (2, False), (3, True)]
    valid = {"valid/accuracy", "valid/macro_f1", "valid/uar", "valid/loss"}
    costs = {"cost/device_seconds", "cost/peak_memory"}
    names = {"train/loss", "train/padding", "lr", *valid, *costs}
    assert all(set(told.metrics) == names for told in reports)
    assert all(told.seconds > 0 for told in reports)


def test_training_by_steps() -> None:
    settings = experiment(steps=10, steps_per_epoch=4)
    feed = MemoryFeed(*tones(CLIPS), seed=settings.seed)
    _, reports = run(settings, feed=feed)
    assert [(told.epoch, told.final) for told in reports] == [(1, False), (2, False), (3, True)]
    assert len(feed.given) == 10
    assert [epoch for epoch, _ in feed.given] == [0] * 4 + [1] * 4 + [2] * 2


def test_patience_ends_with_a_final_report(tmp_path: Path) -> None:
    """With a learning rate of nothing only the first epoch is better than what was before."""
    settings = experiment(epochs=10, patience=3, optimizer=schema.AdamW(lr=1e-30))
    with pytest.raises(SystemExit):
        run(settings, tmp_path, system=by_hand(), report=stop_after(2))
    _, reports = run(settings, tmp_path, system=by_hand())
    assert [(told.epoch, told.final) for told in reports] == [
        (1, False),
        (2, False),
        (3, False),
        (4, True),
    ]
    assert checkpoint.load(tmp_path / checkpoint.BEST)["epoch"] == 1
    _, again = run(settings, tmp_path, system=by_hand())
    assert again == reports


@pytest.mark.parametrize(("metric", "mode"), [("valid/loss", "min"), ("valid/uar", "max")])
def test_the_best_epoch_is_kept(tmp_path: Path, metric: str, mode: str) -> None:
    seen: dict[int, dict[str, Tensor]] = {}
    settings = experiment(epochs=6, optimizer=schema.AdamW(lr=0.05))
    system = build_system(settings, labels=LABELS)

    def keep(told: Report) -> None:
        seen[told.epoch] = {name: value.clone() for name, value in system.state_dict().items()}
        assert checkpoint.load(tmp_path / checkpoint.LAST)["epoch"] == told.epoch

    _, reports = run(
        settings, tmp_path, system=system, report=keep, metric=metric, mode=mode, dataset="f00"
    )
    values = [told.metrics[metric] for told in reports]
    place = values.index((max if mode == "max" else min)(values))
    best = checkpoint.load(tmp_path / checkpoint.BEST)
    assert best["epoch"] == place + 1
    assert best["metrics"] == without_costs(reports[place].metrics)
    confusion = torch.tensor(best["details"]["confusion"])
    accuracy = confusion.diagonal().sum() / confusion.sum()
    assert float(accuracy) == pytest.approx(reports[place].metrics["valid/accuracy"])
    assert (best["labels"], best["dataset"]) == (list(LABELS), "f00")
    assert same(best["model"], seen[place + 1])


def test_no_folder_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(experiment(epochs=1))
    assert not list(tmp_path.iterdir())


class _Explodes(nn.Module):
    """Has an infinite loss or an infinite gradient from the third step on."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.calls = what, 0
        self.mean = _Mean()

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        self.calls += self.training
        logits: Tensor = self.mean(features, frames)
        if self.calls < 3 or not self.training:
            return logits
        if self.what == "loss":
            return logits * float("nan")
        logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("what", "says"), [("loss", "the loss is nan"), ("gradient", "the gradient's norm is nan")]
)
def test_nothing_that_is_not_finite_reaches_the_weights(
    tmp_path: Path, what: str, says: str, precision: str
) -> None:
    settings = experiment(optimizer=PLAIN, precision=precision)
    system = System(_Frames(), _Explodes(what), Classification(LABELS))
    message = rf"{says} at step 3 of 16 \(learning rate 0\.\d+\)"
    with pytest.raises(NonFiniteError, match=message):
        run(settings, tmp_path, system=system)
    two_steps = dataclasses.replace(
        settings,
        training=dataclasses.replace(settings.training, steps=16, steps_per_epoch=2),
    )
    good = System(_Frames(), _Explodes("nothing"), Classification(LABELS))
    with pytest.raises(SystemExit):
        run(two_steps, system=good, report=stop_after(1))
    assert same(system.state_dict(), good.state_dict())
    assert not list(tmp_path.iterdir())


def test_an_overflow_in_fp16_leaves_the_step_out() -> None:
    """Until the loss's scale is at its lowest: then the gradient itself is at fault."""

    class _Once(_Explodes):
        def forward(self, features: Tensor, frames: Tensor) -> Tensor:
            return (self.mean if self.calls == 3 else super().forward)(features, frames)

    settings = experiment(optimizer=PLAIN, precision="fp16")
    _, reports = run(settings, system=System(_Frames(), _Once("gradient"), Classification(LABELS)))
    assert reports[-1].final
    with pytest.raises(NonFiniteError, match="gradient's norm is nan at step"):
        run(
            experiment(optimizer=PLAIN, precision="fp16", epochs=20),
            system=System(_Frames(), _Explodes("gradient"), Classification(LABELS)),
        )


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'valid/acuracy' \(closest: 'valid/acc"):
        run(experiment(), metric="valid/acuracy")
    with pytest.raises(ConfigError, match=r"batch_size=2 leaves nothing for some of .*workers=3"):
        run(experiment(batch_size=2), world=3)
    with pytest.raises(DataError, match="too small to make one batch"):
        run(experiment(), feed=MemoryFeed(*tones(1)))
