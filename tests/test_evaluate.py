"""Measuring a bundle: metrics, intervals, classes, groups, calibration, conditions, bad input."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from predict_kit import RATE, WINDOW, sound, write
from test_export import LABELS, make_run, reseal
from test_report_page import Node, parse
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_f1_score,
    multiclass_precision,
)
from typer.testing import CliRunner

from raudio.audio.augment import Examples
from raudio.cli.main import app
from raudio.core import seeding
from raudio.core.errors import ConfigError, DataError, UserError
from raudio.data.clips import load_clips, stored_tables
from raudio.data.feeds import Batch, ResidentFeed
from raudio.data.folds import folds_of, on_fold
from raudio.data.manifest import Manifest
from raudio.data.prepare import Options, prepare
from raudio.export import robustness
from raudio.export.evaluate import evaluate
from raudio.export.make import export
from raudio.export.measures import Draws, grouped
from raudio.export.predictor import Predictor, load
from raudio.report import evaluation
from raudio.report.evaluation_page import page
from raudio.tasks import bootstrap
from raudio.tasks.calibration import calibration_error, reliability


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs") / "run", {"0000": 0.5})
    return export(run, tmp_path_factory.mktemp("bundles") / "b")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Predictor:
    return load(bundle)


def recordings(folder: Path, labels: Sequence[str] = LABELS, clips: int = 10) -> Path:
    """Files of several lengths and rates, a folder for each label, and a file that lists them with
    a speaker and a place."""
    rows = []
    for kind, label in enumerate(labels):
        for number in range(clips):
            rate = (RATE, 16000)[number % 2]
            samples = round((0.3 + 0.13 * number) * rate)
            wave = sound(samples, rate, seed=10 * kind + number)
            write(folder / label / f"{number}.wav", wave, rate)
            split = ("train", "valid", "test")[number % 3]
            speaker = f"s{number // 3 % 2}{number % 3}"
            rows.append([f"{label}/{number}.wav", label, split, speaker, f"room {number % 2}"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label", "split", "speaker", "room"], *rows])
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("labelled"), clips=12)


def prepared(folder: Path, out: Path) -> Path:
    prepare(folder, out, labels=folder / "labels.csv")
    return out


@pytest.fixture(scope="module")
def dataset(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(labelled, tmp_path_factory.mktemp("datasets") / "data")


@pytest.fixture(scope="module")
def result(bundle: Path, dataset: Path) -> dict[str, Any]:
    return evaluate(bundle, dataset, "test", by=["room"], robustness=True, draws=60)


def scored(model: Predictor, labelled: Path, rows: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    """(N, C) scores as predicting gives them, and (N,) classes."""
    predictions = model.predict([labelled / row["clip_id"] for row in rows])
    scores = torch.tensor([[p["scores"][label] for label in LABELS] for p in predictions])
    return scores, torch.tensor([LABELS.index(row["label"]) for row in rows])


def rows_of(dataset: Path, split: str = "test") -> list[dict[str, Any]]:
    tables = stored_tables(Manifest.read(dataset), split)
    return [row for table in tables for row in table.to_pylist()]


# --- metrics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_evaluation_equals_prediction_and_training(
    bundle: Path, model: Predictor, dataset: Path, labelled: Path, split: str
) -> None:
    """The loss of each clip's prediction, by hand, and what the training's evaluation says."""
    from raudio.training import evaluate as training

    found = evaluate(bundle, dataset, split, batch_size=7, draws=2)
    manifest = Manifest.read(dataset)
    clips = load_clips(manifest, split, sample_rate=RATE, precision="int16")
    assert found["clips"] == len(clips) > 0
    assert found["fingerprint"] == manifest.fingerprint

    scores, y = scored(model, labelled, clips.rows)
    losses = -scores.gather(1, y[:, None]).log()
    assert found["metrics"]["loss"] == pytest.approx(float(losses.mean()), abs=1e-6)
    hits = (scores.argmax(1) == y).double()
    assert found["metrics"]["accuracy"] == pytest.approx(float(hits.mean()), abs=1e-6)
    assert sum(map(sum, found["confusion"])) == len(clips)

    feed = ResidentFeed(clips, encode=model.system.task.encode, frames=WINDOW)
    system: Any = model.system
    trained = training.evaluate(system, feed, batch_size=64, device="cpu")
    assert found["metrics"] == pytest.approx(trained.metrics, abs=1e-6)


def test_all_splits_are_every_clip(bundle: Path, dataset: Path) -> None:
    one_by_one = [evaluate(bundle, dataset, split, draws=2) for split in ("train", "valid", "test")]
    found = evaluate(bundle, dataset, "all", draws=2)
    assert found["clips"] == sum(one["clips"] for one in one_by_one) == 36
    mean = sum(one["clips"] * one["metrics"]["loss"] for one in one_by_one) / 36
    assert found["metrics"]["loss"] == pytest.approx(mean, abs=1e-6)
    assert np.array_equal(found["confusion"], sum(np.array(o["confusion"]) for o in one_by_one))


def test_intervals_are_over_groups_and_the_same_again(
    bundle: Path, model: Predictor, dataset: Path, labelled: Path, result: dict[str, Any]
) -> None:
    rows = rows_of(dataset)
    scores, y = scored(model, labelled, rows)
    speakers = [row["group"] for row in rows]
    assert result["bootstrap"] == {"confidence": 0.95, "draws": 60, "over": "groups", "units": 2}
    losses = -scores.double().gather(1, y[:, None]).log()[:, 0].numpy()
    drawn = [losses[d].mean() for d in bootstrap.resamples(len(y), draws=60, groups=speakers)]
    expected = bootstrap.interval(np.array(drawn))
    assert result["intervals"]["loss"] == pytest.approx(expected, abs=1e-6)
    again = evaluate(bundle, dataset, "test", by=["room"], draws=60, batch_size=3)
    assert again["intervals"]["accuracy"] == result["intervals"]["accuracy"]
    assert again["classes"] == result["classes"]


def test_groups_are_drawn_where_there_are_several_with_several_clips() -> None:
    alone = [Draws.over(groups, 5) for groups in (["a"] * 4, ["a", "b", "c"], [None] * 3)]
    assert [one.groups for one in alone] == [None] * 3
    assert alone[0].about() == {"confidence": 0.95, "draws": 5, "over": "clips", "units": 4}
    over = Draws.over(["a", "b", "a", None, None], 5)
    assert over.groups is not None
    assert over.groups.tolist() == [0, 1, 0, 2, 3]
    assert over.about()["units"] == 4
    assert over.of(np.array([0, 2])).groups is None  # both of one group
    assert over.of(np.array([0, 1])).groups is not None


def test_classes_as_torchmetrics_has_them(
    model: Predictor, dataset: Path, labelled: Path, result: dict[str, Any]
) -> None:
    scores, y = scored(model, labelled, rows_of(dataset))
    assert [one["label"] for one in result["classes"]] == list(LABELS)
    for name, reference in (("precision", multiclass_precision), ("f1", multiclass_f1_score)):
        expected = reference(scores, y, 3, average="none").tolist()
        there = [one[name] or 0.0 for one in result["classes"]]
        assert there == pytest.approx(expected, abs=1e-6)
    assert [one["clips"] for one in result["classes"]] == torch.bincount(y).tolist()
    for one in result["classes"]:
        if (inside := one["intervals"]["recall"]) is not None:
            assert inside[0] <= one["recall"] <= inside[1]


def test_each_value_of_a_column_is_measured_alone(
    model: Predictor, dataset: Path, labelled: Path, result: dict[str, Any]
) -> None:
    assert list(result["groups"]) == ["room", "group"]
    rows = rows_of(dataset)
    scores, y = scored(model, labelled, rows)
    for place, one in enumerate(result["groups"]["room"]):
        assert one["value"] == f"room {place}"
        mine = torch.tensor([row["room"] == one["value"] for row in rows])
        assert one["clips"] == int(mine.sum())
        metrics = model.system.task.metrics(scores[mine], y[mine])
        assert one["metrics"] == pytest.approx(metrics, abs=1e-6)


def test_numbers_are_put_in_quarters_and_stand_in_their_order() -> None:
    numbers = [float(n) for n in (30, 10, 20, 40, *range(101, 113))]
    found = grouped([*numbers, None])
    assert list(found) == ["10 to 40", "101 to 104", "105 to 108", "109 to 112", None]
    assert found["10 to 40"] == [0, 1, 2, 3]
    assert found[None] == [16]
    assert list(grouped([10, 9, None, 10])) == ["9", "10", None]
    assert list(grouped(["b", "a", ["x"], "b"])) == ["['x']", "a", "b"]
    assert sum(map(len, grouped([math.nan, *range(50)]).values())) == 51


def test_clips_that_the_bundle_has_seen_are_told(
    bundle: Path, dataset: Path, tmp_path: Path, result: dict[str, Any]
) -> None:
    assert result["seen"] is None
    of_it = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    metrics = json.loads((of_it / "metrics.json").read_text())
    metrics["dataset"] = Manifest.read(dataset).fingerprint
    (of_it / "metrics.json").write_text(json.dumps(metrics))
    reseal(of_it)
    seen = {
        split: evaluate(of_it, dataset, split, draws=2)["seen"]
        for split in ("train", "valid", "test", "all")
    }
    assert seen == {"train": "trained", "valid": "chosen", "test": None, "all": "trained"}
    told = " ".join(evaluation.sentences({**result, "seen": "chosen"}))
    assert "chosen by these very clips" in told


def test_valid_is_the_fold_that_it_was(bundle: Path, labelled: Path, tmp_path: Path) -> None:
    """Another fold's clips were trained on."""
    manifest = prepare(labelled, tmp_path / "data", options=Options(folds=4))
    fold = folds_of(manifest)[0]
    view = on_fold(manifest, fold)
    assert view.fingerprint != manifest.fingerprint
    of_it = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    experiment = json.loads((of_it / "experiment.json").read_text())
    experiment["dataset"]["fold"] = fold
    (of_it / "experiment.json").write_text(json.dumps(experiment))
    metrics = json.loads((of_it / "metrics.json").read_text())
    (of_it / "metrics.json").write_text(json.dumps({**metrics, "dataset": view.fingerprint}))
    reseal(of_it)
    told: list[str] = []
    found = evaluate(of_it, tmp_path / "data", "valid", draws=2, echo=told.append)
    assert told == [f"valid is fold {fold}, as it was for the bundle's trial"]
    assert found["fingerprint"] == view.fingerprint
    there = {row["clip_id"] for part in stored_tables(view, "valid") for row in part.to_pylist()}
    assert found["clips"] == len(there)
    assert {one["clip_id"] for one in found["wrong"]} <= there


