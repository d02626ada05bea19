"""What docs/results.md says of evaluating and of the report is true: its commands are run as they
stand there, and its keys are those of the code."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pages
import pytest
from pages import RESULTS
from test_evaluate import recordings
from test_export import make_run as trained_run
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from made_run import make_run

from raudio.cli.main import app
from raudio.data.prepare import prepare
from raudio.export.make import export
from raudio.report.evaluation import FEW_GROUPS
from raudio.tasks.calibration import BINS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page's reader has."""
    export(trained_run(tmp_path / "trained", {"0000": 0.5}), tmp_path / "bundles" / "birds")
    folder = recordings(tmp_path / "recordings", clips=9)
    lines = (folder / "labels.csv").read_text().replace("room", "site").splitlines()
    lines = [f"{line},{'device' if n == 0 else n % 2}" for n, line in enumerate(lines)]
    (folder / "labels.csv").write_text("\n".join(lines))
    prepare(folder, tmp_path / "data" / "birds", labels=folder / "labels.csv")
    for name in ("birds", "first"):
        make_run(tmp_path / "runs" / name, 6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_page_work(here: Path, cache: Path) -> None:
    lines = [shlex.split(line)[1:] for line in pages.commands(RESULTS)]
    lines = [line for line in lines if line[0] in ("evaluate", "report")]
    assert len(lines) == 8
    keys = {key for row in pages.table(RESULTS, "in the JSON") for key in row[0].split(", ")}
    for arguments in lines:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{arguments}\n{done.output}\n{done.exception!r}"
        if "--json" in arguments:
            found = json.loads(done.stdout)
            assert set(found) == keys
            assert set(found["groups"]) == {"site", "device", "group"}
    for page in ("birds.html", "birds-report.html", "compared.html", "runs/birds/report.html"):
        assert (here / page).stat().st_size > 10_000


def test_the_page_has_what_the_code_does() -> None:
    content = RESULTS.read_text()
    assert f"in {BINS} bins of equal width" in content
    assert f"fewer than {FEW_GROUPS} groups" in content
