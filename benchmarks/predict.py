"""How fast a bundle predicts: many short clips, and one long file, beside two peers.

Run as `python benchmarks/predict.py --peer-python PATH`; see the README beside it. Each contender
is a process of its own with as many CPUs as it may use threads. Prints expected and measured
figures and writes them as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import soundfile
from figures import Figure, machine, table
from rich.console import Console

from raudio import checkpoint, records
from raudio.config.validate import dump_yaml, experiment_from
from raudio.system import build_system

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "predict.json"

LABELS = tuple(f"class {number}" for number in range(10))
#: Of the models, in Hz and seconds; of the files, in Hz.
RATE, WINDOW, STORED_RATE = 16_000, 1.0, 44_100
EAGER, PLAIN, AUTRAINER = "eager", "plain loop", "autrainer"
#: raudio's contenders: the format that computes, and the precision of the bundle's weights.
OURS = {
    EAGER: ("safetensors", "fp32"),
    "ONNX": ("onnx", "fp32"),
    "torch.export": ("torch-export", "fp32"),
    "int8": ("safetensors", "int8"),
}
#: How far a score may be from the plain loop's: samples are rounded to 16 bits here, not there.
CLOSE = {"fp32": 0.01, "int8": 0.1}


@dataclass(frozen=True)
class Sizes:
    """How much is predicted.

    Attributes:
        clips: of a second each.
        hours: seconds of the long file.
        minutes: seconds of the long file for the large model, and for autrainer.
        starts: times that a start is measured.
    """

    clips: int = 1000
    hours: int = 3 * 3600
    minutes: int = 180
    starts: int = 3


QUICK = Sizes(clips=20, hours=30, minutes=5, starts=1)


@dataclass(frozen=True)
class Row:
    """What one contender took for one set of files.

    Attributes:
        model: "cnn", the default, or "cnn10".
        files: the set's name.
        contender: who.
        threads: and CPUs.
        count: files of the set.
        audio: seconds of them.
        seconds: from when the model was loaded.
        cpu: seconds of CPU time meanwhile, which others on the machine hardly change.
        whole: seconds of the process.
        memory: its peak resident bytes.
        problem: why there is nothing.
    """

    model: str
    files: str
    contender: str
    threads: int
    count: int = 0
    audio: float = 0.0
    seconds: float = float("nan")
    cpu: float = float("nan")
    whole: float = float("nan")
    memory: int = 0
    problem: str = ""

    @property
    def name(self) -> str:
        return f"{self.model}, {self.files}, {self.threads} CPU: {self.contender}"


# --- what is predicted, and with what -----------------------------------------------------------


def make_clips(folder: Path, count: int) -> list[str]:
    """Chirps in noise of one second, no two alike."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    t = np.arange(STORED_RATE) / STORED_RATE
    for number in range(count):
        low, high = draw.uniform(100, 4000, 2)
        wave = 0.4 * np.sin(2 * np.pi * (low + (high - low) / 2 * t) * t)
        wave += draw.normal(0, 0.01, STORED_RATE)
        soundfile.write(folder / f"{number:04d}.wav", wave, STORED_RATE)
    return sorted(map(str, folder.iterdir()))


def make_long(path: Path, clips: Sequence[str], seconds: int) -> list[str]:
    """A recording of so many seconds, in a folder of its own: clips, one after the other."""
    path.parent.mkdir()
    pieces = [soundfile.read(clip, dtype="int16")[0] for clip in clips[:60]]
    with soundfile.SoundFile(path, "w", STORED_RATE, 1) as file:
        for second in range(seconds):
            file.write(pieces[second % len(pieces)])
    return [str(path)]


def make_run(folder: Path, model: str) -> Path:
    """A run whose one trial has a model that nobody has trained."""
    experiment = experiment_from(
        {
            "dataset": {"path": "made-up", "sample_rate": RATE, "clip_seconds": WINDOW},
            "features": {"name": "logmel"},
            "model": {"name": model},
            "task": {"name": "classification"},
            "optimizer": {"name": "adamw"},
            "schedule": {"name": "cosine"},
        }
    )
    metric = "valid/accuracy"
    with records.RecordWriter(folder / records.RECORDS) as writer:
        writer.append(
            "search_start", version="0", metric=metric, mode="max", trials=1, time_budget=None,
            resumed=False,
        )  # fmt: skip
        writer.append("trial_start", id="0000", params={}, signature="0")
        writer.append("report", id="0000", epoch=1, metrics={metric: 0.5}, seconds=1.0, final=True)
        writer.append("trial_end", id="0000", state="completed", seconds=1.0)
    place = records.trial_folder(folder, "0000")
    place.mkdir(parents=True)
    (place / records.EXPERIMENT_YAML).write_text(dump_yaml(experiment))
    checkpoint.save(
        place / records.BEST,
        {
            "model": build_system(experiment, labels=LABELS).state_dict(),
            "epoch": 1,
            "metrics": {metric: 0.5},
            "labels": list(LABELS),
            "dataset": "0" * 64,
        },
    )
    return folder


