"""The README is true: every command and every line of Python in it is run, as it stands there.

Two things are changed for the time it takes: a search is of three trials of two epochs, and the
embedded one (`make search`) is run by CI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import README, blocks, commands, dead_links, tone

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SHORT = ("search.trials=3", "training.epochs=2")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's reader has: FOLDER, recordings and labels.csv."""
    folder = tmp_path_factory.mktemp("readme")
    rows = ["file,label,speaker"]
    for label, hertz in (("low", 300), ("middle", 700), ("high", 1800)):
        for number in range(16):
            name = f"{label}_{number}.wav"
            tone(folder / "FOLDER" / label / name, hertz, number)
            tone(folder / "recordings" / name, hertz, number + 100)
            rows.append(f"{name},{label},s{number}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    tone(folder / "some.wav", 300, 1000)
    tone(folder / "others" / "a.wav", 1800, 1001)
    return folder


def run(command: str, folder: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line of shell where `raudio` is the one that is being tested."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "RAUDIO_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.timeout(900)
def test_every_command_of_the_readme_works(here: Path, cache: Path) -> None:
    lines = commands(README)
    ours = [line for line in lines if line.startswith("raudio ")]
    assert len(ours) >= 9
    assert set(lines) - set(ours) == {"make search"}
    for command in ours:
        short = f" {' '.join(SHORT)}" if command.startswith("raudio search") else ""
        done = run(command + short, here, cache)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (here / "bundles" / "mine" / "weights.safetensors").is_file()
    assert len(list((here / "runs").iterdir())) == 3


@pytest.mark.timeout(300)
def test_the_python_of_the_readme_works(here: Path, cache: Path) -> None:
    if not (here / "data").exists():
        run("raudio data prepare recordings --labels labels.csv --out data/mine", here, cache)
    (code,) = blocks(README, "python")
    assert '"search.trials=16"' in code
    code = code.replace('"search.trials=16"', ", ".join(f'"{item}"' for item in SHORT))
    script = f"{code}\nprint(raudio.load(result.bundle).predict('some.wav')['label'])\n"
    (here / "script.py").write_text(script)
    done = run("python script.py", here, cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] in ("low", "middle", "high")


def test_the_files_that_the_readme_points_to_are_there() -> None:
    assert dead_links(README) == []


def test_raudio_is_on_the_path() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    assert shutil.which("raudio", path=path)
