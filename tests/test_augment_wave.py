"""Augmentations of level, spectrum and surroundings: measured against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional as audio_functional
from augment_kit import KEYS, SAMPLE_RATE, SAMPLES, examples, run, wave
from torch import Tensor

from raudio.audio.augment import Examples
from raudio.audio.augment.codecs import Codec, MuLaw
from raudio.audio.augment.filters import BandPass, Bandwidth, HighPass, LowPass
from raudio.audio.augment.level import Clipping, Gain, Polarity
from raudio.audio.augment.noise import Background, Noise
from raudio.audio.augment.reverb import Reverb
from raudio.audio.augment.sounds import load_sounds
from raudio.core.errors import ConfigError, DataError

RATE = 16000


def array(*values: float) -> np.ndarray:
    return np.array(values)


def decibels(numerator: Tensor, denominator: Tensor) -> np.ndarray:
    ratio: np.ndarray = (10 * torch.log10(numerator / denominator)).numpy()
    return ratio


def white(seconds: float = 1.0, clips: int = 1) -> Examples:
    generator = torch.Generator().manual_seed(5)
    data = torch.randn(clips, round(seconds * RATE), generator=generator) * 0.1
    return Examples(data, torch.full((clips,), data.shape[1]), torch.zeros(clips, 1))


def band_power(samples: Tensor, low: float, high: float) -> float:
    """Power of (T,) samples, faded in and out, between two frequencies, in dB."""
    faded = samples.double() * torch.hann_window(len(samples), dtype=torch.float64)
    spectrum = torch.fft.rfft(faded).abs().square()
    hertz = torch.fft.rfftfreq(len(samples), 1 / RATE)
    return 10 * math.log10(float(spectrum[(hertz >= low) & (hertz < high)].sum()))


# --- level ---------------------------------------------------------------------------------------


def test_gain_in_decibels() -> None:
    gain = Gain(p=1.0, max_db=12)
    given = examples("wave")
    assert (np.abs(gain.draw(KEYS, seed=1, epoch=0)["db"]) <= 12).all()
    fixed = gain.apply(given, {"db": array(20, -20, 0, 6, -6, 0)})
    factors = torch.tensor([10, 0.1, 1, 1.99526231, 0.50118723, 1])
    torch.testing.assert_close(fixed.data, given.data * factors[:, None])


def test_polarity_turns_the_sign() -> None:
    given = examples("wave")
    assert torch.equal(run(Polarity(p=1.0), given).data, -given.data)


def test_clipping_cuts_off_below_the_peak() -> None:
    given = wave(torch.tensor([0.1, -0.8, 0.5, -0.3, 0.4]))
    clipped = Clipping(p=1.0).apply(given, {"db": array(20 * math.log10(2))})
    torch.testing.assert_close(clipped.data[0], torch.tensor([0.1, -0.4, 0.4, -0.3, 0.4]))


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", ["white", "pink", "brown"])
def test_noise_has_the_ratio_drawn_over_the_valid_part(color: str) -> None:
    noise = Noise(sample_rate=SAMPLE_RATE, p=1.0, color=color, min_snr=-5, max_snr=30)
    given = examples("wave")
    draw = noise.draw(KEYS, seed=1, epoch=0)
    assert ((draw["snr"] >= -5) & (draw["snr"] <= 30)).all()
    added = noise.apply(given, draw).data - given.data
    ratio = decibels(given.data.square().sum(1), added.square().sum(1))
    np.testing.assert_allclose(ratio, draw["snr"], atol=0.05)
    # Of different clips it is not the same.
    first, last = added[0] / added[0].norm(), added[5] / added[5].norm()
    assert abs(float(first @ last)) < (0.1 if color == "white" else 0.6)


@pytest.mark.slow
@pytest.mark.parametrize(("color", "slope"), [("white", 0), ("pink", -3.01), ("brown", -6.02)])
def test_the_color_of_noise_is_its_slope_in_decibels_an_octave(color: str, slope: float) -> None:
    noise = Noise(sample_rate=RATE, p=1.0, color=color, min_snr=0, max_snr=0)
    given = white(20)
    added = (run(noise, given, KEYS[:1]).data - given.data)[0]
    edges = [62.5 * 2**octave for octave in range(8)]
    # Density: the power of an octave over its width.
    density = [band_power(added, low, 2 * low) - 10 * math.log10(low) for low in edges[:-1]]
    assert np.polyfit(np.arange(7), density, 1)[0] == pytest.approx(slope, abs=0.15)


def test_brown_noise_is_audible() -> None:
    """Nothing of it is below 20 Hz, where all its power would else be; and it starts at once."""
    noise = Noise(sample_rate=RATE, p=1.0, color="brown", min_snr=0, max_snr=0)
    given = white(4)
    added = (run(noise, given, KEYS[:1]).data - given.data)[0]
    assert band_power(added, 0, 10) < band_power(added, 20, 8000) - 20
    assert float(added[:8000].norm()) > 0.3 * float(added[-8000:].norm())


def test_noise_is_new_in_every_epoch_and_for_every_clip() -> None:
    noise = Noise(sample_rate=RATE, p=1.0)
    fields = [
        noise.draw(KEYS, seed=seed, epoch=epoch)["field"] for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len(np.unique(np.concatenate(fields))) == 4 * len(KEYS)


def test_noise_leaves_silence_silent() -> None:
    silence = Examples(torch.zeros(6, 2000), SAMPLES, torch.zeros(6, 1))
    assert not run(Noise(sample_rate=RATE, p=1.0), silence).data.any()


# --- background and its sounds -------------------------------------------------------------------


def tone(folder: Path, name: str, hertz: float, seconds: float, rate: int = RATE) -> None:
    time = np.arange(round(seconds * rate)) / rate
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, 0.25 * np.sin(2 * np.pi * hertz * time), rate)


def test_background_is_a_recording_at_the_ratio_drawn(tmp_path: Path) -> None:
    tone(tmp_path, "a/one.wav", 1000, 0.3)  # repeats
    tone(tmp_path, "b/two.flac", 3000, 5, rate=44100)  # is resampled
    background = Background(sample_rate=RATE, p=1.0, source=str(tmp_path), min_snr=-5, max_snr=20)
    given = white(clips=6)
    draw = background.draw(KEYS, seed=0, epoch=0)
    added = background.apply(given, draw).data - given.data
    ratio = decibels(given.data.square().sum(1), added.square().sum(1))
    np.testing.assert_allclose(ratio, draw["snr"], atol=0.05)
    kinds = set()
    for clip in added:
        peak = int(torch.fft.rfft(clip).abs().argmax())  # 1 s: the bin is the frequency
        kinds.add(peak)
        assert band_power(clip, peak - 50, peak + 50) > band_power(clip, 0, 8000) - 0.1
    assert kinds == {1000, 3000}


def test_sounds_come_from_a_store_or_a_dataset(tmp_path: Path) -> None:
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    tone(tmp_path, "one.wav", 1000, 0.5)
    content = (tmp_path / "one.wav").read_bytes()
    expected = load_sounds(str(tmp_path), RATE, name="x")
    fsspec.filesystem("memory").pipe("/noises/deep/one.wav", content)
    stored = load_sounds("memory://noises", RATE, name="x")
    dataset = tmp_path / "dataset"
    (dataset / "shards").mkdir(parents=True)
    (dataset / "dataset.json").write_text("{}")
    rows = pa.table({"clip_id": ["one"], "audio": [content], "label": ["noise"]})
    pq.write_table(rows, dataset / "shards" / "train-00000.parquet")
    pq.write_table(rows, dataset / "shards" / "test-00000.parquet")
    kept = load_sounds(str(dataset), RATE, name="x")
    for found in (stored, kept):
        assert torch.equal(found.samples, expected.samples)
        assert found.lengths.tolist() == [RATE // 2]
    assert load_sounds(str(tmp_path), RATE, name="x") is expected, "decoded once"


def test_sounds_are_bounded_and_silence_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        tone(tmp_path, f"{number}.wav", 500 + number, 1)
    soundfile.write(tmp_path / "silence.wav", np.zeros(1000), RATE)
    soundfile.write(tmp_path / "long.wav", np.full(70 * 1000, 0.1), 1000)
    module = "raudio.audio.augment.sounds"
    everything = load_sounds(str(tmp_path), 1000, name="x")
    assert sorted(everything.lengths.tolist()) == [1000] * 5 + [60000]
    (tmp_path / "long.wav").unlink()
    monkeypatch.setattr(f"{module}.MAX_BYTES", 3 * 2 * RATE)
    assert load_sounds(str(tmp_path), RATE, name="x").lengths.tolist() == [RATE] * 3


def test_missing_sounds_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give augment\.background\.source=FOLDER"):
        Background(sample_rate=RATE, p=1.0)
    with pytest.raises(ConfigError, match=r"background: source='.*nowhere'.* no such folder"):
        Background(sample_rate=RATE, p=1.0, source=str(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("no sound")
    with pytest.raises(ConfigError, match=r"reverb: source=.* holds no sound: .*\.flac"):
        Reverb(sample_rate=RATE, p=1.0, source=str(tmp_path))
    (tmp_path / "broken.wav").write_text("no sound")
    with pytest.raises(DataError, match=r"broken\.wav"):
        Background(sample_rate=RATE, p=1.0, source=str(tmp_path))


# --- reverberation -------------------------------------------------------------------------------


def rt60(response: np.ndarray) -> float:
    """Reverberation time by Schroeder's backward integration, from -5 to -25 dB (ISO 3382 T20)."""
    energy = np.cumsum(response[::-1].astype(float) ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0] + 1e-12)
    start, stop = np.argmax(level <= -5), np.argmax(level <= -25)
    slope = np.polyfit(np.arange(start, stop) / RATE, level[start:stop], 1)[0]
    return -60 / float(slope)


