"""What a search shows: the table on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from raudio.config.axes import Interval
from raudio.config.schema import Search
from raudio.progress import Progress, curve, is_drawable
from raudio.records import WAITS, ClusterRecord, History, RecordWriter, ReportRecord, TrialHistory
from raudio.search.engine import Engine
from raudio.search.live import Display, screen
from raudio.search.sampler import Sampler
from raudio.search.scheduler import Scheduler
from raudio.search.space import Param, Space

METRIC = "valid/accuracy"
LR = Param("optimizer.lr", Interval(1e-4, 1e-1, log=True), {}, "optimizer.lr")


class Screen:
    """A display of a new search, and what it has written."""

    def __init__(
        self,
        run: Path,
        *,
        terminal: bool,
        quiet: bool = False,
        width: int = 120,
        height: int = 40,
        **settings: Any,
    ) -> None:
        self.text = io.StringIO()
        self.console = Console(
            file=self.text, force_terminal=terminal, width=width, height=height, color_system=None
        )
        self.display = Display(self.console, quiet=quiet)
        search = Search(**{"trials": 10, "reduction_factor": 3, **settings})
        self.engine = Engine(
            run,
            search,
            sampler=Sampler(Space("test", params=(LR,)), search, "max", run / "journal"),
            scheduler=Scheduler(search, "max", 9, 1),
            experiment_for=lambda params: params,  # type: ignore[arg-type, return-value]
            signature=lambda experiment: "",
            records=RecordWriter(run / "records.jsonl"),
            history=History(),
            time_budget=60.0 if search.time_budget else None,
            watch=self.display.watch,
        )

    def table(self) -> list[str]:
        """The lines of the table as it is now."""
        with self.console.capture() as captured:
            self.console.print(Progress(self.engine.history))
        return captured.get().splitlines()

    def trial(self, *values: float, final: bool = False) -> str:
        """A trial that reports these values."""
        spec = self.engine.next()
        assert spec is not None
        for epoch, value in enumerate(values, start=1):
            last = final and epoch == len(values)
            self.engine.report(spec.id, epoch, {METRIC: value}, 1.0, last)
        return spec.id


def begin(screen: Screen) -> None:
    screen.engine.begin("0", METRIC, "max", epochs=9)
    place = ClusterRecord("this machine", cpus=4, gpus=1, slots=2, trial_cpus=2, trial_gpus=0.5)
    screen.engine.placed(place)


def test_before_anything_has_happened(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True)
    screen.engine.begin("0", METRIC, "max")
    head = screen.table()
    assert head[0] == "0 of 10 trials  0 running, 0 completed, 0 pruned, 0 failed"
    assert head[2] == "no result yet"
    screen.display.tick()  # nothing to draw yet


def test_the_table_says_what_runs_what_is_best_and_how_many_came_how_far(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True)
    begin(screen)
    best = screen.trial(0.1, 0.5, 0.9, 0.8, final=True)
    pruned = screen.trial(0.05)
    failed = screen.trial(0.99)
    screen.engine.fail(failed, "non-finite loss", "the loss is nan")
    running = screen.trial(0.4, 0.6)
    untold = screen.trial()
    counts, spent, cluster, found, rungs, titles, *rows = screen.table()
    assert counts == "3 of 10 trials  2 running, 1 completed, 1 pruned, 1 failed"
    # 4 + 1 + 1 + 2 epochs, each of one second.
    assert spent.endswith("   8 epochs   8.0 s of training")
    assert cluster == "2 of 2 slots, 4 of 4 CPUs, 1 of 1 GPUs in use on this machine"
    assert found == f"best {METRIC} 0.9  trial {best}"
    assert rungs == "rungs  epoch 1: 4  epoch 3: 1"
    assert titles.split() == ["trial", "state", "epoch", "accuracy", "settings"]
    cells = {line.split()[0]: line.split() for line in rows}
    assert list(cells) == [running, untold, best, pruned, failed]
    assert cells[best][1:4] == ["completed", "4/9", "0.9"]
    # From the least to the greatest: 0.1, 0.5, 0.9, 0.8 of eight bars.
    assert cells[best][4] == "▁▅█▇"
    assert cells[pruned][1:5] == ["pruned", "1/9", "0.05", "▁"]
    assert cells[running][1:4] == ["running", "2/9", "0.6"]
    assert cells[untold][1:3] == ["running", "0/9"]
    lr = screen.engine.history.trials[best].params["optimizer.lr"]
    assert cells[best][5] == f"lr={lr:.4g}"


def test_only_the_best_of_many_are_shown(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True, scheduler="none", trials=40)
    begin(screen)
    for number in range(30):
        screen.trial(number / 30, final=True)
    rows = screen.table()[5:]
    assert [row.split()[0] for row in rows] == [f"{29 - place:04d}" for place in range(8)]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
@pytest.mark.parametrize("running", [1, 40])
def test_no_line_is_wider_and_no_table_higher_than_the_terminal(
    tmp_path: Path, width: int, running: int
) -> None:
    screen = Screen(tmp_path, terminal=True, width=width, height=20, trials=100, scheduler="none")
    begin(screen)
    screen.trial(*[0.1, 0.5, 0.9, 0.8, 0.85, 0.86, 0.87, 0.88, 0.89], final=True)
    for _ in range(running):
        screen.trial(0.5)
    lines = screen.table()
    assert all(len(line) <= width for line in lines)
    assert len(lines) < 20
    rows = [line.split() for line in lines]
    assert ["0001", "running"] in [row[:2] for row in rows]
    assert lines[-1].startswith("and ") == (running == 40)
    if running == 40:
        shown = sum(row[1:2] == ["running"] for row in rows)
        assert lines[-1] == f"and {40 - shown} more running"
    else:
        assert "0000" in [row[0] for row in rows]


def test_a_long_curve_is_drawn_from_its_first_to_its_last_value(tmp_path: Path) -> None:
    trial = TrialHistory("0000")
    trial.reports = [ReportRecord(e, {METRIC: float(e)}, 1.0, False) for e in range(1, 101)]
    assert curve(trial, METRIC) == "▁▂▂▃▄▄▅▅▆▇▇█"
    trial.reports = trial.reports[:1] * 3
    assert curve(trial, METRIC) == "▁▁▁"
    assert curve(trial, "valid/loss") == ""


def test_the_time_budget_and_what_is_left_of_it_are_shown(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True, time_budget="1m", trials=None)
    begin(screen)
    counts, spent, *_ = screen.table()
    assert counts.startswith("0 trials")
    assert re.match(r"\d\.\d s of 1 min 0 s, (1 min 0 s|5\d\.\d s) left   0 epochs", spent)


def test_every_budget_is_shown_with_what_is_left_of_it(tmp_path: Path) -> None:
    settings = {"epochs_budget": 20, "cost_budget": "1m", "target": 0.95, "patience": 10}
    screen = Screen(tmp_path, terminal=True, width=80, time_budget="1h", **settings)
    begin(screen)
    assert (
        screen.table()[3] == "until valid/accuracy 0.95   0 of 10 trials without progress, 10 left"
    )
    screen.trial(0.1, 0.5, 0.9, 0.8)
    screen.trial(0.05)
    _, spent, cost, until, *_ = screen.table()
    assert spent.endswith("left   5 of 20 epochs, 15 left")
    assert cost == "5.0 s of 1 min 0 s of device time, 55.0 s left"
    assert until == (
        "until valid/accuracy 0.95, 0.05 to go   1 of 10 trials without progress, 9 left"
    )
    screen.trial(0.97, final=True)
    assert "0.95, 0 to go" in screen.table()[3]


def test_on_a_terminal_the_table_is_drawn_and_taken_away(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True)
    with screen.display:
        screen.display.show(screen.engine)
        begin(screen)
        screen.trial(0.5, final=True)
        screen.display.tick()
        assert "1 of 10 trials" in screen.text.getvalue()
        screen.display.say("a line above")
        drawn = len(screen.text.getvalue())
        screen.display.tick()  # too soon to draw again
        assert len(screen.text.getvalue()) == drawn
    written = screen.text.getvalue()
    assert "a line above" in written
    assert "1 epoch " not in written  # the line for where there is no table
    assert "\x1b[2K" in written[written.index("a line above") :]  # erased at the end
    assert "\x1b[?25h" in written  # and the cursor is back


def test_drawing_takes_a_small_share_of_the_driver_s_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(tmp_path, terminal=True)
    now, drawn = [0.0], []

    def slow(live: Live) -> None:
        drawn.append(now[0])
        now[0] += 0.5

    monkeypatch.setattr("raudio.search.live.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Live, "refresh", slow)
    screen.display.show(screen.engine)
    drawn.clear()
    now[0] = 100.0
    while now[0] < 130.0:
        screen.display.tick()
        now[0] += 0.1
    assert len(drawn) == 3  # half a second of each ten


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
def test_no_colour_and_no_drawing_where_the_environment_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, {"NO_COLOR": "1", "TERM": "dumb"}[variable])
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    assert is_drawable(console) == (variable == "NO_COLOR")
    console.print(Progress(History()))
    assert re.search(r"\x1b\[[\d;]*3\dm", console.file.getvalue()) is None  # type: ignore[attr-defined]


def lines_of(screen: Screen) -> list[str]:
    return screen.text.getvalue().splitlines()


def test_without_a_terminal_a_line_for_each_end(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=False)
    with screen.display:
        screen.display.show(screen.engine)
        begin(screen)
        screen.display.tick()
        assert lines_of(screen) == []
        screen.trial(0.5, 0.7, final=True)
        pruned = screen.trial(0.1)
        failed = screen.trial(0.6)
        error = tmp_path / "trials" / failed / "error.txt"
        error.parent.mkdir(parents=True)
        error.touch()
        screen.engine.fail(failed, "error", "clip 'x' is not audio")
        lost = screen.trial(0.65)
        screen.engine.lost(lost, "process gone")
    lines = lines_of(screen)
    assert [line[:4] for line in lines] == ["0000", pruned, failed, lost]
    assert "completed" in lines[0]
    assert f"{METRIC} 0.7  2 epochs" in lines[0]
    assert "optimizer.lr=" in lines[0]
    assert lines[0].endswith("best so far")
    assert f"pruned  {METRIC} 0.1  1 epoch " in lines[1]
    assert "best so far" not in lines[1]
    assert f"failed (error: clip 'x' is not audio; traceback in {error})" in lines[2]
    assert "process lost (process gone); going on" in lines[3]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_is_shown_with_the_file_of_its_traceback(tmp_path: Path, terminal: bool) -> None:
    screen = Screen(tmp_path, terminal=terminal, width=200)
    with screen.display:
        screen.display.show(screen.engine)
        begin(screen)
        failed = screen.trial(0.6)
        error = tmp_path / "trials" / failed / "error.txt"
        error.parent.mkdir(parents=True)
        error.write_text("Traceback")
        screen.engine.fail(failed, "error", "IndexError: list index out of range")
        screen.trial(0.7, final=True)
    written = screen.text.getvalue().replace("\n", "")
    assert f"failed (error: IndexError: list index out of range; traceback in {error})" in written
    assert ("completed  valid" in written) is not terminal  # the line of a trial's end


def test_a_trial_that_waits_for_its_turn_has_no_line(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=False)
    with screen.display:
        screen.display.show(screen.engine)
        begin(screen)
        end = {"event": "trial_end", "id": screen.trial(0.5), "state": "stopped", "kind": None}
        screen.display.watch({**end, "reason": WAITS})
        assert lines_of(screen) == []
        screen.display.watch({**end, "reason": "interrupted"})
        assert len(lines_of(screen)) == 1


def test_a_training_without_a_terminal_has_a_line_for_each_epoch(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=False, trials=1)
    screen.display.show(screen.engine)
    begin(screen)
    screen.trial(0.25, 0.5, final=True)
    assert lines_of(screen)[:2] == [
        f"0000  epoch 1/9  {METRIC} 0.25  1.0 s",
        f"0000  epoch 2/9  {METRIC} 0.5  1.0 s",
    ]


def test_text_is_no_markup(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=False)
    screen.display.show(screen.engine)
    begin(screen)
    screen.engine.fail(screen.trial(), "error", "IndexError: [red] list[0] [/x]")
    assert "IndexError: [red] list[0] [/x]" in screen.text.getvalue()


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("left", ["before", "meanwhile"])
def test_a_search_goes_on_when_nobody_looks_any_more(
    tmp_path: Path, terminal: bool, left: str
) -> None:
    """A terminal that is closed answers EIO, a pipe whose reader has gone EPIPE."""
    there, here = os.openpty() if terminal else os.pipe()
    if left == "before":
        os.close(there)
    with os.fdopen(here, "w") as file:
        shown = Screen(tmp_path, terminal=terminal)
        display = Display(screen(file))
        with display:
            display.say("hello")
            display.show(shown.engine)
            if left == "meanwhile":
                os.close(there)
            for word in ("one", "two", "three"):
                display.say(word)
                display.tick()
        file.write("what else is written fails neither")


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing(tmp_path: Path, terminal: bool) -> None:
    screen = Screen(tmp_path, terminal=terminal, quiet=True)
    with screen.display:
        screen.display.show(screen.engine)
        begin(screen)
        screen.display.say("something")
        screen.trial(0.5, final=True)
        screen.display.tick()
    assert screen.text.getvalue() == ""
