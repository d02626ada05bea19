"""The training loop: one trial on one device, or one rank of several, from first step to last.

No Ray and no tracker: what it knows it tells `report`, and what it needs to go on its `keeper`
keeps. Called again after an interruption, with the same arguments, it goes on from the last
checkpoint as if nothing had happened: everything random is drawn from the seed and the step, or
the clip, so that no random state has to be kept.

An *epoch* is what is validated, kept and reported; a *pass* goes once over the training split. They
are the same unless `training.steps` is set.

Shapes: B clips of this rank's share of a batch, T samples, F frames, N features, C outputs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from raudio import checkpoint
from raudio.audio.augment import Examples
from raudio.audio.build import build_augmenter
from raudio.config.schema import Experiment
from raudio.core.errors import ConfigError, NonFiniteError, PreemptedError, RunError, unknown
from raudio.system import System
from raudio.training.budget import budget
from raudio.training.build import build_optimizer, build_schedule
from raudio.training.costs import CostMeter
from raudio.training.evaluate import evaluate
from raudio.training.keeper import Keeper
from raudio.training.pace import Pace
from raudio.training.parallel import Ranks, parallel, whole
from raudio.training.saving import NONE, Saving

if TYPE_CHECKING:
    from raudio.data.feeds import Batch, Feed

#: Training clips that the normalisation of a front end is measured on.
FIT_CLIPS = 512
#: Earlier reports that a checkpoint holds beside its own: more than are made in the second in which
#: what their receiver wrote may not be on its disk yet.
_EARLIER = 64


@dataclass(frozen=True)
class Report:
    """What is told after an epoch.

    Attributes:
        epoch: epochs finished, so 1 after the first.
        metrics: "train/loss" (over all clips of the epoch), "train/padding" (share of its batches'
            samples that is padding), "valid/..." for each of the task's metrics, "lr", the learning
            rate of the epoch's last step, and "cost/..." for what the trial has cost so far.
        seconds: time that the epoch took, training and validation; in the first one also fitting
            the front end.
        final: whether it is the last one: the budget is used up, or the patience is.
    """

    epoch: int
    metrics: dict[str, float]
    seconds: float
    final: bool


def train(
    experiment: Experiment,
    system: System,
    train_feed: Feed,
    valid_feed: Feed,
    *,
    device: torch.device | str,
    keeper: Keeper | None,
    report: Callable[[Report], None],
    metric: str,
    mode: str,
    rank: int = 0,
    world: int = 1,
    dataset: str = "",
    costs: Mapping[str, float] | None = None,
    pace: Pace | None = None,
    notice: Callable[[], float | None] = lambda: None,
) -> None:
    """Trains `system` as `experiment` says; on return it holds the weights of the last epoch.

    After every epoch, in this order: `checkpoint.BEST` is saved if the metric is better than ever,
    `checkpoint.LAST` is saved, and when both are kept, at the latest after the next epoch, `report`
    is called. Whatever `report` raises ends the training, with both files whole. Where there is a
    `checkpoint.LAST`, training goes on from it and its reports, the last ones, are given again
    first: the receiver drops what it has, and has lost others when the power went.

    Args:
        experiment: resolved.
        system: of `build_system`, on any device.
        train_feed: with this rank's share of each batch.
        valid_feed: with this rank's clips.
        device: where to compute.
        keeper: of the trial's checkpoints, on rank 0; None keeps none.
        report: is told after every epoch, on every rank: the metrics are the same on all, and Ray
            Train waits for all.
        metric: what makes an epoch the best, and what patience watches: a key of `Report.metrics`.
        mode: "max" or "min", which way the metric is better.
        rank: this process among `world`, whose process group is up if there are several.
        world: how many processes train this system together.
        dataset: its fingerprint, kept in the checkpoints.
        costs: those known before training, which every report repeats; after an interruption, the
            first ones.
        pace: when `checkpoint.LAST` is saved between two epochs; None: never.
        notice: until when the machines of the ranks are there, as far as this one knows, in Unix
            seconds (infinite where that is not said); None: nobody takes one away.

    Raises:
        PreemptedError: the machine of a rank is taken away; the last step is kept, if there was
            time, and if no rank of several waited for its data.
        NonFiniteError: a loss, a gradient, a score or the metric is NaN or infinite; no optimizer
            step was made with it.
        ConfigError: there is no such metric, or a batch has fewer clips than there are ranks.
        DataError: the training split makes no batch.
        RunError: the checkpoint is damaged, or does not belong to this experiment and dataset.
        OSError: the disk is full; `StoreError`: the store has failed for too long.
    """
    training = experiment.training
    batch_size = training.batch_size
    device = torch.device(device)
    _check_settings(batch_size, world, metric, mode, system)
    length = budget(training, train_feed.steps)
    identity = {"labels": list(system.task.labels), "dataset": dataset, "steps": length.steps}

    system.to(device)
    make_step = _Stepper(experiment, system, device, length.steps, rank, world)
    pace = pace or Pace()
    saving = Saving(keeper, report, pace=pace, notice=notice, rank=rank, world=world)
    step, epoch, stale = 0, 0, 0
    sums, before = _Sums(), 0.0
    known, spent = dict(costs or {}), 0.0
    best = -math.inf if mode == "max" else math.inf
    given: deque[Report] = deque(maxlen=_EARLIER + 1)

    saved = _from_first_rank(_read(keeper, identity), world)
    if saved is not None:
        _restore(saved, system, make_step)
        step, epoch, stale, best = (saved[key] for key in ("step", "epoch", "stale", "best"))
        sums, before = _Sums.restored(saved, rank), saved.get("seconds", 0.0)
        given.extend(
            Report(**each) for each in (*saved.get("earlier", ()), saved["report"]) if each
        )
        for each in given:
            report(each)
        if given:
            last = given[-1]
            if last.final:
                return
            known = {name: last.metrics.get(name, known[name]) for name in known}
            spent = last.metrics.get("cost/device_seconds", 0.0)

    def going_on() -> dict[str, Any]:
        """What `checkpoint.LAST` holds after `step` steps; called on every rank."""
        make_step.parallel.collect()
        earlier = [asdict(each) for each in given]
        return {
            "model": system.state_dict(),
            "epoch": epoch,
            **identity,
            "optimizer": make_step.parallel.optimizer_state(make_step.optimizer),
            "scaler": make_step.scaler.state_dict(),
            "step": step,
            "stale": stale,
            "best": best,
            "earlier": earlier[:-1],
            "report": earlier[-1] if earlier else None,
            "sums": sums.over_all(device, world),
            "seconds": time.perf_counter() - started - saving.paused,
            "lr": make_step.lr,
        }

    started = time.perf_counter() - before
    meter = CostMeter(known, device, world, spent)
    valid_feed.keep(system.front_end, device)
    if not make_step.augmenter.changes_waves:
        train_feed.keep(system.front_end, device)
    batches = _batches(train_feed, step)
    if saved is None and getattr(system.front_end, "needs_fit", False):
        most = length.pass_steps
        batches = _fit_front_end(system, train_feed, batches, most, device, make_step.ranks)
    pace.begins(step)

    while True:
        system.train()
        end = min((epoch + 1) * length.epoch_steps, length.steps)
        while step < end:
            make_step.wishes = saving.wishes(step + 1, end)
            try:
                number, batch = next(batches)
            except PreemptedError:  # while it waited for its data
                if world > 1:  # the others are in the step already, and go on from what is kept
                    raise
                saving.leave(step, going_on)
            sums.add(make_step(step, number, batch), batch)
            step += 1
            saving.heed(make_step.wishes, step, going_on)

        make_step.parallel.collect()
        system.to(device)  # where its weights are sharded, the whole is not kept there
        _share_buffers(system, world)
        # Where training a whole batch at once takes too much memory, so may scoring one.
        at_once = max(1, batch_size // training.accumulate)
        try:
            evaluation = evaluate(
                system,
                valid_feed,
                batch_size=at_once,
                device=device,
                world=world,
                leaving=saving.leaving,
            )
        except PreemptedError:  # what goes on from the last step evaluates again
            saving.leave(step, going_on)
        saving.settle(step, going_on)
        epoch += 1
        loss, clips, padded, samples = sums.over_all(device, world)
        metrics = {
            "train/loss": loss / clips,
            "train/padding": padded / samples,
            **{f"valid/{name}": value for name, value in evaluation.metrics.items()},
            "lr": make_step.lr,
        }
        value = metrics[metric]
        if not math.isfinite(value):
            raise NonFiniteError(f"{metric} is {value} after epoch {epoch}")
        better = value > best if mode == "max" else value < best
        best, stale = (value, 0) if better else (best, stale + 1)
        final = step == length.steps or stale == training.patience
        seconds = time.perf_counter() - started - saving.paused
        told = Report(epoch, metrics | meter.read(seconds), seconds, final)
        given.append(told)

        sums, started, saving.paused = _Sums(), time.perf_counter(), 0.0
        states: dict[str, dict[str, Any]] = {}
        if better:
            # Before the other: an interruption between the two repeats the whole epoch.
            weights = {"model": system.state_dict(), "epoch": epoch, **identity}
            details = {} if keeper is None else evaluation.details(system)
            states[checkpoint.BEST] = {**weights, "metrics": metrics, "details": details}
        saving.save(step, {**states, checkpoint.LAST: going_on()})
        saving.owe(told, step, going_on)
        if final:
            return
        started, saving.paused = time.perf_counter(), 0.0


@dataclass
class _Sums:
    """What an epoch has come to so far, of this rank's clips.

    Attributes:
        loss: over clips.
        clips: how many.
        padded, samples: of the batches: how many samples are padding, and how many there are.
    """

    loss: float = 0.0
    clips: float = 0
    padded: float = 0
    samples: float = 0

    @staticmethod
    def restored(saved: Mapping[str, Any], rank: int) -> _Sums:
        """As a checkpoint holds them, all on the first rank."""
        return _Sums(*saved["sums"]) if rank == 0 and "sums" in saved else _Sums()

    def add(self, loss: float, batch: Batch) -> None:
        """Adds a batch and this rank's share of the mean loss of its clips."""
        own = 0 if batch.stands_in else len(batch.lengths)
        self.loss += loss * batch.total
        self.clips += own
        size = own * batch.inputs.shape[1]
        self.samples += size
        self.padded += size - int(batch.lengths[:own].sum())

    def over_all(self, device: torch.device, world: int) -> list[float]:
        """The sums over all ranks, in the order of the attributes."""
        own = [self.loss, self.clips, self.padded, self.samples]
        if world == 1:
            return own
        values = torch.tensor(own, dtype=torch.float64, device=device)
        distributed.all_reduce(values)
        total: list[float] = values.tolist()
        return total


