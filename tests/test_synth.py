"""The embedded data: the sounds are what their class says, and drawn from the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from raudio.audio.decode import decode
from raudio.core.errors import DataError
from raudio.core.seeding import generator
from raudio.data.manifest import Manifest
from raudio.data.rows import read_shard
from raudio.data.synth import SAMPLE_RATE, SOUNDS, draw_clip, synth


def _sounds(label: str, count: int = 12) -> list[NDArray[np.float64]]:
    return [SOUNDS[label](0.6, generator("test", label, number)) for number in range(count)]


def _centroids(wave: NDArray[np.float64], parts: int = 6) -> NDArray[np.float64]:
    """Mean frequency of the power spectrum of each part of a sound, in Hz."""
    result = []
    for part in np.array_split(wave, parts):
        power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
        frequency = np.fft.rfftfreq(len(part), 1 / SAMPLE_RATE)
        result.append(float((power * frequency).sum() / power.sum()))
    return np.array(result)


def _energy(wave: NDArray[np.float64], hop: int = 80) -> NDArray[np.float64]:
    """Energy every 10 ms."""
    frames = wave[: len(wave) // hop * hop].reshape(-1, hop)
    return (frames**2).sum(axis=1)


@pytest.mark.parametrize(("label", "sign"), [("chirp_up", 1), ("chirp_down", -1),
                                             ("sweep_up", 1), ("sweep_down", -1)])  # fmt: skip
def test_pitch_goes_where_the_class_says(label: str, sign: int) -> None:
    for wave in _sounds(label):
        centroids = _centroids(wave)
        assert sign * (centroids[-1] - centroids[0]) > 0


def test_pluck_starts_loud_and_swell_ends_loud() -> None:
    for label, loud in (("pluck", 0), ("swell", 1)):
        for wave in _sounds(label):
            halves = [float((half**2).sum()) for half in np.array_split(wave, 2)]
            assert halves[loud] > 3 * halves[1 - loud]


def _alternations(wave: NDArray[np.float64]) -> int:
    """How often the pitch crosses its middle, from zero crossings of the fundamental."""
    spectrum = np.fft.rfft(wave)
    frequency = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    fundamental = frequency[np.argmax(np.abs(spectrum) * (frequency < 1600))]
    band = np.abs(frequency - fundamental) < 0.35 * fundamental
    analytic = np.fft.ifft(np.concatenate([spectrum * band, np.zeros(len(wave) // 2 - 1)]))
    pitch = np.diff(np.unwrap(np.angle(analytic)))
    smooth = np.convolve(pitch, np.ones(160) / 160, mode="valid")[200:-200]
    above = smooth > (np.quantile(smooth, 0.1) + np.quantile(smooth, 0.9)) / 2
    return int((above[1:] != above[:-1]).sum())


def test_fast_trills_alternate_more_often_than_slow_ones() -> None:
    slow = np.median([_alternations(wave) for wave in _sounds("trill_slow", 24)])
    fast = np.median([_alternations(wave) for wave in _sounds("trill_fast", 24)])
    # About 0.5 s at 5 to 8 Hz against 10 to 15 Hz, two crossings a period.
    assert 4 <= slow <= 9
    assert 9 <= fast <= 16


def test_knocks_are_even_or_hasten() -> None:
    def gaps(wave: NDArray[np.float64]) -> NDArray[np.int64]:
        energy = _energy(wave, 40)
        rising = np.flatnonzero(energy[1:] > 8 * energy[:-1] + 0.02 * energy.max())
        starts = [int(i) for n, i in enumerate(rising) if n == 0 or i - rising[n - 1] > 3]
        return np.diff(starts)

    for wave in _sounds("knocks_even"):
        distances = gaps(wave)
        assert np.ptp(distances) <= 3
    hasty = [gaps(wave) for wave in _sounds("knocks_hasty")]
    assert all(distances[0] > 1.3 * distances[1] for distances in hasty if len(distances) > 1)


@pytest.mark.slow
def test_level_says_nothing_of_the_class() -> None:
    levels = {
        label: np.mean(
            [20 * np.log10(np.std(draw_clip(label, generator(label, i))[0])) for i in range(150)]
        )
        for label in SOUNDS
    }
    # Uniform over 27 dB: a mean of 150 has a deviation of 0.64 dB.
    assert max(levels.values()) - min(levels.values()) < 4 * 0.64 * np.sqrt(2)


def test_the_event_is_where_the_sound_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raudio.data.synth._SNR_DB", (60.0, 60.0))
    for number in range(30):
        wave, onset, offset = draw_clip("trill_fast", generator("event", number))
        start, end = round(onset * SAMPLE_RATE), round(offset * SAMPLE_RATE)
        assert 0 <= start < end <= len(wave)
        outside = np.concatenate([wave[:start], wave[end:]])
        quiet = 100 * np.mean(outside**2)  # a sound fades in and out within 15 ms
        assert np.mean(wave[start : start + 240] ** 2) > quiet
        assert np.mean(wave[end - 240 : end] ** 2) > quiet


def test_drawn_from_the_seed(tmp_path: Path) -> None:
    first = synth(tmp_path / "a", 60)
    again = synth(tmp_path / "b", 60)
    other = synth(tmp_path / "c", 60, seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert {f.name: f.read_bytes() for f in (tmp_path / "a").rglob("*.parquet")} == {
        f.name: f.read_bytes() for f in (tmp_path / "b").rglob("*.parquet")
    }

    # A clip does not depend on how many there are.
    def clips(manifest: Manifest) -> dict[str, bytes]:
        return {
            row["clip_id"]: row["audio"]
            for shard in manifest.shards
            for row in read_shard(manifest.shard_path(shard)).to_pylist()
        }

    more = clips(synth(tmp_path / "d", 90))
    assert all(more[clip_id] == audio for clip_id, audio in clips(first).items())


def test_what_is_written(tmp_path: Path) -> None:
    manifest = synth(tmp_path / "data", 200)
    assert manifest.labels == tuple(sorted(SOUNDS))
    assert len(manifest.labels) >= 8
    assert manifest.clips == 200
    assert all(set(info.class_counts) == set(SOUNDS) for info in manifest.splits.values())
    row = read_shard(manifest.shard_path(manifest.shards[0])).to_pylist()[0]
    wave, rate = decode(row["audio"])
    assert (len(wave), rate) == (row["frames"], SAMPLE_RATE)
    assert row["events"][0]["label"] == row["label"]


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists"):
        synth(tmp_path, 100)
    with pytest.raises(DataError, match="train needs every class"):
        synth(tmp_path / "few", 8)
    assert not list(tmp_path.iterdir())
