"""The signature changes with what can change a result, and with nothing else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from raudio.config import compose, validate
from raudio.config.signature import signature


def sign(*overrides: str, fingerprint: str = "f") -> str:
    return signature(compose.compose(overrides).experiment, fingerprint)


@pytest.mark.parametrize(
    "override",
    [
        "dataset.path=elsewhere",
        "dataset.labels=labels.csv",
        "dataset.feed=streamed",
        "dataset.resident_budget=1GB",
        "resources.cpus=2",
        "search.trials=3",
        "run.dir=x",
        "augment.noise.min_snr=5",  # noise is off
        "augment.where=stream",  # all are off
        "training.epochs=12",  # the default
        "optimizer.lr=0.001",
    ],
)
def test_what_cannot_change_the_result_does_not_count(override: str) -> None:
    assert sign(override) == sign()


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "model=crnn",
        "model.width=8",
        "features.n_mels=32",
        "optimizer.lr=0.002",
        "schedule=step",
        "training.batch_size=16",
        "training.patience=3",
        "training.metric=valid/uar",  # it chooses the epoch whose weights are kept
        "resources.workers=2",  # several round otherwise
        "dataset.crop=centre",
        "dataset.sample_rate=8000",
        "dataset.precision=float32",
        "task.label_smoothing=0.1",
        "augment.noise.p=0.1",
    ],
)
def test_what_can_change_the_result_counts(override: str) -> None:
    assert sign(override) != sign()


def test_an_augmentation_that_is_on_counts_with_its_magnitude() -> None:
    assert sign("augment.noise.p=0.1") != sign("augment.noise.p=0.1", "augment.noise.min_snr=5")


def test_where_augmentations_are_computed_counts_because_devices_round() -> None:
    assert sign("augment.noise.p=0.1") != sign("augment.noise.p=0.1", "augment.where=stream")


def test_the_data_counts_by_its_fingerprint() -> None:
    assert sign(fingerprint="g") != sign()


def test_it_is_16_hexadecimal_digits_and_survives_a_file() -> None:
    experiment = compose.compose(["optimizer.lr=1e-5"]).experiment
    again = validate.load_yaml(validate.dump_yaml(experiment), type(experiment))
    assert signature(again, "f") == signature(experiment, "f")
    assert re.fullmatch(r"[0-9a-f]{16}", signature(again, "f"))


def test_a_plugin_counts_by_its_content_not_its_place(tmp_path: Path) -> None:
    base = compose.compose([]).experiment
    found = []
    for name, content in [("a.py", "x = 1"), ("b.py", "x = 1"), ("c.py", "x = 2")]:
        path = tmp_path / name
        path.write_text(content)
        found.append(signature(dataclasses.replace(base, plugins=(str(path),)), "f"))
    assert found[0] == found[1]
    assert len({sign(), found[0], found[2]}) == 3
