"""Bundles: what is exported, and everything that opening one refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from raudio import checkpoint, records
from raudio.config import schema
from raudio.config.validate import dump_yaml, experiment_from, to_mapping
from raudio.core.errors import RunError
from raudio.export import bundle as bundles
from raudio.export.bundle import read_bundle
from raudio.export.card import model_card
from raudio.export.make import export
from raudio.system import build_system

LABELS = ("down", "noise|loud", "up")


def experiment(noises: str = "/data/noises", **dataset: Any) -> schema.Experiment:
    return experiment_from(
        {
            "dataset": {"path": "data/x", "sample_rate": 8000, "clip_seconds": 0.5, **dataset},
            "features": {"name": "logmel", "n_mels": 16, "f_max": None},
            "augment": {
                "background": {"source": noises},
                "reverb": {"source": "s3://b/irs"},
                "chain": {
                    "one": {
                        "kind": "choice",
                        "of": {"street": {"kind": "background", "source": noises}},
                    }
                },
            },
            "model": {"name": "cnn", "width": 4, "depth": 2},
            "task": {"name": "classification"},
            "optimizer": {"name": "adamw"},
            "schedule": {"name": "cosine"},
            "training": {},
            "resources": {},
        }
    )


def make_run(
    folder: Path,
    values: dict[str, float | None],
    *,
    metric: str = "valid/accuracy",
    mode: str = "max",
) -> Path:
    """A run with one trial a value, each of one epoch and a checkpoint of its own; None failed."""
    with records.RecordWriter(folder / records.RECORDS) as writer:
        writer.append(
            "search_start",
            version="0.1.0",
            metric=metric,
            mode=mode,
            trials=len(values),
            time_budget=None,
            resumed=False,
        )
        for name, value in values.items():
            writer.append("trial_start", id=name, params={}, signature="s")
            if value is None:
                writer.append(
                    "trial_end", id=name, state="failed", kind="error", reason="boom", seconds=1.0
                )
                continue
            metrics = {metric: value, "train/loss": 1.5}
            writer.append("report", id=name, epoch=3, metrics=metrics, seconds=1.0, final=True)
            writer.append("trial_end", id=name, state="completed", seconds=1.0)
            one = dataclasses.replace(experiment(), seed=int(name))
            place = records.trial_folder(folder, name)
            place.mkdir(parents=True)
            (place / records.EXPERIMENT_YAML).write_text(dump_yaml(one))
            checkpoint.save(
                place / records.BEST,
                {
                    "model": build_system(one, labels=LABELS).state_dict(),
                    "epoch": 3,
                    "metrics": metrics,
                    "details": {"confusion": [[3, 1], [0, 4]], "wrong": []},
                    "labels": list(LABELS),
                    "dataset": "f" * 64,
                },
            )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return make_run(folder, {"0000": 0.5, "0001": 0.75, "0002": None, "0003": 0.625})


@pytest.fixture(scope="module")
def original(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("bundles") / "best")


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "bundle")


def reseal(bundle: Path, **changes: Any) -> None:
    """Writes the checksums anew, as one would who changed a file on purpose."""
    sums = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.iterdir())
        if path.name != bundles.CHECKSUMS
    }
    content = {"format_version": bundles.FORMAT_VERSION, "files": sums, **changes}
    (bundle / bundles.CHECKSUMS).write_text(json.dumps(content))


def edit(bundle: Path, name: str, change: Callable[[Any], Any]) -> None:
    content = json.loads((bundle / name).read_text())
    changed = change(content)
    (bundle / name).write_text(json.dumps(content if changed is None else changed))
    reseal(bundle)


# --- export ------------------------------------------------------------------------------------


def test_the_best_trial_and_nothing_else(original: Path) -> None:
    assert sorted(p.name for p in original.iterdir()) == sorted(bundles.FILES)
    opened = read_bundle(original)
    # Not data/x and /data/noises: a bundle is handed on, and does not tell where the data lay.
    assert opened.experiment == dataclasses.replace(experiment(path="x", noises="noises"), seed=1)
    assert opened.labels == LABELS
    assert opened.metrics["trial"] == "0001"
    assert opened.metrics["value"] == 0.75
    assert opened.metrics["metrics"] == {"valid/accuracy": 0.75, "train/loss": 1.5}
    assert opened.metrics["dataset"] == "f" * 64
    assert list(original.parent.iterdir()) == [original], "no temporary folder is left"


def test_the_weights_are_those_of_the_checkpoint_bit_for_bit(run: Path, original: Path) -> None:
    state = checkpoint.load(records.trial_folder(run, "0001") / records.BEST)
    system = read_bundle(original).system()
    assert not system.training
    loaded = system.state_dict()
    assert set(loaded) == set(state["model"])
    assert all(torch.equal(loaded[name], state["model"][name]) for name in loaded)


def test_the_same_trial_gives_the_same_bytes(run: Path, original: Path, tmp_path: Path) -> None:
    again = export(run, tmp_path / "again")
    for name in bundles.FILES:
        assert (again / name).read_bytes() == (original / name).read_bytes(), name


@pytest.mark.parametrize("trial", ["0003", "3"])
def test_a_named_trial(run: Path, tmp_path: Path, trial: str) -> None:
    metrics = read_bundle(export(run, tmp_path / "b", trial)).metrics
    assert metrics["trial"] == "0003"
    assert metrics["details"] == {"confusion": [[3, 1], [0, 4]], "wrong": []}


def test_the_best_trial_that_still_has_its_checkpoint(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (records.trial_folder(copy, "0001") / records.BEST).unlink()
    assert read_bundle(export(copy, tmp_path / "b")).metrics["trial"] == "0003"
    with pytest.raises(RunError, match=r"trial '0001' .* no checkpoint: .*with one: 0003, 0000"):
        export(copy, tmp_path / "c", "0001")


def test_a_loss_is_better_when_smaller(tmp_path: Path) -> None:
    values = {"0000": 0.5, "0001": 0.75}
    run = make_run(tmp_path / "run", dict(values), metric="valid/loss", mode="min")
    assert read_bundle(export(run, tmp_path / "b")).metrics["trial"] == "0000"


def test_what_cannot_be_exported(run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match="exists already"):
        export(run, tmp_path / "there")
    with pytest.raises(RunError, match=r"has no trial '4' \(closest: '000\d'\)"):
        export(run, tmp_path / "b", "4")
    with pytest.raises(RunError, match="no such run folder"):
        export(tmp_path / "missing", tmp_path / "b")
    with pytest.raises(RunError, match="is a URI"):
        export(run, "s3://bucket/b")
    failed = make_run(tmp_path / "failed", {"0000": None, "0001": None})
    with pytest.raises(RunError, match=r"all 2 trials failed \(error: boom\)"):
        export(failed, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_that_does_not_fit_its_experiment_leaves_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"0000": 0.5})
    path = records.trial_folder(run, "0000") / records.BEST
    state = checkpoint.load(path)
    state["model"].popitem()
    checkpoint.save(path, state)
    with pytest.raises(RunError, match="don't fit each other"):
        export(run, tmp_path / "out" / "b")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_card_names_data_licence_metrics_and_use(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"0000": 0.5})
    manifest = {
        "source": "a | b <script>",
        "licence": "CC-BY-4.0",
        "splits": {"train": {"clips": 7, "seconds": 90.0, "class_counts": {}}},
    }
    (run / records.DATASET_JSON).write_text(json.dumps(manifest))
    card = (export(run, tmp_path / "b") / bundles.CARD).read_text()
    assert card.startswith("---\nlibrary_name: raudio\n")
    assert "| licence | CC-BY-4.0 |" in card
    assert "| source | a \\| b &lt;script> |" in card
    assert "| train | 7 clips, 1 min 30 s |" in card
    assert "| `valid/accuracy` | 0.5 |" in card
    assert "`noise|loud`" in card
    assert "| `model.width` | `4` |" in card
    assert "raudio.load(" in card


def test_the_card_has_intervals_and_the_classes_of_the_valid_split() -> None:
    metrics = {
        "epoch": 3,
        "trial": "0001",
        "metric": "valid/accuracy",
        "mode": "max",
        "dataset": "f" * 64,
        "metrics": {"valid/accuracy": 0.75, "valid/loss": 0.5, "train/loss": 1.5},
        "details": {"confusion": [[30, 10, 0], [10, 30, 0], [0, 0, 0]]},
    }
    card = model_card(experiment(), LABELS, metrics, manifest=None, parameters=7)
    row = re.search(r"\| `valid/accuracy` \| 0\.75 \| (0\.\d+) to (0\.\d+) \|", card)
    assert row is not None
    # Of 60 of 80 clips: 1.96 * sqrt(0.75 * 0.25 / 80) to each side.
    assert [float(one) for one in row.groups()] == pytest.approx([0.655, 0.845], abs=0.015)
    assert "| `train/loss` | 1.5 |  |" in card
    assert re.search(
        r"\| `down` \| 40 \| 0\.750 \| 0\.750 \| 0\.750 \| 0\.6\d+ to 0\.8\d+ \|", card
    )
    assert "| `up` | 0 | – | – | – | – |" in card
    assert card == model_card(experiment(), LABELS, metrics, manifest=None, parameters=7)

    metrics["details"] = {}  # a task that tells nothing more
    assert "| `valid/accuracy` | 0.75 |\n" in model_card(
        experiment(), LABELS, metrics, manifest=None, parameters=7
    )


# --- what opening refuses ----------------------------------------------------------------------


def refused(bundle: Path, match: str) -> None:
    with pytest.raises(RunError, match=match) as caught:
        read_bundle(bundle).system()
    assert "\n" not in str(caught.value), "one sentence"


@pytest.mark.parametrize("name", [name for name in bundles.FILES if name != bundles.CHECKSUMS])
def test_one_changed_byte(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, rf"damaged: {name} is not what was exported")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_changed_byte_of_any_file_is_refused(bundle: Path, data: st.DataObject) -> None:
    path = bundle / data.draw(st.sampled_from(bundles.FILES))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(changed)
        # In the checksums themselves, space may be another space.
        if path.name != bundles.CHECKSUMS or json.loads(before) != _parsed(changed):
            refused(bundle, "bundle")
    finally:
        path.write_bytes(before)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("name", bundles.FILES)
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, name)


def test_a_missing_file_that_the_checksums_do_not_miss(bundle: Path) -> None:
    (bundle / bundles.METRICS).unlink()
    reseal(bundle)
    refused(bundle, r"lists other files than a bundle's \('metrics.json'\)")


def test_a_foreign_file(bundle: Path) -> None:
    (bundle / "model.py").write_text("print('hello')")
    refused(bundle, "foreign file, 'model.py'")


def test_a_foreign_folder(bundle: Path) -> None:
    (bundle / "code").mkdir()
    refused(bundle, "foreign file, 'code'")


@pytest.mark.parametrize("name", bundles.FILES)
def test_a_link(bundle: Path, original: Path, name: str) -> None:
    (bundle / name).unlink()
    (bundle / name).symlink_to(original / name)
    refused(bundle, f"{name} is a link or a folder")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "weights.safetensors/../x", "x.bin"])
def test_a_path_that_leads_outside(bundle: Path, name: str) -> None:
    sums = json.loads((bundle / bundles.CHECKSUMS).read_text())["files"]
    reseal(bundle, files={**sums, name: "0" * 64})
    refused(bundle, "lists other files than a bundle's")


@pytest.mark.parametrize("version", [2, 0, "1", None, True])
def test_another_format(bundle: Path, version: Any) -> None:
    reseal(bundle, format_version=version)
    refused(bundle, f"has format {version!r}, and this raudio reads format 1")


@pytest.mark.parametrize("content", ["[]", "{}", "7", "{", "[" * 100_000, '{"format_version": 1}'])
def test_checksums_that_are_none(bundle: Path, content: str) -> None:
    (bundle / bundles.CHECKSUMS).write_text(content)
    refused(bundle, "bundle")


class Evil:
    """Pickles into a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_disguised_as_weights(bundle: Path, tmp_path: Path, writer: str) -> None:
    trap = tmp_path / "trap"
    path = bundle / bundles.WEIGHTS
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Evil(trap)))
        pickle.loads(path.read_bytes())
    else:
        torch.save(Evil(trap), path)
        torch.load(path, weights_only=False)
    assert trap.exists(), "the trap works"
    trap.unlink()
    reseal(bundle)
    refused(bundle, "is a pickle, which could run code")
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"hello world, no tensors"])
def test_weights_that_are_none(bundle: Path, content: bytes) -> None:
    (bundle / bundles.WEIGHTS).write_bytes(content)
    reseal(bundle)
    refused(bundle, "weights.safetensors cannot be read")


