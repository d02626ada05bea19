"""docs/results.md is true: the commands and the Python of its section on predicting are run as they
stand there.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pytest
from pages import RESULTS, tone
from predict_kit import LABELS, make_bundle
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.export import outputs
from raudio.export.predictor import Options


def ours() -> list[str]:
    return [line for line in pages.commands(RESULTS) if "raudio predict " in line]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page's reader has."""
    from raudio.data.prepare import prepare

    folder = tmp_path_factory.mktemp("results")
    make_bundle(folder)
    (folder / "bundles").mkdir()
    (folder / "bundle").rename(folder / "bundles" / "birds")
    tone(folder / "some.wav", 300, 1, seconds=1.2)
    tone(folder / "others" / "a.wav", 700, 2)
    for number in range(24):
        tone(folder / "recordings" / ("up", "down")[number % 2] / f"x_{number}.wav", 400, number)
    prepare(folder / "recordings", folder / "data" / "birds")
    return folder


@pytest.fixture(autouse=True)
def _there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)


@pytest.mark.slow
def test_its_commands_work(here: Path) -> None:
    plain = [line for line in ours() if "|" not in line and "--ray" not in line]
    assert len(plain) >= 8
    for line in plain:
        words = shlex.split(line)[1:]
        pages.parse(words)
        if not pages.is_out_of_reach(words):
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    assert {path.name for path in here.iterdir()} >= {
        "labels.csv",
        "parts.parquet",
        "vectors.parquet",
    }
    assert len((here / "labels.csv").read_text().splitlines()) == 1 + 24 + 1


@pytest.mark.slow
def test_its_pipes_work(here: Path) -> None:
    pipes = [line for line in ours() if "|" in line]
    assert len(pipes) == 2
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for line in pipes:
        done = subprocess.run(
            ["bash", "-c", line], cwd=here, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert len(done.stdout.splitlines()) >= 2


@pytest.mark.ray
@pytest.mark.slow
def test_its_commands_on_ray_work(here: Path) -> None:
    lines = [line for line in ours() if "--ray" in line]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)[1:]
        pages.parse(words)
        if not pages.is_out_of_reach(words):
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    assert len((here / "spread.csv").read_text().splitlines()) == 1 + 24


def test_its_python_works(here: Path) -> None:
    code = [
        block
        for block in pages.blocks(RESULTS, "python")
        if "predict" in block or "stream" in block
    ]
    assert len(code) == 2
    names: dict[str, object] = {}
    exec("\n".join(code), names)
    assert isinstance(names["chunk"], np.ndarray)


def test_the_columns_of_the_page_are_those_of_the_files() -> None:
    named = {name for row in pages.table(RESULTS, "column") for name in re.findall(r"\w+", row[0])}
    both = outputs.columns(LABELS[:1], Options(window=1.0))
    made = {name.replace(LABELS[0], "LABEL") for name in both}
    assert named == made


def test_its_links_lead_somewhere() -> None:
    if "](" in RESULTS.read_text():
        assert pages.dead_links(RESULTS) == []
