"""Results for parts of a recording: of a file, of samples, and of a stream as it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from predict_kit import LABELS, RATE, WINDOW, make_bundle, sound, write

from raudio.core.errors import ConfigError, DataError
from raudio.export.predictor import Options, Predictor, load


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(make_bundle(tmp_path_factory.mktemp("bundle")))


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """The same parts and labels, and scores but for what a batch's size rounds differently."""
    assert [(r["start"], r["end"]) for r in found] == [(r["start"], r["end"]) for r in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)
    return True


@pytest.mark.parametrize(
    ("samples", "window", "stride", "starts"),
    [
        (20000, 0.5, None, [0, 4000, 8000, 12000, 16000]),
        (20700, 0.5, None, [0, 4000, 8000, 12000, 16000, 16700]),
        (20000, 1.0, 0.75, [0, 6000, 12000]),
        (21000, 1.0, 0.75, [0, 6000, 12000, 13000]),
        (9000, 0.25, 0.25, [0, 2000, 4000, 6000, 7000]),
        (9000, None, 0.5, [0, 4000, 5000]),
        (3000, 0.5, 0.1, [0]),
    ],
)
def test_a_part_is_predicted_like_a_file_that_holds_it_alone(
    model: Predictor,
    tmp_path: Path,
    samples: int,
    window: float | None,
    stride: float | None,
    starts: list[int],
) -> None:
    whole = write(tmp_path / "whole.wav", sound(samples))
    found = model.predict(whole, window=window, stride=stride)
    size = min(samples, round((window or 0.5) * RATE))
    assert [list(result) for result in found] == [
        ["file", "start", "end", "label", "score", "scores"]
    ] * len(starts)
    expected = []
    wave, _ = soundfile.read(whole, dtype="int16")
    for start in starts:
        part = write(tmp_path / "part.wav", wave[start : start + size])
        ends = {"start": start / RATE, "end": (start + size) / RATE}
        expected.append(model.predict(part) | ends)
    assert same(found, expected)
    assert all(result["file"] == str(whole) for result in found)


def test_parts_of_several_recordings_and_of_a_broken_one(model: Predictor, tmp_path: Path) -> None:
    one, other = write(tmp_path / "1.wav", sound(9000)), write(tmp_path / "2.wav", sound(3000))
    found = model.predict([one, tmp_path / "no.wav", other], window=0.5, batch_size=2)
    assert same(found[0], model.predict(one, window=0.5))
    assert set(found[1]) == {"file", "error"}
    assert same(found[2], model.predict(other, window=0.5))
    with pytest.raises(DataError, match=r"no\.wav"):
        model.predict(tmp_path / "no.wav", window=0.5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window": 0.0}, "window=0.0: give seconds"),
        ({"window": float("nan")}, "window=nan"),
        ({"window": 1.0, "stride": 2.0}, "stride=2 is longer than window=1"),
        ({"stride": 0.75}, "stride=0.75 is longer than window=0.5"),
        ({"window": 1.0, "stride": 1e-6}, "less than a sample at 8000 Hz"),
        ({"top": 0}, "top=0"),
        ({"threshold": float("inf")}, "threshold=inf"),
    ],
)
def test_options_that_cannot_be(model: Predictor, options: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        model.predict(sound(9000), RATE, **options)


def test_the_best_scores_alone_and_no_label_below_a_threshold(model: Predictor) -> None:
    everything = model.predict(sound(9000), RATE)
    ranked = sorted(everything["scores"].items(), key=lambda item: -item[1])
    best = model.predict(sound(9000), RATE, top=2)
    assert list(best["scores"].items()) == ranked[:2]
    assert (best["label"], best["score"]) == ranked[0]
    assert model.predict(sound(9000), RATE, top=99)["scores"] == everything["scores"]
    at = everything["score"]
    assert model.predict(sound(9000), RATE, threshold=at)["label"] == everything["label"]
    unsure = model.predict(sound(9000), RATE, threshold=np.nextafter(at, 1))
    assert unsure == everything | {"label": None}


# --- embeddings --------------------------------------------------------------------------------


def test_an_embedding_is_what_the_head_is_given(model: Predictor) -> None:
    wave = np.round(sound(WINDOW + 1000) * 32767).astype(np.int16)
    heard = torch.from_numpy(wave.astype(np.float32) / 32768)
    heard = (heard * 32767).round() / 32767
    rows = torch.stack([heard[:WINDOW], heard[-WINDOW:]])
    with torch.no_grad():
        features = model.system.features(rows, torch.tensor([WINDOW, WINDOW]))
        expected = model.system.model.embed(*features).numpy()
    parts = model.embed(wave, RATE, window=0.5)
    np.testing.assert_allclose(parts, expected, atol=1e-5)
    whole = model.embed(wave, RATE)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, expected.mean(axis=0), atol=1e-5)
    (result,) = model.results([wave], RATE, Options(embeddings=True))
    assert result.mapping()["scores"] == pytest.approx(model.predict(wave, RATE)["scores"])


