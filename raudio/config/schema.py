"""Every setting: its type, default, unit, bounds and meaning. The one place that says so.

`--help`, `raudio list`, validation and the documentation read it from here. A group with variants
(`features`, `model`, `task`, `optimizer`, `schedule`) holds one of several settings classes, told
apart by their field `name`; the others are single classes. `None` means "decided from the data or
the machine"; what was decided is in the resolved experiment that a run keeps.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any, ClassVar

from raudio.config.augment import Augment as Augment  # plugins replace it here, by a larger one
from raudio.config.meta import group, setting
from raudio.config.samplers import CMAES, GP, NSGA, QMC, SAMPLERS, TPE
from raudio.config.schedulers import ASHA, PBT, SCHEDULERS, Median
from raudio.config.tracking import Tracking as Tracking  # as Augment
from raudio.core.components import (
    AUGMENTATIONS,
    FRONT_ENDS,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    TASKS,
    TRACKERS,
)
from raudio.core.registry import Registry

# --- dataset -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Which data, and how a clip becomes a tensor."""

    path: str | tuple[str, ...] = setting(
        "synth",
        "dataset folder or URI, a plain folder of audio, 'synth' (the embedded data), or a list of "
        "these: [data/a, data/b]",
        result=False,
    )
    weights: tuple[float, ...] | None = setting(
        None,
        "shares of the listed datasets in an epoch, such as [0.7, 0.3]; none: by their sizes",
        min=0,
    )
    labels: str | None = setting(None, "label file of a plain folder of audio", result=False)
    fold: int | None = setting(
        None,
        "fold of a cross-validation that is valid, the others outside test being train; none: the "
        "splits as they were prepared",
        min=0,
    )
    sample_rate: int | None = setting(
        None, "rate to resample to; none: the most common one", unit="Hz", min=1000, max=384000
    )
    clip_seconds: float | None = setting(
        None,
        "length a model sees; none: the 95th percentile of the clips, at most 10 s",
        unit="s",
        above=0,
        max=600,
    )
    crop: str = setting(
        "random",
        "which part of a longer clip is trained on; all: each of the windows that cover it, as a "
        "clip of its own",
        choices=("random", "centre", "first", "all"),
    )
    pad: str = setting(
        "zero",
        "how a shorter clip is filled: with zeros, which are masked, or with itself, from its "
        "start again (repeat) or back and forth (reflect)",
        choices=("zero", "repeat", "reflect"),
    )
    sampling: str = setting(
        "shuffled",
        "how clips are drawn: all alike; balanced: each class as likely; inverse_frequency: rare "
        "classes more, by PretrainedSED's formula. The last two never draw a clip without a class",
        choices=("shuffled", "balanced", "inverse_frequency"),
    )
    replacement: bool | None = setting(
        None,
        "whether a clip can be drawn again before all others have been; none: yes, unless shuffled",
    )
    epoch_clips: int | None = setting(
        None,
        "clips (crop=all: windows) of an epoch; none: as many as there are",
        unit="clips",
        min=2,
    )
    buckets: int = setting(
        8, "with training.batch_seconds: classes of length that batches are made of", min=1, max=100
    )
    precision: str = setting(
        "int16",
        "samples in memory: int16 halves it, rounds at -98 dB of full scale and clips above it: "
        "16-bit files lose nothing that matters; float32 keeps 24-bit or float files whose quiet "
        "parts or overshoots matter",
        choices=("int16", "float32"),
    )
    feed: str = setting(
        "auto",
        "resident: decoded once, in memory; streamed: from shards, every epoch",
        choices=("auto", "resident", "streamed"),
        result=False,
    )
    resident_budget: str = setting(
        "2GB", "largest decoded size that auto keeps resident", result=False
    )
    cache_limit: str = setting(
        "20GB",
        "disk that decoded clips and features may take on each machine, in raudio's cache, for all "
        "searches together; what was unused for longest goes first; 0: keep none",
        result=False,
    )
    shuffle_window: int | None = setting(
        None, "shards shuffled together; none: all (resident), 4 (streamed)", min=1
    )