@pytest.mark.parametrize("seconds", [0.3, 0.8])
def test_a_generated_response_decays_in_the_time_drawn(seconds: float) -> None:
    reverb = Reverb(sample_rate=RATE, p=1.0, max_rt60=1.0)
    draw = {"rt60": array(seconds), "drr": array(6.0), "field": array(0.3)}
    response = reverb.responses(draw, torch.device("cpu"))[0].numpy()
    assert response[0] == 1
    assert -10 * math.log10((response[1:] ** 2).sum()) == pytest.approx(6, abs=0.01)
    assert rt60(response[1:]) == pytest.approx(seconds, rel=0.1)


def test_reverberation_rings_on_at_the_level_of_the_clip() -> None:
    samples = torch.zeros(RATE)
    samples[:800] = white().data[0, :800]
    wet = run(Reverb(sample_rate=RATE, p=1.0, min_rt60=0.5), wave(samples), KEYS[:1]).data[0]
    assert float(wet[800:].norm()) > 0.05 * float(wet.norm())
    assert float(wet.norm()) == pytest.approx(float(samples.norm()), rel=1e-4)


def test_a_given_response_is_convolved_from_its_direct_sound_on(tmp_path: Path) -> None:
    response = np.zeros(400)
    response[[30, 130, 330]] = 0.5, 0.25, -0.125  # 30 samples of delay, then two echoes
    soundfile.write(tmp_path / "room.wav", response, RATE, subtype="FLOAT")
    reverb = Reverb(sample_rate=RATE, p=1.0, source=str(tmp_path))
    given = white()
    wet = run(reverb, given, KEYS[:1]).data[0].numpy()
    dry = given.data[0].numpy()
    expected = np.convolve(dry, response[30:])[:RATE]
    expected *= np.linalg.norm(dry) / np.linalg.norm(expected)
    np.testing.assert_allclose(wet, expected, atol=1e-4)


