"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import typer.testing

# No example fails for being slow: the machine may have other work.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: one thread for each process
    os.environ["OMP_NUM_THREADS"] = "1"

# Commands are those of this environment, whether it is activated or not.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

# A runner makes all commands anew from raudio's functions to invoke one of them, which takes longer
# than most do. They hold no state: one making does for all tests of a process.
typer.testing._get_command = functools.cache(typer.testing._get_command)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays to the end: nothing looks through it for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


FSDD = Path(__file__).parents[2] / "shared" / "data" / "fsdd"


@pytest.fixture(scope="session")
def fsdd() -> Path:
    """The folder of the Free Spoken Digit Dataset; the test is skipped where it isn't there."""
    if not (FSDD / "labels.csv").is_file():
        pytest.skip("the FSDD recordings are not here")
    return FSDD


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test session's own, so that no test sees or changes the user's."""
    base = tmp_path_factory.getbasetemp()
    # Processes of one session share it, as those of one user do.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    monkeypatch.setenv("RAUDIO_CACHE", str(folder))
    return folder
