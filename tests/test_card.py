"""The model card, as the Hugging Face Hub's own library reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_export import experiment, make_run

from raudio import records
from raudio.config.compose import compose
from raudio.config.validate import to_mapping
from raudio.core.storage import write_atomic
from raudio.export.bundle import CARD, read_bundle
from raudio.export.make import export
from raudio.export.reproduce import command

hub = pytest.importorskip("huggingface_hub")


def card_of(tmp_path: Path, licence: str | None, **options: Any) -> Any:
    run = make_run(tmp_path / "run", {"0000": 0.5, "0001": 0.75}, metric="valid/accuracy")
    manifest = {"source": "x", "licence": licence, "splits": {}}
    write_atomic(run / records.DATASET_JSON, json.dumps(manifest))
    environment = {"raudio": "0.1.0", "packages": {"torch": "2.11.0"}, "command": ["/secret/place"]}
    write_atomic(run / records.ENVIRONMENT_JSON, json.dumps(environment))
    content = (export(run, tmp_path / "b", **options) / CARD).read_text()
    assert "/secret" not in content
    return hub.ModelCard(content)


def test_the_hub_reads_it(tmp_path: Path) -> None:
    card = card_of(tmp_path, "CC-BY-4.0")
    data = card.data
    assert data.license == "cc-by-4.0"
    assert data.library_name == "raudio"
    assert data.pipeline_tag == "audio-classification"
    assert data.datasets == ["x"]
    assert data.metrics == ["accuracy"]
    (result,) = data.eval_results
    assert result.metric_type == "accuracy"
    assert result.metric_value == read_bundle(tmp_path / "b").metrics["value"] == 0.75
    assert (result.dataset_name, result.dataset_split) == ("x", "valid")
    assert result.task_type == "audio-classification"
    again = hub.ModelCardData(**data.to_dict())
    assert again.to_dict() == data.to_dict()
    assert "| torch | 2.11.0 |" in card.text
    assert "| epochs | 3 |" in card.text
    for heading in ("Use", "Labels (3)", "Training data", "Metrics", "Training", "Limits"):
        assert f"\n## {heading}\n" in card.text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("The birds' own: ask us", ("other", "The birds' own: ask us")),
        (None, ("unknown", None)),
        ("mit\n- evil: true", ("other", "mit - evil: true")),
    ],
)
def test_any_licence(tmp_path: Path, licence: str | None, expected: tuple[str, Any]) -> None:
    data = card_of(tmp_path, licence).data
    assert (data.license, data.get("license_name")) == expected
    assert "evil" not in data.to_dict()


def test_what_nobody_measured_is_no_result(tmp_path: Path) -> None:
    data = card_of(tmp_path, None, top=2).data
    assert data.eval_results is None
    assert data.metrics == []


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=crnn", "model.rnn_layers=2", "features=mfcc", "features.n_mfcc=20"],
        ["dataset.path=/a b/it's", "optimizer.lr=0.00123", "augment.noise.p=0.5", "seed=7"],
        ["schedule.warmup=0.1", "training.patience=3", "dataset.clip_seconds=1.25"],
    ],
)
def test_the_command_gives_the_experiment_again(overrides: list[str]) -> None:
    import shlex

    before = compose(overrides).experiment
    line = command(before, [])
    assert line is not None
    verb, *rest = shlex.split(line)[1:]
    assert verb == "train"
    assert to_mapping(compose(rest).experiment) == to_mapping(before)


def test_a_plugin_s_file_is_in_the_command() -> None:
    line = command(experiment(), ["mine.py"])
    assert line is not None
    assert "'plugins=[mine.py]'" in line