# --- features ----------------------------------------------------------------------------------

_NORMALIZE = ("none", "channel", "dataset")


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """Log-mel spectrogram."""

    name: str = "logmel"
    n_mels: int = setting(64, "mel bands", min=8, max=256)
    window: float = setting(0.025, "length of the analysis window", unit="s", above=0, max=1)
    hop: float = setting(0.010, "step between windows", unit="s", above=0, max=1)
    f_min: float = setting(0.0, "lowest frequency", unit="Hz", min=0)
    f_max: float | None = setting(
        None, "highest frequency; none: half the rate", unit="Hz", above=0
    )
    normalize: str = setting(
        "dataset",
        "mean 0, deviation 1 a band: over each clip (channel), the training set (dataset), or not",
        choices=_NORMALIZE,
    )


@dataclass(frozen=True, kw_only=True)
class MFCC:
    """Mel-frequency cepstral coefficients."""

    name: str = "mfcc"
    n_mfcc: int = setting(40, "coefficients, at most n_mels", min=4, max=256)
    n_mels: int = setting(64, "mel bands", min=8, max=256)
    window: float = setting(0.025, "length of the analysis window", unit="s", above=0, max=1)
    hop: float = setting(0.010, "step between windows", unit="s", above=0, max=1)
    f_min: float = setting(0.0, "lowest frequency", unit="Hz", min=0)
    f_max: float | None = setting(
        None, "highest frequency; none: half the rate", unit="Hz", above=0
    )
    normalize: str = setting(
        "dataset",
        "mean 0, deviation 1 a band: over each clip (channel), the training set (dataset), or not",
        choices=_NORMALIZE,
    )


# --- model -------------------------------------------------------------------------------------

_POOLING = ("mean", "max", "mean_max", "attention")


@dataclass(frozen=True, kw_only=True)
class CNN:
    """Small convolutional network."""

    name: str = "cnn"
    width: int = setting(
        16, "channels of the first block; doubled by each up to 4 times", min=2, max=256
    )
    depth: int = setting(4, "blocks, each halving time and frequency", min=1, max=6)
    dropout: float = setting(0.1, "share of values dropped", min=0, below=1)
    pooling: str = setting("mean_max", "from frames to one vector", choices=_POOLING)


@dataclass(frozen=True, kw_only=True)
class CNN10:
    """CNN10 of PANNs."""

    name: str = "cnn10"
    width: int = setting(64, "channels of the first block (the paper's is 64)", min=2, max=256)
    dropout: float = setting(0.2, "share of values dropped", min=0, below=1)
    pooling: str = setting("mean_max", "from frames to one vector", choices=_POOLING)


@dataclass(frozen=True, kw_only=True)
class CRNN:
    """Convolutions, then a recurrent network."""

    name: str = "crnn"
    width: int = setting(
        16, "channels of the first block; doubled by each up to 4 times", min=2, max=256
    )
    depth: int = setting(
        3, "convolution blocks, each halving frequency, the first two time", min=1, max=6
    )
    rnn_units: int = setting(64, "units of the GRU, each direction", min=4, max=1024)
    rnn_layers: int = setting(1, "layers of the GRU", min=1, max=4)
    dropout: float = setting(0.1, "share of values dropped", min=0, below=1)
    pooling: str = setting("mean", "from frames to one vector", choices=_POOLING)


# --- task --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One label a clip."""

    #: The column of the rows that every clip needs, because its target comes from it.
    TARGET: ClassVar[str] = "label"
    #: What it measures, and which way is better; the first is what is optimised if not said.
    METRICS: ClassVar[dict[str, str]] = {
        "accuracy": "max",
        "macro_f1": "max",
        "uar": "max",
        "loss": "min",
    }

    name: str = "classification"
    label_smoothing: float = setting(
        0.0, "share of the target spread over all classes", min=0, below=1
    )
    class_weights: str = setting(
        "none", "balanced: each class weighs the same in the loss", choices=("none", "balanced")
    )


