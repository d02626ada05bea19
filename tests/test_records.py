"""Records, histories and the lock of a run folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raudio import records
from raudio.core.errors import RunError
from raudio.records import History, RecordWriter, RunLock, is_locked, read_history


def start(**fields: Any) -> dict[str, Any]:
    return {
        "event": "search_start",
        "version": "0.1.0",
        "metric": "valid/accuracy",
        "mode": "max",
        "trials": 4,
        "time_budget": None,
        "resumed": False,
        **fields,
    }


def trial(number: int, **params: Any) -> dict[str, Any]:
    return {
        "event": "trial_start",
        "id": records.trial_id(number),
        "params": params,
        "signature": "s",
    }


def report(number: int, epoch: int, value: float | None, seconds: float = 2.0) -> dict[str, Any]:
    return {
        "event": "report",
        "id": records.trial_id(number),
        "epoch": epoch,
        "metrics": {"valid/accuracy": value, "epoch_value": float(epoch)},
        "seconds": seconds,
        "final": False,
    }


def end(number: int, state: str, seconds: float = 9.0, **fields: Any) -> dict[str, Any]:
    return {
        "event": "trial_end",
        "id": records.trial_id(number),
        "state": state,
        "kind": None,
        "reason": None,
        "seconds": seconds,
        **fields,
    }


def write(run: Path, *events: dict[str, Any]) -> Path:
    with RecordWriter(run / records.RECORDS) as writer:
        for event in events:
            fields = dict(event)
            writer.append(fields.pop("event"), **fields)
    return run


def fold(*events: dict[str, Any]) -> History:
    history = History()
    for clock, event in enumerate(events):
        history.apply({"time": float(clock), **event})
    return history


# --- writing and reading -----------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        start(),
        trial(0, lr=0.1, model="cnn"),
        report(0, 1, 0.5),
        report(0, 2, 0.75),
        report(0, 3, 0.625),
        end(0, "completed"),
        {"event": "search_end", "state": "completed", "reason": None},
    )
    history = read_history(tmp_path)
    assert (history.metric, history.mode, history.state) == ("valid/accuracy", "max", "completed")
    (one,) = history.trials.values()
    assert one.params == {"lr": 0.1, "model": "cnn"}
    assert (one.state, one.epochs, one.seconds, one.loop_seconds) == ("completed", 3, 9.0, 6.0)
    assert one.value("valid/accuracy", "max") == 0.75
    assert one.value("valid/accuracy", "min") == 0.5
    assert one.best_metrics("valid/accuracy", "max") == {
        "valid/accuracy": 0.75,
        "epoch_value": 2.0,
    }
    assert one.value("valid/loss", "min") is None


def test_every_line_is_strict_json_also_with_numbers_that_json_does_not_have(
    tmp_path: Path,
) -> None:
    with RecordWriter(tmp_path / records.RECORDS) as writer:
        writer.append(**start())
        writer.append(**trial(0, rates=(1, 2)))
        record = writer.append(**report(0, 1, float("nan")))
    assert record["metrics"]["valid/accuracy"] is None

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for line in (tmp_path / records.RECORDS).read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    one = read_history(tmp_path).trials["0000"]
    assert one.epochs == 1
    assert one.value("valid/accuracy", "max") is None


@pytest.mark.parametrize("torn", [b'{"event": "report", "id"', b'{"event":"lost"}', b"\0\0\0\n"])
def test_a_torn_last_line_is_overlooked_and_then_cut_off(tmp_path: Path, torn: bytes) -> None:
    write(tmp_path, start(), trial(0), report(0, 1, 0.5))
    path = tmp_path / records.RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert read_history(tmp_path).trials["0000"].epochs == 1
    assert path.read_bytes() == whole + torn, "reading changes nothing"
    write(tmp_path, report(0, 2, 0.6))
    assert path.read_bytes().startswith(whole + b'{"event": "report"')
    assert read_history(tmp_path).trials["0000"].epochs == 2


def test_a_record_that_a_full_disk_cuts_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, start(), trial(0))
    path = tmp_path / records.RECORDS
    whole = path.read_bytes()
    with RecordWriter(path) as writer:
        real = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:9]))
            with pytest.raises(RunError, match="No space left"):
                writer.append("search_end", state="completed", reason=None)
        assert path.read_bytes() == whole
        writer.append("search_end", state="failed", reason="disk full")
    assert read_history(tmp_path).reason == "disk full"


def test_a_record_reaches_the_disk_within_a_second_also_when_none_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    now = [1000.0]
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(descriptor))
    monkeypatch.setattr("raudio.records.writer.time.monotonic", lambda: now[0])
    with RecordWriter(tmp_path / records.RECORDS) as writer:
        writer.append(**start())
        now[0] += 0.9
        writer.settle()
        assert not synced
        now[0] += 0.1
        writer.settle()
        writer.settle()
        assert len(synced) == 1
        now[0] += 3600
        writer.settle()
        assert len(synced) == 1, "there is nothing new"
        writer.append(**trial(0))
        assert len(synced) == 2


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    write(tmp_path, start(), trial(0), report(0, 1, 0.5))
    path = tmp_path / records.RECORDS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "oops\n" + lines[2])
    with pytest.raises(RunError, match=r"records\.jsonl' is damaged: line 2"):
        read_history(tmp_path)
    path.write_text(
        lines[0] + lines[1] + '{"event": "report", "time": 1, "id": "0000"}\n' + lines[2]
    )
    with pytest.raises(RunError, match=r"line 3 \(report\) cannot be understood"):
        read_history(tmp_path)


WHOLE = (start(), trial(0), report(0, 1, 0.5), end(0, "pruned"), trial(1), report(1, 1, 0.6))


def test_a_later_format_is_no_damage(tmp_path: Path) -> None:
    write(tmp_path, {**start(), "format": 2, "version": "9.1.0"})
    with pytest.raises(RunError, match=r"^a run of format 2, made by raudio 9\.1\.0"):
        read_history(tmp_path)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (WHOLE[1:], "line 1 (trial_start) cannot be here: no search_start"),
        ((WHOLE[0], *WHOLE[2:]), "line 2 (report) cannot be here: no trial_start of trial 0000"),
        (
            (WHOLE[0], *WHOLE[4:]),
            "line 2 (trial_start) cannot be here: no trial_start of",
        ),
        (WHOLE[:4] + WHOLE[3:], "line 5 (trial_end) cannot be here: trial 0000 had ended"),
        (WHOLE[:4] + WHOLE[1:], "line 5 (trial_start) cannot be here: trial 0000 had ended"),
    ],
)
def test_lines_that_are_lost_or_doubled_are_damage_that_is_told_of(
    tmp_path: Path, events: tuple[dict[str, Any], ...], said: str
) -> None:
    """A search that went on without them would not be the one that was interrupted."""
    write(tmp_path / "whole", *WHOLE)
    assert len(read_history(tmp_path / "whole").trials) == 2
    write(tmp_path / "damaged", *events)
    with pytest.raises(RunError, match=re.escape(said)):
        read_history(tmp_path / "damaged")


def test_a_folder_that_is_no_run_is_named_with_the_closest_run(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "fsdd", start())
    with pytest.raises(RunError, match=r"no such run folder: .*fsd'.*closest: .*runs/fsdd"):
        read_history(tmp_path / "runs" / "fsd")
    with pytest.raises(RunError, match=r"is not a run folder: it holds no records.jsonl"):
        read_history(tmp_path)


# --- the states of trials and runs -------------------------------------------------------------


def test_a_stopped_trial_runs_again_when_a_later_session_takes_it_up() -> None:
    events = [start(), trial(0), report(0, 1, 0.5), end(0, "stopped")]
    straggler = fold(*events, report(0, 2, 0.6))
    assert straggler.trials["0000"].state == "stopped"
    assert straggler.trials["0000"].epochs == 2
    resumed = fold(*events, start(resumed=True))
    assert resumed.trials["0000"].state == "stopped"
    for event in (report(0, 2, 0.6), trial(0)):
        again = fold(*events, start(resumed=True), event)
        assert again.trials["0000"].state == "running"
    over = fold(*events, start(resumed=True), trial(0), report(0, 2, 0.6), end(0, "completed"))
    assert (over.trials["0000"].state, over.trials["0000"].epochs) == ("completed", 2)
    assert over.trials["0000"].seconds == 18.0


def test_seconds_of_a_driver_that_died_are_counted_by_the_reports() -> None:
    history = fold(
        start(), trial(0), report(0, 1, 0.5), start(resumed=True), report(0, 2, 0.6, seconds=3.0)
    )
    assert history.trials["0000"].seconds == 5.0
    history.apply({"time": 9.0, **end(0, "completed", seconds=4.0)})
    assert history.trials["0000"].seconds == 2.0 + 4.0
    # Wall time of the sessions (0 to 2, and 3 to 9), without the pause between them.
    assert history.seconds == 2.0 + 6.0


def test_an_epoch_reported_twice_counts_once_and_the_last_report_wins() -> None:
    history = fold(start(), trial(0), report(0, 1, 0.9), report(0, 2, 0.4), report(0, 1, 0.5))
    assert [r.epoch for r in history.trials["0000"].reports] == [1, 2]
    assert history.trials["0000"].value("valid/accuracy", "max") == 0.5


def test_losing_a_machine_is_no_end() -> None:
    history = fold(start(), trial(0), {"event": "lost", "id": "0000", "reason": "node died"})
    assert (history.trials["0000"].state, history.trials["0000"].lost) == ("running", 1)


def test_later_versions_may_add_events() -> None:
    assert fold(start(), {"event": "weather", "sun": True}).state == "running"


@pytest.mark.parametrize(("mode", "order"), [("max", "2013"), ("min", "0213")])
def test_ranked_by_value_then_without_one_then_failed(mode: str, order: str) -> None:
    # Worked by hand: 0 is at 0.2, 2 at 0.7, 1 has no value, 3 has the best of all but failed.
    history = fold(
        start(mode=mode),
        *(trial(number) for number in range(4)),
        report(0, 1, 0.2),
        report(2, 1, 0.7),
        report(3, 1, 0.99 if mode == "max" else 0.0),
        end(3, "failed", kind="error"),
    )
    assert "".join(one.id[-1] for one in history.ranked()) == order
    best = history.best()
    assert best is not None
    assert best.id[-1] == order[0]


def test_equal_values_rank_by_age_and_no_value_is_no_best() -> None:
    history = fold(start(), trial(0), trial(1), report(1, 1, 0.5), report(0, 1, 0.5))
    assert [one.id for one in history.ranked()] == ["0000", "0001"]
    assert fold(start(), trial(0)).best() is None
    assert fold(start(), trial(0), report(0, 1, 0.5), end(0, "failed")).best() is None
    assert History().best() is None


# --- the lock ----------------------------------------------------------------------------------


def test_running_while_the_lock_is_held_then_interrupted(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        write(tmp_path, start())
        assert is_locked(tmp_path)
        assert read_history(tmp_path).state == "running"
    assert not is_locked(tmp_path)
    assert read_history(tmp_path).state == "interrupted"
    write(tmp_path, {"event": "search_end", "state": "stopped", "reason": "Ctrl-C"})
    history = read_history(tmp_path)
    assert (history.state, history.reason) == ("stopped", "Ctrl-C")
    write(tmp_path, start(resumed=True))
    assert read_history(tmp_path).state == "interrupted"


def test_a_second_driver_is_refused_and_told_who_holds_the_run(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with pytest.raises(RunError, match=r"in use by another raudio process \(process \d+ on"):
            RunLock(tmp_path).__enter__()
        assert is_locked(tmp_path)
    with RunLock(tmp_path):
        pass


def test_a_run_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()  # whoever runs tests as root may write everything else
    with pytest.raises(RunError, match="cannot be written: Is a directory; make it writable"):
        RunLock(tmp_path).__enter__()


def test_the_kernel_lets_go_of_a_killed_driver_and_its_children_do_not_hold(
    tmp_path: Path,
) -> None:
    code = (
        "import subprocess, sys, time; from pathlib import Path\n"
        "from raudio.records import RunLock\n"
        "with RunLock(Path(sys.argv[1])):\n"
        "    child = subprocess.Popen(['sleep', '60'], close_fds=False)\n"
        "    print(child.pid, flush=True); time.sleep(60)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert driver.stdout is not None
    child = int(driver.stdout.readline())
    try:
        assert is_locked(tmp_path)
        driver.kill()
        driver.wait()
        for _ in range(50):
            if not is_locked(tmp_path):
                break
            time.sleep(0.02)
        assert not is_locked(tmp_path)
    finally:
        subprocess.run(["kill", str(child)], check=False)


def test_no_torch_is_needed() -> None:
    code = "import sys, raudio.records, raudio.report.tables; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == "False"


def test_a_run_of_a_newer_format_is_not_called_damaged(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "records.jsonl") as records:
        records.append("search_start", version="9.1.0", format=99, metric="x", mode="max")
    with pytest.raises(RunError, match=r"^a run of format 99, made by raudio 9\.1\.0; .* install"):
        read_history(tmp_path)