def test_weights_of_another_model(bundle: Path) -> None:
    edit(bundle, bundles.EXPERIMENT, lambda e: e["model"].update(width=8))
    refused(bundle, "don't fit each other")


def test_labels_of_another_count(bundle: Path) -> None:
    edit(bundle, bundles.LABELS, lambda labels: [*labels, "more"])
    refused(bundle, "don't fit each other")


@pytest.mark.parametrize("labels", [["a", "a", "b"], "abc", [1, 2, 3], {"a": 1}])
def test_labels_that_are_none(bundle: Path, labels: Any) -> None:
    edit(bundle, bundles.LABELS, lambda _: labels)
    refused(bundle, "labels.json is no list of different texts")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda e: e.update(hook="os:system"), "hook"),
        (lambda e: e["model"].update(hook="os:system"), "hook"),
        (lambda e: e["model"].update(name="os.system"), "os.system"),
        (lambda e: e["model"].update(width="wide"), "width"),
        (lambda e: e["model"].update(width=10**9), "width"),
        (lambda e: e["model"].update(width=[1]), "width"),
        (lambda e: e.update(model=[]), ""),
        (lambda e: e.update(model="cnn"), "model"),
        (lambda e: e.update(dataset=None), "dataset"),
        (lambda e: e["dataset"].update(sample_rate=None), "sample_rate"),
        (lambda e: [], "holds no settings"),
    ],
)
def test_a_foreign_experiment(
    bundle: Path, change: Callable[[dict[str, Any]], Any], match: str
) -> None:
    edit(bundle, bundles.EXPERIMENT, change)
    refused(bundle, f"experiment.json.*{match}")


