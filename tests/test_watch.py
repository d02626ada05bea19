"""`raudio status --watch`: another shell follows a run while its driver writes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raudio import records
from raudio.records import RecordReader, RecordWriter, RunLock, read_history

METRIC = "valid/accuracy"
COMMAND = [sys.executable, "-m", "raudio.cli.main", "status"]


class Driver:
    """Writes the records of a search, holding its run."""

    def __init__(self, run: Path) -> None:
        self.out = RecordWriter(run / records.RECORDS)
        self.out.append(
            "search_start", version="0", metric=METRIC, mode="max", trials=3, epochs=2, rungs=[1]
        )

    def trial(self, number: int, *values: float, state: str = records.COMPLETED) -> None:
        name = records.trial_id(number)
        self.out.append("trial_start", id=name, params={"model.width": 8}, signature=name)
        for epoch, value in enumerate(values, start=1):
            self.out.append(
                "report", id=name, epoch=epoch, metrics={METRIC: value}, seconds=1.0, final=False
            )
        if state != records.RUNNING:
            self.out.append("trial_end", id=name, state=state, seconds=2.0)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with RunLock(tmp_path):
        made = Driver(tmp_path)
        yield made
        made.out.close()


def watch(run: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, str(run), "--watch", "--every", "0.1", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_reader_takes_in_what_is_new_and_leaves_what_is_torn(
    tmp_path: Path, driver: Driver
) -> None:
    driver.trial(0, 0.5)
    reader = RecordReader(tmp_path)
    events = [record["event"] for record in reader.read()]
    assert events == ["search_start", "trial_start", "report", "trial_end"]
    assert list(reader.read()) == []
    line = b'{"event": "report", "time": 9e9, "id": "0000", "epoch": 2, "metrics": {}}\n'
    with (tmp_path / records.RECORDS).open("ab", buffering=0) as file:
        for cut in range(1, len(line)):
            file.write(line[cut - 1 : cut])
            assert list(reader.read()) == [], "a record that is being written"
            assert reader.history.trials["0000"].epochs == 1
        file.write(line[-1:])
    assert [record["epoch"] for record in reader.read()] == [2]
    assert reader.history == read_history(tmp_path)


def test_without_a_terminal_a_line_for_each_change_until_the_end(
    tmp_path: Path, driver: Driver
) -> None:
    driver.trial(0, 0.5, 0.75)
    with watch(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"0000  completed  {METRIC} 0.75  2 epochs")
        driver.trial(1, 0.25, state=records.PRUNED)
        assert process.stdout.readline().startswith(f"0001  pruned  {METRIC} 0.25  1 epoch")
        driver.out.append("search_end", state="completed", reason=None)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == ""
    assert "0.75" in rest
    assert "completed after" in rest


@pytest.mark.slow
def test_as_data_an_object_a_line(tmp_path: Path, driver: Driver) -> None:
    driver.trial(0, 0.5, state=records.RUNNING)
    with watch(tmp_path, "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["state"] == "running"
        assert [trial["state"] for trial in first["trials"]] == ["running"]
        driver.out.append("search_end", state="stopped", reason="interrupted")
        lines = process.communicate(timeout=60)[0].splitlines()
    assert json.loads(lines[-1])["state"] == "stopped"


def test_on_a_terminal_a_table_that_ctrl_c_leaves(tmp_path: Path, driver: Driver) -> None:
    driver.trial(0, 0.5, 0.75)
    driver.trial(1, 0.25, state=records.RUNNING)
    terminal, inside = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [*COMMAND, str(tmp_path), "--watch", "--every", "0.1"],
        stdout=inside,
        stderr=inside,
        env=environment,
        # Where the tests run in the background they ignore it, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(inside)
    seen, drawn_before = b"", time.monotonic() + 60
    while b"running" not in seen and time.monotonic() < drawn_before:
        seen += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait(60) == 0
    os.close(terminal)
    assert b"1 of 3 trials" in seen
    assert b"Traceback" not in seen
    assert b"0 trials" not in seen  # nothing is drawn before the records are read
    assert b"\x1b[?25h" in seen  # the cursor is back


def test_a_run_whose_driver_is_gone_is_not_watched_for_ever(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.trial(0, 0.5, state=records.RUNNING)
    driver.out.close()
    with watch(tmp_path) as process:
        out = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "interrupted after" in out