# --- optimizer and schedule --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay."""

    name: str = "adamw"
    lr: float = setting(1e-3, "peak learning rate", above=0, max=100)
    weight_decay: float = setting(1e-2, "decay of weight matrices", min=0, max=10)
    beta1: float = setting(0.9, "decay of the mean gradient", min=0, below=1)
    beta2: float = setting(0.999, "decay of the mean square", min=0, below=1)


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with L2 weight decay."""

    name: str = "adam"
    lr: float = setting(1e-3, "peak learning rate", above=0, max=100)
    weight_decay: float = setting(0.0, "L2 penalty of weight matrices", min=0, max=10)
    beta1: float = setting(0.9, "decay of the mean gradient", min=0, below=1)
    beta2: float = setting(0.999, "decay of the mean square", min=0, below=1)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    name: str = "sgd"
    lr: float = setting(1e-2, "peak learning rate", above=0, max=100)
    weight_decay: float = setting(1e-4, "L2 penalty of weight matrices", min=0, max=10)
    momentum: float = setting(0.9, "decay of the velocity", min=0, below=1)
    nesterov: bool = setting(True, "look ahead by one step of the velocity")


def _warmup(share: float) -> Any:
    return setting(share, "share of the trial's steps that rise to the peak", min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One learning rate."""

    name: str = "constant"
    warmup: float = _warmup(0.0)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine."""

    name: str = "cosine"
    warmup: float = _warmup(0.05)
    final: float = setting(0.0, "last learning rate, as a share of the peak", min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Up, down and far down."""

    name: str = "onecycle"
    warmup: float = _warmup(0.3)
    start: float = setting(0.04, "first learning rate, as a share of the peak", above=0, max=1)
    final: float = setting(1e-4, "last learning rate, as a share of the first", min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Down by steps."""

    name: str = "step"
    warmup: float = _warmup(0.0)
    drops: int = setting(2, "drops, at equal distances", min=1, max=20)
    gamma: float = setting(0.1, "factor of each drop", above=0, max=1)


# --- training and resources --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Training:
    """The loop.

    An *epoch* is what is reported, checkpointed and compared by the scheduler: one pass over the
    training split, or, when `steps` is set, `steps_per_epoch` optimizer steps.
    """

    epochs: int = setting(12, "passes over the training split", unit="epochs", min=1)
    steps: int | None = setting(
        None, "train by steps instead: optimizer steps in all", unit="steps", min=1
    )
    steps_per_epoch: int | None = setting(
        None, "with steps: between two validations; none: a tenth of them", unit="steps", min=1
    )
    batch_size: int = setting(
        32, "clips an optimizer step sees, over all workers", unit="clips", min=1
    )
    batch_seconds: float | None = setting(
        None,
        "instead of batch_size: seconds of audio, padding included, in batches of clips of similar "
        "length, padded to the longest of them",
        unit="s",
        above=0,
    )
    accumulate: int = setting(1, "parts in which a batch is computed, to save memory", min=1)
    clip_norm: float | None = setting(5.0, "largest norm of the gradient; none: any", above=0)
    precision: str = setting(
        "auto",
        "arithmetic in training: auto is bf16 on a GPU that has it, fp32 on a CPU",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    patience: int | None = setting(
        None, "stop after so many epochs without a better value; none: never", unit="epochs", min=1
    )
    metric: str | None = setting(
        None, "what is optimised, such as valid/accuracy; none: the task's own"
    )
    checkpoint_every: str | None = setting(
        None,
        "time, such as 5m, or steps, such as '200 steps', between two checkpoints of a trial, which "
        "bounds what a lost machine costs; none: at each epoch, and where cluster.lost_every is "
        "given as often as it wastes least",
        result=False,
    )


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets."""

    workers: int | tuple[int, int] = setting(
        1,
        "training processes a trial; 1 trains inside the trial's own, [1,4] from 1 to 4 as there "
        "is room",
        min=1,
    )
    parallel: str = setting(
        "ddp",
        "how several workers share a trial: each with the whole model (ddp), or with a part of its "
        "weights, gradients and optimizer state (fsdp), for models that a GPU has no memory for",
        choices=("ddp", "fsdp"),
    )
    cpus: float = setting(1, "CPUs (and so threads) a worker", unit="CPUs", min=1)
    gpus: float | None = setting(
        None, "GPUs a worker, a fraction shares one; none: 1 where there are any", min=0
    )
    share_gpus: bool = setting(
        False, "as many trials on a GPU as fit by the memory that the first one needs"
    )
    memory: str | None = setting(
        None, "memory a worker, such as 2GB, which limits trials at once; none: estimated"
    )
    data_cpus: float = setting(1, "CPUs that decode for a streamed trial", unit="CPUs", min=1)

    @property
    def min_workers(self) -> int:
        """Fewest workers that a trial trains with."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """Most workers that a trial trains with."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def distributed(self) -> bool:
        """Whether a trial's workers are processes of their own."""
        return self.workers != 1


# --- search, run, cluster ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Search:
    """Sampler, scheduler and budget."""

    trials: int | None = setting(
        None, "trials in all; none: 20, or as many as another budget allows", min=1
    )
    time_budget: str | None = setting(None, "end after this time, such as 5m or 2h; none: no limit")
    epochs_budget: int | None = setting(
        None, "end after so many epochs of all trials together; none: no limit", min=1
    )
    cost_budget: str | None = setting(
        None, "end after this device time of all trials together, such as 10h; none: no limit"
    )
    target: float | None = setting(
        None, "end when a trial's metric has reached this value; none: go on"
    )
    patience: int | None = setting(
        None, "end when so many trials have ended without a better value; none: go on", min=1
    )
    repeat: int = setting(
        1,
        "seeds of each configuration, which is compared by the mean over them; search.trials counts "
        "configurations",
        min=1,
        max=100,
    )
    folds: bool = setting(
        False,
        "train each configuration once on each of the dataset's folds outside test, the others "
        "being its train split, and compare by the mean over them",
    )
    confirm: int = setting(
        0,
        "when the search is done, train so many of the best configurations anew, whole and with "
        "fresh seeds, and say which is best",
        min=0,
        max=100,
    )
    confirm_seeds: int = setting(3, "fresh seeds of each of these", min=2, max=100)
    concurrency: int | None = setting(None, "trials at once; none: as many as fit", min=1)
    sampler: str = setting(
        "tpe",
        "how settings are drawn; `raudio list samplers` has a line on each",
        choices=tuple(SAMPLERS),
    )
    tpe: TPE = group(TPE, "sampler=tpe")
    qmc: QMC = group(QMC, "sampler=qmc")
    cmaes: CMAES = group(CMAES, "sampler=cmaes")
    gp: GP = group(GP, "sampler=gp")
    nsga: NSGA = group(NSGA, "sampler=nsga2 and nsga3")
    scheduler: str = setting(
        "auto",
        "how bad trials are stopped early; `raudio list schedulers` has a line on each",
        choices=tuple(SCHEDULERS),
    )
    grace: int | None = setting(
        None, "epochs before a trial can be stopped, or copy; none: longer than the warm-up", min=1
    )
    reduction_factor: float = setting(4, "one in so many trials passes a rung", above=1, max=10)
    asha: ASHA = group(ASHA, "scheduler=asha")
    median: Median = group(Median, "scheduler=median")
    pbt: PBT = group(PBT, "scheduler=pbt")
    constraints: tuple[str, ...] = setting(
        (),
        "what the settings of a trial must meet, beside the space's own, such as "
        '["model=crnn requires training.batch_size <= 32"]',
    )
    points: tuple[str, ...] = setting(
        (),
        'known-good points, tried first: settings such as ["model=crnn optimizer.lr=0.003"], YAML '
        "files with a list of mappings, or run folders, whose best trial is meant",
    )
    prior: tuple[str, ...] = setting(
        (),
        "earlier runs, folders or URIs, whose trials the sampler (tpe, gp or cmaes) learns from, and "
        "which answer, with reuse, experiments that they have completed",
    )
    reuse: bool = setting(
        True, "an experiment that a trial has completed is answered from the record, not run again"
    )
    keep: int = setting(
        3,
        "best trials whose checkpoints are kept; with several objectives, beside the Pareto front",
        min=1,
    )
    max_failures: int = setting(
        5,
        "stop when so many trials in a row have failed with the same error; of other kinds of "
        "failure, such as a loss that is not finite, the first so many",
        min=1,
    )
    seed: int = setting(0, "seed of the sampler", min=0)
    objectives: tuple[str, ...] = setting(
        (),
        "what is optimised: metrics such as accuracy, and costs such as cost/params, the first one "
        "measured on the valid split; none: training.metric",
    )
    limits: tuple[str, ...] = setting(
        (), "what a trial must keep to be the best one, such as 'params < 1e6'"
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where everything is written."""

    dir: str | None = setting(None, "run folder, must be new; none: runs/DATE-TIME")
    export: bool = setting(True, "export the best trial into the run when the search ends")
    patience: str = setting(
        "30m",
        "how long the store of a run, or of its dataset, may fail before the search stops, such as "
        "30m",
    )


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where it runs."""

    address: str | None = setting(
        None,
        "'local' starts Ray here; 'auto' or HOST:PORT joins a cluster; none: in a Ray job the "
        "job's cluster, else local",
    )
    cpus: int | None = setting(
        None, "CPUs of the local cluster; none: all of this machine's", min=1
    )
    lost_every: str | None = setting(
        None,
        "expected time, such as 4h, until a machine is lost or taken away, from which it follows how "
        "often trials save; none: they save at each epoch",
    )


# --- the whole ---------------------------------------------------------------------------------

#: Variants of the groups that have them: group -> name -> settings class. Plugins add to it.
VARIANTS: dict[str, dict[str, type]] = {
    "features": {"logmel": LogMel, "mfcc": MFCC},
    "model": {"cnn": CNN, "cnn10": CNN10, "crnn": CRNN},
    "task": {"classification": Classification},
    "optimizer": {"adamw": AdamW, "adam": Adam, "sgd": SGD},
    "schedule": {"constant": Constant, "cosine": Cosine, "onecycle": OneCycle, "step": Step},
}

#: The registry that builds what a group with variants describes.
REGISTRIES: dict[str, Registry] = {
    "features": FRONT_ENDS,
    "augment": AUGMENTATIONS,
    "model": MODELS,
    "task": TASKS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "tracking": TRACKERS,
}


def augmentations() -> dict[str, type]:
    """The augmentations that there are, plugins' too, in their order: name -> settings class."""
    hints = typing.get_type_hints(Augment)
    return {name: hint for name, hint in hints.items() if name not in ("where", "chain")}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One fully resolved, validated configuration; a trial trains one experiment."""

    dataset: Dataset
    features: Any
    augment: Augment
    model: Any
    task: Any
    optimizer: Any
    schedule: Any
    training: Training
    resources: Resources
    seed: int = setting(0, "seed of everything random in a trial", min=0)
    plugins: tuple[str, ...] = setting((), "Python files that register your own components")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What a command line resolves to: the experiment and how to search, run and where."""

    experiment: Experiment
    space: str
    search: Search
    run: Run
    tracking: Tracking
    cluster: Cluster
