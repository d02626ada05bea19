"""Tables, sentences and data about a run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from raudio import records
from raudio.cli.status import status
from raudio.core.errors import RunError
from raudio.records import History, RecordWriter, RunLock, read_history
from raudio.report import tables


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A search of which one trial completed, one was pruned, two failed alike, one is at work."""
    folder = tmp_path / "run"
    with RecordWriter(folder / records.RECORDS) as writer:
        writer.append(
            "search_start",
            version="0.1.0",
            metric="valid/accuracy",
            mode="max",
            trials=8,
            time_budget=60.0,
            resumed=False,
        )
        for number in range(5):
            name = records.trial_id(number)
            writer.append(
                "trial_start",
                id=name,
                params={
                    "optimizer.lr": 0.1 / 3**number,
                    "model": ["cnn", "[red]"][number % 2],
                    "features.window": 0.025,
                    "augment.time_mask.p": 0.5,
                    "augment.freq_mask.p": 0.25,
                },
                signature="x",
            )
        for name, values in {"0000": [0.5, 0.875, 0.75], "0001": [0.25], "0004": [0.5]}.items():
            for epoch, value in enumerate(values, start=1):
                writer.append(
                    "report",
                    id=name,
                    epoch=epoch,
                    metrics={"valid/accuracy": value, "valid/loss": 1 - value},
                    seconds=1.5,
                    final=False,
                )
        writer.append("trial_end", id="0000", state="completed", seconds=90.0)
        writer.append(
            "trial_end", id="0001", state="pruned", reason="worse than 2 of 3", seconds=2.0
        )
        for name in ("0002", "0003"):
            writer.append(
                "trial_end",
                id=name,
                state="failed",
                kind="non-finite loss",
                reason="loss is nan at step 7",
                seconds=1.0,
            )
    return folder


def rendered(renderable: object, width: int = 120) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(renderable)
    return out.getvalue()


def test_the_leaderboard_ranks_and_names(run: Path) -> None:
    lines = rendered(tables.leaderboard(read_history(run)), width=160).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0000", "0004", "0001", "0002", "0003"]
    assert "0.875" in lines[1]
    assert "1 min 30 s" in lines[1]
    # Short names where they are clear, whole ones where two settings end alike.
    assert "lr=0.1" in lines[1]
    assert "optimizer.lr" not in lines[1]
    assert "augment.time_mask.p=0.5" in lines[1]
    assert "model=[red]" in lines[3], "a value is text, not markup"
    assert "failed (non-finite loss)" in lines[4]
    assert "interrupted" in lines[2], "nothing runs in a run without a driver"


def test_the_leaderboard_says_how_many_it_leaves_out(run: Path) -> None:
    text = rendered(tables.leaderboard(read_history(run), top=2))
    assert "best 2 of 5 trials" in text
    assert "0001" not in text
    assert "best" not in rendered(tables.leaderboard(read_history(run), top=5))


def test_a_narrow_terminal_cuts_the_settings_and_nothing_else(run: Path) -> None:
    lines = rendered(tables.leaderboard(read_history(run)), width=80).splitlines()
    assert len(lines) == 6
    assert all(len(line) <= 80 for line in lines)
    assert "0.875" in lines[1]


def test_the_summary_in_words(run: Path) -> None:
    history = read_history(run)
    history.seconds = 200.0
    error = run / "trials" / "0003" / "error.txt"
    error.parent.mkdir(parents=True)
    error.touch()
    assert tables.summary(history, run).splitlines() == [
        "interrupted after 3 min 20 s: 5 of 8 trials "
        "(1 completed, 1 pruned, 2 failed, 1 interrupted)",
        "best valid/accuracy 0.875: trial 0000, epoch 2",
        f"failed 2 times: non-finite loss: loss is nan at step 7; traceback in {error}",
    ]
    with RecordWriter(run / records.RECORDS) as writer:
        writer.append("lost", id="0004", reason="its machine is gone")
    assert tables.summary(read_history(run), run).splitlines()[1] == (
        "processes or machines were lost 1 time; their trials went on from their checkpoints"
    )
    assert tables.summary(History(), run) == "interrupted after 0.0 s: 0 trials"


def test_the_configuration_can_be_used_again() -> None:
    text = rendered(tables.configuration({"optimizer.lr": 0.1234567890123, "x": None, "a": "[b]"}))
    assert [line.split() for line in text.splitlines()] == [
        ["a", "[b]"],
        ["optimizer.lr", "0.1234567890123"],
        ["x", "none"],
    ]


# --- raudio status -----------------------------------------------------------------------------


def app() -> typer.Typer:
    one = typer.Typer()
    one.command()(status)
    return one


def test_status_as_data(run: Path) -> None:
    with RunLock(run):
        done = CliRunner().invoke(app(), [str(run), "--json"])
    data = json.loads(done.stdout)
    assert data["run"] == str(run)
    assert (data["state"], data["metric"], data["mode"]) == ("running", "valid/accuracy", "max")
    assert data["best"]["id"] == "0000"
    assert data["best"]["value"] == 0.875
    assert data["best"]["metrics"] == {"valid/accuracy": 0.875, "valid/loss": 0.125}
    assert data["best"]["params"]["model"] == "cnn"
    by_id = {trial["id"]: trial for trial in data["trials"]}
    assert {name: trial["state"] for name, trial in by_id.items()} == {
        "0000": "completed",
        "0001": "pruned",
        "0002": "failed",
        "0003": "failed",
        "0004": "running",
    }
    assert by_id["0000"]["epochs"] == 3
    assert by_id["0000"]["seconds"] == 90.0
    assert by_id["0002"]["value"] is None
    assert by_id["0002"]["reason"] == "loss is nan at step 7"


def test_status_as_text(run: Path) -> None:
    done = CliRunner().invoke(app(), [str(run)])
    assert done.exit_code == 0, done.output
    assert "trial 0000" in done.stdout
    assert "best valid/accuracy 0.875" in done.stdout


def test_status_of_what_is_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        done = CliRunner().invoke(app(), [str(folder)])
        assert isinstance(done.exception, RunError)
