"""What a search of very many trials costs its driver: time and memory a trial, resuming, status.

Run as `python benchmarks/search_scale.py` on a machine with nothing else to do; see the README
beside it. Trials do no work: they report one epoch and end. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import processes
from figures import Figure, machine, table
from rich.console import Console

from raudio.config.schema import Cluster, Search
from raudio.records import JOURNAL, RECORDS, History, RecordWriter, read_history, read_records
from raudio.search.curves import Curve, Curves
from raudio.search.engine import Engine
from raudio.search.replay import replay
from raudio.search.sampler import Sampler
from raudio.search.samplers import build
from raudio.search.scheduler import Scheduler
from raudio.search.space_file import load

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "search_scale.json"
METRIC = "valid/accuracy"
SPACE = load("cnn_or_crnn")
#: Trials after which the driver's memory is to stay as it is, to a tenth.
SETTLED = 1000


@dataclass
class Course:
    """Seconds and memory of a driver by the number of its trials."""

    seconds: array[float]
    memory: array[int]

    @classmethod
    def empty(cls) -> Course:
        return cls(array("d"), array("q"))

    def note(self, began: float) -> None:
        """To be called at the end of each trial."""
        self.seconds.append(time.perf_counter() - began)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))

    def per_trial(self, first: int, last: int) -> float:
        """Seconds a trial, from trial `first` to trial `last`."""
        return (self.seconds[last - 1] - self.seconds[first]) / (last - 1 - first)

    @property
    def growth(self) -> float:
        """The memory at the end by that after the first thousand trials."""
        return self.memory[-1] / self.memory[min(SETTLED, len(self.memory)) - 1]

    def as_data(self) -> dict[str, Any]:
        step = max(1, len(self.seconds) // 100)
        return {
            "every": step,
            "seconds": self.seconds[::step].tolist(),
            "memory": self.memory[::step].tolist(),
        }


# --- through Ray Tune --------------------------------------------------------------------------


def _work(config: Mapping[str, Any]) -> None:
    """A trial of no work, as `search.trial` reports one."""
    from ray import tune

    value = float(np.random.default_rng(int(config["id"])).uniform())
    tune.report({"epoch": 1, f"metrics/{METRIC}": value, "loop_seconds": 0.0, "final": True})


def _engine(
    run: Path, search: Search, epochs: int, records: RecordWriter, watch: Callable[[Any], None]
) -> Engine:
    """The engine of a search, of a new run or one to go on with."""
    resumed = (run / RECORDS).stat().st_size > 0
    return Engine(
        run,
        search,
        sampler=Sampler(SPACE, search, "max", run / JOURNAL),
        scheduler=Scheduler(search, "max", epochs, 1),
        experiment_for=lambda params: _EXPERIMENT,
        signature=lambda experiment: "",
        records=records,
        history=read_history(run) if resumed else History(),
        past=read_records(run) if resumed else (),
        watch=watch,
    )


_EXPERIMENT: Any = None


def through_tune(
    run: Path,
    search: Search,
    cluster: Cluster,
    *,
    work: Callable[[Mapping[str, Any]], None] = _work,
    epochs: int = 1,
    look: Callable[[Engine], None] = lambda engine: None,
) -> Course:
    """A search by the real engine in Ray Tune.

    Args:
        run: the run folder, with empty records.
        search: its settings.
        cluster: where it runs.
        work: what a trial does.
        epochs: that it reports.
        look: called about ten times a second.
    """
    global _EXPERIMENT
    from raudio.cluster.session import session
    from raudio.config import compose
    from raudio.config.schema import Resources
    from raudio.search.planner import plan
    from raudio.search.slots import Slots
    from raudio.search.tune import run_trials

    _EXPERIMENT = compose.compose([]).experiment
    course = Course.empty()
    began = 0.0

    def watch(record: Mapping[str, Any]) -> None:
        if record["event"] == "trial_end":
            course.note(began)

    with (
        session(cluster, run / "ray.log") as capacity,
        RecordWriter(run / RECORDS) as records,
    ):
        engine = _engine(run, search, epochs, records, watch)
        engine.begin("benchmark", METRIC, "max", epochs)
        began = time.perf_counter()
        fit = plan(capacity, Resources(), search, "resident")
        slots = Slots(fit, lambda: fit)
        state, reason = run_trials(engine, work, slots, tick=lambda: look(engine))
        engine.close(state, reason)
    return course


def _draw(trial: Any) -> None:
    SPACE.suggest(trial)


def plain_tune(trials: int, slots: int, seconds: float) -> Course:
    """Ray Tune by itself with OptunaSearch: the same space, the same TPE, reused processes. As many
    of the trials as end in time."""
    import optuna
    import ray
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    course = Course.empty()
    began = 0.0

    class Watcher(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, **info: Any) -> None:
            course.note(began)

    def work(config: Mapping[str, Any]) -> None:
        tune.report({"accuracy": float(np.random.default_rng().uniform())})

    searcher = OptunaSearch(_draw, metric="accuracy", mode="max", sampler=build(Search(), 0, {}))
    ray.init(address="local", num_cpus=slots, include_dashboard=False, _node_ip_address="127.0.0.1")
    try:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            tune.run(
                work,
                search_alg=ConcurrencyLimiter(searcher, slots),
                num_samples=trials,
                time_budget_s=seconds,
                reuse_actors=True,
                callbacks=[Watcher()],
                storage_path=folder,
                verbose=0,
            )
    finally:
        ray.shutdown()
    return course


def resumed(run: Path, trials: int) -> float:
    """Seconds until an ended run could go on: its records read, its study and rungs rebuilt."""
    began = time.perf_counter()
    with RecordWriter(run / RECORDS) as records:
        _engine(run, Search(trials=trials), 1, records, lambda record: None)
    return time.perf_counter() - began


def status(run: Path) -> float:
    """Seconds of `raudio status`."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "raudio.cli.main", "status", str(run)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


