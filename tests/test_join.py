"""Several datasets as one: labels, splits, clip_ids, the index, and what a command line says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raudio.config import compose
from raudio.config.schema import Dataset
from raudio.config.signature import signature
from raudio.core.errors import ConfigError, DataError
from raudio.data.clips import load_clips, stored_tables
from raudio.data.index import Index
from raudio.data.locate import locate
from raudio.data.manifest import MANIFEST, Manifest
from raudio.data.rows import write_index
from raudio.data.synth import synth
from raudio.search.job import check
from raudio.search.space_file import load

RATE = 16000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two datasets with clips of the same names."""
    folder = tmp_path_factory.mktemp("datasets")
    for name, clips in (("a", 60), ("b", 100)):
        synth(folder / name, clips=clips)
    return [str(folder / "a"), str(folder / "b")]


def of(*folders: str) -> Manifest:
    return locate(Dataset(path=folders))


def test_the_union_of_labels_and_splits(folders: list[str]) -> None:
    one, other = map(Manifest.read, folders)
    both = of(*folders)
    assert both.labels == tuple(sorted({*one.labels, *other.labels}))
    assert set(both.splits) == {*one.splits, *other.splits}
    for name, split in both.splits.items():
        assert split.clips == one.splits[name].clips + other.splits[name].clips
        assert sum(split.class_counts.values()) == split.clips
    assert both.decoded_bytes(RATE, "int16") == pytest.approx(
        one.decoded_bytes(RATE, "int16") + other.decoded_bytes(RATE, "int16"), abs=4
    )
    assert one.seconds_min <= both.seconds_median <= max(one.seconds_max, other.seconds_max)


def test_one_is_itself(folders: list[str]) -> None:
    assert locate(Dataset(path=(folders[0],))) == Manifest.read(folders[0])


def test_clip_ids_are_told_apart_only_where_they_clash(folders: list[str]) -> None:
    both = of(*folders)
    ids = [row["clip_id"] for row in Index.read(both, "train", RATE).rows]
    assert len(set(ids)) == len(ids)
    assert {clip.split("/")[0] for clip in ids} == {"1", "2"}
    clips = load_clips(both, "train", sample_rate=RATE, precision="int16")
    assert clips.ids == ids
    alone = Index.read(Manifest.read(folders[0]), "train", RATE)
    assert [f"1/{row['clip_id']}" for row in alone.rows] == ids[: len(alone)]
    index = Index.of(clips, both, "train", RATE)
    shards = [len(Manifest.read(folder).shards_of("train")) for folder in folders]
    assert index.datasets == (0,) * shards[0] + (1,) * shards[1]


def test_no_prefix_where_none_is_needed(folders: list[str], tmp_path: Path) -> None:
    manifest = Manifest.read(folders[0])
    for split in ("valid", "train"):
        own = tmp_path / split
        (own / "shards").mkdir(parents=True)
        content = manifest.to_mapping()
        content["splits"] = {split: content["splits"][split]}
        content["shards"] = [shard for shard in content["shards"] if shard["split"] == split]
        for shard in manifest.shards_of(split):
            (own / shard.file).write_bytes(Path(manifest.shard_path(shard)).read_bytes())
        index = pa.concat_tables(stored_tables(manifest, split))
        content["index_sha256"] = write_index(own, index)
        (own / MANIFEST).write_text(json.dumps(content))
    both = of(str(tmp_path / "valid"), str(tmp_path / "train"))
    for split in ("train", "valid"):
        rows = Index.read(both, split, RATE).rows
        assert rows == Index.read(manifest, split, RATE).rows


def test_a_runs_copy_has_the_same_fingerprint(folders: list[str], tmp_path: Path) -> None:
    both = of(*folders)
    (tmp_path / MANIFEST).write_text(both.to_json())
    assert Manifest.read(str(tmp_path)).fingerprint == both.fingerprint
    assert both.fingerprint != of(*reversed(folders)).fingerprint
    assert both.fingerprint != Manifest.read(folders[0]).fingerprint


def test_the_command_line(folders: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(folders[0]).parent)
    given = ["dataset.path=[a,b]", "dataset.weights=[0.7,0.3]", "dataset.sample_rate=16000"]
    job = check(given, single=True, echo=lambda line: None)
    dataset = job.experiment.dataset
    assert dataset.path == tuple(folders)
    assert dataset.weights == (0.7, 0.3)
    other = check([*given, "dataset.weights=[1,1]"], single=True, echo=lambda line: None)
    fingerprint = job.manifest.fingerprint
    assert signature(job.experiment, fingerprint) != signature(other.experiment, fingerprint)
    with pytest.raises(DataError, match=r"dataset\.path='c' does not exist"):
        check(["dataset.path=[a,c]"], single=True, echo=lambda line: None)
    with pytest.raises(DataError, match=r"dataset\.path=\[a, b, \./a\] names 'a' twice"):
        check(["dataset.path=[a,b,./a]"], single=True, echo=lambda line: None)
    with pytest.raises(DataError, match=r"dataset\.labels='x\.csv' .*\(it is a list"):
        check(["dataset.path=[a,b]", "dataset.labels=x.csv"], single=True, echo=lambda line: None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["dataset.weights=[1,2]"], r"has 2 shares for 1 dataset in dataset\.path=synth"),
        (["dataset.path=[a,b]", "dataset.weights=[1]"], "has 1 shares for 2 datasets"),
        (["dataset.path=[a,b]", "dataset.weights=[0,0]"], "one of them must be above 0"),
        (["dataset.path=[a,b]", "dataset.weights=[1,-1]"], r"list of numbers of at least 0"),
        (["dataset.path=[]"], "must be a text or a list of texts"),
    ],
)
def test_what_cannot_be_mixed_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose.compose(given)


def test_weights_can_be_searched(tmp_path: Path) -> None:
    optuna: Any = pytest.importorskip("optuna")
    file = tmp_path / "space.yaml"
    file.write_text("params:\n  dataset.weights: choice([0.7, 0.3], [0.5, 0.5])\n")
    overrides = ["dataset.path=[a,b]"]
    space = load(str(file), overrides=overrides)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.suggest(study.ask())["dataset.weights"] for _ in range(12)]
    assert set(drawn) == {(0.7, 0.3), (0.5, 0.5)}
    again = optuna.create_study()
    again.enqueue_trial(space.enqueued({"dataset.weights": [0.5, 0.5]}))  # as a record holds it
    assert space.suggest(again.ask()) == {"dataset.weights": (0.5, 0.5)}
    experiment = compose.experiment_for(overrides, {"dataset.weights": [0.5, 0.5]})
    assert experiment.dataset.weights == (0.5, 0.5)
