"""What a search costs besides the training: efficiency, overhead a trial, peers, start, memory.

Run as `python benchmarks/search_overhead.py` on a machine with nothing else to do; see the README
beside it. Measures on FSDD where it lies at ../shared/data/fsdd beside the repository, else on the
embedded data. Prints expected and measured figures and writes them as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from figures import Figure, machine, table
from processes import Memory, Others, finish, members, memory_of, run, started
from rich.console import Console

from raudio.config.schema import Experiment
from raudio.core.errors import RunError
from raudio.core.units import format_bytes
from raudio.data.manifest import Manifest
from raudio.data.prepare import prepare
from raudio.data.synth import synth
from raudio.records import History, read_history, read_records

HERE = Path(__file__).parent
FSDD = HERE.parents[1] / "shared" / "data" / "fsdd"
RESULTS = HERE / "results" / "search_overhead.json"
RAUDIO = (sys.executable, "-m", "raudio.cli.main")
#: Trials at once; each has one CPU.
SLOTS = 2
#: Seconds for a memory trial to finish its second epoch.
_PATIENCE = 180.0


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        embedded: clips of the embedded data to use even where FSDD is; 0: none.
        lrs, widths: the grid that raudio and its peers train.
        epochs: of each of its trainings.
        trials, seconds: of the search whose efficiency is measured, and how long a trial takes.
        repeats: of each command whose time is measured.
        few, many: clips of the two datasets whose memory is compared.
    """

    embedded: int = 0
    lrs: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3)
    widths: tuple[int, ...] = (8, 16)
    epochs: int = 5
    trials: int = 16
    seconds: float = 10.0
    repeats: int = 5
    few: int = 600
    many: int = 6000

    @property
    def configurations(self) -> list[dict[str, float]]:
        """The cells of the grid, in the order in which raudio takes them."""
        return [{"width": width, "lr": lr} for width in self.widths for lr in self.lrs]


QUICK = Size(
    embedded=300, lrs=(1e-3, 4e-3), epochs=2, trials=4, seconds=0.5, repeats=1, few=300, many=900
)


@dataclass
class Outcome:
    """All figures so far, and what they come from."""

    figures: list[Figure] = dataclasses.field(default_factory=list)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, name: str, value: float, unit: str = "", **bound: Any) -> None:
        """Adds a figure; `bound` as `Figure` has it."""
        self.figures.append(Figure(name, value, unit, **bound))


# --- searches ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """A search that has run to its end. Times are Unix seconds.

    Attributes:
        history: its records.
        began: when the command was given.
        first_trial: when the first trial was started.
        first_step: when the first training loop began.
        end: when the last trial ended.
        said: what it printed.
    """

    history: History
    began: float
    first_trial: float
    first_step: float
    end: float
    said: str

    @classmethod
    def run(cls, overrides: Sequence[str], folder: Path) -> Search:
        """Runs `raudio search`; every trial is to complete."""
        log = folder.with_suffix(".log")
        began = run([*RAUDIO, "search", *overrides, f"run.dir={folder}"], log)
        history = read_history(folder)
        states = {trial.state for trial in history.trials.values()}
        assert states == {"completed"}, f"trials ended as {states}, see {log}"
        records = list(read_records(folder))
        reports = [record for record in records if record["event"] == "report"]
        return cls(
            history=history,
            began=began,
            first_trial=_times(records, "trial_start")[0],
            first_step=min(record["time"] - record["seconds"] for record in reports),
            end=_times(records, "trial_end")[-1],
            said=log.read_text(),
        )

    @property
    def loop_seconds(self) -> float:
        """Seconds inside training loops, over all trials."""
        return sum(trial.loop_seconds for trial in self.history.trials.values())

    @property
    def starting(self) -> tuple[float, float]:
        """Seconds that Ray took to start, and the feed."""
        found = re.search(r"Ray started in ([\d.]+) s, feed ready in ([\d.]+) s", self.said)
        assert found is not None, self.said
        return float(found[1]), float(found[2])

    def as_data(self) -> dict[str, Any]:
        """For JSON: seconds since the command, and each trial's seconds."""
        ray, feed = self.starting
        return {
            "ray": ray,
            "feed": feed,
            "first_trial": self.first_trial - self.began,
            "first_step": self.first_step - self.began,
            "end": self.end - self.began,
            "trials": [
                {
                    "params": trial.params,
                    "epochs": trial.epochs,
                    "seconds": trial.seconds,
                    "loop_seconds": round(trial.loop_seconds, 3),
                    "accuracy": trial.value("valid/accuracy", "max"),
                }
                for trial in self.history.trials.values()
            ],
        }