def test_the_most_wrong_clips_have_names(
    model: Predictor, dataset: Path, labelled: Path, result: dict[str, Any]
) -> None:
    rows = rows_of(dataset)
    scores, y = scored(model, labelled, rows)
    wrong = [n for n in range(len(rows)) if scores[n].argmax() != y[n]]
    wrong.sort(key=lambda n: float(scores[n, y[n]]))
    assert [one["clip_id"] for one in result["wrong"]] == [rows[n]["clip_id"] for n in wrong]
    assert [one["group"] for one in result["wrong"]] == [rows[n]["group"] for n in wrong]
    assert result["wrong"][0]["true"] == rows[wrong[0]]["label"]


def test_calibration_as_torchmetrics_has_it() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = (3 * torch.randn(400, 4, generator=draw)).softmax(1)
    y = torch.randint(0, 4, (400,), generator=draw)
    bins = reliability(scores.numpy(), y.numpy())
    reference = multiclass_calibration_error(scores, y, 4, n_bins=15, norm="l1")
    assert calibration_error(bins) == pytest.approx(float(reference), abs=1e-5)
    assert sum(one.clips for one in bins) == 400


def test_calibration_by_hand() -> None:
    scores = np.array([[0.2, 0.8], [0.75, 0.25], [1.0, 0.0], [0.5, 0.5]])
    bins = reliability(scores, np.array([1, 1, 0, 0]), bins=2)
    assert [(one.clips, one.confidence, one.accuracy) for one in bins] == [
        (1, 0.5, 1.0),
        (3, pytest.approx(0.85), pytest.approx(2 / 3)),
    ]
    assert calibration_error(bins) == pytest.approx(0.25 * 0.5 + 0.75 * (0.85 - 2 / 3))