def export(run: Path, out: Path, *options: str) -> tuple[Path | None, str]:
    """The bundle that `raudio export` makes, and why there is none."""
    command = [sys.executable, "-m", "raudio.cli.main", "export", str(run), "--out", str(out)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        return None, f"no such bundle: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    return out, ""


def make_bundles(
    model: str, work: Path, *, all_of_them: bool
) -> dict[str, tuple[Path | None, str]]:
    """The bundle of each of raudio's contenders, or of the first alone; or why there is none."""
    run = make_run(work / f"run-{model}", model)
    made = {EAGER: export(run, work / f"{model}-fp32")}
    if not all_of_them:
        return made
    graphs = export(run, work / f"{model}-graphs", "--format", "safetensors,onnx,torch-export")
    made |= dict.fromkeys(("ONNX", "torch.export"), graphs)
    made["int8"] = export(run, work / f"{model}-int8", "--precision", "int8")
    return made


# --- measuring -----------------------------------------------------------------------------------


def run(
    command: Sequence[str], threads: int, log: Path, timeout: float = 900
) -> tuple[float, float, int]:
    """Runs a command on so many CPUs; seconds until it prints, and to its end, and its peak bytes.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    allowed = sorted(os.sched_getaffinity(0))[:threads]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(
            ["timeout", f"{timeout:g}", *command],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
    assert process.stdout is not None
    process.stdout.readline()
    first = time.perf_counter() - began
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(log.read_text()[-300:].strip() or f"status {process.returncode}")
    return first, seconds, usage.ru_maxrss * 1024


@dataclass
class Benchmark:
    """All contenders on all sets.

    Attributes:
        work: folder for everything.
        peer: Python of autrainer's environment; None leaves it out.
        sets: files of each set, by name.
        bundles: of each model, by contender.
        rows: what was measured.
        differences: how far raudio's scores are from the plain loop's, by row.
    """

    work: Path
    peer: Path | None
    sets: dict[str, list[str]]
    bundles: dict[str, dict[str, tuple[Path | None, str]]]

    def __post_init__(self) -> None:
        self.rows: list[Row] = []
        self.differences: dict[str, float] = {}
        self._plain: dict[tuple[str, str], dict[str, list[float]]] = {}

    def measure(self, model: str, files: str, contender: str, threads: int) -> None:
        """One more row."""
        row = Row(model, files, contender, threads)
        print(row.name, file=sys.stderr)
        format, precision = OURS.get(contender, ("safetensors", "fp32"))
        bundle, problem = self.bundles[model][contender if contender in OURS else EAGER]
        if contender == AUTRAINER and self.peer is None:
            problem = "no --peer-python"
        if problem:
            self.rows.append(replace(row, problem=problem))
            return
        script = {PLAIN: "plain_predict.py", AUTRAINER: "autrainer_peer.py"}
        python = str(self.peer) if contender == AUTRAINER else sys.executable
        place = self.work / f"job-{len(self.rows)}"
        recordings = self.sets[files]
        job = {
            "bundle": str(bundle),
            "architecture": model,
            "format": format,
            "threads": threads,
            "labels": LABELS,
            "sample_rate": RATE,
            "window_seconds": WINDOW,
            "batch_size": 64,
            "first": self.sets["clips"][0],
            "files": recordings,
            "out": str(place.with_suffix(".out.json")),
        }
        place.with_suffix(".json").write_text(json.dumps(job))
        command = [python, str(HERE / script.get(contender, "raudio_predict.py"))]
        try:
            _, whole, memory = run(
                [*command, str(place.with_suffix(".json"))], threads, place.with_suffix(".log")
            )
        except RuntimeError as error:
            self.rows.append(replace(row, problem=str(error)))
            return
        result = json.loads(Path(job["out"]).read_text())  # type: ignore[call-overload]
        audio = sum(soundfile.info(recording).duration for recording in recordings)
        self.rows.append(
            replace(
                row,
                count=len(recordings),
                audio=audio,
                seconds=result["seconds"],
                cpu=result["cpu"],
                whole=whole,
                memory=memory,
            )
        )
        if contender == PLAIN:
            self._plain[model, files] = result["scores"]
        elif contender in OURS and (model, files) in self._plain:
            expected = self._plain[model, files]
            found = [result["scores"][name] for name in expected]
            apart = float(np.abs(np.array(found) - np.array(list(expected.values()))).max())
            if apart > CLOSE[precision]:
                raise RuntimeError(f"{row.name}: scores are {apart} from the plain loop's")
            self.differences[row.name] = apart

    def find(self, model: str, files: str, contender: str, threads: int) -> Row | None:
        """A row that has figures."""
        for row in self.rows:
            same = (row.model, row.files, row.contender, row.threads)
            if same == (model, files, contender, threads) and not row.problem:
                return row
        return None

    def figures(self) -> list[Figure]:
        """What was measured, with what was expected."""
        found = []
        for row in self.rows:
            if row.problem:
                continue
            rate = row.count / row.seconds if row.files == "clips" else row.audio / row.seconds
            unit = "files/s" if row.files == "clips" else "x real time"
            plain = self.find(row.model, row.files, PLAIN, row.threads)
            note = f"CPU {1000 * row.cpu / row.audio:.2f} ms a second of audio"
            if plain and plain != row:
                note = f"{plain.seconds / row.seconds:.2f} of the plain loop; {note}"
            found.append(Figure(row.name, rate, unit, note=note))
        sets = dict.fromkeys((row.model, row.files, row.threads) for row in self.rows)
        for model, files, threads in sets:
            ours = self.find(model, files, EAGER, threads)
            for peer, bound in ((PLAIN, 0.8), (AUTRAINER, 5)):
                theirs = self.find(model, files, peer, threads)
                if not ours or not theirs:
                    continue
                name = f"{model}, {files}, {threads} CPU: eager / {peer}"
                note = f"{theirs.cpu / ours.cpu:.2f} by CPU time"
                ratio = theirs.seconds / ours.seconds
                found.append(Figure(name, ratio, at_least=bound, note=note))
                if peer == AUTRAINER:
                    whole = theirs.whole / ours.whole
                    found.append(Figure(f"{name}, with starting", whole, at_least=bound))
        for row in self.rows:
            if row.files == "3 hours" and row.contender in OURS and not row.problem:
                found.append(Figure(f"{row.name}: peak memory", row.memory, "B", at_most=1e9))
        return found


def start_up(bundle: Path, clip: str, threads: int, times: int, work: Path) -> Figure:
    """From the command to the first result."""
    command = [sys.executable, "-m", "raudio.cli.main", "predict", str(bundle), clip, "--json"]
    firsts = [run(command, threads, work / "start.log")[0] for _ in range(times)]
    name = f"raudio predict to its first result, {threads} CPU"
    return Figure(name, float(np.median(firsts)), "s", at_most=3, note=f"median of {times}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--peer-python", type=Path, help="of an environment with autrainer")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file (%(default)s)")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else Sizes()
    on = machine(("onnxruntime", "soxr", "safetensors"))
    threads = [1] if args.quick else [count for count in (1, 2) if count <= on["cores"]]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="raudio-benchmark-") as folder:
        work = Path(folder)
        clips = make_clips(work / "clips", sizes.clips)
        sets = {
            "clips": clips,
            "3 hours": make_long(work / "hours" / "long.flac", clips, sizes.hours),
            "minutes": make_long(work / "minutes" / "long.flac", clips, sizes.minutes),
        }
        bundles = {
            "cnn": make_bundles("cnn", work, all_of_them=True),
            "cnn10": make_bundles("cnn10", work, all_of_them=not args.quick),
        }
        benchmark = Benchmark(work, args.peer_python, sets, bundles)
        few = (PLAIN, EAGER, AUTRAINER)
        ours = (EAGER,) if args.quick else tuple(OURS)  # where the small clips have had all
        for count in threads:
            for contender in (PLAIN, *OURS, AUTRAINER):
                benchmark.measure("cnn", "clips", contender, count)
            for contender in (PLAIN, *ours):
                benchmark.measure("cnn", "3 hours", contender, count)
            for contender in (PLAIN, *ours, AUTRAINER) if count == 1 else few:
                benchmark.measure("cnn10", "clips", contender, count)
        for model in ("cnn",) if args.quick else ("cnn", "cnn10"):
            for contender in few:
                benchmark.measure(model, "minutes", contender, 1)
        eager = bundles["cnn"][EAGER][0]
        assert eager is not None, bundles["cnn"][EAGER][1]
        figures = benchmark.figures()
        figures += [start_up(eager, clips[0], count, sizes.starts, work) for count in threads]
    Console(width=None if sys.stdout.isatty() else 160).print(
        table(f"Predicting: {on['cpu']}, {on['cores']} cores", figures)
    )
    for row in benchmark.rows:
        if row.problem:
            print(f"{row.name}: {row.problem}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": "predict",
        "quick": args.quick,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.monotonic() - began,
        "machine": on,
        "figures": [figure.as_data() for figure in figures],
        "rows": [
            {name: value for name, value in asdict(row).items() if value == value}  # no NaN
            for row in benchmark.rows
        ],
        "differences": benchmark.differences,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