def _times(records: Sequence[Mapping[str, Any]], event: str) -> list[float]:
    return [record["time"] for record in records if record["event"] == event]


def _write_space(path: Path, params: Mapping[str, str]) -> Path:
    lines = [f"  {key}: {axis}" for key, axis in params.items()]
    path.write_text("\n".join(["about: of a benchmark", "params:", *lines]) + "\n")
    return path


def _choice(values: Sequence[float]) -> str:
    return f"choice({', '.join(f'{value:g}' for value in values)})"


def _common(dataset: Manifest, epochs: int) -> list[str]:
    """What all searches here are given."""
    return [
        f"dataset.path={dataset.path}",
        "model=cnn",
        f"training.epochs={epochs}",
        f"search.concurrency={SLOTS}",
        "search.scheduler=none",  # so that trials are equally long, and the peers' the same
        "run.export=false",
    ]


# --- the same configurations by raudio and its peers -------------------------------------------


@dataclass(frozen=True)
class Peer:
    """What a peer did: seconds from the command to the first step, from there to the end, ..."""

    start: float
    seconds: float
    accuracies: list[float]
    parameters: dict[int, int]

    @classmethod
    def read(cls, results: Sequence[Path], began: float) -> Peer:
        """From the results of its processes."""
        trials = [trial for path in results for trial in json.loads(path.read_text())["trials"]]
        first = min(trial["start"] for trial in trials)
        return cls(
            start=first - began,
            seconds=max(trial["end"] for trial in trials) - first,
            accuracies=[trial["accuracy"] for trial in trials],
            parameters={trial["configuration"]["width"]: trial["parameters"] for trial in trials},
        )

    @property
    def accuracy(self) -> float:
        """The mean over its configurations."""
        return statistics.mean(self.accuracies)


def measure_peers(
    outcome: Outcome, size: Size, dataset: Manifest, work: Path, args: argparse.Namespace
) -> float:
    """The same configurations by raudio, by a plain loop, and by the pattern of Ray's docs.

    Compared is the time from the first training step to the end of the last trial; what comes
    before it, the start, is a figure of its own.

    Returns:
        Seconds that raudio takes for an epoch of the widest network.
    """
    from raudio.search.job import check

    count = len(size.configurations)
    common = _common(dataset, size.epochs)
    axes = {"model.width": _choice(size.widths), "optimizer.lr": _choice(size.lrs)}
    space = _write_space(work / "grid.yaml", axes)
    mine = [f"space={space}", "search.sampler=grid", f"search.trials={count}"]
    found = Search.run([*common, *mine], work / "grid")
    values = [trial.value("valid/accuracy", "max") for trial in found.history.trials.values()]
    experiment = check(common, single=True, echo=lambda line: None).experiment
    ours = Peer(
        start=found.first_step - found.began,
        seconds=found.end - found.first_step,
        accuracies=[value for value in values if value is not None],
        parameters={width: _parameters(experiment, width, dataset) for width in size.widths},
    )
    job = _job(experiment, dataset)
    plain = _run_plain(job, size, work)
    peers = {"raudio": ours, "plain loop": plain}
    what = f"{count} configurations of {size.epochs} epochs, two at once"
    outcome.add(f"(a) raudio: {what}", ours.seconds, "s", note=_accuracy(ours))
    outcome.add(
        "(b) plain loop, two processes: the same", plain.seconds, "s", note=_accuracy(plain)
    )
    outcome.add("(a) / (b)", ours.seconds / plain.seconds, at_most=1.10)
    outcome.details["peers"] = {"search": found.as_data()}
    if not args.skip_c:
        run_of = min(args.peer_trials or count, count)
        pattern = _run_pattern(job, size.configurations[:run_of], work, args.peer_decode)
        seconds = pattern.seconds * count / run_of
        note = f"{_accuracy(pattern)}; decodes once a {args.peer_decode}"
        if run_of < count:
            note += f"; {pattern.seconds:.0f} s for {run_of} of them, scaled by count"
        peers["Ray's pattern"] = pattern
        outcome.add("(c) the pattern of Ray's docs: the same", seconds, "s", note=note)
        outcome.add("(c) / (a)", seconds / ours.seconds, at_least=6.0)
    for name, peer in peers.items():
        outcome.details["peers"][name] = dataclasses.asdict(peer)
        for width, parameters in peer.parameters.items():
            assert parameters == ours.parameters[width], f"{name}: {parameters} at width {width}"
    outcome.add(
        "accuracy: mean of (b) minus mean of (a)",
        plain.accuracy - ours.accuracy,
        at_most=0.02,
        note="same data, batches and layers: "
        + ", ".join(f"{n:,} parameters at width {w}" for w, n in ours.parameters.items()),
    )
    ray, feed = found.starting
    others = ", ".join(f"{name} {peer.start:.1f} s" for name, peer in list(peers.items())[1:])
    outcome.add(
        "start: from the command to the first training step",
        ours.start,
        "s",
        at_most=10.0,
        note=f"of it Ray {ray:.1f} s, feed {feed:.1f} s, trials' processes "
        f"{found.first_step - found.first_trial:.1f} s; {others}",
    )
    widest = [
        trial.loop_seconds / trial.epochs
        for trial in found.history.trials.values()
        if trial.params["model.width"] == max(size.widths)
    ]
    return statistics.mean(widest)


