"""Bundles of several trials, of other weights than the best, and in fewer bytes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from memory_feed import MemoryFeed
from test_export import LABELS, edit, make_run, reseal
from typer.testing import CliRunner

from raudio import checkpoint, records
from raudio.cli.main import app
from raudio.config import schema
from raudio.config.validate import dump_yaml, load_yaml
from raudio.core.errors import ConfigError, RunError
from raudio.data.prepare import prepare
from raudio.export.bundle import CARD, METRICS, read_bundle
from raudio.export.evaluate import evaluate
from raudio.export.make import export
from raudio.export.precision import SCALE, compact, restored
from raudio.export.systems import Ensemble
from raudio.system import System, build_system


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return make_run(folder, {"0000": 0.5, "0001": 0.75, "0002": None, "0003": 0.625})


def change(run: Path, trial: str, **sections: dict[str, Any]) -> None:
    """Gives a trial of the run another experiment, and new weights that fit it."""
    folder = records.trial_folder(run, trial)
    path = folder / records.EXPERIMENT_YAML
    experiment = load_yaml(path.read_text(), schema.Experiment)
    for section, settings in sections.items():
        old = getattr(experiment, section)
        experiment = dataclasses.replace(
            experiment, **{section: dataclasses.replace(old, **settings)}
        )
    path.write_text(dump_yaml(experiment))
    state = checkpoint.load(folder / records.BEST)
    state["model"] = build_system(experiment, labels=LABELS).state_dict()
    checkpoint.save(folder / records.BEST, state)


def states(run: Path, *trials: str) -> list[dict[str, torch.Tensor]]:
    found = [checkpoint.load(records.trial_folder(run, each) / records.BEST) for each in trials]
    return [state["model"] for state in found]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.rand(5, 4000, generator=draw) - 0.5, torch.tensor([4000, 1, 900, 3999, 2000])


# --- several trials ----------------------------------------------------------------------------


def test_an_ensemble_s_scores_are_the_hand_averaged_ones(run: Path, tmp_path: Path) -> None:
    bundle = read_bundle(export(run, tmp_path / "b", top=2))
    system = bundle.system()
    assert isinstance(system, Ensemble)
    waves, lengths = batch()
    each = []
    for trial, state in zip(("0001", "0003"), states(run, "0001", "0003"), strict=True):
        place = records.trial_folder(run, trial) / records.EXPERIMENT_YAML
        alone = build_system(load_yaml(place.read_text(), schema.Experiment), labels=LABELS)
        alone.load_state_dict(state)
        each.append(alone.eval()(waves, lengths).detach().softmax(1))
    assert not torch.allclose(*each), "the members differ"
    torch.testing.assert_close(system.scores(waves, lengths), (each[0] + each[1]) / 2)
    assert [one["trial"] for one in bundle.metrics["members"]] == ["0001", "0003"]
    assert bundle.metrics["value"] is None
    assert bundle.metrics["measured"] == (
        "not measured: its dataset was out of reach when it was exported"
    )
    card = (tmp_path / "b" / CARD).read_text()
    assert "An ensemble of 2, whose scores are averaged" in card
    assert "The mean scores of 2 trials, 0001 (epoch 3, 0.75), 0003 (epoch 3, 0.625)" in card
    assert "Not measured: its dataset was out of reach" in card


def test_members_of_other_architectures(run: Path, tmp_path: Path) -> None:
    copy = make_run(tmp_path / "run", {"0000": 0.5, "0001": 0.75})
    change(copy, "0000", model={"width": 8}, features={"n_mels": 20})
    system = read_bundle(export(copy, tmp_path / "b", top=2)).system()
    waves, lengths = batch()
    assert system.scores(waves, lengths).shape == (5, 3)
    with pytest.raises(
        RunError, match=r"0001 and 0000 have different archi.*features\.n_mels, model\.width"
    ):
        export(copy, tmp_path / "c", top=2, weights="averaged")


def test_averaged_weights_are_the_mean_of_the_weights(run: Path, tmp_path: Path) -> None:
    bundle = read_bundle(export(run, tmp_path / "b", top=3, weights="averaged"))
    assert isinstance(bundle.system(), System)
    assert len(bundle.members) == 1
    assert bundle.metrics["weights"] == "averaged"
    each = states(run, "0001", "0003", "0000")
    for name, tensor in bundle.weights.items():
        if tensor.is_floating_point():
            mean = sum(np.float64(state[name].numpy()) for state in each) / 3
            np.testing.assert_allclose(tensor.numpy(), mean, rtol=1e-6)


def test_what_several_trials_cannot_be(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    with pytest.raises(RunError, match=r"--top 4: 3 trials .* \(0001, 0003, 0000\)"):
        export(run, out, top=4)
    with pytest.raises(ConfigError, match="exclude each other"):
        export(run, out, "1", top=2)
    with pytest.raises(ConfigError, match="at least 2"):
        export(run, out, top=1)
    with pytest.raises(ConfigError, match="give --top K"):
        export(run, out, weights="averaged")
    with pytest.raises(ConfigError, match=r"unknown choice 'bets' \(closest: 'best'\)"):
        export(run, out, weights="bets")
    copy = make_run(tmp_path / "run", {"0000": 0.5, "0001": 0.75})
    change(copy, "0000", dataset={"clip_seconds": 0.25})
    with pytest.raises(RunError, match=r"differ in dataset\.clip_seconds \(0\.5 and 0\.25\)"):
        export(copy, out, top=2)
    assert not out.exists()


def test_an_ensemble_whose_members_hear_different_windows_is_refused(
    run: Path, tmp_path: Path
) -> None:
    export(run, tmp_path / "b", top=2)
    edit(tmp_path / "b", "experiment-2.json", lambda e: e["dataset"].update(clip_seconds=0.25))
    with pytest.raises(RunError, match="hear different windows"):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize("name", ["weights-2.safetensors", "experiment-2.json"])
def test_half_a_member_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    export(run, tmp_path / "b", top=2)
    (tmp_path / "b" / name).unlink()
    reseal(tmp_path / "b")
    with pytest.raises(RunError, match=f"lists other files than a bundle's \\('{name}'\\)"):
        read_bundle(tmp_path / "b")


# --- the last weights --------------------------------------------------------------------------


def test_the_last_weights(run: Path, tmp_path: Path) -> None:
    copy = make_run(tmp_path / "run", {"0000": 0.5})
    folder = records.trial_folder(copy, "0000")
    with pytest.raises(RunError, match="take --weights best"):
        export(copy, tmp_path / "b", weights="last")
    state = checkpoint.load(folder / records.BEST)
    last = {name: tensor + 1 for name, tensor in state["model"].items()}
    report = {"metrics": {"valid/accuracy": 0.4375}}
    checkpoint.save(folder / records.LAST, state | {"model": last, "epoch": 7, "report": report})
    bundle = read_bundle(export(copy, tmp_path / "b", weights="last"))
    assert (bundle.metrics["weights"], bundle.metrics["epoch"]) == ("last", 7)
    assert bundle.metrics["value"] == 0.4375
    assert all(torch.equal(bundle.weights[name], last[name]) for name in last)
    assert "The last weights, of epoch 7" in (tmp_path / "b" / CARD).read_text()


# --- fewer bytes -------------------------------------------------------------------------------


def test_half_precision_is_the_rounded_weights(run: Path, tmp_path: Path) -> None:
    bundle = read_bundle(export(run, tmp_path / "b", precision="fp16"))
    (state,) = states(run, "0001")
    for name, tensor in bundle.weights.items():
        expected = state[name].half().float() if state[name].ndim > 1 else state[name]
        assert torch.equal(tensor, expected), name
    assert bundle.metrics["precision"]["stored"] == "fp16"
    before, after = bundle.metrics["precision"]["costs"]
    assert (before["precision"], after["precision"]) == ("fp32", "fp16")
    assert after["bytes"] == (tmp_path / "b" / "weights.safetensors").stat().st_size
    assert before["seconds"] > 0


def test_int8_is_off_by_half_a_step_at_most() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = {
        "kernel": torch.randn(8, 4, 3, 3, generator=draw),
        "matrix": torch.randn(5, 7, generator=draw) * torch.logspace(-6, 3, 5)[:, None],
        "zero": torch.zeros(2, 3),
        "bias": torch.randn(5, generator=draw),
        "count": torch.tensor(7),
    }
    stored = compact(weights, "int8")
    assert stored["kernel"].dtype == torch.int8
    found = restored(stored)
    assert set(found) == set(weights)
    assert torch.equal(found["bias"], weights["bias"])
    for name in ("kernel", "matrix", "zero"):
        step = weights[name].flatten(1).abs().amax(1, keepdim=True) / 127
        off = (found[name] - weights[name]).flatten(1).abs()
        assert (off <= step * 0.5001).all(), name
    with pytest.raises(ValueError, match="without a scale"):
        restored({"kernel": stored["kernel"]})
    with pytest.raises(ValueError, match="belongs to no tensor"):
        restored({f"kernel{SCALE}": stored[f"kernel{SCALE}"]})
    with pytest.raises(RunError, match="half precision ends at 65504"):
        compact({"matrix": torch.full((1, 1), 1e6)}, "fp16")


def test_int8_is_a_quarter_of_the_size_and_reports_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"0000": 0.5})
    change(run, "0000", model={"width": 32, "depth": 3})
    bundle = export(run, tmp_path / "b", precision="int8")
    before, after = json.loads((bundle / METRICS).read_text())["precision"]["costs"]
    assert after["bytes"] < 0.35 * before["bytes"]
    waves, lengths = batch()
    (state,) = states(run, "0000")
    system = read_bundle(bundle).system()
    exact = build_system(read_bundle(bundle).experiment, labels=LABELS)
    exact.load_state_dict(state)
    torch.testing.assert_close(
        system.scores(waves, lengths), exact.eval().scores(waves, lengths), atol=0.01, rtol=0
    )


# --- measured where the dataset is within reach -------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run whose dataset is there, and the dataset."""
    here = tmp_path_factory.mktemp("measured")
    for label, hertz in zip(LABELS, (300, 900, 2000), strict=True):
        for number in range(12):
            path = here / "source" / label.replace("|", "-") / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw = np.random.default_rng(number)
            time = np.arange(4000 if number % 2 else 9000) / 8000
            wave = 0.3 * np.sin(2 * np.pi * hertz * time) + 0.1 * draw.standard_normal(len(time))
            soundfile.write(path, wave, 8000)
    manifest = prepare(here / "source", here / "data")
    run = make_run(here / "run", {"0000": 0.5, "0001": 0.75})
    for trial in ("0000", "0001"):
        change(run, trial, dataset={"path": str(here / "data")})
        path = records.trial_folder(run, trial) / records.BEST
        state = checkpoint.load(path)
        state |= {"dataset": manifest.fingerprint, "labels": list(manifest.labels)}
        checkpoint.save(path, state)
    return run, here / "data"


