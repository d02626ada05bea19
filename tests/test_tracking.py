"""What trackers are told, by whom, and what becomes of those that fail, hang or are slow; the
trackers themselves are `test_trackers`'s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from search_kit import EPOCHS, KilledError
from tracking_kit import PLUGIN, Searched, lag, tell
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.config import compose, schema, validate
from raudio.config.tracking import Tracking
from raudio.core import components, extras, secrets
from raudio.core.errors import ConfigError
from raudio.records import RECORDS, RunLock, read_history, read_records
from raudio.search import folder as folders
from raudio.search import space_file
from raudio.search.job import check
from raudio.tracking import build, processes
from raudio.tracking.follow import Follower, run_info
from raudio.tracking.processes import LOG, Trackers
from raudio.tracking.tracker import Memory, Outcome, Tracker, tracking_folder


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    registry = components.TRACKERS
    for name in ("_lazy", "_about", "_loaded"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(schema, "Tracking", schema.Tracking)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("raudio_plugin"):
            del sys.modules[name]


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "chosen"),
    [
        ([], None),
        (["tracking=none"], None),
        (["tracking=wandb"], ("wandb",)),
        (["tracking=[wandb,mlflow]"], ("wandb", "mlflow")),
        (["tracking=wandb,mlflow"], ("wandb", "mlflow")),
        (["tracking=wandb", "tracking.trackers=[mlflow]"], ("mlflow",)),
    ],
)
def test_trackers_are_chosen_by_a_list(written: list[str], chosen: Any) -> None:
    assert compose.compose(written).tracking.trackers == chosen


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["tracking=wandbb"], r"unknown tracker 'wandbb' \(closest: 'wandb'\).* always written"),
        (["tracking=wandb", "tracking.wandb.projekt=x"], r"closest: 'tracking\.wandb\.project'"),
        (["tracking.wandb.project=x"], r"tracking\.wandb\.project is a setting of tracking=wandb"),
        (["tracking=wandb", "tracking.wandb.project=a/b"], r"project=a/b: .* none of / "),
        (["tracking=wandb", "tracking.wandb.mode=on"], r"mode=on: must be one of online, offline"),
        (["tracking.clips=-1"], r"tracking\.clips=-1: must be a whole number from 0"),
    ],
)
def test_what_trackers_cannot_have(written: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose.compose(written)


@pytest.mark.parametrize("key", ["tracking", "tracking.wandb.mode"])
def test_trackers_are_no_part_of_a_space(key: str) -> None:
    with pytest.raises(ConfigError, match=r"it belongs to the search, not to a trial"):
        space_file.resolve([f"{key}=choice(online,offline)"])


def test_a_password_in_a_uri_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        compose.compose(["tracking=mlflow", "tracking.mlflow.uri=https://me:hunter22@host"])
    assert "hunter22" not in str(caught.value)


@pytest.mark.slow
def test_a_password_is_not_shown_by_another_mistake_either() -> None:
    mistake = "tracking.mlflow.url=https://me:hunter22@host"
    command = [sys.executable, "-m", "raudio.cli.main", "search", mistake]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "closest: 'tracking.mlflow.uri'" in done.stderr
    assert "hunter22" not in done.stderr
    assert "https://***@host" in done.stderr


def test_a_missing_package_is_found_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "installed", lambda module: module not in ("mlflow", "wandb"))
    run = tmp_path / "run"
    done = CliRunner().invoke(app, ["search", "tracking=[mlflow,wandb]", f"run.dir={run}"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == (
        "tracking=mlflow needs mlflow, which is not installed: pip install 'raudio[mlflow]'; "
        "tracking=wandb needs wandb, which is not installed: pip install wandb"
    )
    assert not run.exists()


def test_asking_for_a_tracker_imports_none() -> None:
    code = (
        "import sys\n"
        "from raudio.config import compose\n"
        "from raudio.tracking import build, follow, processes\n"
        "build.check(compose.compose(['tracking=[wandb,mlflow,tensorboard]']).tracking)\n"
        "print([n for n in ('wandb', 'mlflow', 'tensorboard') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_tracking_changes_no_experiment() -> None:
    given = ["tracking=[wandb]", "tracking.wandb.project=x"]
    assert compose.compose(given).experiment == compose.compose([]).experiment
    assert compose.experiment_for(given, {}) == compose.experiment_for([], {})


def test_local_places_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for uri, absolute in {
        "runs": f"{tmp_path}/runs",
        "sqlite:///a.db": f"sqlite:///{tmp_path}/a.db",
        "https://host": "https://host",
        "databricks": "databricks",
    }.items():
        given = ["tracking=[mlflow,tensorboard]", f"tracking.mlflow.uri={uri}"]
        tracking = compose.compose([*given, "tracking.tensorboard.dir=tb"]).tracking
        found = build.with_absolute_paths(tracking)
        assert (found.mlflow.uri, found.tensorboard.dir) == (absolute, f"{tmp_path}/tb")


@pytest.mark.slow
def test_a_run_that_goes_on_may_be_tracked_elsewhere(tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = check(["tracking=wandb", "tracking.wandb.project=p", "search.trials=2"], echo=print)
    folders.make_run(job, run)
    (run / RECORDS).touch()

    def resumed(*overrides: str) -> Tracking:
        return folders.recorded_job(run, overrides).configuration.tracking

    assert resumed() == job.configuration.tracking
    assert (
        resumed("tracking=[wandb,mlflow]", "tracking.mlflow.experiment=e").mlflow.experiment == "e"
    )
    assert resumed("tracking.wandb.project=q").wandb.project == "q"
    assert resumed("tracking=mlflow") == Tracking(trackers=("mlflow",))
    assert resumed("tracking=none").trackers is None
    with pytest.raises(ConfigError, match="wandbb"):
        resumed("tracking=wandbb")


@pytest.mark.usefixtures("registered")
def test_a_user_s_tracker_has_its_settings(tmp_path: Path) -> None:
    plugin = tmp_path / "lines.py"
    plugin.write_text(PLUGIN)
    given = [f"plugins=[{plugin}]", "tracking=[lines]", "tracking.lines.file=x.txt"]
    tracking = compose.compose(given).tracking
    assert validate.to_mapping(tracking)["lines"] == {"file": "x.txt", "fail": "", "sleep": 0.0}
    with pytest.raises(ConfigError, match=r"closest: 'tracking\.lines\.sleep'"):
        compose.compose([*given, "tracking.lines.slep=1"])


# --- what a tracker is told ----------------------------------------------------------------------


def reports(told: list[tuple[Any, ...]]) -> list[tuple[str, int]]:
    return [(one[1], one[2]) for one in told if one[0] == "report"]


def test_a_tracker_is_told_everything_once(tmp_path: Path) -> None:
    searched = Searched(tmp_path / "run")
    searched.finish()
    searched.keep_experiments()
    memory = Memory()
    tell(searched.run, memory)
    history = read_history(searched.run)
    assert {state for _, trial, state in ends(memory)} == {"completed", "pruned", "failed"}
    for trial in history.trials.values():
        own = [one for one in memory.told if one[1:2] == (trial.id,)]
        assert own[0][0] == "start_trial"
        assert own[-1] == ("end_trial", trial.id, trial.state)
        assert [(r[2], r[3]) for r in own if r[0] == "report"] == [
            (report.epoch, report.metrics) for report in trial.reports
        ]
        settings = next(one[2] for one in reversed(own) if one[0] == "start_trial")
        assert trial.params.items() <= settings.items()
        if trial.kind != "configuration":  # it had no experiment
            assert settings["model"] == "cnn10"
            assert {k for k in settings if k.startswith("augment.")} == {
                "augment.where", "augment.gain.p", "augment.gain.max_db",
            }  # fmt: skip
    assert memory.told[-2][:2] == ("end_search", "completed")


def ends(memory: Memory) -> list[tuple[Any, ...]]:
    return [one for one in memory.told if one[0] == "end_trial"]


def test_a_tracker_follows_a_run_that_grows(tmp_path: Path) -> None:
    """Record by record; its own process may die and be replaced between any two of them."""
    searched = Searched(tmp_path / "run", trials=4)
    searched.finish()
    searched.keep_experiments()
    whole = Memory()
    tell(searched.run, whole)
    lines = (searched.run / RECORDS).read_bytes().splitlines(keepends=True)
    for each in (1, 3):
        grown, memory = tmp_path / f"grown-{each}", Memory()
        os.symlink(searched.run / "trials", Searched(grown).run / "trials")
        follower = Follower(grown, memory, "test")
        assert not follower.step()
        for start in range(0, len(lines), 3):
            with (grown / RECORDS).open("ab") as out:
                out.writelines(lines[start : start + 3])
            if start % each == 0:
                follower = Follower(grown, memory, "test")
            assert follower.step()
            assert not follower.step()
        follower.end(Outcome())
        assert reports(memory.told) == reports(whole.told)
        assert ends(memory) == ends(whole)


class Forgetful(Memory):
    """Loses what it was told since the last time that it ended in peace."""

    buffers = True


@pytest.mark.parametrize("kind", [Memory, Forgetful])
def test_sessions_double_nothing(kind: type[Memory], tmp_path: Path) -> None:
    """Killed drivers, at each of their records, each with a process that tells until its end."""
    whole = Searched(tmp_path / "whole", trials=3)
    whole.finish()
    trials = read_history(whole.run).trials.values()
    expected = [(trial.id, report.epoch) for trial in trials for report in trial.reports]
    count = len(list(read_records(whole.run)))
    for deadline in range(2, count + 1, 5):
        searched, memory = Searched(tmp_path / f"{deadline}", trials=3), kind()
        with pytest.raises(KilledError):
            searched.session(deadline).finish()
        tell(searched.run, memory)
        assert memory.told[-2][1] == ("completed" if deadline == count else "interrupted")
        lag(searched.run)
        searched.finish()
        tell(searched.run, memory)
        assert sorted(reports(memory.told)) == sorted(expected)
        last = {trial: state for _, trial, state in ends(memory)}
        assert set(last.values()) <= {"completed", "pruned", "failed"}
        keys = {one[1] for one in memory.told if one[0] == "start_search"}
        assert len(keys) == 1


def test_a_tracker_that_lost_its_memory_is_told_again(tmp_path: Path) -> None:
    """Such as another server than the last session's."""
    searched = Searched(tmp_path / "run", trials=2)
    searched.finish()
    first, second = Memory(), Memory()
    tell(searched.run, first)
    tell(searched.run, second)
    assert reports(first.told) == reports(second.told) != []