# --- filters -------------------------------------------------------------------------------------


def response_at(filtered: Examples, given: Examples, hertz: float) -> float:
    """Gain around a frequency, in dB."""
    low, high = hertz * 0.98, hertz * 1.02
    return band_power(filtered.data[0], low, high) - band_power(given.data[0], low, high)


def test_filters_fade_by_24_db_an_octave_beyond_their_cutoff() -> None:
    given = white(4)
    low = LowPass(sample_rate=RATE, p=1.0).apply(given, {"cutoff": array(1000)})
    high = HighPass(sample_rate=RATE, p=1.0).apply(given, {"cutoff": array(1000)})
    band = BandPass(sample_rate=RATE, p=1.0).apply(given, {"low": array(500), "high": array(2000)})
    for filtered, expected in (
        (low, {250: 0, 1000: -3, 2000: -24, 4000: -48}),
        (high, {4000: 0, 1000: -3, 500: -24, 250: -48}),
        (band, {1000: 0, 500: -3, 2000: -3, 250: -24, 4000: -24}),
    ):
        for hertz, gain in expected.items():
            assert response_at(filtered, given, hertz) == pytest.approx(gain, abs=0.7), hertz


def test_each_clip_has_its_own_cutoff_within_the_bounds() -> None:
    keys = np.arange(2000, dtype=np.uint64)
    low = LowPass(sample_rate=RATE, p=1.0, min_cutoff=500, max_cutoff=2000)
    cutoff = low.draw(keys, seed=0, epoch=0)["cutoff"]
    assert (cutoff.min(), cutoff.max()) == pytest.approx((500, 2000), rel=0.01)
    assert np.median(cutoff) == pytest.approx(1000, rel=0.05), "uniform in octaves"
    band = BandPass(sample_rate=RATE, p=1.0, min_octaves=1, max_octaves=2)
    draw = band.draw(keys, seed=0, epoch=0)
    octaves = np.log2(draw["high"] / draw["low"])
    assert (octaves.min(), octaves.max()) == pytest.approx((1, 2), rel=0.01)