@pytest.mark.slow
def test_an_ensemble_is_measured_as_evaluate_does(
    measured: tuple[Path, Path], tmp_path: Path
) -> None:
    run, data = measured
    bundle = export(run, tmp_path / "b", top=2)
    metrics = read_bundle(bundle).metrics
    found = evaluate(bundle, data, "valid")
    expected = {f"valid/{name}": value for name, value in found["metrics"].items()}
    assert metrics["metrics"] == pytest.approx(expected)
    assert metrics["value"] == metrics["metrics"]["valid/accuracy"]
    assert metrics["details"]["confusion"] == found["confusion"]
    assert metrics["measured"] == f"at export, on {found['clips']} clips"
    content = b"".join(path.read_bytes() for path in bundle.iterdir())
    assert str(data).encode() not in content, "where the data lay is nobody's business"


@pytest.mark.slow
def test_a_smaller_precision_is_measured_before_and_after(
    measured: tuple[Path, Path], tmp_path: Path
) -> None:
    run, data = measured
    bundle = export(run, tmp_path / "b", precision="int8")
    before, after = read_bundle(bundle).metrics["precision"]["costs"]
    whole = evaluate(export(run, tmp_path / "c"), data, "valid")["metrics"]
    small = evaluate(bundle, data, "valid")["metrics"]
    assert before["metrics"]["valid/loss"] == pytest.approx(whole["loss"])
    assert after["metrics"]["valid/loss"] == pytest.approx(small["loss"])
    assert before["metrics"]["valid/loss"] != after["metrics"]["valid/loss"]