def test_a_trial_that_waits_for_its_turn_has_not_ended(tmp_path: Path) -> None:
    searched = Searched(
        tmp_path / "run", trials=4, scheduler="pbt", sampler="random", experiment_for=lambda p: p
    )
    searched.finish()
    stops = [r for r in read_records(searched.run) if r.get("state") == "stopped"]
    assert stops
    memory = Memory()
    tell(searched.run, memory)
    assert sorted(one[2] for one in ends(memory)) == ["completed"] * 4
    assert all(epochs == list(range(1, EPOCHS + 1)) for epochs in by_trial(memory).values())


def by_trial(memory: Memory) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for trial, epoch in reports(memory.told):
        found.setdefault(trial, []).append(epoch)
    return found


@pytest.mark.parametrize(
    ("given", "name"),
    [(None, "a"), ("/elsewhere/b/", "b"), ("runs/c", "c"), ("s3://sounds/runs/d", "d")],
)
@pytest.mark.parametrize(
    ("path", "dataset"),
    [("/data/birds/", "birds"), ("s3://x/frogs", "frogs"), ("[a/owls,b/wrens]", "owls+wrens")],
)
def test_a_run_is_called_by_its_folder(
    given: str | None, name: str, path: str, dataset: str, tmp_path: Path
) -> None:
    run = Searched(tmp_path / "a", f"dataset.path={path}").run
    info = run_info(run, {"time": 1.0}, given)
    assert (info.name, info.dataset) == (name, dataset)