def test_filters_do_not_move_a_click() -> None:
    samples = torch.zeros(RATE)
    samples[5000] = 1
    for each in (LowPass(sample_rate=RATE), Bandwidth(sample_rate=RATE)):
        filtered = each.apply(wave(samples), each.draw(KEYS[:1], seed=0, epoch=0))
        assert int(filtered.data.abs().argmax()) == 5000


def test_bandwidth_is_that_of_a_lower_sample_rate() -> None:
    given = white(4)
    narrow = Bandwidth(sample_rate=RATE, p=1.0).apply(given, {"rate": array(8000)})
    assert response_at(narrow, given, 3500) == pytest.approx(0, abs=0.2)
    assert band_power(narrow.data[0], 4800, 8000) < band_power(given.data[0], 4800, 8000) - 45
    down = audio_functional.resample(given.data, RATE, 8000, lowpass_filter_width=64)
    again = audio_functional.resample(down, 8000, RATE, lowpass_filter_width=64)
    assert float((narrow.data - again).norm() / again.norm()) < 0.15


# --- codecs --------------------------------------------------------------------------------------


def test_mu_law_is_torchaudios() -> None:
    given = white(0.5)
    for bits in (4, 8):
        coded = MuLaw(p=1.0).apply(given, {"bits": array(bits)}).data
        symbols = audio_functional.mu_law_encoding(given.data, 2**bits)
        expected = audio_functional.mu_law_decoding(symbols, 2**bits)
        torch.testing.assert_close(coded, expected, atol=1e-6, rtol=1e-4)
        assert len(coded.unique()) <= 2**bits
    drawn = MuLaw(p=1.0, min_bits=4, max_bits=6).draw(
        np.arange(300, dtype=np.uint64), seed=0, epoch=0
    )
    assert set(drawn["bits"]) == {4, 5, 6}


@pytest.mark.parametrize("format", ["mp3", "vorbis"])
def test_a_codec_keeps_the_sound_in_place_and_loses_more_when_it_compresses_more(
    format: str,
) -> None:
    time = torch.arange(RATE) / RATE
    samples = 0.3 * torch.sin(2 * math.pi * 440 * time) + 0.02 * white().data[0]
    given = wave(samples)
    codec = Codec(sample_rate=RATE, p=1.0, format=format)
    ratios = []
    for compression in (0.0, 1.0):
        coded = codec.apply(given, {"compression": array(compression)}).data[0]
        lost = float((coded - samples).square().sum() / samples.square().sum())
        ratios.append(-10 * math.log10(lost))
    assert ratios[0] > ratios[1] > 15
    assert ratios[0] < 80, "nothing was coded"


def test_a_rate_that_mp3_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"mp3 has no sample rate of 10000 Hz; .*vorbis"):
        Codec(sample_rate=10000, p=1.0)
    Codec(sample_rate=10000, p=1.0, format="vorbis")
