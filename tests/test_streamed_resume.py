"""A streamed trial that is interrupted between two steps goes on as if nothing had happened: what
it has not seen of the epoch is decoded anew, and is the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raylets import one_node
from test_loop import same, without_costs

from raudio import checkpoint
from raudio.config.validate import dump_yaml
from raudio.data.manifest import Manifest
from raudio.data.synth import synth
from raudio.records import EXPERIMENT_YAML, LAST
from raudio.search.job import check
from raudio.training.loop import Report
from raudio.training.saving import Saving, Wishes
from raudio.training.worker import Data, Keeping, Place, train_here

pytestmark = pytest.mark.ray

SMALL = (
    "dataset.feed=streamed", "dataset.shuffle_window=2", "model=cnn", "model.width=4",
    "model.depth=2", "features.n_mels=16", "training.epochs=3", "training.batch_size=8",
    "training.checkpoint_every='2 steps'",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[Any]:
    with one_node() as ray:
        yield ray


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return synth(tmp_path_factory.mktemp("streamed") / "data", clips=100)


class GoneError(Exception):
    """The trial's process is gone."""


def trained(
    dataset: Manifest, folder: Path, settings: tuple[str, ...], until: int | None = None
) -> list[Report]:
    """What a trial in `folder` reports; it is gone after `until` steps of all."""
    job = check([f"dataset.path={dataset.path}", *SMALL, *settings], single=True, echo=str)
    folder.mkdir(exist_ok=True)
    (folder / EXPERIMENT_YAML).write_text(dump_yaml(job.experiment))
    reports: list[Report] = []

    class Mortal(Saving):
        def wishes(self, step: int, end: int) -> Wishes:
            if until is not None and step > until:
                raise GoneError
            return super().wishes(step, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raudio.training.loop.Saving", Mortal)
        train_here(
            job.experiment,
            Data(job.manifest, refs=None),
            place=Place(),
            keeping=Keeping(str(folder), patience=1.0),
            goal=job.goal,
            report=reports.append,
        )
    return reports


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(("dataset.cache_limit=0", "dataset.crop=random"), id="decoded each epoch"),
        pytest.param(("augment=strong", "augment.where=stream"), id="cached, augmented in tasks"),
        pytest.param(
            ("dataset.sampling=balanced", "training.steps=26", "training.steps_per_epoch=7"),
            id="drawn, epochs that cut through passes",
        ),
    ],
)
def test_interrupted_between_two_steps_it_ends_the_same(
    dataset: Manifest, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    assert len(dataset.shards_of("train")) > 2
    expected = trained(dataset, tmp_path / "whole", settings)
    whole = checkpoint.load(tmp_path / "whole" / LAST)
    assert whole["step"] > 24
    for until in (5, 14):  # of the first epoch, and of the second
        with pytest.raises(GoneError):
            trained(dataset, tmp_path / "trial", settings, until)
    assert 12 < checkpoint.load(tmp_path / "trial" / LAST)["step"] <= 14
    reports = trained(dataset, tmp_path / "trial", settings)
    ended = checkpoint.load(tmp_path / "trial" / LAST)
    assert same(ended["model"], whole["model"])
    assert [(each.epoch, without_costs(each.metrics)) for each in reports] == [
        (each.epoch, without_costs(each.metrics)) for each in expected
    ]
