"""What the runner checks, writes and resumes, without Ray: the search itself is `test_engine`'s and
`test_search_end_to_end`'s.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
import yaml

from raudio.cli.search import show
from raudio.config.signature import signature
from raudio.core.errors import ConfigError, DataError, RunError
from raudio.data.prepare import Options, prepare
from raudio.data.synth import synth
from raudio.records import History
from raudio.search import runner
from raudio.search.job import check, longest_warmup

PLUGIN = """
import torch
import raudio

@raudio.register.model("mine")
class Mine(torch.nn.Module):
    def __init__(self, *, n_features: int, n_outputs: int, width: int = 64) -> None:
        super().__init__()
"""

#: `run_trial` as Tune calls it, in a process that has imported nothing of the driver's.
TRIAL = """
import json, os, sys, types
from pathlib import Path
ray = sys.modules["ray"] = types.ModuleType("ray")
ray.tune = types.SimpleNamespace(report=print)
from raudio.config.goal import Goal
from raudio.search import trial
from raudio.training.worker import Data, Keeping
trial.launch = lambda experiment, *args, **kwargs: print(experiment.model)
config = {"id": "0000", "experiment": json.loads(sys.argv[1]), "max_workers": 1}
keeping = Keeping(".", 0.0)
os.makedirs("trials/0000")
trial.run_trial(
    config, data=Data("", None), keeping=keeping, gpus=0, memory=0, goal=Goal({"": "max"})
)
"""


def python(code: str, *arguments: str, cwd: Path) -> str:
    """What a process of its own prints: what a plugin registers stays."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_trial_s_process_finds_the_plugins_from_its_own_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "it's here, and = odd", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (here / "my plugin.py").write_text(PLUGIN)
    experiment = python(
        "import json\n"
        "from raudio.config.validate import to_mapping\n"
        "from raudio.search.job import check\n"
        "job = check(['plugins=[my plugin.py]', 'model=mine'], single=True, echo=print)\n"
        "trial = job.experiment_for({})\n"
        "assert trial == job.experiment\n"
        "print(json.dumps(to_mapping(trial)))\n",
        cwd=here,
    ).splitlines()[-1]
    assert python(TRIAL, experiment, cwd=there) == "Mine(name='mine', width=64)\n"


@pytest.mark.slow
def test_a_run_of_another_machine_goes_on_with_the_plugins_of_this_one(tmp_path: Path) -> None:
    for folder in ("there", "here"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PLUGIN)
    python(
        "import os\n"
        "from raudio.search.folder import make_run\n"
        "from raudio.search.job import check\n"
        "from pathlib import Path\n"
        "overrides = ['plugins=there/mine.py', 'model=mine', 'space=optimizer']\n"
        "make_run(check(overrides, echo=print), Path('run'))\n",
        cwd=tmp_path,
    )
    (tmp_path / "there" / "mine.py").unlink()
    found = python(
        "from pathlib import Path\n"
        "from raudio.core.errors import ConfigError\n"
        "from raudio.search.folder import recorded_job\n"
        "try:\n"
        "    recorded_job(Path('run'), [])\n"
        "except ConfigError as error:\n"
        "    assert 'raudio resume RUN plugins=FILE' in str(error)\n"
        "job = recorded_job(Path('run'), ['plugins=here/mine.py'])\n"
        "print(job.experiment.plugins, job.experiment_for({}).plugins)\n"
        "from raudio.config.validate import use_plugins\n"
        "use_plugins(['there/mine.py'])\n",  # as a trial's experiment names it
        cwd=tmp_path,
    )
    mine = (str(tmp_path / "here" / "mine.py"),)
    assert found == f"{mine} {mine}\n"


