"""The benchmarks run from end to end; what they measure here means nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from raudio.audio.decode import decode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_search_overhead_runs_from_end_to_end(tmp_path: Path) -> None:
    out, work = tmp_path / "result.json", tmp_path / "work"
    command = [sys.executable, str(BENCHMARKS / "search_overhead.py"), "--quick"]
    done = subprocess.run(
        [*command, "--peer-trials", "1", "--out", str(out), "--work", str(work)],
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
    assert figures["(c) / (a)"]["value"] == pattern["seconds"] * 4 / ours["seconds"]
    assert len(ours["accuracies"]) == len(plain["accuracies"]) == 4
    assert len(pattern["accuracies"]) == 1
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


def _throughput(tmp_path: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Runs the smoke size of the benchmark; its JSON and its table."""
    out, work = tmp_path / "result.json", tmp_path / "work"
    command = [sys.executable, str(BENCHMARKS / "data_throughput.py"), "--smoke"]
    done = subprocess.run(
        [*command, *arguments, "--out", str(out), "--work", str(work)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not _left_behind(work), "processes of the benchmark are still there"
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["smoke"] is True
    assert result["machine"]["packages"]["soxr"]
    return result, done.stdout


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_data_throughput_of_resident_clips_and_peers(tmp_path: Path) -> None:
    names = ["floor-cached-2", "raudio-resident-2", "dataloader"]
    result, table = _throughput(
        tmp_path, "--set", "L", "--contenders", ",".join(names), "--epochs", "2"
    )
    rows = {row["contender"]: row for row in result["rows"]}
    assert list(rows) == names
    clips = result["sets"][0]["clips"]
    for name, row in rows.items():
        assert row["problem"] is None
        assert name in table
        (run,) = row["runs"]
        assert len(run["epochs"]) == 2
        assert row["rate"] == pytest.approx((1 + name.endswith("-2")) * clips / run["epochs"][1])
        assert row["start"] > 0.1, "Python has to start, and to import torch"
        assert row["cpu"] > 0
        assert row["memory"] > 100e6
    # Quotients, recomputed from what they come from.
    figures = {figure["name"]: figure for figure in result["figures"]}
    assert len(figures) == len(result["figures"])
    rate = rows["raudio-resident-2"]["rate"]
    of_floor = figures["L raudio-resident-2 of cached floor"]
    assert of_floor["value"] == rate / rows["floor-cached-2"]["rate"]
    assert of_floor["at_least"] == 0.95
    to_peer = figures["L raudio-resident-2 to best peer"]
    assert to_peer["value"] == rate / rows["dataloader"]["rate"]
    assert to_peer["at_least"] == 3


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_data_throughput_of_what_does_not_fit(tmp_path: Path) -> None:
    names = "raudio-resident-1,raudio-streamed-1"
    result, table = _throughput(
        tmp_path, "--set", "L-large", "--contenders", names, "--epochs", "2"
    )
    resident, streamed = result["rows"]
    assert "do not fit the budget" in resident["problem"]
    assert "do not fit the budget" in table
    (run,) = streamed["runs"]
    assert 0 < run["ray_alone"] < run["memory"]
    figures = {figure["name"]: figure for figure in result["figures"]}
    beyond = figures["L-large raudio-streamed-1 beyond Ray"]
    assert beyond["value"] == run["memory"] - run["ray_alone"]
    assert beyond["at_most"] == 1.5e9


@pytest.mark.parametrize("length", [8000, 5000])
def test_kernels_of_data_throughput(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from throughput.kernels import Kernels
    from throughput.recipe import Shape

    compute = Kernels(Shape(sample_rate=8000, frames=8000))
    wave = torch.sin(torch.arange(length) / 7)
    out = torch.zeros(8000)
    compute._augment(wave, out, 2.0, 0.0, -1200)
    assert torch.equal(out[:length], 2 * torch.roll(wave, -1200))
    assert not out[length:].any()
    compute._augment(wave, out, 0.5, 0.1, 0)  # noise at 20 dB below, before the gain
    noise = out[:length] / 0.5 - wave
    assert float(noise.square().sum() / wave.square().sum()) == pytest.approx(0.01, rel=1e-3)
    features = compute.features([wave.numpy(), (wave * 32767).to(torch.int16).numpy()])
    assert features.shape == (2, 101, 64)
    valid = 1 + length // 80
    assert features[:, :valid].all()
    assert not features[:, valid:].any()


@pytest.mark.parametrize("channels", [1, 2])
def test_decoding_of_data_throughput(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, channels: int
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from throughput.kernels import Kernels
    from throughput.recipe import Shape

    path = tmp_path / "clip.flac"
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (44_100, channels))
    soundfile.write(path, sound, 44_100)
    compute = Kernels(Shape(sample_rate=16_000, frames=8_000))
    expected, _ = decode(path, 16_000)
    for source in (str(path), path.read_bytes()):
        assert np.allclose(compute.decode(source), expected, atol=1e-6)
    assert len(compute.load(str(path))) == 8_000


def test_times_of_data_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from throughput.measure import Consumed, Epoch
    from throughput.run import Run

    # Batches a second apart. Each waits half a second at an epoch's end and more at the next
    # one's start: 1.0 and 2.5 s. The seconds in between, 5 to 7, are its own.
    one = [Epoch(1, 2, 4, 4.5, 60, 1.0), Epoch(7, 8.5, 10, 10.5, 60, 1.0)]
    other = [Epoch(1, 2.5, 4, 4.5, 60, 1.0), Epoch(7, 10, 11, 11.5, 60, 1.0)]
    consumed = [Consumed(one, 6.0, 0.2), Consumed(other, 4.0, 0.1)]
    run = Run.of(consumed, began=0.5, watched=False, memory=0, ray_alone=0)
    assert run.start == 2.0
    assert run.again == 0.2
    assert run.epochs == [3.5, 4.5]
    assert run.rate == pytest.approx(120 / 4.5)
    assert run.cpu == pytest.approx(5.0 / 120)
    assert run.gap == pytest.approx(2.5)


@pytest.mark.slow
def test_report_runs_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / "report.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["quick"] is True
    figures = {figure["name"]: figure for figure in result["figures"]}
    assert figures["report of 300 trials"]["verdict"] == "pass"
    assert figures["its peak memory, 300 trials"]["value"] > 1e7
    assert figures["page of 20 trials"]["value"] > 1e4
    assert "report of 300 trials" in done.stdout


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


@pytest.mark.slow
def test_search_quality_runs_from_end_to_end(tmp_path: Path) -> None:
    """Without its peer, on a few made-up curves; a second run goes on from what the first kept."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from search_scale import made_up
    finally:
        sys.path.remove(str(BENCHMARKS))
    table, out = tmp_path / "curves.parquet", tmp_path / "result.json"
    made_up(configurations=20).write(table)
    command = [sys.executable, str(BENCHMARKS / "search_quality.py"), "--table", str(table)]
    command += ["--seeds", "2", "--epochs", "40", "--out", str(out)]
    for _ in range(2):
        done = subprocess.run(
            [*command, "--work", str(tmp_path / "work")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert set(result["contenders"]) == {"random", "TPE", "ASHA + random", "ASHA + TPE"}
    assert all(len(curve) == 40 for curve in result["curves"].values())
    kept = [json.loads(path.read_text()) for path in (tmp_path / "work").glob("random-*.json")]
    best = np.maximum.accumulate(kept, axis=1)
    assert result["curves"]["random"] == pytest.approx(best.mean(axis=0).tolist(), abs=1e-5)
    assert result["target"] == pytest.approx(np.median(best[:, -1]))
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    assert "ASHA + TPE" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_predict_runs_from_end_to_end(tmp_path: Path) -> None:
    """Without autrainer; raudio's scores are checked against the plain loop's on the way."""
    out = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / "predict.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["quick"] is True
    rows = {(row["model"], row["files"], row["contender"]): row for row in result["rows"]}
    problems = {key[2]: row["problem"] for key, row in rows.items() if row["problem"]}
    assert problems.pop("autrainer") == "no --peer-python"
    assert set(problems) <= {"ONNX", "torch.export", "int8"}  # where their packages are missing
    figures = {figure["name"]: figure for figure in result["figures"]}
    plain, ours = rows["cnn", "clips", "plain loop"], rows["cnn", "clips", "eager"]
    ratio = figures["cnn, clips, 1 CPU: eager / plain loop"]
    assert ratio["value"] == plain["seconds"] / ours["seconds"]
    assert ratio["at_least"] == 0.8
    assert figures["cnn, clips, 1 CPU: eager"]["value"] == ours["count"] / ours["seconds"]
    assert figures["cnn, 3 hours, 1 CPU: eager: peak memory"]["at_most"] == 1e9
    assert figures["raudio predict to its first result, 1 CPU"]["at_most"] == 3
    assert result["differences"]["cnn, clips, 1 CPU: eager"] < 1e-3
    assert result["differences"]["cnn10, clips, 1 CPU: eager"] < 1e-3
    assert "eager / plain loop" in done.stdout


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_faults_runs_from_end_to_end(tmp_path: Path) -> None:
    """Four faults, of which the search is to show nothing in the end."""
    out = tmp_path / "result.json"
    with tempfile.TemporaryDirectory(prefix="faults-") as work:  # Ray's sockets want a short path
        command = [sys.executable, str(BENCHMARKS / "faults.py"), "--quick"]
        done = subprocess.run(
            [*command, "--out", str(out), "--work", f"{work}/1"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        assert not _left_behind(Path(work)), "processes of the benchmark are still there"
    result = json.loads(out.read_text())
    assert all(check["passed"] for check in result["checks"])
    struck = {fault["kind"] for fault in result["disturbed"]["struck"]}
    killed = {"trial process killed", "machine killed", "driver killed"}
    assert struck == {*killed, "store: 503"}
    assert result["disturbed"]["drivers"] == 2
    # The costs add up to what the steps were more, and the search longer.
    epochs = sum(sum(cost["epochs"]) for cost in result["costs"])
    more = result["disturbed"]["steps"] - result["undisturbed"]["steps"]
    assert epochs * result["epoch_steps"] == pytest.approx(more)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_cluster_scale_runs_from_end_to_end() -> None:
    with tempfile.TemporaryDirectory(prefix="scale-") as work:
        out = Path(work, "result.json")
        command = [sys.executable, str(BENCHMARKS / "cluster_scale.py"), "--quick"]
        done = subprocess.run(
            [*command, "--out", str(out), "--work", f"{work}/1"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert not _left_behind(Path(work)), "processes of the benchmark are still there"
        result = json.loads(out.read_text())
    few, many = result["details"]["searches"]
    assert (few["trials"], few["reports"]) == (4, 10)
    assert (many["trials"], many["reports"]) == (4, 16)
    assert few["filling"][-1][1:] == [2, 2]
    figures = {figure["name"]: figure["value"] for figure in result["figures"]}
    report = figures["2 machines: driver's CPU a report"]
    trial = figures["2 machines: driver's CPU a trial, beside its reports"]
    assert 4 * trial + 10 * report == pytest.approx(few["cpu"])
    assert 4 * trial + 16 * report == pytest.approx(many["cpu"])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_search_scale_runs_from_end_to_end(tmp_path: Path) -> None:
    out, work = tmp_path / "result.json", tmp_path / "work"
    command = [sys.executable, str(BENCHMARKS / "search_scale.py"), "--quick"]
    done = subprocess.run(
        [*command, "--out", str(out), "--work", str(work)],
        capture_output=True,
        text=True,
        check=False,
    )
    result = json.loads(out.read_text())
    assert result["problems"] == {}, result["problems"]
    assert done.returncode == 0, done.stderr[-3000:]
    figures = {figure["name"]: figure["value"] for figure in result["figures"]}
    ours, plain = figures["seconds a trial of 12"], figures["plain Tune: seconds a trial of 12"]
    assert figures["raudio by plain Tune, seconds a trial of 12"] == ours / plain
    assert figures["random + ASHA, 400 trials on 10 workers: seconds a decision"] > 0
    assert len(result["details"]["raudio, 12 trials"]["memory"]) == 12
    assert "plain Tune" in done.stdout
    assert not _left_behind(work), "processes of the benchmark are still there"