def test_weights_that_are_no_good_are_refused(measured: tuple[Path, Path], tmp_path: Path) -> None:
    run = shutil.copytree(measured[0], tmp_path / "run")
    path = records.trial_folder(run, "0001") / records.BEST
    state = checkpoint.load(path)
    state["model"] = {name: tensor * float("nan") for name, tensor in state["model"].items()}
    checkpoint.save(path, state)
    with pytest.raises(RunError, match="scores of the valid split that are not finite"):
        export(run, tmp_path / "b", top=2)
    assert not (tmp_path / "b").exists()


def test_a_dataset_that_has_changed_is_not_measured_on(
    measured: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = make_run(tmp_path / "run", {"0000": 0.5, "0001": 0.75})
    change(copy, "0001", dataset={"path": str(measured[1])})
    told: list[str] = []
    metrics = read_bundle(export(copy, tmp_path / "b", top=2, echo=told.append)).metrics
    assert metrics["measured"] == "not measured: its dataset had changed when it was exported"
    assert any(str(measured[1]) in line for line in told), "on the screen it is named"


def test_the_command(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["export", str(run), "--out", str(tmp_path / "b"), "--top", "2", "--precision", "fp16"]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'b'}\n"
    assert "trials 0001, 0003 (best weights): not measured" in done.stderr
    assert "safetensors  fp16" in done.stderr
    for options in (["--format", "onx"], ["--precision", "int4"]):
        done = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "c"), *options])
        assert isinstance(done.exception, ConfigError)
        assert "closest" in str(done.exception) or "there are" in str(done.exception)


def test_a_feed_is_scored_as_by_its_members(run: Path, tmp_path: Path) -> None:
    system = read_bundle(export(run, tmp_path / "b", top=2)).system()
    assert isinstance(system, Ensemble)
    assert system.front_end is None
    feed = MemoryFeed(batch()[0], torch.zeros(5, dtype=torch.int64))
    scores, clips = system.score(feed, 2, "cpu")
    each = [member.score(feed, 2, "cpu")[0] for member in system.members]
    torch.testing.assert_close(scores, (each[0] + each[1]) / 2)
    assert clips.tolist() == [0, 1, 2, 3, 4]