# --- conditions --------------------------------------------------------------------------------


def under(name: str, waves: torch.Tensor, rate: int = 16000) -> torch.Tensor:
    """Waves under the condition whose name begins so."""
    found, _ = robustness.conditions(rate)
    (condition,) = [one for one in found if one.name.startswith(name)]
    lengths = torch.full((len(waves),), waves.shape[1])
    keys = seeding.clip_keys([f"clip {n}" for n in range(len(waves))])
    return condition.change(Examples(waves, lengths, torch.zeros(len(waves))), keys).data


def tone(hertz: float, rate: int = 16000, samples: int = 16000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz / rate * torch.arange(samples))[None]


def power(waves: torch.Tensor, hertz: float, rate: int = 16000) -> float:
    """Share of the wave's power within 30 Hz of a frequency."""
    spectrum = torch.fft.rfft(waves[0] * torch.hann_window(waves.shape[1])).abs() ** 2
    frequencies = torch.fft.rfftfreq(waves.shape[1], 1 / rate)
    return float(spectrum[(frequencies - hertz).abs() < 30].sum() / spectrum.sum())


def test_conditions_do_what_their_names_say() -> None:
    wave = tone(440)
    for snr in (20, 10, 0):
        noise = under(f"white noise, {snr} dB", wave) - wave
        ratio = 10 * torch.log10(wave.square().sum() / noise.square().sum())
        assert float(ratio) == pytest.approx(snr, abs=0.01)
    assert torch.allclose(under("20 dB quieter", wave), wave / 10)
    assert torch.allclose(under("20 dB louder", wave), wave * 10)
    clipped = under("clipped 12 dB", wave)
    assert float(clipped.max()) == pytest.approx(0.5 * 10 ** (-12 / 20), rel=1e-3)
    high = tone(5000)
    assert float(under("nothing above 4000 Hz", high).abs()[:, 2000:-2000].max()) < 0.01
    assert float((under("nothing above 4000 Hz", wave) - wave).abs()[:, 2000:-2000].max()) < 0.01
    assert float(under("telephone", tone(60)).abs()[:, 2000:-2000].max()) < 0.01
    # 5 kHz at a rate of 8 kHz is 3 kHz.
    aliased = under("at 8000 Hz and back", high)
    assert power(aliased, 3000) > 0.2 > power(high, 3000)
    for codec in ("MP3", "Vorbis", "mu-law"):
        coded = under(codec, wave)
        assert coded.shape == wave.shape
        assert not torch.equal(coded, wave)
        assert power(coded, 440) > 0.8