def test_a_foreign_key(bundle: Path) -> None:
    edit(bundle, bundles.METRICS, lambda metrics: metrics.update(metric_s="x"))
    refused(bundle, r"metrics.json has a foreign key, 'metric_s' \(closest: 'metrics'\)")
    edit(bundle, bundles.METRICS, lambda metrics: metrics.pop("metric_s") and None)
    reseal(bundle, signature="x")
    refused(bundle, "checksums.json has a foreign key, 'signature'")


def test_text_that_is_too_large_or_no_number(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle / bundles.METRICS).write_text('{"value": NaN}')
    reseal(bundle)
    refused(bundle, "metrics.json is not JSON")
    with monkeypatch.context() as patch:
        patch.setattr(bundles, "TEXT_LIMIT", 1000)
        refused(bundle, "bytes, and 1,000 are the most")


def test_weights_in_int8_without_their_scales(bundle: Path) -> None:
    safetensors.torch.save_file(
        {"model.head.weight": torch.zeros(3, 4, dtype=torch.int8)}, bundle / bundles.WEIGHTS
    )
    reseal(bundle)
    refused(bundle, "in int8, without a scale for each of its rows")


def test_a_plugin_is_named_and_how_to_give_it(bundle: Path) -> None:
    edit(bundle, bundles.EXPERIMENT, lambda e: e.update(model={"name": "mine"}))
    edit(bundle, bundles.METRICS, lambda metrics: metrics.update(plugins=["my_models.py"]))
    refused(bundle, r"'mine'.*components of my_models\.py, .*give it with --plugin my_models\.py")


