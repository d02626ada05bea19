"""The benchmarks run from end to end; what they measure here means nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_search_overhead_runs_from_end_to_end(tmp_path: Path) -> None:
    out, work = tmp_path / "result.json", tmp_path / "work"
    command = [sys.executable, str(BENCHMARKS / "search_overhead.py"), "--quick"]
    done = subprocess.run(
        [*command, "--peer-trials", "2", "--out", str(out), "--work", str(work)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["quick"] is True
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["packages"]["torch"]

    figures = {figure["name"]: figure for figure in result["figures"]}
    assert len(figures) == len(result["figures"])
    for figure in figures.values():
        bounded = figure["at_most"] is not None or figure["at_least"] is not None
        assert (figure["verdict"] is not None) == bounded
    assert "(a) / (b)" in done.stdout
    assert "raudio plan" in done.stdout
    # Quotients, recomputed from what they come from.
    peers = result["details"]["peers"]
    ours, plain, pattern = (peers[n] for n in ("raudio", "plain loop", "Ray's pattern"))
    assert figures["(a) / (b)"]["value"] == ours["seconds"] / plain["seconds"]
    assert figures["(c) / (a)"]["value"] == pattern["seconds"] * 2 / ours["seconds"]
    assert len(ours["accuracies"]) == len(plain["accuracies"]) == 4
    assert len(pattern["accuracies"]) == 2
    assert ours["parameters"] == plain["parameters"]
    search = result["details"]["efficiency"]
    loops = sum(trial["loop_seconds"] for trial in search["trials"])
    efficiency = figures["search efficiency: training / (slots x wall time)"]["value"]
    assert efficiency == pytest.approx(loops / (2 * (search["end"] - search["first_trial"])), 1e-3)
    # Two trials share the decoded data: another copy would double the quotient.
    for trials in ("1 trial", "2 trials"):
        name = f"shared memory of all processes / decoded data, {trials}"
        assert 0.9 < figures[name]["value"] < 1.5

    assert not _left_behind(work), "processes of the benchmark are still there"


def _left_behind(work: Path) -> list[str]:
    """Command lines of living processes that name the benchmark's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(work) in command:
                found.append(command)
    return found
