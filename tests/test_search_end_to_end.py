"""`raudio search` as a user runs it: its end, its interruptions, its failures.

All searches here are small and alike: `COMMON` on one slot, so that an interrupted one must end bit
for bit as the undisturbed one of the fixture `whole` did.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import select
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from typer.testing import CliRunner, Result

from raudio.cli.main import app
from raudio.data.manifest import Manifest
from raudio.records import read_history, read_records

pytestmark = pytest.mark.ray

#: An epoch of about half a second.
COMMON = (
    "model=cnn",
    "model.depth=3",
    "features.n_mels=32",
    "training.batch_size=4",
    "dataset.shuffle_window=2",  # shards; fewer than there are
    "training.epochs=4",
    "search.concurrency=1",
    "search.grace=2",
    "search.reduction_factor=2",
    "search.keep=2",
    "search.seed=3",
)
SPACE = """
about: one model, its rate and width
params:
  optimizer.lr: tag(log, interval(1e-4, 3e-2))
  model.width: choice(8, 12)
"""
TRIALS = 5
#: Seconds within which one that is told to end has ended, on a machine that has other work too.
SOON = 45


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space and a dataset whose test split no trial can read."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "space.yaml").write_text(SPACE)
    result = raudio(folder, "data", "synth", "data", "--clips", "400")
    assert result.returncode == 0, result.stderr
    for shard in Manifest.read(str(folder / "data")).shards_of("test"):
        file = folder / "data" / shard.file
        file.write_bytes(bytes(file.stat().st_size))
    return folder


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "raudio.cli.main", *args]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "RAUDIO_CACHE": str(folder / "cache")}


def looked_at(folder: Path, *args: str) -> Result:
    """What a command that only reads a run says; it needs no process of its own."""
    with contextlib.chdir(folder):
        return CliRunner().invoke(app, args)


def raudio(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        command(*args),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


class Process(NamedTuple):
    """A process of this machine; `started` tells it from a later one with its number."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        return any(self == process for process, _ in processes())

    @property
    def command(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return ""


def processes() -> Iterator[tuple[Process, int]]:
    """What runs now, each with the number of its parent."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # After the name, which may hold anything: state, parent, ..., start (22nd in all).
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                yield Process(int(folder.name), fields[19]), int(fields[1])


def below(pid: int) -> list[Process]:
    """All that a process has started, itself or through others."""
    found, parents = [], {pid}
    known = list(processes())
    while parents:
        children = [process for process, parent in known if parent in parents]
        found += children
        parents = {process.pid for process in children}
    return found


def outlive(family: list[Process], seconds: float) -> list[str]:
    """The commands of those that are still there after some time."""
    deadline = time.monotonic() + seconds
    while (left := [p for p in family if p.alive]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [process.command for process in left]


def without_agents(family: list[Process]) -> list[Process]:
    """All but Ray's two agents, which outlive their node: see `orphans`."""
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    return [process for process in family if not process.command.startswith(agents)]


class Driver:
    """A search in the background, in a process group of its own as a terminal gives it."""

    def __init__(self, folder: Path, run: str, *args: str) -> None:
        self.run = folder / run
        self.log = folder / f"{run}-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command(*args),
                cwd=folder,
                env=environment(folder),
                stdout=log,
                stderr=log,
                start_new_session=True,
                # A shell that starts pytest in the background lets all of it ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def until(self, what: Callable[[Mapping[str, Any]], bool], timeout: float = 120) -> None:
        """Waits for a record."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if (self.run / "records.jsonl").exists() and any(map(what, read_records(self.run))):
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"it never came: {self.log.read_text()}")

    def family(self) -> list[Process]:
        """All processes that the driver has started."""
        return below(self.process.pid)

    def trials(self) -> list[Process]:
        """The processes that train."""
        return [p for p in self.family() if p.command.startswith("ray::ImplicitFunc")]

    def end(self, timeout: float = 120) -> int:
        """Waits for the end; the exit status."""
        return self.process.wait(timeout)


class Terminal(Driver):
    """A search that somebody has started in a shell in a terminal."""

    def __init__(self, folder: Path, run: str, *args: str) -> None:
        self.run, self.log = folder / run, folder / f"{run}.log"
        ours, theirs = os.openpty()

        def in_a_terminal() -> None:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may be run by nohup
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            ["bash", "--norc", "-i"],
            cwd=folder,
            env=environment(folder),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=in_a_terminal,
        )
        os.close(theirs)
        os.write(ours, shlex.join(command(*args)).encode() + b"\n")
        self._closed = threading.Event()
        self._shows = threading.Thread(target=self._show, args=(ours,))
        self._shows.start()

    def close(self) -> None:
        self._closed.set()
        self._shows.join()

    def _show(self, terminal: int) -> None:
        with self.log.open("wb") as log:
            while not self._closed.is_set():
                if select.select([terminal], [], [], 0.05)[0]:
                    log.write(os.read(terminal, 1 << 16))
                    log.flush()
        os.close(terminal)


def start(folder: Path, run: str, *args: str, trials: int = TRIALS) -> Driver:
    return Driver(folder, run, *searching(run, *args, trials=trials))


def searching(run: str, *args: str, trials: int = TRIALS) -> tuple[str, ...]:
    paths = ("dataset.path=data", f"run.dir={run}")
    space = () if any(arg.startswith("space=") for arg in args) else ("space=./space.yaml",)
    return ("search", *paths, *space, *COMMON, f"search.trials={trials}", *args)


def is_report(trial: str, epoch: int) -> Callable[[Mapping[str, Any]], bool]:
    return lambda record: (
        record["event"] == "report" and record["id"] == trial and record["epoch"] == epoch
    )


def without_costs(metrics: Mapping[str, float]) -> dict[str, float]:
    """Times and memory are never twice the same."""
    return {name: value for name, value in metrics.items() if not name.startswith("cost/")}


def outcome(run: Path) -> dict[str, Any]:
    """All of a search's result that an interruption must not change."""
    history = read_history(run)
    storage = JournalStorage(JournalFileBackend(str(run / "optuna.journal")))
    study = optuna.load_study(study_name="raudio", storage=storage)
    return {
        "state": history.state,
        "trials": [
            (
                t.id,
                t.state,
                t.reason,
                t.params,
                t.signature,
                [(r.epoch, without_costs(r.metrics)) for r in t.reports],
            )
            for t in history.ranked()
        ],
        "study": [(t.state, t.value, t.params, t.intermediate_values) for t in study.trials],
        "files": sorted(str(path.relative_to(run)) for path in run.glob("trials/*/*.pt")),
        "weights": (run / "bundle" / "weights.safetensors").read_bytes(),
    }


def ends(run: Path) -> list[str]:
    return [
        record["id"]
        for record in read_records(run)
        if record["event"] == "trial_end" and record["state"] != "stopped"
    ]


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The run of a search that nothing disturbed."""
    driver = start(place, "whole")
    assert driver.end() == 0, driver.log.read_text()
    return driver.run


@pytest.fixture(scope="module")
def orphans() -> Iterator[list[Process]]:
    """Processes of a killed driver; at the end of this module none is there any more.

    When its GCS is gone with the driver, Ray's two agents a node still try for 60 s to tell it so.
    """
    found: list[Process] = []
    yield found
    assert outlive(found, 75) == []


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Ends whatever a failed test left running."""
    yield
    for process in below(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


# --- undisturbed -------------------------------------------------------------------------------


def test_status_tells_the_whole_story(place: Path, whole: Path) -> None:
    result = looked_at(place, "status", "whole", "--json")
    assert result.exit_code == 0
    status = json.loads(result.stdout)
    assert status["state"] == "completed"
    assert (status["metric"], status["mode"]) == ("valid/accuracy", "max")
    assert len(status["trials"]) == TRIALS
    assert {trial["state"] for trial in status["trials"]} == {"completed", "pruned"}
    for trial in status["trials"]:
        assert trial["value"] == trial["metrics"]["valid/accuracy"]
        assert trial["epochs"] == 4 if trial["state"] == "completed" else trial["epochs"] < 4
        assert set(trial["params"]) == {"optimizer.lr", "model.width"}
        assert trial["seconds"] > 0
    values = [trial["value"] for trial in status["trials"]]
    assert values == sorted(values, reverse=True)
    assert status["best"]["id"] == status["trials"][0]["id"]
    assert status["best"]["value"] == max(values) > 0.2  # ten classes: chance is 0.1


def test_the_run_folder_is_what_the_design_says(whole: Path) -> None:
    for name in (
        "search.yaml",
        "space.yaml",
        "environment.json",
        "preflight.json",
        "records.jsonl",
        "optuna.journal",
    ):
        assert (whole / name).is_file(), name
    assert json.loads((whole / "environment.json").read_text())["packages"]["ray"]
    assert (whole / "space.yaml").read_text().count("optimizer.lr") == 1
    folders = sorted(path.name for path in (whole / "trials").iterdir())
    assert folders == [f"{number:04d}" for number in range(TRIALS)]
    assert all((whole / "trials" / name / "experiment.yaml").is_file() for name in folders)
    # The best two keep their best epoch's weights; nobody needs more.
    best = [trial.id for trial in read_history(whole).ranked()[:2]]
    assert outcome(whole)["files"] == sorted(f"trials/{name}/best.pt" for name in best)


def test_optuna_reads_the_journal(whole: Path) -> None:
    states = [state.name for state, *_ in outcome(whole)["study"]]
    ended = [trial.state for trial in read_history(whole).trials.values()]
    assert states == [{"completed": "COMPLETE", "pruned": "PRUNED"}[state] for state in ended]


def test_the_bundle_gives_the_recorded_metrics(place: Path, whole: Path) -> None:
    result = looked_at(place, "evaluate", "whole/bundle", "data", "--split", "valid", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    history = read_history(whole)
    best = history.best()
    assert best is not None
    recorded = best.best_metrics(history.metric, history.mode)
    assert found["clips"] == Manifest.read(str(place / "data")).splits["valid"].clips
    for name, value in found["metrics"].items():
        assert value == pytest.approx(recorded[f"valid/{name}"], abs=1e-6), name


def test_no_trial_has_looked_at_the_test_split(place: Path, whole: Path) -> None:
    """Its shards are zeros: who reads them fails, as evaluate does, and the search did not."""
    result = raudio(place, "evaluate", "whole/bundle", "data", "--split", "test")
    assert result.returncode == 2
    assert "test-00000.parquet" in result.stderr
    assert read_history(whole).state == "completed"


# --- interrupted -------------------------------------------------------------------------------


def test_a_killed_trial_and_then_a_killed_driver_change_nothing(
    place: Path, whole: Path, orphans: list[Process]
) -> None:
    driver = start(place, "killed")

    driver.until(is_report("0001", 1))
    (trial,) = driver.trials()
    os.kill(trial.pid, signal.SIGKILL)  # in its second epoch, or on the way there
    driver.until(lambda record: record["event"] == "lost")
    driver.until(is_report("0001", 2))
    (other,) = driver.trials()
    assert other.pid != trial.pid

    driver.until(is_report("0002", 1))
    finished = ends(driver.run)
    assert "0001" in finished
    family = driver.family()
    assert len(family) > 4
    driver.process.kill()
    killed = time.monotonic()
    orphans += family
    assert outlive(without_agents(family), SOON) == []
    print(f"the processes of a killed driver were gone after {time.monotonic() - killed:.1f} s")
    status = json.loads(looked_at(place, "status", "killed", "--json").stdout)
    assert status["state"] == "interrupted"

    result = raudio(place, "resume", "killed")
    assert result.returncode == 0, result.stderr
    assert outcome(driver.run) == outcome(whole)
    assert len(ends(driver.run)) == len(set(ends(driver.run))) == TRIALS
    records = list(read_records(driver.run))
    again = [r for r in records if r["event"] == "search_start"][-1]
    late = records[records.index(again) :]
    assert not {r["id"] for r in late if r["event"] in ("trial_start", "report")} & set(finished)
    history = read_history(driver.run)
    assert {name: trial.lost for name, trial in history.trials.items() if trial.lost} == {"0001": 1}


@pytest.mark.long
def test_killed_at_random_moments_again_and_again(
    place: Path, whole: Path, orphans: list[Process]
) -> None:
    draw = random.Random(4)
    driver = start(place, "random")
    for kill, trial in enumerate(("0000", "0002", "0003")):
        driver.until(is_report(trial, 1))
        time.sleep(draw.uniform(0, 0.8))  # anywhere in an epoch, or in what follows it
        orphans += (family := driver.family())
        driver.process.kill()
        assert outlive(without_agents(family), SOON) == []
        if kill < 2:
            driver = Driver(place, "random", "resume", "random")
    result = raudio(place, "resume", "random")
    assert result.returncode == 0, result.stderr
    assert outcome(driver.run) == outcome(whole)
    assert len(ends(driver.run)) == len(set(ends(driver.run))) == TRIALS


def test_sigterm_is_ctrl_c_and_the_second_signal_ends_it_at_once(
    place: Path, orphans: list[Process]
) -> None:
    driver = start(place, "terminated")
    driver.until(is_report("0000", 1))
    orphans += driver.family()
    driver.process.terminate()
    time.sleep(0.01)
    driver.process.terminate()
    assert driver.end(SOON) in (130, 143), driver.log.read_text()
    assert "Traceback" not in driver.log.read_text()
    history = read_history(driver.run)
    assert history.state == "stopped"
    assert [trial.state for trial in history.trials.values()][-1] == "stopped"


def test_ctrl_c_stops_within_seconds_and_a_larger_budget_goes_on(
    place: Path, whole: Path, orphans: list[Process]
) -> None:
    driver = start(place, "stopped", trials=3)
    driver.until(is_report("0001", 1))
    family = driver.family()
    os.killpg(driver.process.pid, signal.SIGINT)  # as the terminal does: to the whole group
    interrupted = time.monotonic()
    assert driver.end() == 130, driver.log.read_text()
    seconds = time.monotonic() - interrupted
    print(f"stopped {seconds:.1f} s after Ctrl-C")
    assert seconds < SOON
    orphans += family
    assert outlive(without_agents(family), SOON) == []
    said = driver.log.read_text()
    assert "raudio resume" in said
    assert "Traceback" not in said
    history = read_history(driver.run)
    assert history.state == "stopped"
    assert [trial.state for trial in history.trials.values()][-1] == "stopped"

    result = raudio(place, "resume", "stopped", f"search.trials={TRIALS}")
    assert result.returncode == 0, result.stderr
    assert outcome(driver.run) == outcome(whole)
    assert len(ends(driver.run)) == len(set(ends(driver.run))) == TRIALS


def test_a_closed_terminal_stops_it_as_ctrl_c_does(place: Path, orphans: list[Process]) -> None:
    """It leaves what Ctrl-C leaves, from which the test above goes on."""
    driver = Terminal(place, "closed", *searching("closed"))
    try:
        driver.until(is_report("0001", 1))
        orphans += (family := driver.family())
    finally:
        driver.close()
    assert outlive(without_agents(family), SOON) == []
    history = read_history(driver.run)
    assert (history.state, history.reason) == ("stopped", "interrupted")
    assert [trial.state for trial in history.trials.values()] == ["completed", "stopped"]
    assert (driver.run / "bundle").exists()


@pytest.mark.parametrize("kind", ["gcs_server", "raylet"])
def test_a_dead_ray_ends_it(place: Path, orphans: list[Process], kind: str) -> None:
    """Although Ray waits for its GCS, and Tune has ears for signals."""
    driver = start(place, kind)
    driver.until(is_report("0000", 1))
    orphans += (family := driver.family())
    (dead,) = [process for process in family if f"/{kind} " in process.command]
    os.kill(dead.pid, signal.SIGKILL)
    assert driver.end(SOON) == 1, driver.log.read_text()
    said = driver.log.read_text()
    assert f"Ray's process {kind} on this machine has died" in said
    assert f"; go on with it: raudio resume {kind}\n" in said
    assert "Traceback" not in said
    assert read_history(driver.run).state == "failed"
    assert outlive(without_agents(family), SOON) == []


def test_ctrl_c_while_ray_starts(place: Path, orphans: list[Process]) -> None:
    driver = start(place, "early")
    driver.until(lambda record: record["event"] == "search_start")
    time.sleep(2)
    orphans += (family := driver.family())
    os.killpg(driver.process.pid, signal.SIGINT)
    interrupted = time.monotonic()
    assert driver.end() == 130, driver.log.read_text()
    assert time.monotonic() - interrupted < SOON
    assert outlive(without_agents(family), SOON) == []
    assert "raudio resume early" in driver.log.read_text()
    assert "Traceback" not in driver.log.read_text()
    assert read_history(driver.run).state == "stopped"


# --- failures ----------------------------------------------------------------------------------

#: With this rate, a weight decay of w multiplies the weights by 1 - w a step.
DIVERGE = ("optimizer=sgd", "optimizer.lr=1", "training.clip_norm=null", "search.sampler=grid")


def test_a_trial_that_diverges_has_failed_and_the_search_goes_on(place: Path) -> None:
    space = "params:\n  optimizer.weight_decay: choice(0.0, 10, 0.0001)\n"
    (place / "some.yaml").write_text(space)
    settings = (*DIVERGE, "space=./some.yaml", "search.grace=4")
    driver = start(place, "diverging", *settings, trials=3)
    assert driver.end() == 0, driver.log.read_text()
    history = read_history(driver.run)
    states = [trial.state for trial in history.trials.values()]
    assert states == ["completed", "failed", "completed"]
    (failed,) = [trial for trial in history.trials.values() if trial.state == "failed"]
    assert failed.kind == "non-finite loss"
    assert "at step" in (failed.reason or "")
    assert "NonFiniteError" in (driver.run / "trials" / failed.id / "error.txt").read_text()
    best = history.best()
    assert best is not None
    assert best.state == "completed"
    said = json.loads(looked_at(place, "status", "diverging", "--json").stdout)["trials"]
    assert said[-1]["state"] == "failed"


def test_when_every_trial_fails_the_search_stops_with_the_error(place: Path) -> None:
    (place / "bad.yaml").write_text("params:\n  optimizer.weight_decay: choice(10, 9, 8, 7, 6)\n")
    settings = (*DIVERGE, "space=./bad.yaml", "search.max_failures=2")
    driver = start(place, "failing", *settings)
    assert driver.end() == 1, driver.log.read_text()
    history = read_history(driver.run)
    assert history.state == "failed"
    assert len(history.trials) == 2
    said = driver.log.read_text()
    assert "every trial fails: non-finite loss: " in said
    assert "Traceback" not in said
    assert not (driver.run / "bundle").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run.dir=whole"], ["run.dir='whole' exists", "raudio resume whole"]),
        (["search.trials=0"], ["search.trials=0", "1"]),
        (["resources.cpus=512"], ["resources.cpus=512", "this machine has", "at most"]),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    place: Path, whole: Path, args: list[str], said: list[str]
) -> None:
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    run = [] if args[0].startswith("run.dir") else ["run.dir=refused"]
    result = raudio(place, "search", "dataset.path=data", *run, *args)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert all(text in line for text in said), line
    assert "Traceback" not in result.stderr
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before


# --- several workers ---------------------------------------------------------------------------


@pytest.fixture
def other_cluster() -> Iterator[None]:
    """What Ray takes for a second cluster on this machine, where Ray Train's cleaner then fails."""
    sleep = ["raylet", "-c", "import time; time.sleep(999)", "--gcs-address=127.0.0.1:1"]
    with subprocess.Popen(sleep, executable=sys.executable) as process:
        yield
        process.kill()


@pytest.mark.long
@pytest.mark.timeout(600)  # each trial starts eight processes
@pytest.mark.usefixtures("other_cluster")
def test_two_workers_train_a_trial_and_measure_all_clips(place: Path) -> None:
    """The second trial is pruned while its workers train on: the third needs their places."""
    space = "params:\n  optimizer.lr: choice(0.01, 0.000001, 0.003)\n"
    (place / "pruned.yaml").write_text(space)
    settings = ("space=./pruned.yaml", "search.sampler=grid", "resources.workers=2")
    driver = start(place, "workers", *settings, trials=3)
    assert driver.end(500) == 0, driver.log.read_text()
    history = read_history(driver.run)
    trials = list(history.trials.values())
    assert [trial.state for trial in trials][:2] == ["completed", "pruned"]
    assert (trials[0].epochs, trials[1].epochs) == (4, 2)
    assert trials[2].epochs >= 2
    assert not any(trial.lost for trial in trials)
    best = history.best()
    assert best is not None
    recorded = best.best_metrics(history.metric, history.mode)
    result = raudio(place, "evaluate", "workers/bundle", "data", "--split", "valid", "--json")
    # One process that sees every clip measures what the two found together.
    for name, value in json.loads(result.stdout)["metrics"].items():
        assert value == pytest.approx(recorded[f"valid/{name}"], abs=1e-6), name


@pytest.mark.long
@pytest.mark.timeout(600)  # each trial starts eight processes
@pytest.mark.usefixtures("other_cluster")
def test_elastic_trials_train_to_their_end_one_after_the_other(place: Path) -> None:
    """The second one has the places of the first at once, also those that Ray Train reserves."""
    settings = ("resources.workers=[1,2]", "training.epochs=2")
    driver = start(place, "elastic", *settings, trials=2)
    assert driver.end(500) == 0, driver.log.read_text()
    trials = read_history(driver.run).trials.values()
    assert [(trial.state, trial.epochs) for trial in trials] == [("completed", 2)] * 2
    assert not any(trial.lost for trial in trials)
    (there,) = (r for r in read_records(driver.run) if r["event"] == "cluster")
    assert (there["slots"], there["trial_cpus"]) == (1, 2)


# --- other feeds and samplings -----------------------------------------------------------------


@pytest.mark.slow
def test_a_streamed_search_is_the_resident_one(place: Path, whole: Path) -> None:
    driver = start(place, "streamed", "dataset.feed=streamed", trials=2)
    assert driver.end(240) == 0, driver.log.read_text()
    resident, streamed = read_history(whole).trials, read_history(driver.run).trials
    assert list(streamed) == ["0000", "0001"]
    for name, trial in streamed.items():
        assert trial.state == resident[name].state == "completed"
        found, expected = (
            [(report.epoch, without_costs(report.metrics)) for report in each.reports]
            for each in (trial, resident[name])
        )
        assert len(found) == 4
        assert found == expected


TURN = """
import raudio
from raudio.audio.augment import Augmentation, Examples

@raudio.register.augmentation("turn")
class Turn(Augmentation):
    stage = "wave"

    def __init__(self, *, p: float = 0.0) -> None:
        super().__init__(p=p)

    def draw(self, keys, *, seed, epoch):
        return {}

    def apply(self, examples, draw):
        return Examples(-examples.data, examples.lengths, examples.targets)
"""


@pytest.mark.slow
def test_augmented_in_the_stream_is_augmented_on_the_device(place: Path) -> None:
    """The same training, also with a plugin and an adapter, which the tasks have to load."""
    (place / "turn.py").write_text(TURN)
    chain = (
        "augment.chain={either: {kind: choice, p: 0.8, of: {turn: {kind: turn}, "
        "low: {kind: audiomentations.PolarityInversion}, mask: {kind: time_mask}}}}"
    )
    settings = (
        "dataset.feed=streamed", "training.epochs=1", "augment=light", "plugins=[turn.py]", chain,
        "augment.mixup.p=0.5", *COMMON[:5],
    )  # fmt: skip
    metrics = []
    for where in ("device", "stream"):
        run = f"augmented-{where}"
        done = raudio(
            place, "train", "dataset.path=data", f"run.dir={run}", f"augment.where={where}",
            *settings,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (trial,) = read_history(place / run).trials.values()
        assert trial.state == "completed", trial.reason
        metrics += [
            without_costs(record["metrics"])
            for record in read_records(place / run)
            if record["event"] == "report"
        ]
    assert len(metrics) == 2
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3)


@pytest.mark.slow
def test_a_training_by_classes_windows_and_seconds(place: Path) -> None:
    drawn = (
        "dataset.sampling=balanced",
        "dataset.crop=all",
        "dataset.clip_seconds=0.5",
        "training.batch_seconds=12",
        "training.epochs=2",
    )
    model = [setting for setting in COMMON if setting.startswith(("model", "features"))]
    result = raudio(place, "train", "dataset.path=data", "run.dir=drawn", *model, *drawn)
    assert result.returncode == 0, result.stderr
    reports = [r for r in read_records(place / "drawn") if r["event"] == "report"]
    assert len(reports) == 2
    assert all(0 <= report["metrics"]["train/padding"] < 0.2 for report in reports)