def test_a_plugin_is_never_imported(bundle: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "evil_plugin.py"
    trap = tmp_path / "trap"
    plugin.write_text(f"open({str(trap)!r}, 'w')")
    edit(bundle, bundles.EXPERIMENT, lambda e: e.update(plugins=[str(plugin)]))
    refused(bundle, "opening a bundle runs no code")
    assert not trap.exists()


def test_what_is_no_bundle(run: Path, original: Path, tmp_path: Path) -> None:
    refused(original.parent / "bets", f"no bundle at .*closest: '{original}'")
    refused(run, "is a run, not a bundle: .*raudio export")
    refused(tmp_path, "is not a bundle: it has no checksums.json")
    refused(tmp_path / "missing" / "bundle", "no bundle at")
    refused(original / bundles.CARD, "no bundle at")


def test_the_experiment_is_written_as_settings(original: Path) -> None:
    written = json.loads((original / bundles.EXPERIMENT).read_text())
    expected = to_mapping(dataclasses.replace(experiment(path="x", noises="noises"), seed=1))
    assert written == json.loads(json.dumps(expected))


def test_a_run_that_holds_its_bundle_is_told_apart(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    inside = export(copy, copy / "bundle")
    refused(copy, f"is a run, not a bundle: its bundle is '{inside}'")


# --- raudio export -----------------------------------------------------------------------------


def test_the_command(run: Path, tmp_path: Path) -> None:
    from raudio.cli.main import app

    out = tmp_path / "b"
    done = CliRunner().invoke(app, ["export", str(run), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}\n"
    assert "trial 0001, epoch 3 (best weights): valid/accuracy 0.75" in done.stderr
    again = CliRunner().invoke(app, ["export", str(run), "--out", str(out)])
    assert isinstance(again.exception, RunError)
