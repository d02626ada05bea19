"""What docs/results.md says of tracking is true: its commands, its settings and its example."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pages
import pytest
from pages import RESULTS
from tracking_kit import Searched, tell
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.config import compose, schema
from raudio.config.axes import text
from raudio.config.setting import settings_in
from raudio.core.components import TRACKERS
from raudio.records import read_history
from raudio.tracking import build, processes


def test_the_page_has_every_tracker_and_every_setting() -> None:
    assert sorted(row[0] for row in pages.table(RESULTS, "tracker")) == TRACKERS.names()
    known = settings_in(schema.Tracking, "tracking.")
    rows = pages.table(RESULTS, "tracking setting")
    assert [key for key, _, _ in rows] == list(known)
    for key, default, does in rows:
        assert default == text(known[key].default), key
        assert all(choice in does for choice in known[key].meta.choices), key


def test_the_page_has_what_the_code_does() -> None:
    content = RESULTS.read_text()
    assert f"for {processes.FLUSH:.0f} s at most" in content
    assert f"`tracking/{processes.LOG}`" in content
    assert pages.dead_links(RESULTS) == []


@pytest.mark.slow
def test_the_commands_about_tracking_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches are checked, not run."""
    monkeypatch.chdir(tmp_path)
    searched = Searched(tmp_path / "runs" / "first", "tracking=tensorboard")
    searched.finish()
    lines = [shlex.split(line)[1:] for line in pages.commands(RESULTS) if "track" in line]
    assert len(lines) >= 5
    for arguments in lines:
        pages.parse(arguments)
        verb, *rest = arguments
        if verb == "search":
            build.check(compose.compose(rest).tracking)
        elif verb == "resume":
            assert compose.tracking(rest[1:], {}).trackers
        else:
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, f"{arguments}\n{done.output}\n{done.exception!r}"
    assert list(searched.run.glob("tracking/tensorboard/0000/events*"))


@pytest.mark.slow
def test_the_tracker_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in pages.blocks(RESULTS, "python") if "register.tracker" in block]
    for name in ("_about", "_loaded"):
        monkeypatch.setattr(TRACKERS, name, dict(getattr(TRACKERS, name)))
    monkeypatch.setattr(schema, "Tracking", schema.Tracking)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "lines.py").write_text(code)
    given = [f"plugins=[{tmp_path / 'lines.py'}]", "tracking=lines"]
    compose.compose([*given, f"tracking.lines.file={tmp_path / 'mine.txt'}"])
    searched = Searched(tmp_path / "run", trials=2)
    searched.finish()
    tell(searched.run, build.build_tracker("lines", {"file": str(tmp_path / "mine.txt")}))
    lines = (tmp_path / "mine.txt").read_text().splitlines()
    trials = read_history(searched.run).trials.values()
    assert len(lines) == sum(len(trial.reports) for trial in trials)