def test_no_secret_reaches_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter22hunter22")
    assert secrets.redact("to https://me:pw@host/x, s3://k@b: hunter22hunter22") == (
        "to https://***@host/x, s3://***@b: ***"
    )
    assert not secrets.has_credentials("https://host/user@example.org")
    searched = Searched(tmp_path / "run", trials=1)
    searched.finish()
    text = "name: cnn\n"
    (searched.run / "trials" / "0000" / "experiment.yaml").write_text(
        f"dataset: {{path: 'https://me:hunter22@host/d'}}\nmodel: {{{text.strip()}}}\n"
    )
    memory = Memory()
    tell(searched.run, memory)
    assert "https://***@host/d" in repr(memory.told)
    assert "hunter22" not in repr(memory.told)


# --- processes -----------------------------------------------------------------------------------


class Feeding:
    """The trackers of a run that is searched while they are fed.

    Args:
        folder: for everything.
        settings: of the tracker `lines`.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.plugin = folder / "lines.py"
        self.plugin.write_text(PLUGIN)
        self.file = folder / "lines.txt"
        self.said: list[str] = []
        validate.use_plugins([str(self.plugin)])
        given = ["tracking=lines", f"tracking.lines.file={self.file}"]
        given += [f"tracking.lines.{name}={value}" for name, value in settings.items()]
        self.searched = Searched(folder / "run", *given, trials=4)
        self.tracking = compose.compose(given).tracking

    def trackers(self, patience: float | None = 30.0) -> Trackers:
        return Trackers(
            self.searched.run,
            self.tracking,
            plugins=[str(self.plugin)],
            name="runs/mine",
            say=self.said.append,
            patience=patience,
        )

    @property
    def lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    @property
    def log(self) -> str:
        return (tracking_folder(self.searched.run) / LOG).read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_process_feeds_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "do-not-tell-it")
    feeding = Feeding(tmp_path)
    with RunLock(feeding.searched.run), feeding.trackers() as trackers:
        feeding.searched.finish()
    assert not trackers.failed
    assert feeding.said == []
    history = read_history(feeding.searched.run)
    assert feeding.lines[0] == "start_search mine"
    assert feeding.lines[-1] == "end_search completed"
    assert [line for line in feeding.lines if line.startswith("report")] == [
        f"report {t.id} {r.epoch}" for t in history.trials.values() for r in t.reports
    ]
    assert "noise of a library ***" in feeding.log
    assert "do-not-tell-it" not in feeding.log


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("where", ["start_search", "report", "end_search"])
def test_a_tracker_that_fails_is_told_of_once(where: str, tmp_path: Path) -> None:
    feeding = Feeding(tmp_path, fail=where)
    with feeding.trackers() as trackers:
        feeding.searched.finish()
        trackers.look(10 if where != "end_search" else 0)
    assert read_history(feeding.searched.run).state == "completed"
    assert trackers.failed == {"lines"}
    (line,) = feeding.said
    assert line.startswith(
        "tracking: lines failed (ConnectionError: https://***@host/api is unreachable); "
        "the run itself is whole."
    )
    assert "raudio track runs/mine tracking=lines (" in line
    assert "Traceback" in feeding.log
    assert "hunter22" not in feeding.log


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_tracker_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    feeding = Feeding(tmp_path, sleep=3600)
    with feeding.trackers(patience=2.0) as trackers:
        (process,) = trackers._running.values()
        feeding.searched.finish()
        started = time.monotonic()
    assert time.monotonic() - started < 4
    assert process.poll() is not None
    assert [line.partition(";")[0] for line in feeding.said] == [
        "tracking: lines has not finished in 2.0 s"
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_who_interrupts_again_does_not_wait(tmp_path: Path) -> None:
    feeding = Feeding(tmp_path, sleep=3600)
    feeding.searched.finish()
    trackers = feeding.trackers()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), trackers:
        raise KeyboardInterrupt
    assert time.monotonic() - started < 2 * processes.HURRY
    assert trackers.failed == {"lines"}


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_tracker_that_crashes_is_told_of(tmp_path: Path) -> None:
    feeding = Feeding(tmp_path)
    with feeding.trackers() as trackers:
        (process,) = trackers._running.values()
        process.kill()
        process.wait()
        trackers.look(1)
        feeding.searched.finish()
    assert [line.partition(";")[0] for line in feeding.said] == [
        "tracking: lines has ended with status -9"
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_what_a_tracker_missed_is_sent_later(tmp_path: Path) -> None:
    feeding = Feeding(tmp_path)
    feeding.searched.finish()
    command = ["track", str(feeding.searched.run), f"plugins=[{feeding.plugin}]"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    lines = feeding.lines
    assert lines[-1] == "end_search completed"
    assert sum(line.startswith("report") for line in lines) == sum(
        len(trial.reports) for trial in read_history(feeding.searched.run).trials.values()
    )
    done = CliRunner().invoke(app, [*command, "tracking.lines.fail=end_search"])
    assert done.exit_code == 1
    assert "tracking: lines failed" in done.stderr
    again = feeding.lines[len(lines) :]
    assert [line.split()[0] for line in again] == ["start_search", "end_search"]


def test_what_cannot_be_tracked(tmp_path: Path) -> None:
    searched = Searched(tmp_path / "run", trials=1)
    searched.finish()
    for overrides, message in {
        (): "no tracker is chosen",
        ("search.trials=2",): r"search\.trials is no setting of trackers",
        ("tracking=wandbb",): "closest: 'wandb'",
    }.items():
        done = CliRunner().invoke(app, ["track", str(searched.run), *overrides])
        assert isinstance(done.exception, ConfigError)
        with pytest.raises(ConfigError, match=message):
            raise done.exception


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_tracker_ends_with_its_driver(tmp_path: Path) -> None:
    """A driver that is killed closes its end of the pipe, and no process is left behind."""
    feeding = Feeding(tmp_path)
    trackers = feeding.trackers().__enter__()
    (process,) = trackers._running.values()
    session = feeding.searched.session(10)
    with pytest.raises(KilledError):
        session.drive()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0
    assert feeding.lines[-1] == "end_search interrupted"
    trackers.__exit__(None, None, None)


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_no_tracker_slows_the_driver(tmp_path: Path) -> None:
    """A second for each report, and none of it in the driver: what it spends on a report hardly
    changes."""

    def seconds(feeding: Feeding | None) -> float:
        searched = feeding.searched if feeding else Searched(tmp_path / "plain", trials=40)
        searched.settings["trials"] = 40
        session = searched.session()
        engine = session.engine
        if feeding is not None:
            with feeding.trackers(patience=0.1) as trackers:
                engine._watch = lambda record: trackers.look()  # as the runner does
                started = time.process_time()
                session.drive()
                return time.process_time() - started
        started = time.process_time()
        session.drive()
        return time.process_time() - started

    plain = seconds(None)
    feeding = Feeding(tmp_path, sleep=1)
    tracked = seconds(feeding)
    reports_told = sum(r["event"] == "report" for r in read_records(feeding.searched.run))
    assert reports_told >= 60
    assert tracked < 1.5 * plain
    assert (tracked - plain) / reports_told < 1e-3


def test_a_tracker_needs_no_method_of_its_own(tmp_path: Path) -> None:
    searched = Searched(tmp_path / "run", trials=2)
    searched.finish()
    tell(searched.run, Tracker())
    position = json.loads((tracking_folder(searched.run) / "test.json").read_text())
    assert position == {"records": len(list(read_records(searched.run))), "ended": True}
