"""Views of a dataset with another fold as valid, against the clips that its shards hold."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.config import compose
from raudio.config.signature import signature
from raudio.core.errors import DataError
from raudio.data.folds import blocks_on_fold, folds_of, on_fold
from raudio.data.index import Index
from raudio.data.join import joined
from raudio.data.manifest import Manifest, Shard, SplitInfo
from raudio.data.prepare import Options, prepare

RATE = 8000
FOLDS = 5
CLASSES = ("cat", "dog", "owl")


def recordings(folder: Path, seed: int) -> Path:
    """41 short clips of three classes, of different sizes."""
    noise = np.random.default_rng(seed)
    for number in range(41):
        path = folder / CLASSES[min(2, number // 15)] / f"{seed}-{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise.normal(0, 0.1, 400 + number), RATE)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("folds")
    return prepare(recordings(folder / "in", 0), folder / "out", options=Options(folds=FOLDS))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, dataset: Manifest) -> Manifest:
    folder = tmp_path_factory.mktemp("more")
    other = prepare(recordings(folder / "in", 1), folder / "out", options=Options(folds=FOLDS))
    return joined([dataset, other])


def rows(manifest: Manifest, split: str) -> dict[str, str]:
    """The clips of a split, with their class."""
    index = Index.read(manifest, split, RATE)
    found = {row["clip_id"]: row["label"] for row in index.rows}
    assert len(found) == len(index.rows) == manifest.splits[split].clips
    return found


@pytest.mark.parametrize("which", ["dataset", "two"])
def test_each_clip_outside_test_is_valid_once_and_never_in_both(
    which: str, request: pytest.FixtureRequest
) -> None:
    manifest: Manifest = request.getfixturevalue(which)
    test = rows(manifest, "test")
    searched = {**rows(manifest, "train"), **rows(manifest, "valid")}
    valid: Counter[str] = Counter()
    for fold in folds_of(manifest):
        view = on_fold(manifest, fold)
        held, trained = rows(view, "valid"), rows(view, "train")
        assert not held.keys() & trained.keys()
        assert {**held, **trained} == searched
        assert rows(view, "test") == test
        assert not test.keys() & {*held, *trained}
        valid.update(held.keys())
        for split, clips in (("valid", held), ("train", trained)):
            info = view.splits[split]
            assert info.class_counts == Counter(clips.values())
            assert info.seconds == pytest.approx(
                Index.read(view, split, RATE).frames.sum() / RATE, abs=1e-5
            )
        assert list(view.splits) == list(manifest.splits)
    assert valid == dict.fromkeys(searched, 1)


def test_the_folds_that_take_turns_leave_out_that_of_test(dataset: Manifest) -> None:
    assert folds_of(dataset) == tuple(range(FOLDS - 1))


def test_a_view_is_the_dataset_where_it_was_prepared_so_and_another_one_elsewhere(
    dataset: Manifest,
) -> None:
    assert on_fold(dataset, None) is dataset
    assert on_fold(dataset, FOLDS - 2) == dataset
    views = [on_fold(dataset, fold) for fold in folds_of(dataset)]
    assert len({view.fingerprint for view in views}) == FOLDS - 1
    assert on_fold(views[0], 2) == on_fold(views[1], 2)  # of a view it is that of its dataset


def test_the_fold_is_part_of_what_an_experiment_is() -> None:
    signatures = {
        signature(compose.experiment_for([], {"dataset.fold": fold}), "data")
        for fold in (None, 0, 1)
    }
    assert len(signatures) == 3


def test_a_fold_that_is_not_there_is_refused(dataset: Manifest) -> None:
    with pytest.raises(DataError, match=r"dataset.fold=4: .* no such fold .* one of 0, 1, 2, 3"):
        on_fold(dataset, FOLDS - 1)  # that of test


def changed(manifest: Manifest, **values: Any) -> Manifest:
    """The dataset with its first shard changed."""
    first, *others = manifest.shards
    return dataclasses.replace(manifest, shards=(dataclasses.replace(first, **values), *others))


def test_datasets_that_have_no_whole_folds_are_refused(dataset: Manifest) -> None:
    none = [dataclasses.replace(shard, fold=None) for shard in dataset.shards]
    with pytest.raises(DataError, match=r"no folds outside its test .* --folds K"):
        folds_of(dataclasses.replace(dataset, shards=tuple(none)))
    with pytest.raises(DataError, match=rf"{dataset.shards[0].clips} clips .* are in no fold"):
        folds_of(changed(dataset, fold=None))
    with pytest.raises(DataError, match=r"fold 4 has clips of test and of other splits"):
        folds_of(changed(dataset, fold=FOLDS - 1))


@given(
    folds=st.lists(st.integers(0, 3), min_size=4, max_size=20).filter(lambda f: len(set(f)) > 1),
    valid=st.integers(0, 3),
    data=st.data(),
)
def test_what_was_decoded_follows_its_shard(
    folds: list[int], valid: int, data: st.DataObject
) -> None:
    shards = tuple(
        Shard(f"{number}", "valid" if fold == valid else "train", fold, 1, 1, 1.0, 1, "")
        for number, fold in enumerate(folds)
    )
    info = {split: SplitInfo(0, 0.0, {}) for split in ("train", "valid")}
    manifest = Manifest("", (), info, shards, "", {}, {}, 0, 0, 0, 0, "", "", {})
    turn = data.draw(st.sampled_from(sorted(set(folds))))
    view = dataclasses.replace(
        manifest,
        shards=tuple(
            dataclasses.replace(shard, split="valid" if shard.fold == turn else "train")
            for shard in shards
        ),
    )
    blocks = {
        split: [f"block {shard.file}" for shard in manifest.shards_of(split)] for split in info
    }
    assert blocks_on_fold(blocks, manifest, view) == {
        split: [f"block {shard.file}" for shard in view.shards_of(split)] for split in info
    }


def test_inspect_looks_at_the_fold_that_is_asked_for(dataset: Manifest) -> None:
    result = CliRunner().invoke(app, ["data", "inspect", dataset.path, "--fold", "1", "--json"])
    view = on_fold(dataset, 1)
    assert f'"clips": {view.splits["valid"].clips}, ' in result.stdout
    assert view.fingerprint in result.stdout
    result = CliRunner().invoke(app, ["data", "inspect", dataset.path, "--fold", "9"])
    assert isinstance(result.exception, DataError)