class _Stepper:
    """One optimizer step after another: augment, forward, backward, check, update."""

    def __init__(
        self,
        experiment: Experiment,
        system: System,
        device: torch.device,
        steps: int,
        rank: int,
        world: int,
    ) -> None:
        training = experiment.training
        self.system, self.device, self.steps = system, device, steps
        self.ranks = Ranks(rank, world, device, experiment.seed)
        self.accumulate = training.accumulate
        self.clip_norm = training.clip_norm or math.inf
        self.half = _half(training.precision, device)
        self.parallel = parallel(system.model, experiment.resources.parallel, self.ranks)
        self.optimizer = build_optimizer(experiment.optimizer, self.parallel.module)
        # A gradient in fp16 underflows unless the loss is scaled up.
        self.scaler = GradScaler(device.type, enabled=self.half == torch.float16)
        sample_rate = experiment.dataset.sample_rate
        assert sample_rate is not None, "the experiment is not resolved"
        self.augmenter = build_augmenter(
            experiment.augment, sample_rate=sample_rate, seed=experiment.seed
        )
        self.schedule = build_schedule(experiment.schedule)
        self.peak: float = experiment.optimizer.lr
        self.lr = math.nan
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._wishes = torch.zeros(0, device=device)  # of several ranks
        self.wishes: Sequence[float] = NONE  # this rank's before a step, those of all after it

    def __call__(self, step: int, number: int, batch: Batch) -> float:
        """Makes step `step`, of pass `number`; returns this rank's share of the mean loss, which is
        over the clips of all ranks."""
        device, task, augmenter = self.device, self.system.task, self.augmenter
        self.parallel.release()
        self.ranks.seed(step)
        self._hear()
        self.lr = self.peak * self.schedule(step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr

        examples = Examples(
            batch.inputs.to(device, non_blocking=True),  # (B, T), or (B, F, N) transformed
            batch.lengths.to(device, non_blocking=True),  # (B,)
            task.targets(batch.targets.to(device, non_blocking=True)),  # (B, C)
        )
        if batch.augmented and examples.targets.ndim == 3:
            raise ConfigError(
                "augment.where=stream: the targets of this task are of frames, and have to move "
                "with the audio, which the tasks of a stream do without them; set "
                "augment.where=device"
            )
        if not batch.transformed:
            if not batch.augmented:
                examples = augmenter.wave(examples, batch.keys, number)
            examples = augmenter.mix(examples, step, self.ranks.part(0, batch.total).whole)

        # Each part adds its share of the mean over all clips of all ranks, whose gradients are
        # averaged: a rank of b clips among n, of w ranks, has the weight b * w / n.
        clips, size = batch.total, -(-batch.total // self.accumulate)
        loss = torch.zeros((), device=device)
        self.optimizer.zero_grad()
        for start in range(0, clips, size):
            rows = self.ranks.part(start, min(start + size, clips))
            part, share = rows.held, rows.count / clips
            with self.parallel.accumulating(more=start + size < clips):
                features = self._features(examples[part], batch.transformed)
                features = augmenter.spectrogram(
                    features, batch.keys[part], number, step, rows.whole
                )
                with self._arithmetic():
                    logits = self.parallel.module(features.data, features.lengths)  # (B, C)
                mean = task.loss(logits.float(), features.targets)
                self.scaler.scale(mean * (share * self.ranks.world)).backward()
            loss += mean.detach() * share

        # Nothing that is not finite reaches the weights. One look at the device serves both values.
        self.scaler.unscale_(self.optimizer)
        norm = whole(get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        # What the ranks wish for comes with it.
        values = torch.stack((loss, norm, *self._wishes)).tolist()
        loss_value, norm_value, self.wishes = values[0], values[1], values[2:] or self.wishes
        self._check(step, loss_value, norm_value)
        if math.isfinite(norm_value):
            if norm_value > self.clip_norm:
                clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss_value)

    def _features(self, examples: Examples, transformed: bool) -> Examples:
        """Features (B, F, N) of waves (B, T), or of what is `transformed` already."""
        data, lengths = self.system.features(examples.data, examples.lengths, transformed)
        return Examples(data, lengths, examples.targets)

    def _hear(self) -> None:
        """Sums what the ranks wish for, which is looked at after the step."""
        if self.ranks.world > 1:
            self._wishes = torch.tensor(self.wishes, device=self.device)
            distributed.all_reduce(self._wishes)

    def _arithmetic(self) -> Any:
        """The model's precision; front end, loss and weights are float32 in any case."""
        return torch.autocast(self.device.type, self.half) if self.half else nullcontext()

    def _check(self, step: int, loss: float, norm: float) -> None:
        if not math.isfinite(loss):
            what = f"the loss is {loss}"
        # In fp16 a gradient may overflow: the step is left out and the scaler lowers its scale.
        elif math.isfinite(norm) or self.scaler.get_scale() > 1:
            return
        else:
            what = f"the gradient's norm is {norm}"
        raise NonFiniteError(
            f"{what} at step {step + 1} of {self.steps} (learning rate {self.lr:.3g})"
        )


# --- data --------------------------------------------------------------------------------------


def _batches(feed: Feed, step: int) -> Iterator[tuple[int, Batch]]:
    """Batches from optimizer step `step` on, each with the number of its pass, without end."""
    first, start = divmod(step, feed.steps)
    for number in itertools.count(first):
        for batch in feed.epoch(number, start):
            yield number, batch
        start = 0


def _fit_front_end(
    system: System,
    feed: Feed,
    batches: Iterator[tuple[int, Batch]],
    most: int,
    device: torch.device,
    ranks: Ranks,
) -> Iterator[tuple[int, Batch]]:
    """Fits the front end on the first `FIT_CLIPS` clips, and gives back all batches, these too.

    On the clips as they are, without augmentations; all ranks on all clips of at most `most`
    batches.
    """
    first: list[tuple[int, Batch]] = []
    clips = 0
    while clips < FIT_CLIPS and len(first) < most:
        first.append(next(batches))
        clips += first[-1][1].total
    plain = [batch for _, batch in first]
    if plain[0].augmented:
        plain = list(feed.plain(first[0][0], len(first)))

    def features() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in plain:
            inputs, lengths = batch.inputs.to(device), batch.lengths.to(device)
            if not batch.transformed:
                inputs, lengths = system.front_end.transform(inputs, lengths)
            rows = ranks.part(0, batch.total)
            yield rows.gathered(inputs), rows.gathered(lengths)

    system.front_end.fit(features())
    return itertools.chain(first, batches)


# --- ranks -------------------------------------------------------------------------------------


def _from_first_rank(value: Any, world: int) -> Any:
    """Rank 0's `value` on every rank."""
    if world == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def _share_buffers(system: System, world: int) -> None:
    """Gives all ranks the first one's buffers (running statistics), which are those kept."""
    if world > 1:
        for buffer in system.buffers():
            distributed.broadcast(buffer, src=0)


# --- settings and checkpoints ------------------------------------------------------------------


def _check_settings(batch_size: int, world: int, metric: str, mode: str, system: System) -> None:
    if batch_size < world:
        raise ConfigError(
            f"training.batch_size={batch_size} leaves nothing for some of resources.workers="
            f"{world}: each needs at least one clip of a batch"
        )
    names = ["train/loss", *(f"valid/{name}" for name in system.task.modes)]
    if metric not in names:
        raise ConfigError(unknown("metric", metric, names))
    assert mode in ("max", "min"), mode


def _half(precision: str, device: torch.device) -> torch.dtype | None:
    """The 16-bit type that the model computes in, or None for float32."""
    if precision == "auto":
        has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _read(keeper: Keeper | None, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint to go on from, if there is one."""
    saved = None if keeper is None else keeper.load()
    if keeper is None or saved is None:
        return None
    for what, value in identity.items():
        if saved.get(what) != value:
            raise RunError(
                f"the checkpoint in {keeper.place!r} is of another training: its {what} is "
                f"{saved.get(what)!r}, not {value!r}; choose another folder"
            )
    return saved


def _restore(saved: dict[str, Any], system: System, stepper: _Stepper) -> None:
    """Loads what was saved, whole, or refuses it."""
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in stepper.optimizer.param_groups
    ]
    try:
        system.load_state_dict(saved["model"])
        stepper.parallel.spread()
        stepper.parallel.load_optimizer(stepper.optimizer, saved["optimizer"])
        stepper.scaler.load_state_dict(saved["scaler"])
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the checkpoint does not fit this experiment's model or optimizer: {error}"
        ) from error
    stepper.lr = saved.get("lr", math.nan)
    if saved.get("taken_over"):  # the settings are this trial's, not the donor's
        for group, own in zip(stepper.optimizer.param_groups, settings, strict=True):
            group.update(own)
