"""What a search shows: the table on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raudio.config.axes import Interval
from raudio.config.schema import Search
from raudio.records import History, RecordWriter
from raudio.search.engine import Engine
from raudio.search.live import Display, table
from raudio.search.sampler import Sampler
from raudio.search.scheduler import Scheduler
from raudio.search.space import Param, Space

METRIC = "valid/accuracy"
LR = Param("optimizer.lr", Interval(1e-4, 1e-1, log=True), {}, "optimizer.lr")


class Screen:
    """A display of a new search, and what it has written."""

    def __init__(
        self, run: Path, *, terminal: bool, quiet: bool = False, width: int = 120, **settings: Any
    ) -> None:
        self.text = io.StringIO()
        self.console = Console(
            file=self.text, force_terminal=terminal, width=width, color_system=None
        )
        self.display = Display(self.console, 9, quiet=quiet)
        search = Search(**{"trials": 10, **settings})
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
            self.console.print(table(self.engine, 9))
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
    screen.display.show(screen.engine)
    screen.engine.begin("0", METRIC, "max")


def test_before_anything_has_happened(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True)
    head = screen.table()
    assert "0 of 10 trials" in head[0]
    assert "no result yet" in head[1]
    screen.engine.begin("0", METRIC, "max")
    assert METRIC in screen.table()[2]
    screen.display.tick()  # nothing to draw yet


def test_the_table_says_what_runs_what_is_best_and_how_many_came_how_far(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True)
    screen.engine.begin("0", METRIC, "max")
    best = screen.trial(0.1, 0.5, 0.9, 0.8, final=True)
    pruned = screen.trial(0.05)
    failed = screen.trial(0.99)
    screen.engine.fail(failed, "non-finite loss", "the loss is nan")
    running = screen.trial(0.4, 0.6)
    untold = screen.trial()
    lines = screen.table()
    assert "3 of 10 trials" in lines[0]
    assert "1 completed, 1 pruned, 1 failed, 2 running" in lines[0]
    assert f"best {METRIC} 0.9  trial {best}" in lines[1]
    assert "epoch 1: 4" in lines[1]
    assert "epoch 3: 1" in lines[1]
    rows = {line.split()[0]: line.split() for line in lines[3:]}
    assert list(rows) == [running, untold, best, pruned, failed]
    assert rows[best][1:4] == ["completed", "4/9", "0.9"]
    # From the least to the greatest: 0.1, 0.5, 0.9, 0.8 of eight bars.
    assert rows[best][4] == "▁▅█▇"
    assert rows[pruned][1:5] == ["pruned", "1/9", "0.05", "▁"]
    assert rows[running][1:4] == ["running", "2/9", "0.6"]
    assert rows[untold][1:3] == ["running", "0/9"]
    lr = screen.engine.history.trials[best].params["optimizer.lr"]
    assert f"optimizer.lr={lr:.3g}"[:16] in " ".join(rows[best])


def test_only_the_best_of_many_are_shown(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True, scheduler="none", trials=40)
    screen.engine.begin("0", METRIC, "max")
    for number in range(30):
        screen.trial(number / 30, final=True)
    lines = screen.table()
    assert len(lines) < 14
    assert [line.split()[0] for line in lines[3:6]] == ["0029", "0028", "0027"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    screen = Screen(tmp_path, terminal=True, width=width)
    screen.engine.begin("0", METRIC, "max")
    screen.trial(*[0.1, 0.5, 0.9, 0.8, 0.85, 0.86, 0.87, 0.88, 0.89], final=True)
    lines = screen.table()
    assert all(len(line) <= width for line in lines)
    assert any(line.startswith("0000") for line in lines)


def test_the_time_budget_is_shown(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True, time_budget="1m", trials=None)
    screen.engine.begin("0", METRIC, "max")
    head = screen.table()[0]
    assert head.startswith("0 trials")
    assert "of 1 min" in head


def test_on_a_terminal_the_table_is_drawn_and_taken_away(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=True)
    with screen.display:
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


def test_without_a_terminal_a_line_for_each_end(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=False)
    with screen.display:
        begin(screen)
        screen.display.tick()
        assert screen.text.getvalue() == ""
        screen.trial(0.5, 0.7, final=True)
        pruned = screen.trial(0.1)
        failed = screen.trial(0.6)
        screen.engine.fail(failed, "error", "clip 'x' is not audio")
        lost = screen.trial(0.65)
        screen.engine.lost(lost, "process gone")
    lines = screen.text.getvalue().splitlines()
    assert [line[:4] for line in lines] == ["0000", pruned, failed, lost]
    assert "completed" in lines[0]
    assert f"{METRIC} 0.7  2 epochs" in lines[0]
    assert "optimizer.lr=" in lines[0]
    assert lines[0].endswith("best so far")
    assert f"pruned  {METRIC} 0.1  1 epoch " in lines[1]
    assert "best so far" not in lines[1]
    assert "failed (error: clip 'x' is not audio)" in lines[2]
    assert "process lost (process gone); going on" in lines[3]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_is_shown_with_the_file_of_its_traceback(tmp_path: Path, terminal: bool) -> None:
    screen = Screen(tmp_path, terminal=terminal, width=200)
    with screen.display:
        begin(screen)
        failed = screen.trial(0.6)
        error = tmp_path / "trials" / failed / "error.txt"
        error.parent.mkdir(parents=True)
        error.write_text("Traceback")
        screen.engine.fail(failed, "error", "IndexError: list index out of range")
    written = screen.text.getvalue().replace("\n", "")
    assert "failed (error: IndexError: list index out of range)" in written
    assert f"traceback: {error}" in written


def test_text_is_no_markup(tmp_path: Path) -> None:
    screen = Screen(tmp_path, terminal=False)
    begin(screen)
    screen.engine.fail(screen.trial(), "error", "IndexError: [red] list[0] [/x]")
    assert "IndexError: [red] list[0] [/x]" in screen.text.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing(tmp_path: Path, terminal: bool) -> None:
    screen = Screen(tmp_path, terminal=terminal, quiet=True)
    with screen.display:
        begin(screen)
        screen.display.say("something")
        screen.trial(0.5, final=True)
        screen.display.tick()
    assert screen.text.getvalue() == ""
