"""Augmentations of when things happen, of tempo and pitch: measured on clicks and sines, and the
frame targets that follow them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchaudio.functional as audio_functional
from augment_kit import KEYS, SAMPLE_RATE, examples, wave
from torch import Tensor

from raudio.audio.augment import Augmentation, Draw, Examples
from raudio.audio.augment.rate import Pitch, Speed, Stretch, stretched
from raudio.audio.augment.time import Mute, Roll, Shift

T = 8000
FRAMES = 50  # target frames, of 160 samples


def array(*values: float) -> np.ndarray:
    return np.array(values)


def click(at: int, length: int = T) -> Examples:
    """A 20 ms burst around sample `at` of one clip, and the target frames that it covers."""
    samples = torch.zeros(1, T)
    time = torch.arange(-80, 80)
    samples[0, at - 80 : at + 80] = torch.sin(time * 0.9) * torch.hann_window(160)
    targets = torch.zeros(1, FRAMES, 2)
    targets[0, at // 160, 1] = 1
    return Examples(samples, torch.tensor([length]), targets)


def where(waves: Tensor) -> float:
    """Centre of the energy, in samples."""
    power = waves[0].square().double()
    return float((power * torch.arange(len(power))).sum() / power.sum())


def sine(hertz: float) -> Examples:
    return wave(torch.sin(2 * math.pi * hertz / SAMPLE_RATE * torch.arange(T)))


def frequency(samples: Tensor) -> float:
    """Of the strongest partial, in Hz."""
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples)), 16 * len(samples)).abs()
    return float(spectrum.argmax()) * SAMPLE_RATE / (16 * len(samples))


@pytest.mark.parametrize(
    ("each", "draw", "expected", "smear"),
    [
        (Shift(p=1.0), {"share": array(0.25)}, 3900 + 2000, 10),
        (Shift(p=1.0), {"share": array(-0.3)}, 3900 - 2400, 10),
        (Roll(p=1.0), {"share": array(0.4)}, 3900 + 3200, 10),
        (Roll(p=1.0), {"share": array(-0.6)}, 3900 - 4800 + T, 10),
        (Speed(p=1.0), {"percent": array(125)}, 3900 / 1.25, 10),
        (Speed(p=1.0), {"percent": array(80)}, 3900 / 0.8, 10),
        (Stretch(sample_rate=SAMPLE_RATE, p=1.0), {"factor": array(1.25)}, 3900 / 1.25, 160),
        (Stretch(sample_rate=SAMPLE_RATE, p=1.0), {"factor": array(0.8)}, 3900 / 0.8, 160),
        (Pitch(sample_rate=SAMPLE_RATE, p=1.0), {"percent": array(112)}, 3900, 160),
    ],
)
def test_a_click_moves_and_its_frame_with_it(
    each: Augmentation, draw: Draw, expected: float, smear: float
) -> None:
    moved = each.apply(click(3900), draw)
    assert where(moved.data) == pytest.approx(expected, abs=smear)
    frames = moved.targets[0, :, 1].nonzero()[:, 0].double()
    assert len(frames) in (1, 2), "a slower event may cover another frame"
    assert (float(frames.mean()) + 0.5) * 160 == pytest.approx(expected, abs=160)
    assert not moved.targets[0, :, 0].any()


def test_what_is_shifted_out_takes_its_label_along() -> None:
    gone = Shift(p=1.0).apply(click(7000), {"share": array(0.2)})
    assert not gone.data.any()
    assert not gone.targets.any()


def test_shift_by_hand() -> None:
    waves = torch.tensor([[1.0, 2, 3, 4, 0, 0], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 0, 0]])
    given = Examples(waves, torch.tensor([4, 6, 4]), waves[:, ::2, None])
    shifted = Shift(p=1.0).apply(given, {"share": array(0.25, -0.5, 1.0)})
    assert shifted.data.tolist() == [[0, 1, 2, 3, 0, 0], [4, 5, 6, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    # Three target frames of two samples each: a frame is what is at its centre (1, 3, 5).
    assert shifted.targets[:, :, 0].tolist() == [[1, 3, 0], [5, 0, 0], [0, 0, 0]]


def test_roll_by_hand() -> None:
    waves = torch.tensor([[1.0, 2, 3, 4, 0, 0], [1, 2, 3, 4, 5, 6]])
    given = Examples(waves, torch.tensor([4, 6]), waves[:, ::2, None])
    rolled = Roll(p=1.0).apply(given, {"share": array(0.25, -0.5)})
    assert rolled.data.tolist() == [[4, 1, 2, 3, 0, 0], [4, 5, 6, 1, 2, 3]]
    assert rolled.targets[:, :, 0].tolist() == [[1, 3, 0], [5, 1, 3]]


def test_mute_by_hand() -> None:
    waves = torch.tensor([[1.0, 2, 3, 4, 0, 0], [1, 2, 3, 4, 5, 6]])
    given = Examples(waves, torch.tensor([4, 6]), waves[:, ::2, None])
    # Spans of 2 and 3 samples, at the last of 3 places and the second of 4.
    muted = Mute(p=1.0).apply(given, {"share": array(0.5, 0.5), "place": array(0.99, 0.25)})
    assert muted.data.tolist() == [[1, 2, 0, 0, 0, 0], [1, 0, 0, 0, 5, 6]]
    assert muted.targets[:, :, 0].tolist() == [[1, 0, 0], [0, 0, 5]]


@pytest.mark.parametrize(
    ("each", "name", "limit"),
    [
        (Shift(p=1.0, max_share=0.2), "share", 0.2),
        (Roll(p=1.0, max_share=0.2), "share", 0.2),
        (Mute(p=1.0, max_share=0.2), "share", 0.2),
    ],
)
def test_draws_reach_their_bounds_and_no_further(
    each: Augmentation, name: str, limit: float
) -> None:
    keys = np.arange(3000, dtype=np.uint64)
    drawn = each.draw(keys, seed=0, epoch=0)[name]
    assert np.abs(drawn).max() == pytest.approx(limit, rel=0.01)
    assert np.abs(drawn).max() <= limit
    assert drawn.min() == pytest.approx(0 if isinstance(each, Mute) else -limit, abs=0.01)


@pytest.mark.parametrize("percent", [80, 93, 110, 125])
def test_speed_changes_duration_and_pitch(percent: int) -> None:
    played = Speed(p=1.0).apply(sine(440), {"percent": array(percent)})
    length = min(T, round(T * 100 / percent))
    assert played.lengths.tolist() == [length]
    middle = played.data[0, 500 : length - 500]
    assert frequency(middle) == pytest.approx(440 * percent / 100, rel=0.002)
    assert float(middle.square().mean()) == pytest.approx(0.5, rel=0.01)


def test_speed_is_drawn_in_hundredths_between_its_bounds() -> None:
    speed = Speed(p=1.0, min_factor=0.95, max_factor=1.02)
    drawn = speed.draw(np.arange(500, dtype=np.uint64), seed=0, epoch=0)["percent"]
    assert sorted(set(drawn)) == list(range(95, 103))


def test_a_faster_sine_does_not_fold_back() -> None:
    """3.5 kHz played 1.25 times faster is above half the rate: nothing of it may be left."""
    played = Speed(p=1.0).apply(sine(3500), {"percent": array(125)})
    assert float(played.data[0, 500:5500].square().mean()) < 0.5 * 10**-4


@pytest.mark.parametrize("factor", [0.8, 0.93, 1.1, 1.25])
def test_stretch_changes_duration_and_keeps_the_pitch(factor: float) -> None:
    stretch = Stretch(sample_rate=SAMPLE_RATE, p=1.0)
    played = stretch.apply(sine(440), {"factor": array(factor)})
    length = min(T, round(T / factor))
    assert played.lengths.tolist() == [length]
    middle = played.data[0, 800 : length - 800]
    assert frequency(middle) == pytest.approx(440, rel=0.002)
    # A phase vocoder loses up to 1 dB where the phases of neighbouring bins drift apart.
    assert float(middle.square().mean()) == pytest.approx(0.5, rel=0.2)


def test_stretch_is_torchaudios_phase_vocoder() -> None:
    """Away from the ends, which are padded differently; a factor for each clip."""
    given = torch.randn(2, T, generator=torch.Generator().manual_seed(0))
    n_fft, hop = 512, 128
    window = torch.hann_window(n_fft)
    ours = stretched(given, array(0.9, 1.2), T, n_fft)
    spectra = torch.stft(given, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0, math.pi * hop, n_fft // 2 + 1)[:, None]
    for clip, factor in enumerate((0.9, 1.2)):
        theirs = audio_functional.phase_vocoder(spectra[clip : clip + 1], factor, advance)
        expected = torch.istft(theirs, n_fft, hop, window=window)[0]
        middle = slice(0, 5500)
        torch.testing.assert_close(ours[clip, middle], expected[middle], atol=2e-2, rtol=0)


@pytest.mark.parametrize("semitones", [-12, -3, 4, 7])
def test_pitch_moves_a_sine_by_semitones_and_keeps_the_duration(semitones: int) -> None:
    pitch = Pitch(sample_rate=SAMPLE_RATE, p=1.0, max_semitones=12)
    percent = round(100 * 2 ** (semitones / 12))
    played = pitch.apply(sine(440), {"percent": array(percent)})
    assert played.lengths.tolist() == [T]
    middle = played.data[0, 1000:-1000]
    assert frequency(middle) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.006)
    assert float(middle.square().mean()) == pytest.approx(0.5, rel=0.2)


def test_pitch_draws_semitones() -> None:
    pitch = Pitch(sample_rate=SAMPLE_RATE, p=1.0, max_semitones=12)
    drawn = pitch.draw(np.arange(4000, dtype=np.uint64), seed=0, epoch=0)["percent"]
    assert (drawn.min(), drawn.max()) == (50, 200)
    assert np.median(drawn) == pytest.approx(100, abs=3), "uniform in semitones, not in hertz"


def test_targets_of_whole_clips_stay() -> None:
    given = examples("wave", frame_targets=False)
    for each in (Roll(p=1.0), Speed(p=1.0), Mute(p=1.0)):
        got = each(given, KEYS, seed=0, epoch=0)
        assert got.targets is given.targets