# --- simulated ---------------------------------------------------------------------------------


def made_up(configurations: int = 300, epochs: int = 9) -> Curves:
    """Curves whose level depends on the learning rate, drawn from the space."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    draw = np.random.default_rng(0)
    found = []
    for _ in range(configurations):
        params = SPACE.suggest(study.ask())
        level = 0.9 - 0.2 * abs(np.log10(params["optimizer.lr"] / 2e-3)) + draw.normal(0, 0.02)
        values = level * (1 - np.exp(-np.arange(1, epochs + 1) / 3))
        seconds = tuple(draw.uniform(0.5, 2.0, epochs).tolist())
        found.append(Curve(params, tuple({METRIC: float(v)} for v in values), seconds))
    return Curves(SPACE, (), METRIC, "max", 0.0, {}, tuple(found))


def simulated(run: Path, trials: int, workers: int, sampler: str) -> tuple[Course, list[float]]:
    """A replayed search under ASHA, and the seconds at each decision: a start or a report."""
    course, decisions = Course.empty(), []
    began = time.perf_counter()

    def watch(record: Mapping[str, Any]) -> None:
        if record["event"] in ("trial_start", "report"):
            decisions.append(time.perf_counter() - began)
        if record["event"] == "trial_end":
            course.note(began)

    replay(made_up(), Search(trials=trials, sampler=sampler), run, workers=workers, watch=watch)
    return course, decisions


def slowdown(decisions: list[float]) -> tuple[float, float]:
    """Seconds a decision, and those of the last tenth by those of the second."""
    tenth = len(decisions) // 10
    second = (decisions[2 * tenth] - decisions[tenth]) / tenth
    last = (decisions[-1] - decisions[-1 - tenth]) / tenth
    return decisions[-1] / len(decisions), last / second


# --- the command -------------------------------------------------------------------------------

PARTS = ("tune", "plain", "simulated")
#: Seconds after which one process of a part is taken for hanging.
PATIENCE = 1500.0


def _of_raudio(work: Path, trials: int) -> tuple[list[Figure], Course]:
    run = work / "run"
    run.mkdir()
    (run / RECORDS).touch()
    course = through_tune(run, Search(trials=trials), Cluster(cpus=_slots()))
    figures = [
        Figure(f"seconds a trial of {trials:,}", course.per_trial(0, trials), "s"),
        Figure(f"the same, second half of {trials:,}", course.per_trial(trials // 2, trials), "s"),
        Figure(f"resume of {trials:,}", resumed(run, trials), "s", at_most=30.0),
        Figure(f"raudio status of {trials:,}", status(run), "s", at_most=2.0),
    ]
    if trials > SETTLED:
        name = f"memory at {trials:,} by that at {SETTLED:,}"
        figures.append(Figure(name, course.growth, at_most=1.1))
    return figures, course


def _of_plain_tune(trials: int, seconds: float) -> tuple[list[Figure], Course]:
    course = plain_tune(trials, _slots(), seconds)
    done = len(course.seconds)
    note = "" if done == trials else f"{done:,} trials in {seconds:.0f} s"
    first = min(done, SETTLED)
    figures = [
        Figure(f"plain Tune: seconds a trial of {first:,}", course.per_trial(0, first), "s"),
        Figure(
            f"plain Tune: the same, second half of {done:,}",
            course.per_trial(done // 2, done),
            "s",
            note=note,
        ),
    ]
    if done > SETTLED:
        name = f"plain Tune: memory at {done:,} by that at {SETTLED:,}"
        figures.append(Figure(name, course.growth))
    return figures, course


def _of_replay(work: Path, trials: int, workers: int, sampler: str) -> tuple[list[Figure], Course]:
    course, decisions = simulated(work / "run", trials, workers, sampler)
    each, ratio = slowdown(decisions)
    what = f"{sampler} + ASHA, {trials:,} trials on {workers:,} workers"
    return [
        Figure(f"{what}: seconds", decisions[-1], "s"),
        Figure(f"{what}: seconds a decision", each, "s", note=f"{len(decisions):,}"),
        Figure(f"{what}: last tenth by second tenth", ratio),
    ], course


def _slots() -> int:
    return len(os.sched_getaffinity(0))


def _steps(given: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """What is measured: its name, and the step's arguments. Each has a process of its own: its
    memory is its own, too, and when it fails the others go on."""
    if "tune" in given.parts:
        for trials in given.trials:
            yield f"raudio, {trials:,} trials", ["tune", str(trials)]
    if "plain" in given.parts:
        name = f"plain Tune, {given.plain_trials:,} trials"
        yield name, ["plain", str(given.plain_trials), str(given.plain_seconds)]
    if "simulated" in given.parts:
        for sampler, trials in (("random", given.simulated), ("tpe", given.simulated // 20)):
            name = f"{trials:,} replayed trials, {sampler}"
            yield name, ["simulated", str(trials), str(given.workers), sampler]


def _step(part: str, *arguments: str, work: Path) -> dict[str, Any]:
    """One step, in this process; its figures, and their course."""
    if part == "tune":
        figures, course = _of_raudio(work, int(arguments[0]))
    elif part == "plain":
        figures, course = _of_plain_tune(int(arguments[0]), float(arguments[1]))
    else:
        figures, course = _of_replay(work, *map(int, arguments[:2]), arguments[2])
    return {"figures": [vars(figure) for figure in figures], "details": course.as_data()}


def _quotients(figures: Sequence[Figure]) -> Iterator[Figure]:
    """raudio's seconds a trial by plain Tune's, of as many trials."""
    values = {figure.name: figure.value for figure in figures}
    for name, value in values.items():
        if name.startswith("seconds a trial") and f"plain Tune: {name}" in values:
            quotient = value / values[f"plain Tune: {name}"]
            yield Figure(f"raudio by plain Tune, {name}", quotient, at_most=1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--plain-trials", type=int, default=10_000, help="of plain Ray Tune")
    parser.add_argument("--plain-seconds", type=float, default=300.0, help="that it has for them")
    parser.add_argument("--simulated", type=int, default=100_000, help="trials that are replayed")
    parser.add_argument("--workers", type=int, default=1000, help="simulated")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--work", type=Path, help="keeps the runs; must be new")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="small: the figures mean nothing")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        found = _step(*given.step, work=given.work)
        given.out.write_text(json.dumps(found))
        return 0
    if given.quick:
        given.trials, given.plain_trials, given.simulated, given.workers = [12], 12, 400, 10
    work = given.work or Path(tempfile.mkdtemp(prefix="raudio-search-scale-"))
    result: dict[str, Any] = {
        "quick": given.quick,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "problems": {},
        "details": {},
    }
    figures: list[Figure] = []
    console = Console()
    for number, (name, step) in enumerate(_steps(given)):
        folder = work / str(number)
        folder.mkdir(parents=True)
        command = [sys.executable, __file__, "--work", str(folder)]
        command += ["--out", str(folder / "found.json"), "--step", *step]
        console.print(f"{name} ...")
        try:
            processes.run(command, folder / "log.txt", PATIENCE)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            result["problems"][name] = str(error)
            console.print(f"{name}: {error}", style="red", markup=False)
        else:
            found = json.loads((folder / "found.json").read_text())
            figures += [Figure(**figure) for figure in found["figures"]]
            result["details"][name] = found["details"]
        every = [*figures, *_quotients(figures)]
        result["figures"] = [figure.as_data() for figure in every]
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")  # what has been found so far
    console.print(table("A search of very many trials", every))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