def test_what_gives_no_embeddings(model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Graph:
        """As an exported graph: scores alone."""

    monkeypatch.setattr(model, "system", Graph())
    with pytest.raises(ConfigError, match="gives no embeddings"):
        model.embed(sound(900), RATE)


# --- streams -----------------------------------------------------------------------------------


def streamed(model: Predictor, chunks: list[Any], rate: int, **options: Any) -> list[Any]:
    stream = model.stream(rate, **options)
    found = [result for chunk in chunks for result in stream.push(chunk)]
    return found + stream.close()


@settings(deadline=None, max_examples=20)
@given(
    samples=st.integers(1, 30000),
    rate=st.sampled_from([8000, 11025, 16000]),
    window=st.sampled_from([None, 0.25, 0.5, 0.7]),
    overlap=st.sampled_from([None, 0.3, 1.0]),
    cuts=st.lists(st.integers(0, 30000), max_size=12),
    batch_size=st.sampled_from([1, 64]),
)
def test_a_stream_gives_what_the_whole_gives_whatever_its_chunks(
    model: Predictor,
    samples: int,
    rate: int,
    window: float | None,
    overlap: float | None,
    cuts: list[int],
    batch_size: int,
) -> None:
    wave = (sound(samples, rate) * 32767).astype(np.int16)
    stride = None if overlap is None else overlap * (window or 0.5)
    chunks = np.split(wave, sorted(min(cut, samples) for cut in cuts))
    asked = {"window": window, "stride": stride, "batch_size": batch_size}
    found = streamed(model, chunks, rate, **asked)
    expected = model.predict(wave, rate, **(asked | {"window": window or 0.5}))
    assert same(found, expected)


def test_a_stream_of_a_file_gives_what_the_file_gives(model: Predictor, tmp_path: Path) -> None:
    wave = np.stack([sound(50000, 22050), sound(50000, 22050, seed=1)], axis=1)
    path = write(tmp_path / "x.flac", wave, 22050)
    stored, _ = soundfile.read(path, dtype="float32")
    found = streamed(model, np.array_split(stored, 333), 22050, window=0.5, stride=0.2)
    expected = model.predict(path, window=0.5, stride=0.2)
    for result in expected:
        assert result.pop("file") == str(path)
    assert same(found, expected)
    assert len(found) == 10


def test_results_come_as_windows_fill_and_the_tail_on_closing(model: Predictor) -> None:
    stream = model.stream(RATE, window=0.5, top=1, threshold=0.99)
    assert stream.push(sound(WINDOW - 1)) == []
    (first,) = stream.push(np.zeros((1, 2)))  # one sample of two channels
    assert (first["start"], first["end"]) == (0.0, 0.5)
    assert first["label"] is None
    assert list(first["scores"]) == [max(LABELS, key=lambda label: first["scores"].get(label, 0))]
    assert stream.push([0.0] * 10) == stream.push(np.zeros(0)) == []
    (last,) = stream.close()
    assert (last["start"], last["end"]) == (10 / RATE, (WINDOW + 10) / RATE)
    assert stream.close() == []
    with pytest.raises(ConfigError, match="closed"):
        stream.push(sound(10))


def test_chunks_that_cannot_be_used_are_not_taken(model: Predictor) -> None:
    stream = model.stream()  # at the bundle's own rate
    with pytest.raises(DataError, match="NaN"):
        stream.push(np.array([np.nan]))
    with pytest.raises(ConfigError, match=r"samples\.T"):
        stream.push(np.zeros((1, 512)))
    assert stream.close() == []
    with pytest.raises(ConfigError, match="sample_rate=0"):
        model.stream(0)


def test_an_endless_stream_takes_no_more_memory(model: Predictor) -> None:
    import tracemalloc

    stream = model.stream(16000, window=0.5)
    chunk = np.zeros(1600, np.float32)
    for _ in range(20):
        stream.push(chunk)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(400):
        stream.push(chunk)
    assert tracemalloc.get_traced_memory()[0] - before < 200_000
    tracemalloc.stop()