def test_noise_is_a_clip_s_own() -> None:
    """Whatever is beside it, and another in each of its windows."""
    waves = tone(440).repeat(3, 1)
    together = under("white noise, 0 dB", waves)
    assert torch.equal(together[:1], under("white noise, 0 dB", waves[:1]))
    assert not torch.equal(together[0], together[1])

    class Windows:
        def windows(self, batch_size: int) -> Any:
            clips = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
            keys = seeding.clip_keys(["a", "b", "c"])[clips]
            for start in range(0, len(clips), batch_size):
                part = slice(start, start + batch_size)
                size = len(clips[part])
                yield Batch(
                    torch.ones(size, 50), torch.full((size,), 50), torch.zeros(size),
                    keys[part], clips[part],
                )  # fmt: skip

    found, _ = robustness.conditions(16000)
    feed: Any = Windows()
    changed = [
        torch.cat([b.inputs for b in robustness.ChangedFeed(feed, found[0].change).windows(size)])
        for size in (1, 2, 3, 4, 10)
    ]
    assert all(torch.equal(one, changed[0]) for one in changed)
    assert len(torch.unique(changed[0], dim=0)) == 10


def test_a_condition_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found, skipped = robustness.conditions(4000)
    assert list(skipped) == ["MP3, smallest file"]
    assert "no sample rate of 4000 Hz" in skipped["MP3, smallest file"]
    original = soundfile.write

    def without_vorbis(*args: Any, **kwargs: Any) -> None:
        if kwargs.get("subtype") == "VORBIS":
            raise soundfile.LibsndfileError(25, prefix="no encoder: ")
        original(*args, **kwargs)

    monkeypatch.setattr(soundfile, "write", without_vorbis)
    found, skipped = robustness.conditions(16000)
    assert list(skipped) == ["Vorbis, smallest file"]
    assert len(found) == 13