def _accuracy(peer: Peer) -> str:
    return f"accuracy {min(peer.accuracies):.3f} to {max(peer.accuracies):.3f}"


def _parameters(experiment: Experiment, width: int, dataset: Manifest) -> int:
    from raudio.audio.build import build_front_end
    from raudio.models.build import build_model

    assert experiment.dataset.sample_rate is not None
    front_end: Any = build_front_end(experiment.features, experiment.dataset.sample_rate)
    model = build_model(
        dataclasses.replace(experiment.model, width=width),
        n_features=front_end.n_features,
        n_outputs=len(dataset.labels),
    )
    return sum(parameter.numel() for parameter in model.parameters())


def _job(experiment: Experiment, dataset: Manifest) -> dict[str, Any]:
    """What a peer is told, so that it computes the same: see `plain_loop.Job`."""
    from raudio.audio.build import build_front_end
    from raudio.training.loop import FIT_CLIPS

    settings = experiment.dataset
    assert settings.sample_rate is not None
    assert settings.clip_seconds is not None
    front_end: Any = build_front_end(experiment.features, settings.sample_rate)
    return {
        "shards": {
            split: [dataset.shard_path(shard) for shard in dataset.shards_of(split)]
            for split in ("train", "valid")
        },
        "labels": dataset.labels,
        "frames": round(settings.clip_seconds * settings.sample_rate),
        "sample_rate": settings.sample_rate,
        "n_fft": front_end.n_fft,
        "window": round(experiment.features.window * settings.sample_rate),
        "hop": front_end.hop_samples,
        "n_mels": experiment.features.n_mels,
        "depth": experiment.model.depth,
        "dropout": experiment.model.dropout,
        "epochs": experiment.training.epochs,
        "batch_size": experiment.training.batch_size,
        "weight_decay": experiment.optimizer.weight_decay,
        "warmup": experiment.schedule.warmup,
        "clip_norm": experiment.training.clip_norm,
        "fit_clips": FIT_CLIPS,
    }


def _write_job(
    folder: Path, name: str, job: Mapping[str, Any], configurations: Sequence[Mapping[str, float]]
) -> tuple[Path, Path]:
    """A peer's job as a file, and where it will write its results."""
    path, out = folder / f"{name}.json", folder / f"{name}-results.json"
    path.write_text(json.dumps({**job, "configurations": configurations, "out": str(out)}))
    return path, out


def _run_plain(job: Mapping[str, Any], size: Size, work: Path) -> Peer:
    """Two processes side by side, each with every second configuration: as many of each width."""
    results = []
    began = time.time()
    with ExitStack() as stack:
        running = []
        for slot in range(SLOTS):
            mine = size.configurations[slot::SLOTS]
            path, out = _write_job(work, f"plain-{slot}", job, mine)
            log = path.with_suffix(".log")
            command = [sys.executable, str(HERE / "plain_loop.py"), str(path)]
            running.append((stack.enter_context(started(command, log)), log))
            results.append(out)
        for process, log in running:
            finish(process, log, timeout=1800)
    return Peer.read(results, began)


def _run_pattern(
    job: Mapping[str, Any], configurations: Sequence[Mapping[str, float]], work: Path, decode: str
) -> Peer:
    path, out = _write_job(work, "pattern", job, configurations)
    command = [sys.executable, str(HERE / "ray_pattern.py"), str(path), "--decode", decode]
    began = run(command, path.with_suffix(".log"))
    return Peer.read([out], began)


# --- efficiency and overhead -------------------------------------------------------------------


