"""What is measured of a clip's sound: waves with known answers."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raudio.audio.decode import decode
from raudio.core.seeding import generator
from raudio.data.facts import clip_facts
from raudio.data.rows import FACTS
from raudio.data.synth import SOUNDS, draw_clip

RATE = 16000
Wave = NDArray[np.float32]


def _noise(seconds: float, rms: float = 0.1, rate: int = RATE, seed: int = 0) -> Wave:
    draw = np.random.default_rng(seed)
    return (rms * draw.standard_normal(round(seconds * rate))).astype(np.float32)


def _tone(seconds: float, hertz: float, rms: float = 0.1, rate: int = RATE) -> Wave:
    t = np.arange(round(seconds * rate)) / rate
    return (rms * np.sqrt(2) * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def test_the_columns_are_the_datasets() -> None:
    assert list(clip_facts(_noise(0.1), RATE)) == [name for name, _ in FACTS]


@given(st.integers(1, 5000), st.sampled_from([1000, 8000, 11025, 44100]))
def test_any_length_and_rate_gives_finite_values(frames: int, rate: int) -> None:
    facts = clip_facts(_noise(1, rate=frames), rate)
    numbers = [value for name, value in facts.items() if name != "content"]
    assert np.isfinite([value for value in numbers if value is not None]).all()
    assert 0 <= facts["speech"] <= 1
    assert 0 <= facts["silence"] <= 1
    assert 0 <= (facts["bandwidth"] or 0) <= rate / 2 + 1e-6


def test_exact_values() -> None:
    wave = np.array([0.5, -1.0, 0.0, 0.25, 1.0, 0.25], np.float32)
    facts = clip_facts(wave, RATE)
    assert facts["peak"] == 1
    assert facts["clipped"] == 2
    assert facts["dc"] == pytest.approx(1 / 6)
    assert facts["rms"] == pytest.approx(np.sqrt((0.25 + 1 + 0.0625 + 1 + 0.0625) / 6))


def test_blocks_do_not_show() -> None:
    wave = _noise(70)  # more than one block of 2**18 samples
    facts = clip_facts(wave, RATE)
    assert facts["rms"] == pytest.approx(np.sqrt(np.mean(wave.astype(np.float64) ** 2)))
    assert facts["dc"] == pytest.approx(wave.astype(np.float64).mean())
    again = wave.copy()
    again[-1] += 0.1
    assert clip_facts(again, RATE)["content"] != facts["content"]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8])
@pytest.mark.parametrize("dc", [0.0, 0.2])
def test_silence_is_the_quiet_share_and_no_offset_hides_it(share: float, dc: float) -> None:
    quiet = round(share * 10 * RATE)
    wave = _noise(10)
    wave[:quiet] = _noise(10, rms=1e-5)[:quiet]
    wave -= wave.mean()
    facts = clip_facts(wave + np.float32(dc), RATE)
    assert facts["silence"] == pytest.approx(share, abs=0.005)
    assert facts["dc"] == pytest.approx(dc, abs=1e-5)


@pytest.mark.parametrize("snr", [5, 15, 30, 45])
@pytest.mark.parametrize("padding", [0.0, 2.0])
def test_snr_of_bursts_in_noise(snr: float, padding: float) -> None:
    # Half of the time a tone. Digital silence around it is no quiet room.
    noise = _noise(3, rms=0.1 * 10 ** (-snr / 20))
    sounding = (np.arange(len(noise)) // (RATE // 4)) % 2 == 0
    wave = np.where(sounding, _tone(3, 1000) + noise, noise).astype(np.float32)
    zeros = np.zeros(round(padding * RATE), np.float32)
    facts = clip_facts(np.concatenate([wave, zeros]), RATE)
    assert facts["snr"] == pytest.approx(snr, abs=2.5)


def test_snr_of_noise_alone_is_low_and_of_a_clean_burst_capped() -> None:
    assert clip_facts(_noise(2), RATE)["snr"] < 0
    clean = np.concatenate([_tone(0.5, 500, rms=0.3), _noise(0.5, rms=1e-4)])
    assert clip_facts(clean, RATE)["snr"] == 60


def test_digital_silence_has_no_snr_and_no_bandwidth() -> None:
    facts = clip_facts(np.zeros(RATE, np.float32), RATE)
    assert (facts["snr"], facts["bandwidth"], facts["speech"]) == (None, None, 0)
    assert facts["silence"] == 1


@pytest.mark.parametrize("seconds", [0.3, 3.0, 100.0])
def test_bandwidth_finds_what_was_resampled(seconds: float) -> None:
    narrow = _noise(seconds, rate=8000)
    wide = soxr.resample(narrow, 8000, RATE, quality="HQ")
    assert clip_facts(narrow, 8000)["bandwidth"] == 4000
    assert clip_facts(wide, RATE)["bandwidth"] == pytest.approx(4000, abs=300)
    stored = np.rint(wide * 32767).astype(np.int16) / np.float32(32767)  # rounding adds no band
    assert clip_facts(stored, RATE)["bandwidth"] == pytest.approx(4000, abs=300)


def test_rounding_noise_is_no_band_but_a_weak_sound_is() -> None:
    quiet = soxr.resample(_noise(3, rms=1e-3, rate=8000), 8000, RATE, quality="HQ")
    stored = np.rint(quiet * 32767).astype(np.int16) / np.float32(32767)
    assert clip_facts(stored, RATE)["bandwidth"] == pytest.approx(4000, abs=300)
    assert clip_facts(_tone(3, 500) + _noise(3, rms=3e-4), RATE)["bandwidth"] == 8000


def test_bandwidth_of_a_tone_is_its_frequency() -> None:
    assert clip_facts(_tone(1, 1000), RATE)["bandwidth"] == pytest.approx(1000, abs=300)


def test_tones_and_noises_are_not_speech() -> None:
    for rate in (8000, 44100):
        assert clip_facts(_noise(2, rate=rate), rate)["speech"] == 0
        for hertz in (150, 440, 2000):
            assert clip_facts(_tone(2, hertz, rate=rate), rate)["speech"] < 0.1
    draws = [generator(0, "facts", number) for number in range(10)]
    embedded = [
        clip_facts(draw_clip(label, draw)[0], 8000)["speech"] for label in SOUNDS for draw in draws
    ]
    assert np.mean(embedded) < 0.4


def test_spoken_digits_are_speech_on_average(fsdd: Path) -> None:
    files = sorted((fsdd / "recordings").glob("*.wav"))[::50]
    speech = [clip_facts(*decode(file.read_bytes()))["speech"] for file in files]
    assert np.mean(speech) > 0.7


def test_memory_does_not_grow_with_the_clip() -> None:
    wave = _noise(1000, rate=8000)  # 32 MB
    tracemalloc.start()
    clip_facts(wave, 8000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * wave.nbytes
