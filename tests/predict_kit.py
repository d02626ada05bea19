"""What tests of predicting start from: a small bundle, and recordings with no two parts alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from test_export import LABELS, make_run
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.export.make import export

__all__ = ["LABELS", "RATE", "WINDOW", "invoke", "make_bundle", "sound", "write"]

#: Of the bundle: in Hz, and the samples of its windows.
RATE, WINDOW = 8000, 4000


def make_bundle(folder: Path, seed: int = 0) -> Path:
    run = make_run(folder / "run", {f"{trial:04d}": 0.5 + trial / 10 for trial in range(seed + 1)})
    return export(run, folder / "bundle")


def sound(samples: int, rate: int = RATE, seed: int = 0) -> NDArray[np.float64]:
    """A chirp in noise: no two windows alike."""
    t = np.arange(samples) / rate
    noise = np.random.default_rng(seed).normal(0, 0.02, samples)
    return 0.4 * np.sin(2 * np.pi * (200 + 150 * t + 40 * seed) * t) + noise


def write(path: Path, wave: NDArray[Any], rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)
    return path


def invoke(*arguments: str | Path, stdin: bytes | None = None) -> Any:
    """`raudio predict` with these arguments."""
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], input=stdin)
