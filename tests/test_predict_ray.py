"""`raudio predict --ray`: the same numbers, order and failures as without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from predict_kit import RATE, invoke, make_bundle, sound, write

from raudio import distribute
from raudio.cluster.session import session
from raudio.config.schema import Cluster
from raudio.core.errors import ConfigError
from raudio.export.inputs import find
from raudio.export.predictor import Options, load

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for number in range(12):
        rate = (RATE, 22050)[number % 2]
        write(folder / f"{number:02d}.wav", sound(1500 + 1700 * number, rate, number), rate)
    (folder / "05.wav").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The command joins the session that the process has."""
    with session(Cluster(), tmp_path_factory.mktemp("ray") / "ray.log"):
        yield


def lines(done: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("options", [(), ("--window", "0.5", "--stride", "0.3", "--top", "2")])
def test_the_same_as_without(
    bundle: Path, folder: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths too: Ray's processes work in another folder."""
    monkeypatch.chdir(folder.parent)
    here = invoke(bundle, folder.name, "missing.wav", "--json", *options)
    there = invoke(bundle, folder.name, "missing.wav", "--json", "--ray", *options)
    assert (here.exit_code, there.exit_code) == (1, 1), there.output
    assert "2 of 13 recordings could not be used" in there.stderr
    one, other = lines(here), lines(there)
    assert [r["file"] for r in one] == [r["file"] for r in other]
    for local, remote in zip(one, other, strict=True):
        scores = local.pop("scores", {}), remote.pop("scores", {})
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)
        assert local.pop("score", 0) == pytest.approx(remote.pop("score", 0), abs=1e-6)
        local["error"] = local.get("error", "").replace("in/", f"{folder}/")
        remote["error"] = remote.get("error", "").replace("in/", f"{folder}/")
        assert local == remote


def test_a_file_and_embeddings_gone_on_with(bundle: Path, folder: Path, tmp_path: Path) -> None:
    out, vectors = tmp_path / "out.parquet", tmp_path / "e.parquet"
    assert invoke(bundle, folder / "00.wav", "--out", out).exit_code == 0
    done = invoke(bundle, folder, "--out", out, "--embeddings", vectors, "--ray")
    assert done.exit_code == 1, done.output
    assert pq.read_table(out)["file"].to_pylist() == sorted(map(str, folder.iterdir()))
    model = load(bundle)
    for row in pq.read_table(vectors).to_pylist():
        assert row["embedding"] == pytest.approx(model.embed(row["file"]).tolist(), abs=1e-5)
    assert pq.read_table(vectors).num_rows == 11
    done = invoke(bundle, folder, "--out", out, "--ray")
    assert "11 recordings are in" in done.stderr


def test_a_dataset_in_jobs_of_several_clips(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raudio.data.prepare import prepare

    for number in range(24):
        name = f"{number}.wav"
        write(
            tmp_path / "in" / ("up", "down")[number % 2] / name,
            sound(900 + 9 * number, seed=number),
        )
    prepare(tmp_path / "in", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distribute, "_JOBS", 4)
    clips, model = find(["data"]), load(bundle)
    found = list(distribute.results(model, clips, Options(), cpus=2))
    assert [result.position for result in found] == list(range(24))
    for result, expected in zip(found, model.results(clips), strict=True):
        assert result.name == expected.name
        assert result.mapping()["scores"] == pytest.approx(expected.mapping()["scores"], abs=1e-6)
    assert list(distribute.results(model, [], Options(), cpus=2)) == []


def test_what_ray_cannot_do(bundle: Path, tmp_path: Path) -> None:
    done = invoke(bundle, "-", "--ray", stdin=b"x")
    assert isinstance(done.exception, ConfigError)
    assert "standard input" in str(done.exception)
