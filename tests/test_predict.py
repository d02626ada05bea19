"""Predicting with a bundle: one path from any recording to the scores that evaluation gives."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from predict_kit import LABELS, RATE, WINDOW, invoke, make_bundle, sound, write

from raudio.core.errors import ConfigError, DataError, UserError
from raudio.export import recordings
from raudio.export.predictor import Predictor, Result, load

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def model(bundle: Path) -> Predictor:
    return load(bundle)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recordings shorter than a window, as long, a little longer, and much longer."""
    folder = tmp_path_factory.mktemp("recordings")
    lengths = {"short": 900, "window": WINDOW, "longer": WINDOW + 1, "long": 5 * WINDOW + 700}
    return {
        name: write(folder / f"{name}.wav", sound(samples, seed=seed))
        for seed, (name, samples) in enumerate(lengths.items())
    }


# --- what is computed --------------------------------------------------------------------------


def by_hand(model: Predictor, path: Path) -> torch.Tensor:
    """(C,) scores: one window after the other, rounded to 16 bits, zeros behind it; the mean."""
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    samples = np.round(samples * 32767) / 32767
    starts = [*range(0, max(len(samples) - WINDOW, 1), WINDOW)]
    if len(samples) > WINDOW and starts[-1] != len(samples) - WINDOW:
        starts.append(len(samples) - WINDOW)
    scores = []
    for start in starts:
        window = samples[start : start + WINDOW]
        wave = torch.zeros(1, WINDOW)
        wave[0, : len(window)] = torch.from_numpy(window.astype(np.float32))
        with torch.no_grad():
            logits = model.system(wave, torch.tensor([len(window)]))
        scores.append(torch.exp(logits[0]) / torch.exp(logits[0]).sum())
    return torch.stack(scores).mean(dim=0)


def by_hand_scores(model: Predictor, path: Path) -> dict[str, float]:
    return dict(zip(LABELS, by_hand(model, path).tolist(), strict=True))