def test_a_difference_is_paired(result: dict[str, Any]) -> None:
    tried = {one["condition"]: one for one in result["robustness"]["conditions"]}
    assert len(tried) == 14
    for one in tried.values():
        for name, value in one["metrics"].items():
            change = one["differences"][name]
            assert change == pytest.approx(value - result["metrics"][name], abs=1e-9)
    # An unpaired interval would be as wide as the metric's own, which is much wider.
    loss = tried["Vorbis, smallest file"]["intervals"]["loss"]
    assert loss[0] <= tried["Vorbis, smallest file"]["differences"]["loss"] <= loss[1]
    width = result["intervals"]["loss"][1] - result["intervals"]["loss"][0]
    assert loss[1] - loss[0] < width


# --- what is shown -----------------------------------------------------------------------------


def test_the_command_evaluates(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    given = ["evaluate", str(bundle), str(dataset), "--draws", "50"]
    done = CliRunner().invoke(app, [*given, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["split"], found["bundle"], found["dataset"]) == (
        "test",
        str(bundle),
        str(dataset),
    )
    out = tmp_path / "new" / "page.html"
    done = CliRunner().invoke(app, [*given, "--by", "room", "--html", str(out), "--clips", "1"])
    assert done.exit_code == 0, done.output
    assert f"accuracy  {found['metrics']['accuracy']:.4f}" in done.stdout
    assert "noise|loud" in done.stdout
    assert "by room" in done.stdout
    assert len(parse(out.read_text()).all("audio")) == 1
    done = CliRunner().invoke(app, [*given, "--clips", "2"])
    assert "give --html FILE" in str(done.exception)
    done = CliRunner().invoke(app, [*given, "--html", str(tmp_path)])
    assert "is a folder" in str(done.exception)


def test_the_terminal_has_everything(result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=120, highlight=False)
    with console.capture() as captured:
        for table in evaluation.tables(result):
            console.print(table)
    told = " ".join(captured.get().split())
    for one in result["robustness"]["conditions"]:
        assert one["condition"] in told
    for title in ("classes", "by room", "by group", "most confused", "most wrong clips"):
        assert title in told
    assert "2 groups are few" in told
    assert f"expected calibration error is {result['calibration']['ece']:.3f}" in told


def test_the_page_has_everything(result: dict[str, Any], dataset: Path) -> None:
    root = parse(page(result, clips=2))
    sections = [node.attributes["id"] for node in root.all("section")]
    assert sections == [
        "metrics", "robustness", "classes", "groups", "calibration", "wrong", "about"
    ]  # fmt: skip
    rows = cells(root.one("section", id="robustness"))
    assert [row[0].replace("\u00a0", " ") for row in rows[1:]] == [
        "as they are",
        *(one["condition"] for one in result["robustness"]["conditions"]),
    ]
    assert rows[2][1] == f"{result['robustness']['conditions'][0]['metrics']['accuracy']:.3f}"
    drawn = root.one("section", id="robustness").one("g", class_="marks").all("path")
    assert len(drawn) == len(result["robustness"]["conditions"])
    shown = [row[:2] for row in cells(root.one("section", id="classes"))[1:]]
    assert shown == [[one["label"], str(one["clips"])] for one in result["classes"]]
    heard = root.one("section", id="wrong").all("figure")
    assert [one.one("audio").attributes["aria-label"] for one in heard] == [
        f"Clip {one['clip_id']}" for one in result["wrong"][:2]
    ]
    for drawing in root.all("svg"):
        if "aria-hidden" not in drawing.attributes:
            assert drawing.attributes["role"] == "img"
    ids = [node.attributes["id"] for node in _all(root) if node.attributes.get("id")]
    assert len(ids) == len(set(ids))
    changed = page({**result, "fingerprint": "another"}, clips=2)
    assert "has changed since" in parse(changed).one("section", id="wrong").words


def cells(section: Node) -> list[list[str]]:
    return [
        [cell.words for cell in row.children if cell.name in ("th", "td")]
        for row in section.one("table").all("tr")
    ]


def _all(node: Node) -> list[Node]:
    return [node, *(inner for child in node.children for inner in _all(child))]


def test_a_perfect_bundle_has_no_weakest_class(result: dict[str, Any]) -> None:
    classes = [{**one, "f1": 1.0} for one in result["classes"]]
    assert "weakest" in " ".join(evaluation.sentences(result))
    assert "weakest" not in " ".join(evaluation.sentences({**result, "classes": classes}))


def test_what_breaks_a_bundle_is_worse_than_nothing(result: dict[str, Any]) -> None:
    def told(*differences: float) -> str:
        tried = [
            {"condition": f"c{n}", "metrics": {"accuracy": 0.5}, "differences": {"accuracy": one}}
            for n, one in enumerate(differences)
        ]
        robust = {"conditions": tried, "skipped": {}}
        return " ".join(evaluation.sentences({**result, "robustness": robust}))

    assert "What breaks it most: c1, accuracy 0.500." in told(-0.1, -0.2, 0.3)
    assert "breaks" not in told(0.0, 0.1)


def test_of_a_plain_folder_it_is_told_how_much_a_split_is(
    bundle: Path, labelled: Path, cache: Path
) -> None:
    told: list[str] = []
    evaluate(
        bundle, labelled, "test", labels=str(labelled / "labels.csv"), draws=2, echo=told.append
    )
    assert told[-1] == "  split 'test' is 12 of its 36 clips; 'all' is every one"
    assert "sample rate 8000 Hz" in "".join(told)  # the bundle's, of 8 and 16 kHz
    assert "clip length 0.5 s" in "".join(told)


# --- what cannot be evaluated ------------------------------------------------------------------


def test_splits_columns_and_draws_that_there_are_not(bundle: Path, dataset: Path) -> None:
    with pytest.raises(DataError, match=r"unknown split 'tets'.*closest: 'test'.*all, test"):
        evaluate(bundle, dataset, "tets")
    with pytest.raises(DataError, match=r"unknown column 'rom'.*closest: 'room'"):
        evaluate(bundle, dataset, by=["rom"])
    with pytest.raises(ConfigError, match="draws=1"):
        evaluate(bundle, dataset, draws=1)
    with pytest.raises(UserError):
        evaluate(bundle, dataset / "missing")


def test_labels_that_the_bundle_does_not_know(bundle: Path, tmp_path: Path) -> None:
    data = prepared(recordings(tmp_path / "other", ("up", "Down", "sideways")), tmp_path / "data")
    with pytest.raises(DataError) as caught:
        evaluate(bundle, data, "train")
    told = str(caught.value)
    assert "8 of 12 clips have a label that the bundle does not know" in told
    assert "'Down' (4 clips) (closest: 'down'), 'sideways' (4 clips)" in told
    assert "it knows 'down', 'noise|loud', 'up'" in told


def test_labels_that_have_no_clip(bundle: Path, tmp_path: Path) -> None:
    """And stand in another order than the bundle's: nothing goes by number."""
    data = prepared(recordings(tmp_path / "other", ("up", "noise|loud")), tmp_path / "data")
    told: list[str] = []
    found = evaluate(bundle, data, "valid", draws=20, echo=told.append)
    assert told == ["no clip of split 'valid' is of: 'down'"]
    assert found["confusion"][0] == [0, 0, 0]
    assert sum(map(sum, found["confusion"])) == found["clips"] == 6
    down = found["classes"][0]
    assert (down["clips"], down["recall"]) == (0, None)
    assert "Infinity" not in (text := json.dumps(found))
    assert "NaN" not in text
    list(evaluation.tables(found))
    page(found)


def test_one_clip_of_one_class(bundle: Path, tmp_path: Path) -> None:
    folder = recordings(tmp_path / "few", ("up", "down"), clips=2)
    lines = (folder / "labels.csv").read_text().splitlines()
    lines = [line.replace("valid", "train") for line in lines]
    lines[1] = lines[1].replace("train", "test")
    (folder / "labels.csv").write_text("\n".join(lines))
    data = prepared(folder, tmp_path / "data")
    found = evaluate(bundle, data, "test", robustness=True, draws=20)
    assert found["clips"] == 1
    assert set(found["intervals"].values()) == {None}
    assert found["metrics"]["accuracy"] in (0.0, 1.0)
    list(evaluation.tables(found))
    parse(page(found))


def test_a_split_without_clips(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    manifest = json.loads((data / "dataset.json").read_text())
    manifest["shards"] = [one for one in manifest["shards"] if one["split"] != "valid"]
    manifest["splits"]["valid"]["clips"] = 0
    (data / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"split 'valid' has no clips.*train \(12 clips\)"):
        evaluate(bundle, data, "valid")


def test_a_damaged_clip_is_named(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    manifest = json.loads((data / "dataset.json").read_text())
    shard = next(one for one in manifest["shards"] if one["split"] == "test")
    table = pq.read_table(data / shard["file"])
    audio = [b"fLaC" + bytes(40), *table["audio"].to_pylist()[1:]]
    index = table.column_names.index("audio")
    pq.write_table(table.set_column(index, "audio", [audio]), data / shard["file"])
    with pytest.raises(DataError, match="SHA-256 differs"):
        evaluate(bundle, data)
    import hashlib

    shard["sha256"] = hashlib.sha256((data / shard["file"]).read_bytes()).hexdigest()
    (data / "dataset.json").write_text(json.dumps(manifest))
    clip = table["clip_id"][0].as_py()
    with pytest.raises(DataError, match=f"test-00000.parquet, clip '{clip}'"):
        evaluate(bundle, data)


def test_scores_that_are_no_numbers(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    import safetensors.torch

    spoilt = Path(shutil.copytree(bundle, tmp_path / "spoilt"))
    weights = safetensors.torch.load_file(spoilt / "weights.safetensors")
    name = next(name for name in weights if name.startswith("model.") and weights[name].ndim > 1)
    weights[name] = torch.full_like(weights[name], torch.nan)
    safetensors.torch.save_file(weights, spoilt / "weights.safetensors", {"format": "pt"})
    reseal(spoilt)
    with pytest.raises(DataError, match="not finite for 12 of 12 clips"):
        evaluate(spoilt, dataset)


def test_what_has_no_labels(bundle: Path, tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "flat" / f"{number}.wav", sound(900, seed=number))
    with pytest.raises(DataError, match="label"):
        evaluate(bundle, tmp_path / "flat")
    folder = recordings(tmp_path / "several", ("up", "down"), clips=6)
    prepare(folder, tmp_path / "data", labels=folder / "labels.csv", label_separator="|")
    with pytest.raises(DataError, match="one a clip"):
        evaluate(bundle, tmp_path / "data", "test")
