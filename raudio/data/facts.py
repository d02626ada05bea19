"""What is known of a clip's sound without listening: measured once, when it is prepared.

The columns `rows.FACTS`. Most are exact; `snr`, `speech` and `bandwidth` are estimates, good for
finding odd clips and for comparing many, not for judging one.

Shapes: T samples of a clip, N frames of 20 ms of F samples without overlap, B frequencies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raudio.audio.decode import to_precision
from raudio.core.units import Decibels, Seconds

#: At or above this value a sample counts as clipped: the largest of 16 bits is 0.99997.
FULL_SCALE = 0.9999
FRAME_SECONDS: Seconds = 0.02
#: A clip whose loudest sample is below this (-60 dB of full scale) counts as silent.
SILENT_PEAK = 1e-3
#: A frame whose root mean square is below this (-60 dB of full scale) is silence.
SILENT_RMS = 1e-3
#: Range of the SNR estimate; what lies outside cannot be told in 16 bits, or from no sound at all.
SNR_RANGE: tuple[Decibels, Decibels] = (-10.0, 60.0)

# Power below which a frame is digital silence, such as padding: the noise of a recording is above.
_DIGITAL_SILENCE = 1e-9
# A frequency belongs to the band when its mean power is within 70 dB of the strongest one's, and
# above the rounding noise of 16 bits (which is at -115 dB of a sine of full scale, or below).
_BAND_BELOW_PEAK = 1e-7
_BAND_FLOOR = 1e-11
# Spectra are of at most half a minute's frames, spread over the clip.
_SPECTRA = 1500
_BLOCK = 2**18

Spectra: TypeAlias = NDArray[np.float32]
Frequencies: TypeAlias = NDArray[np.floating[Any]]


def clip_facts(wave: NDArray[np.float32], sample_rate: int) -> dict[str, Any]:
    """The columns `rows.FACTS` of a clip, as its source has it: before any resampling.

    Memory does not grow with the clip beyond a few bytes a frame.

    Args:
        wave: (T,) mono samples, T > 0, full scale is 1.
        sample_rate: in Hz.

    Returns:
        `peak`, `rms`: largest and root mean square value.
        `clipped`: samples at full scale.
        `content`: hash of the samples in 16 bits.
        `dc`: mean value. All that follows is of the samples less this.
        `silence`: share of the frames below -60 dB of full scale.
        `snr`: see `estimate_snr`; None for digital silence.
        `speech`: see `estimate_speech`.
        `bandwidth`: see `estimate_bandwidth`; None for digital silence.
    """
    assert len(wave), "a clip without samples"
    dc = float(wave.mean(dtype=np.float64))
    digest = hashlib.blake2b(digest_size=12)
    squares, clipped = 0.0, 0
    for block in _blocks(wave, _BLOCK):
        digest.update(to_precision(block, "int16").tobytes())
        squares += float(np.square(block, dtype=np.float64).sum())
        clipped += int((block >= FULL_SCALE).sum() + (block <= -FULL_SCALE).sum())
    frames = _frames(wave, sample_rate)
    power = _power(frames, dc)
    sounds = bool((power > _DIGITAL_SILENCE).any())
    spectra = _spectra(frames, dc)
    frequencies = np.fft.rfftfreq(frames.shape[1], 1 / sample_rate)
    return {
        "peak": float(max(wave.max(), -wave.min())),
        "rms": float(np.sqrt(squares / len(wave))),
        "clipped": clipped,
        "content": digest.hexdigest(),
        "dc": dc,
        "silence": float((power < SILENT_RMS**2).mean()),
        "snr": estimate_snr(power) if sounds else None,
        "speech": estimate_speech(power, spectra, frequencies) if sounds else 0.0,
        "bandwidth": estimate_bandwidth(spectra, frequencies) if sounds else None,
    }


def estimate_snr(power: NDArray[np.float64]) -> Decibels:
    """Loud moments over quiet ones, in dB within `SNR_RANGE`.

    The noise is the 10th percentile of the frames' power and the sound's level the 95th, less the
    noise: the level of NIST's STNR (SPQA package, 1992) over a percentile as noise floor
    (Martin, 1994, tracks a minimum). Digital silence is left out, so padding is not taken for a
    quiet room. It means what it says for sounds with pauses; a sound that never stops (rain, a held
    tone) has no moment without it, and gets a low value whatever its quality.

    Args:
        power: (N,) mean square of each frame, some above digital silence.
    """
    heard = power[power > _DIGITAL_SILENCE]
    noise, level = np.quantile(heard, (0.1, 0.95))
    low, high = SNR_RANGE
    return float(np.clip(10 * np.log10(max(level / noise - 1, 1e-9)), low, high))


def estimate_speech(
    power: NDArray[np.float64], spectra: Spectra, frequencies: Frequencies
) -> float:
    """How much a clip is like speech, from 0 to 1; an estimate, wrong for many a single clip.

    The geometric mean of three properties that speech has and most other sounds lack one of, each
    from 0 to 1 (after Scheirer & Slaney, 1997, "Construction and evaluation of a robust
    multifeature speech/music discriminator"):

    - syllables: the level goes up and down 2 to 8 times a second, by 0.2 (0) to 0.5 (1) of its mean
    - voice: of the power from 100 to 4000 Hz, 0.4 (0) to 0.8 (1) is below 1000 Hz
    - vowels and consonants: the spectral centroid of the loud frames spreads over 0.15 (0) to
      0.55 (1) octaves (standard deviation)

    Singing, animal calls and music with a beat can have all three; speech in loud noise has none.

    Args:
        power: (N,) mean square of each frame.
        spectra: (M, B) power spectra of some of them.
        frequencies: (B,) in Hz.
    """
    level = np.sqrt(power)
    length = 1 << max(6, (len(level) - 1).bit_length())
    modulation = np.abs(np.fft.rfft(level / level.mean() - 1, length)) ** 2
    rates = np.fft.rfftfreq(length, FRAME_SECONDS)
    syllables = modulation[(rates >= 2) & (rates <= 8)].sum() * 2 / (length * len(level))

    in_band = (frequencies >= 100) & (frequencies <= 4000)
    band, heard = spectra[:, in_band], frequencies[in_band]
    of_frame = band.sum(axis=1)
    strongest = of_frame.max(initial=0.0)
    if strongest <= 0:
        return 0.0
    voice = band[:, heard < 1000].sum() / of_frame.sum()
    loud = of_frame > strongest * 10**-2.5
    centroid = np.log2(band[loud] @ heard / of_frame[loud])
    return float(
        np.cbrt(
            _between(np.sqrt(syllables), 0.2, 0.5)
            * _between(voice, 0.4, 0.8)
            * _between(centroid.std(), 0.15, 0.55)
        )
    )


def estimate_bandwidth(spectra: Spectra, frequencies: Frequencies) -> float:
    """Highest frequency in Hz with power within 70 dB of the strongest one's.

    Frames of 20 ms smear a sharp edge: it comes out up to 300 Hz too high.

    A recording's own noise nearly always reaches half of its sample rate. A bandwidth far below
    says that it was resampled from a lower rate, went through a codec, or is a synthetic sound.

    Args:
        spectra: (M, B) power spectra; 1 is a sine of full scale.
        frequencies: (B,) in Hz.
    """
    mean = spectra.mean(axis=0, dtype=np.float64)
    present = np.flatnonzero(mean > max(float(mean.max()) * _BAND_BELOW_PEAK, _BAND_FLOOR))
    return float(frequencies[present[-1]]) if len(present) else 0.0


def _between(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0, 1))


def _blocks(array: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    return (array[start : start + rows] for start in range(0, len(array), rows))


def _frames(wave: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """(N, F): a view; what is left at the end is less than a frame, unless it is all there is."""
    size = min(len(wave), max(1, round(sample_rate * FRAME_SECONDS)))
    count = len(wave) // size
    return wave[: count * size].reshape(count, size)


def _power(frames: NDArray[np.float32], dc: float) -> NDArray[np.float64]:
    """(N,) mean square of each frame less `dc`."""
    rows = max(1, _BLOCK // frames.shape[1])
    return np.concatenate(
        [np.square(block - dc, dtype=np.float64).mean(axis=1) for block in _blocks(frames, rows)]
    )


def _spectra(frames: NDArray[np.float32], dc: float) -> Spectra:
    """(M, B) power spectra of at most `_SPECTRA` frames; a sine of full scale has 1."""
    chosen = frames
    if len(frames) > _SPECTRA:
        chosen = frames[np.linspace(0, len(frames) - 1, _SPECTRA).astype(np.int64)]
    window = _window(frames.shape[1])
    spectrum = np.fft.rfft((chosen - np.float32(dc)) * window, axis=1)
    power: Spectra = (np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32)
    return power


@lru_cache(maxsize=16)
def _window(size: int) -> NDArray[np.float32]:
    """(F,) Hann window without its zeros at the ends, scaled for `_spectra`."""
    window = np.hanning(size + 2)[1:-1]
    scaled: NDArray[np.float32] = (window * 2 / window.sum()).astype(np.float32)
    return scaled