@pytest.mark.parametrize("name", ["short", "window", "longer", "long"])
def test_the_scores_are_the_mean_over_the_windows(
    model: Predictor, files: dict[str, Path], name: str
) -> None:
    result = model.predict(files[name])
    expected = by_hand(model, files[name])
    assert list(result) == ["file", "label", "score", "scores"]
    assert result["file"] == str(files[name])
    assert list(result["scores"]) == list(LABELS)
    assert list(result["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert result["label"] == LABELS[int(expected.argmax())]
    assert result["score"] == max(result["scores"].values())


def test_a_list_gives_what_each_gives_alone_in_order(
    model: Predictor, files: dict[str, Path]
) -> None:
    paths = list(files.values())
    alone = [model.predict(path) for path in paths]
    for batch_size in (1, 3, 64):
        together = model.predict(paths, batch_size=batch_size)
        assert [result["file"] for result in together] == [str(path) for path in paths]
        for one, other in zip(alone, together, strict=True):
            assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)


def test_a_file_read_in_pieces_gives_what_it_gives_whole(
    model: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.flac", sound(44100 * 7, 44100), 44100)
    whole = model.predict(path)
    monkeypatch.setattr(recordings, "PIECE", 0.7)
    assert model.predict(path) == whole


@pytest.mark.parametrize(("rate", "channels"), [(8000, 2), (44100, 1), (48000, 3), (11025, 2)])
def test_any_rate_and_channel_count(
    model: Predictor, tmp_path: Path, rate: int, channels: int
) -> None:
    def tone(at: int) -> NDArray[np.float64]:
        t = np.arange(at) / at
        return 0.5 * np.sin(2 * np.pi * 440 * t) * np.hanning(at)

    reference = model.predict(write(tmp_path / "ref.wav", tone(RATE)))
    share = np.linspace(0.5, 1.5, channels) if channels > 1 else np.ones(1)
    path = write(tmp_path / "x.wav", tone(rate)[:, None] * share, rate)
    assert model.predict(path)["scores"] == pytest.approx(reference["scores"], abs=2e-3)


def test_samples_give_what_their_file_gives(model: Predictor, tmp_path: Path) -> None:
    wave = np.stack([sound(16000, 16000), sound(16000, 16000, seed=3)], axis=1)
    path = write(tmp_path / "x.wav", wave, 16000)
    stored, _ = soundfile.read(path, dtype="int16")
    expected = model.predict(path)["scores"]
    floats = stored.astype(np.float32) / 32768
    for samples in (stored, floats, floats.astype(np.float64), torch.from_numpy(floats)):
        result = model.predict(samples, 16000)
        assert "file" not in result
        assert result["scores"] == pytest.approx(expected, abs=1e-6)
    assert len(model.predict([floats, floats[:, 0]], 16000)) == 2


def test_samples_that_cannot_be_used(model: Predictor) -> None:
    wave = sound(800)
    with pytest.raises(ConfigError, match="sample_rate=None"):
        model.predict(wave)
    with pytest.raises(ConfigError, match=r"samples\.T"):
        model.predict(np.stack([wave, wave]), RATE)
    with pytest.raises(ConfigError, match="complex128"):
        model.predict(wave + 1j, RATE)
    with pytest.raises(ConfigError, match=r"shape \(2, 2, 2\)"):
        model.predict(np.zeros((2, 2, 2)), RATE)
    with pytest.raises(DataError, match="empty"):
        model.predict(np.zeros(0), RATE)
    with pytest.raises(DataError, match="NaN"):
        model.predict(np.array([0.0, np.nan]), RATE)
    assert "NaN" in model.predict([np.array([np.inf]), wave], RATE)[0]["error"]


def test_a_broken_file_is_reported_and_the_others_go_on(
    model: Predictor, files: dict[str, Path], tmp_path: Path
) -> None:
    broken, empty = tmp_path / "broken.wav", tmp_path / "empty.wav"
    broken.write_bytes(b"RIFF, but not really")
    write(empty, np.zeros(0))
    missing = tmp_path / "missing.wav"
    paths = [broken, files["long"], missing, empty, files["short"]]
    results = model.predict(paths)
    assert [("error" in result) for result in results] == [True, False, True, True, False]
    for result, path in zip(results, paths, strict=True):
        assert result["file"] == str(path)
        if "error" in result:
            assert set(result) == {"file", "error"}
            assert str(path) in result["error"]
    assert results[1]["scores"] == pytest.approx(by_hand_scores(model, files["long"]), abs=1e-6)
    with pytest.raises(DataError, match=r"missing\.wav"):
        model.predict(missing)


def test_a_file_that_breaks_in_its_middle_has_no_prediction(
    model: Predictor, tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.flac", sound(RATE * 20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(recordings, "PIECE", 1.0)
    first, second = model.predict([path, files["short"]], batch_size=2)
    assert set(first) == {"file", "error"}
    assert second["scores"] == pytest.approx(by_hand_scores(model, files["short"]), abs=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_endless_supply_is_taken_as_it_is_used(model: Predictor, workers: int) -> None:
    taken = itertools.count()

    def endless() -> Iterator[NDArray[Any]]:
        for _ in taken:
            yield sound(WINDOW)

    there = {*threading.enumerate()}  # those of other tests may end meanwhile
    results = model.results(endless(), RATE, batch_size=4, workers=workers)
    assert [each.position for each in itertools.islice(results, 10)] == list(range(10))
    assert next(taken) <= 12 + 1 + 8 * workers
    assert len({*threading.enumerate()} - there) == workers
    results.close()
    assert {*threading.enumerate()} - there == set()


def test_a_device_that_is_none(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="device 'tpu' cannot be used"):
        load(bundle, "tpu")
    assert load(bundle, "auto").device.type in ("cpu", "cuda")


# --- raudio predict ----------------------------------------------------------------------------


def test_json_is_one_object_a_line(
    bundle: Path, model: Predictor, files: dict[str, Path], tmp_path: Path
) -> None:
    missing = tmp_path / "missing.wav"
    done = invoke(bundle, files["long"], missing, files["short"], "--json")
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [
        str(files["long"]), str(missing), str(files["short"])
    ]  # fmt: skip
    assert lines[0]["scores"] == pytest.approx(by_hand_scores(model, files["long"]), abs=1e-6)
    assert set(lines[1]) == {"file", "error"}
    assert "1 of 3 recordings could not be used" in done.stderr


def test_a_table_by_default(bundle: Path, files: dict[str, Path]) -> None:
    done = invoke(bundle, files["short"], files["long"])
    assert done.exit_code == 0, done.output
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["file", "label", "score", "next"]
    assert [line.split()[0] for line in lines] == [str(files["short"]), str(files["long"])]


def test_folders_are_searched_for_audio(bundle: Path, tmp_path: Path) -> None:
    for name in ("b/2.FLAC", "a/1.wav", "3.ogg"):
        write(tmp_path / "in" / name, sound(900))
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    done = invoke(bundle, tmp_path / "in", "--json")
    assert done.exit_code == 0, done.output
    found = [json.loads(line)["file"] for line in done.stdout.splitlines()]
    assert found == [str(tmp_path / "in" / name) for name in ("3.ogg", "a/1.wav", "b/2.FLAC")]


def test_a_csv_file(bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    done = invoke(bundle, files["short"], tmp_path / "no, such.wav", "--out", out)
    assert done.exit_code == 1
    assert done.stdout == ""
    with out.open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert list(good) == ["file", "label", "score", "error", *(f"score_{one}" for one in LABELS)]
    assert float(good["score"]) == max(float(good[f"score_{one}"]) for one in LABELS)
    assert good["label"] in LABELS
    assert bad["file"] == str(tmp_path / "no, such.wav")
    assert bad["error"]
    assert bad["label"] == bad["score"] == ""


def test_a_jsonl_file(bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = invoke(bundle, files["short"], "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert out.read_text() == done.stdout


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["{tmp}/shrot.wav"], "no such file: .*closest: .*short.wav"),
        (["{tmp}/empty"], "no audio in"),
        (["{tmp}/short.wav", "--out", "{tmp}/x.xlsx"], r"ends in \.csv, \.jsonl or \.parquet"),
        (["{tmp}/short.wav", "--out", "{tmp}/nowhere/x.csv"], "there is no folder"),
        (["{tmp}/short.wav", "--device", "tpu"], "device 'tpu'"),
        (["{tmp}/short.wav", "--plugin", "{tmp}/p.py"], "no such file"),
    ],
)
def test_wrong_usage(bundle: Path, tmp_path: Path, arguments: list[str], match: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "short.wav", sound(900))
    done = invoke(bundle, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert isinstance(done.exception, UserError)
    with pytest.raises(UserError, match=match):
        raise done.exception


def test_no_bundle_leaves_no_output_file(tmp_path: Path) -> None:
    write(tmp_path / "x.wav", sound(900))
    done = invoke(tmp_path / "b", tmp_path / "x.wav", "--out", tmp_path / "out.csv")
    assert isinstance(done.exception, UserError)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow
def test_only_what_is_needed_is_imported(bundle: Path, files: dict[str, Path]) -> None:
    code = (
        "import sys, raudio.cli.main as main\n"
        "assert 'torch' not in sys.modules\n"
        "sys.argv = ['raudio', 'predict', *sys.argv[1:]]\n"
        "try:\n    main.main()\nexcept SystemExit: pass\n"
        "heavy = ('ray', 'optuna', 'pandas', 'hydra', 'omegaconf', 'torchmetrics', 'wandb')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(files["short"])],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_person_sees_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recordings and hours done, each second once; a pipe gets nothing of it."""
    from raudio.cli.predict import _progress

    def show_all() -> None:
        with _progress(3) as show:
            for position, seconds in ((0, 1800.0), (0, 3600.0), (1, 3600.0), (2, 60.0)):
                show(Result(position, "x", seconds=seconds))

    show_all()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    show_all()
    shown = capsys.readouterr()
    assert "2/3" in shown.err
    assert "2 h 1 min of audio" in shown.err
    assert "times real time" in shown.err
    assert shown.out == ""