def measure_efficiency(
    outcome: Outcome, size: Size, dataset: Manifest, work: Path, epoch_seconds: float
) -> None:
    """Of a search with TPE over trials of the same length: how much of the slots' time is training.

    The search phase is from the start of the first trial, whose process is still to be started, to
    the end of the last.
    """
    epochs = max(1, round(size.seconds / epoch_seconds))
    axes = {"optimizer.lr": "tag(log, interval(1e-3, 1e-2))", "model.dropout": _choice((0, 0.2))}
    space = _write_space(work / "efficiency.yaml", axes)
    overrides = [f"space={space}", f"search.trials={size.trials}", f"model.width={size.widths[-1]}"]
    found = Search.run([*_common(dataset, epochs), *overrides], work / "efficiency")
    trials = list(found.history.trials.values())
    slot_seconds = SLOTS * (found.end - found.first_trial)
    overheads = [trial.seconds - trial.loop_seconds for trial in trials]
    outcome.add(
        "search efficiency: training / (slots x wall time)",
        found.loop_seconds / slot_seconds,
        at_least=0.90,
        note=f"{len(trials)} trials of {statistics.median(t.loop_seconds for t in trials):.1f} s, "
        f"{found.end - found.first_trial:.1f} s in all, first processes "
        f"{found.first_step - found.first_trial:.1f} s of it",
    )
    outcome.add(
        "overhead a trial: its wall time minus its training, median",
        statistics.median(overheads),
        "s",
        at_most=0.3,
        note=f"{min(overheads):.2f} to {max(overheads):.2f} s",
    )
    outcome.add(
        "slot time a trial besides its training, mean",
        (slot_seconds - found.loop_seconds) / len(trials),
        "s",
        note="first processes and the wait for the last trial included",
    )
    outcome.details["efficiency"] = found.as_data()


# --- commands ----------------------------------------------------------------------------------


def measure_commands(outcome: Outcome, size: Size, dataset: Manifest) -> None:
    """How long one waits for commands that start nothing."""
    script = Path(sys.executable).with_name("raudio")
    raudio = [str(script)] if script.exists() else [*RAUDIO]
    plan = [*raudio, "plan", f"dataset.path={dataset.path}", "space=cnn_or_crnn"]
    commands: dict[str, tuple[list[str], float]] = {
        "import raudio": ([sys.executable, "-c", "import raudio"], 0.5),
        "raudio --help": ([*raudio, "--help"], 0.5),
        "raudio plan": (plan, 3.0),
    }
    for name, (command, bound) in commands.items():
        taken = []
        for _ in range(size.repeats):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            taken.append(time.perf_counter() - began)
        note = f"median of {len(taken)}, {min(taken):.2f} to {max(taken):.2f} s"
        outcome.add(name, statistics.median(taken), "s", at_most=bound, note=note)


# --- memory ------------------------------------------------------------------------------------


def measure_memory(outcome: Outcome, size: Size, work: Path) -> None:
    """Whether the decoded data are in memory once, however many trials there are.

    On embedded data of two sizes, decoded to float32: FSDD's 19 MB would not show beside a process
    with torch in it. Looked at when every trial has been through the whole data twice.
    """
    few, many = synth(work / "few", clips=size.few), synth(work / "many", clips=size.many)
    decoded = many.decoded_bytes(many.sample_rate, "float32", ("train", "valid"))
    more = decoded - few.decoded_bytes(few.sample_rate, "float32", ("train", "valid"))
    small = _memory_of_search(few, 1, work / "memory-few")
    one = _memory_of_search(many, 1, work / "memory-1")
    two = _memory_of_search(many, 2, work / "memory-2")
    outcome.add("decoded data of the memory measure", decoded, "B", note=f"{size.many} clips")
    for name, found in (("1 trial", one), ("2 trials", two)):
        outcome.add(
            f"shared memory of all processes / decoded data, {name}",
            _shared(found) / decoded,
            at_most=1.1,
            note=f"PSS: {format_bytes(_shared(found))} shared; private "
            + ", ".join(format_bytes(trial.private) for trial in _trials(found))
            + " a trial",
        )
    private = max(trial.private for trial in [*_trials(one), *_trials(two)])
    outcome.add(
        "private memory of a trial, beyond that with little data",
        max(0, private - _trials(small)[0].private),
        "B",
        at_most=0.1 * more,
        note=f"a copy of the data would be {format_bytes(more)}",
    )
    outcome.details["memory"] = {
        name: [dataclasses.asdict(process) for process in found]
        for name, found in (("little data", small), ("1 trial", one), ("2 trials", two))
    }