@pytest.mark.slow
def test_plugins_of_one_name_are_two(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PLUGIN.replace('"mine"', f'"{folder}"'))
    names = python(
        "from raudio.config.validate import use_plugins\n"
        "from raudio.core.components import MODELS\n"
        "use_plugins(['one/mine.py', 'two/mine.py', 'one/../one/mine.py'])\n"
        "print(MODELS.names())\n",
        cwd=tmp_path,
    )
    assert names == "['cnn', 'cnn10', 'crnn', 'one', 'two']\n"


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The trials that each session wants in all; none is run, and Ray is not started."""
    seen: list[int | None] = []

    def no_trials(
        job: Any, place: Any, engine: Any, display: Any, last_words: Any
    ) -> tuple[str, None]:
        seen.append(engine.trials_wanted)
        return "stopped", None

    monkeypatch.setattr(runner, "_trials", no_trials)
    return seen


def test_a_changed_budget_holds_for_the_sessions_after_it(
    wanted: list[int | None], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    runner.search("search.trials=2", f"run.dir={run}", quiet=True)
    runner.resume(run, "search.trials=5", quiet=True)
    runner.resume(run, quiet=True)
    runner.resume(run, "search.trials=none", "search.time_budget=5m", quiet=True)
    assert wanted == [2, 5, 5, None]


def test_who_interrupts_the_export_is_told_how_to_do_it(
    wanted: list[int | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(place: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_export", interrupted)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        runner.search("search.trials=2", f"run.dir={run}")
    assert f"raudio export {run}" in capsys.readouterr().err
    assert wanted == [2]


@pytest.mark.parametrize("first", [(), ("training.checkpoint_every=5m",)])
def test_how_often_trials_save_may_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: tuple[str, ...]
) -> None:
    """Of those that are still to be made, and in the sessions after it."""
    seen: list[tuple[str | None, str | None]] = []
    signatures: set[str] = set()

    def no_trials(
        job: Any, place: Any, engine: Any, display: Any, last_words: Any
    ) -> tuple[str, None]:
        trial = job.experiment_for({"optimizer.lr": 0.01})
        seen.append((trial.training.checkpoint_every, job.configuration.cluster.lost_every))
        signatures.add(signature(trial, ""))
        return "stopped", None

    monkeypatch.setattr(runner, "_trials", no_trials)
    run = tmp_path / "run"
    runner.search("space=optimizer", "search.trials=2", f"run.dir={run}", *first, quiet=True)
    changes = ("training.checkpoint_every='7 steps'", "cluster.lost_every=4h")
    runner.resume(run, *changes, quiet=True)
    runner.resume(run, quiet=True)
    runner.resume(run, "training.checkpoint_every=none", quiet=True)
    assert seen[1:] == [("7 steps", "4h"), ("7 steps", "4h"), (None, "4h")]
    assert len(signatures) == 1
    with pytest.raises(ConfigError, match=r"training\.checkpoint_every='soon'"):
        runner.resume(run, "training.checkpoint_every=soon", quiet=True)


def test_what_cannot_change_when_a_run_goes_on(wanted: list[int | None], tmp_path: Path) -> None:
    run = tmp_path / "run"
    runner.search("search.trials=2", f"run.dir={run}", quiet=True)
    before = (run / "search.yaml").read_bytes()
    for override, said in {
        "optimizer.lr=0.1": r"optimizer\.lr cannot change .*search\.trials",
        "search.trial=3": r"search\.trial cannot change .*\(closest: 'search\.trials'\)",
        "search.trials=3,4": r"search\.trials=choice\(3, 4\) has several values",
        "search.trials=0": r"search\.trials=0: must be",
    }.items():
        with pytest.raises(ConfigError, match=said):
            runner.resume(run, override, quiet=True)
    assert (run / "search.yaml").read_bytes() == before
    assert wanted == [2]
    (run / "search.yaml").write_text("configuration: {}")
    with pytest.raises(RunError, match="damaged"):
        runner.resume(run, quiet=True)


def test_where_no_cluster_answers_nothing_goes_on(
    wanted: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the data are looked for, and nothing is written."""
    run = tmp_path / "run"
    runner.search("search.trials=2", f"run.dir={run}", quiet=True)
    recorded = yaml.safe_load((run / "search.yaml").read_text())
    recorded["configuration"]["cluster"]["address"] = "127.0.0.1:1"
    (run / "search.yaml").write_text(yaml.safe_dump(recorded))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("raudio.search.job.locate", lambda *_: pytest.fail("looked for the data"))
        for overrides in ([], ["search.trials=5"]):
            with pytest.raises(ConfigError, match=r"^cluster\.address=127\.0\.0\.1:1: no Ray"):
                runner.resume(run, *overrides, quiet=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    runner.resume(run, "cluster.address=local", quiet=True)
    assert wanted == [2, 2]


def test_a_search_looks_at_its_data_and_goes_on(
    wanted: list[int | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A leak is shown and written into the run; a search that can run is not stopped by it."""
    draw = np.random.default_rng(0)
    lines = ["file,label,split"]
    for number in range(32):
        wave = draw.uniform(-0.5, 0.5, 800)
        split = ("train", "train", "valid", "test")[number % 4]
        names = [f"{number}.wav"] if number else ["0.wav", "copy.wav"]
        for name, of in zip(names, (split, "valid"), strict=False):
            soundfile.write(tmp_path / name, wave, 8000)
            lines.append(f"{name},{('cat', 'dog')[number // 4 % 2]},{of}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    prepare(
        tmp_path,
        tmp_path / "d",
        labels=tmp_path / "labels.csv",
        options=Options(allow_leaks=True),
    )
    run = tmp_path / "run"
    runner.search(f"dataset.path={tmp_path / 'd'}", "dataset.clip_seconds=0.3", f"run.dir={run}")
    assert len(wanted) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "data error: 1 recording in more than one split (train, valid)" in said
    assert "data warning: 67% of what a model is given is padding" in said
    assert "raudio data inspect" in said
    found = json.loads((run / "preflight.json").read_text())
    assert [p["code"] for p in found["problems"]] == ["duplicate-across-splits", "padding"]
    assert found["problems"][0]["clips"] == ["0.wav", "copy.wav"]
    assert found["clip_seconds"] == 0.3


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(("feed", "why"), [("resident", "feed=resident"), ("auto", "=2GB")])
def test_augmenting_in_a_stream_needs_a_streamed_feed(feed: str, why: str, single: bool) -> None:
    given = ["augment.where=stream", "augment.gain.p=1"]
    with pytest.raises(ConfigError) as caught:
        check([*given, f"dataset.feed={feed}"], single=single, echo=print)
    message = str(caught.value)
    assert message.startswith("augment.where=stream ")
    assert why in message
    assert message.endswith("set dataset.feed=streamed, or augment.where=device")
    job = check([*given, "dataset.feed=streamed"], single=single, echo=print)
    assert job.experiment.augment.where == "stream"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["augment.background.source={}/no"], r"^augment\.background: source=.* no such folder"),
        (["augment.reverb.source={}"], r"^augment\.reverb: source=.* holds no sound"),
        (
            ["augment.chain.a={{kind: choice, of: {{b: {{kind: background, source: '{}/no'}}}}}}"],
            r"^augment\.chain\.a\.of\.b: source=.* no such folder",
        ),
        (
            ["augment.chain.a.kind=audiomentations.Clip", "augment.chain.a.a_min=2"],
            r"^augment\.chain\.a: audiomentations\.Clip: AssertionError: it refuses .*'a_min': 2",
        ),
        (
            [
                "augment.chain.a.kind=audiomentations.ApplyImpulseResponse",
                "augment.chain.a.ir_path={}/no",
            ],
            r"^augment\.chain\.a\.ir_path='.*/no' does not exist",
        ),
    ],
)
def test_what_augmentations_lack_is_found_before_a_trial(
    given: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no sound")
    with pytest.raises(ConfigError, match=message):
        check([item.format(tmp_path) for item in given], single=True, echo=print)
    soundfile.write(tmp_path / "noise.wav", np.ones(8), 8000)
    job = check([f"augment.reverb.source={tmp_path}"], single=True, echo=print)
    assert job.experiment.augment.reverb.source == str(tmp_path)


def test_a_run_says_where_it_ran(
    wanted: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is no git; and nothing of the environment's variables, which hold keys."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    monkeypatch.setenv("PATH", str(tmp_path))
    runner.search("search.trials=2", f"run.dir={tmp_path / 'run'}", quiet=True)
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert found["commit"] is None
    assert found["cpus"] >= 1
    assert found["packages"]["ray"].startswith("2.")
    assert not [f for f in (tmp_path / "run").iterdir() if b"do-not-tell" in f.read_bytes()]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 0.05),
        (["schedule.warmup=0.2"], 0.2),
        (["schedule=choice(constant,cosine,onecycle)"], 0.3),  # the schedules' own defaults
        (["schedule=choice(constant,onecycle)", "schedule.warmup=0.1"], 0.1),
        (["schedule.warmup=interval(0.0,0.25)"], 0.25),
        (["space=optimizer"], 0.3),
    ],
)
def test_no_trial_is_stopped_in_its_warm_up(overrides: list[str], expected: float) -> None:
    """The grace is one for all trials, so it follows the longest warm-up that may be drawn."""
    assert longest_warmup(check(overrides, echo=print)) == expected


def test_a_run_that_has_lost_a_file_says_which(wanted: list[int | None], tmp_path: Path) -> None:
    run = tmp_path / "run"
    runner.search("search.trials=2", f"run.dir={run}", quiet=True)
    for name in ("space.yaml", "dataset.json", "search.yaml"):
        content = (run / name).read_bytes()
        (run / name).unlink()
        with pytest.raises(RunError, match=rf"{name}' is missing or damaged; this run cannot"):
            runner.resume(run, quiet=True)
        (run / name).write_bytes(content)
    (run / "records.jsonl").write_bytes(b"")
    runner.resume(run, quiet=True)  # killed before its first record
    (run / "records.jsonl").write_bytes(b"")
    (run / "trials" / "0000").mkdir(parents=True)
    with pytest.raises(RunError, match=r"records\.jsonl' is empty.*is lost"):
        runner.resume(run, quiet=True)
    (run / "trials" / "0000").rmdir()
    (run / "trials").rmdir()
    (run / "trials").write_text("in its place")
    with pytest.raises(RunError, match=r"trials' is not a folder"):
        runner.resume(run, quiet=True)
    assert wanted == [2, 2]


def test_without_a_bundle_a_search_says_why(
    wanted: list[int | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    result = runner.search("search.trials=2", f"run.dir={run}", quiet=True)
    assert result.bundle is None
    assert "none of its 0 trials has finished an epoch" in (result.unexported or "")
    report = {"event": "report", "id": "0000", "epoch": 1, "metrics": {"valid/accuracy": 0.5}}
    start = {"event": "trial_start", "id": "0000", "params": {}}
    with (run / "records.jsonl").open("a") as records:
        records.writelines(json.dumps({**record, "time": 1.0}) + "\n" for record in (start, report))
    result = runner.resume(run, quiet=True)
    with pytest.raises(typer.Exit):
        show(result, as_json=False)
    assert "bundle  none: run" in (said := capsys.readouterr().out)
    assert "best.pt any more" in said
    assert runner.search(f"run.dir={tmp_path / 'other'}", "run.export=false").unexported is None


@pytest.mark.parametrize("as_json", [True, False])
def test_the_bundle_of_a_run_in_a_store_is_named_as_it_is_there(
    as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who follows a job has no use for a folder of the machine that it ran on."""
    copy = tmp_path / "copy"
    history = History()
    result = runner.SearchResult(
        copy, "s3://birds/run/", history, history.best(), copy / "bundle", "completed"
    )
    with pytest.raises(typer.Exit):
        show(result, as_json)
    said = capsys.readouterr().out
    assert "s3://birds/run/bundle" in said
    assert str(copy / "bundle") not in said


def test_a_run_and_its_dataset_may_move(
    wanted: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run finds a dataset that was named relative to another folder; one that moved, when it
    is told where it is now; another one in its place is refused."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name, seed in (("data", 0), ("other", 1)):
        synth(tmp_path / "here" / name, clips=60, seed=seed)
    runner.search("search.trials=2", "dataset.path=data", "run.dir=run", quiet=True)
    monkeypatch.chdir(tmp_path / "there")
    (tmp_path / "here" / "run").rename("run")
    runner.resume("run", quiet=True)
    (tmp_path / "here" / "data").rename("data")
    with pytest.raises(DataError, match=r"does not exist.*raudio resume RUN dataset\.path="):
        runner.resume("run", quiet=True)
    with pytest.raises(RunError, match="has changed since"):
        runner.resume("run", f"dataset.path={tmp_path / 'here' / 'other'}", quiet=True)
    runner.resume("run", "dataset.path=data", quiet=True)
    monkeypatch.chdir(tmp_path)
    runner.resume("there/run", "cluster.cpus=1", quiet=True)
    assert wanted == [2] * 4


def test_a_run_of_another_version(
    wanted: list[int | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    runner.search("search.trials=2", f"run.dir={run}", quiet=True)
    recorded = yaml.safe_load((run / "search.yaml").read_text())

    def write(**changes: Any) -> None:
        content = {key: value for key, value in (recorded | changes).items() if value is not None}
        (run / "search.yaml").write_text(yaml.safe_dump(content))

    write(format=2, version="9.1.0")
    with pytest.raises(RunError, match=r"format 2, made by raudio 9\.1\.0; .* install raudio 9"):
        runner.resume(run, quiet=True)
    settings = recorded["configuration"]
    unknown = settings | {"search": settings["search"] | {"patients": 3}}
    write(version="0.0.1", configuration=unknown)
    with pytest.raises(RunError, match=r"made by raudio 0\.0\.1, whose settings .*patients"):
        runner.resume(run, quiet=True)
    # Before runs had a number, and before a setting was there: what they lack has its default.
    older = settings | {"search": {k: v for k, v in settings["search"].items() if k != "keep"}}
    write(format=None, version=None, configuration=older)
    records = (run / "records.jsonl").read_text()
    (run / "records.jsonl").write_text(records.replace('"version": "0.', '"version": "00.'))
    capsys.readouterr()
    runner.resume(run)
    assert "made by raudio 00." in capsys.readouterr().err
    assert yaml.safe_load((run / "search.yaml").read_text())["format"] == 1
    assert wanted == [2, 2]