def _memory_of_search(dataset: Manifest, trials: int, folder: Path) -> list[Memory]:
    """The memory of all processes of a search while it runs so many trials."""
    space = _write_space(folder.with_suffix(".yaml"), {"optimizer.lr": _choice((1e-3, 2e-3))})
    overrides = [
        *_common(dataset, epochs=1000),
        f"space={space}",
        "search.sampler=grid",
        f"search.trials={trials}",
        f"search.concurrency={trials}",
        "model.width=4",
        "dataset.precision=float32",
        "dataset.cache_limit=0",  # or trials map kept features, and touch no decoded clip
        f"run.dir={folder}",
    ]
    log = folder.with_suffix(".log")
    with started([*RAUDIO, "search", *overrides], log) as process:
        deadline = time.monotonic() + _PATIENCE
        while not _settled(folder, trials):
            assert process.poll() is None, f"the search ended early, see {log}"
            assert time.monotonic() < deadline, f"no second epoch in {_PATIENCE:g} s, see {log}"
            time.sleep(0.1)
        return [found for member in members(process.pid) if (found := memory_of(member))]


def _settled(folder: Path, trials: int) -> bool:
    try:
        history = read_history(folder)
    except RunError:  # not there yet
        return False
    return len([trial for trial in history.trials.values() if trial.epochs >= 2]) == trials


def _trials(found: Sequence[Memory]) -> list[Memory]:
    """Those of the processes that train: Ray names them after Tune's class for functions."""
    trials = [process for process in found if process.name.startswith("ray::ImplicitFunc")]
    assert trials, [process.name for process in found]
    return trials


def _shared(found: Sequence[Memory]) -> int:
    return sum(process.shared for process in found)


# --- command line ------------------------------------------------------------------------------


def _dataset(size: Size, folder: Path) -> tuple[Manifest, str]:
    """What is trained on, and how the table calls it."""
    if not size.embedded and (FSDD / "labels.csv").is_file():
        return prepare(FSDD, folder, labels=FSDD / "labels.csv"), "FSDD"
    made = synth(folder, **({"clips": size.embedded} if size.embedded else {}))
    return made, "the embedded data"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--skip-c", action="store_true", help="leave the pattern of Ray's docs out")
    parser.add_argument(
        "--peer-trials", type=int, metavar="N", help="give it N configurations and scale by count"
    )
    parser.add_argument(
        "--peer-decode",
        choices=("search", "trial", "epoch"),
        default="search",
        help="let it decode once for the whole search, a trial, or an epoch (%(default)s)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file (%(default)s)")
    parser.add_argument("--work", type=Path, help="keep what the runs write in this new folder")
    return parser.parse_args(argv)


def _folder(args: argparse.Namespace, stack: ExitStack) -> Path:
    if args.work is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raudio-benchmark-")))
    args.work.mkdir(parents=True)
    return Path(args.work).resolve()


def _measures(outcome: Outcome, size: Size, args: argparse.Namespace, work: Path) -> Iterator[str]:
    """Runs all measures; says before each what comes."""
    yield "preparing the dataset"
    dataset, name = _dataset(size, work / "data")
    outcome.details["dataset"] = name
    yield f"commands, on {name}"
    measure_commands(outcome, size, dataset)
    with Others() as others:
        yield f"{len(size.configurations)} configurations by raudio and its peers"
        epoch_seconds = measure_peers(outcome, size, dataset, work, args)
        yield f"efficiency of a search of {size.trials} trials"
        measure_efficiency(outcome, size, dataset, work, epoch_seconds)
    note = "what the figures above are worth: their share of the machine was less by this"
    outcome.add("cores used by other processes meanwhile", others.cores, at_most=0.1, note=note)
    yield "memory"
    measure_memory(outcome, size, work)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table, writes the JSON."""
    args = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    size = QUICK if args.quick else Size()
    on, outcome = machine(), Outcome()
    with ExitStack() as stack:
        for step in _measures(outcome, size, args, _folder(args, stack)):
            print(f"{datetime.now():%H:%M:%S}  {step}", file=sys.stderr, flush=True)
    title = f"Search overhead on {outcome.details['dataset']}: {on['cpu']}, {on['cores']} cores"
    Console(width=None if sys.stdout.isatty() else 160).print(table(title, outcome.figures))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": "search_overhead",
        "quick": args.quick,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": on,
        "figures": [figure.as_data() for figure in outcome.figures],
        "details": outcome.details,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
