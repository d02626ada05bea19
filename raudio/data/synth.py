"""The embedded data: parametric sounds with known answers, for a first search without a download.

Ten classes in five confusable pairs, which level, spectrum or length alone do not tell apart: only
how a sound develops does. Each clip is one sound with random pitch, timbre, length, onset and level
in coloured noise. Clip i is drawn from (seed, i) alone.

Shapes: T samples of a clip; t is time from the sound's onset in seconds.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from raudio.core.seeding import generator, key
from raudio.core.units import Seconds
from raudio.data.facts import clip_facts
from raudio.data.manifest import Manifest
from raudio.data.prepare import encode_samples
from raudio.data.shards import Row
from raudio.data.splits import Shares, assign
from raudio.data.writer import Echo, Progress, Task, check_new, silent, write_dataset

#: Part of the cache's key: raised when the sounds change.
VERSION = 1
SAMPLE_RATE = 8000
CLIP_SECONDS: Seconds = 1.0
CLIPS = 1200

Samples: TypeAlias = NDArray[np.float64]
Draw: TypeAlias = np.random.Generator

_SHARES = Shares(0.75, 0.15, 0.1)  # a finer measure of 180 clips to choose by
_FRAMES = round(SAMPLE_RATE * CLIP_SECONDS)
_SHORTEST, _LONGEST = 0.4, 0.8
_SNR_DB = (2.0, 24.0)
_LEVEL_DB = (-36.0, -9.0)


# --- sounds: (length in seconds, draw) -> samples; their own level does not matter ---------------


def _swell(seconds: Seconds, draw: Draw) -> Samples:
    """A tone that grows slowly and stops short."""
    return _tone(seconds, draw) * _struck(seconds, draw)[::-1]


def _pluck(seconds: Seconds, draw: Draw) -> Samples:
    """A tone that starts at once and dies away."""
    return _tone(seconds, draw) * _struck(seconds, draw)


def _chirp_up(seconds: Seconds, draw: Draw) -> Samples:
    """A tone whose pitch rises by a third to an octave."""
    return _glide(seconds, draw)


def _chirp_down(seconds: Seconds, draw: Draw) -> Samples:
    """The same falling."""
    return _glide(seconds, draw)[::-1]


def _trill_slow(seconds: Seconds, draw: Draw) -> Samples:
    """A tone that alternates between two pitches, 5 to 8 times a second."""
    return _trill(seconds, draw, draw.uniform(5, 8))


def _trill_fast(seconds: Seconds, draw: Draw) -> Samples:
    """The same, 10 to 15 times a second."""
    return _trill(seconds, draw, draw.uniform(10, 15))


def _knocks_even(seconds: Seconds, draw: Draw) -> Samples:
    """Four to six knocks at equal distances."""
    count = int(draw.integers(4, 7))
    return _knocks(seconds, draw, np.linspace(0, 1, count, endpoint=False))


def _knocks_hasty(seconds: Seconds, draw: Draw) -> Samples:
    """Four to six knocks, each sooner after the last, like a ball that comes to rest."""
    count = int(draw.integers(4, 7))
    gaps = draw.uniform(0.5, 0.65) ** np.arange(count)
    return _knocks(seconds, draw, np.concatenate([[0.0], np.cumsum(gaps)[:-1]]) / gaps.sum())


def _sweep_up(seconds: Seconds, draw: Draw) -> Samples:
    """A band of noise that moves upwards."""
    return _sweep(seconds, draw)


def _sweep_down(seconds: Seconds, draw: Draw) -> Samples:
    """The same downwards."""
    return _sweep(seconds, draw)[::-1]


#: Class to sound.
SOUNDS: dict[str, Callable[[Seconds, Draw], Samples]] = {
    "chirp_down": _chirp_down,
    "chirp_up": _chirp_up,
    "knocks_even": _knocks_even,
    "knocks_hasty": _knocks_hasty,
    "pluck": _pluck,
    "sweep_down": _sweep_down,
    "sweep_up": _sweep_up,
    "swell": _swell,
    "trill_fast": _trill_fast,
    "trill_slow": _trill_slow,
}


def synth(
    out: str | os.PathLike[str],
    clips: int = CLIPS,
    seed: int = 0,
    *,
    reuse: bool = False,
    echo: Echo = silent,
    progress: Progress | None = None,
) -> Manifest:
    """Makes the embedded data set at `out`, in a few seconds.

    Args:
        out: the dataset's folder, which must not exist.
        clips: in all; every class has as many as another, give or take one.
        seed: another seed, other sounds.
        reuse: take what another process has made at `out` meanwhile.
        echo: told what is made.
        progress: told how many clips of how many are done.

    Raises:
        DataError: `out` exists, or `clips` are too few to fill the splits.
    """
    target = check_new(out)
    labels = sorted(SOUNDS)
    of_clip = {f"synth-{seed}-{i:05d}": labels[i % len(labels)] for i in range(clips)}
    made = assign(list(of_clip), list(of_clip.values()), shares=_SHARES, seed=seed)
    of_split: dict[tuple[str, int | None], list[tuple[str, str]]] = defaultdict(list)
    for clip, split in zip(of_clip.items(), made, strict=True):
        of_split[split, None].append(clip)
    for members in of_split.values():
        members.sort(key=lambda clip: key(seed, "order", clip[0]))
    task = Task(
        clips=of_split,
        encode=partial(_encode, seed=seed),
        size=_planned_bytes,
        key=f"synth {VERSION} {seed}",
        metadata={},
        optional=["events"],
        taken=(f"{len(labels)} classes of synthetic sounds",),
        source="raudio data synth",
        licence="CC0-1.0",
        made_with={"version": VERSION, "clips": clips, "seed": seed},
        source_bytes=2 * clips * _FRAMES,
    )
    echo(f"making {clips} clips of {len(labels)} synthetic classes")
    return write_dataset(target, task, reuse=reuse, echo=echo, progress=progress)


def _planned_bytes(_: object) -> int:
    return _FRAMES  # FLAC takes about half of 16 bits a sample


def _encode(clip: tuple[str, str], *, seed: int) -> Row:
    """(clip_id, label) to its row."""
    clip_id, label = clip
    wave, onset, offset = draw_clip(label, generator(seed, "synth", VERSION, clip_id))
    return {
        "clip_id": clip_id,
        "audio": encode_samples(wave[:, None], SAMPLE_RATE, "flac"),
        "sample_rate": SAMPLE_RATE,
        "frames": len(wave),
        "channels": 1,
        "group": None,
        "label": label,
        **clip_facts(wave, SAMPLE_RATE),
        "events": [{"label": label, "onset": onset, "offset": offset}],
    }


def draw_clip(label: str, draw: Draw) -> tuple[NDArray[np.float32], Seconds, Seconds]:
    """One clip of a class: (T,) samples, and the onset and offset of its sound in seconds."""
    seconds = draw.uniform(_SHORTEST, _LONGEST)
    sound = SOUNDS[label](seconds, draw)
    sound /= np.sqrt(np.mean(sound**2))
    start = int(draw.integers(0, _FRAMES - len(sound) + 1))
    noise = _noise(_FRAMES, draw.uniform(-0.8, 0.1), draw)
    wave = noise * 10 ** (-draw.uniform(*_SNR_DB) / 20)
    wave[start : start + len(sound)] += sound
    wave *= 10 ** (draw.uniform(*_LEVEL_DB) / 20) / np.sqrt(np.mean(wave**2))
    wave = np.clip(wave, -0.999, 0.999)
    return (
        wave.astype(np.float32),
        start / SAMPLE_RATE,
        (start + len(sound)) / SAMPLE_RATE,
    )


# --- what they are made of -----------------------------------------------------------------------


def _time(seconds: Seconds) -> Samples:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _edges(seconds: Seconds) -> Samples:
    """Rises and falls within 15 ms, so that a sound does not click."""
    t = _time(seconds)
    envelope: Samples = np.clip(np.minimum(t, t[-1] - t) / 0.015, 0, 1)
    return envelope


def _struck(seconds: Seconds, draw: Draw) -> Samples:
    """Up at once, then down by 26 to 52 dB."""
    decay = draw.uniform(3.0, 6.0)
    envelope: Samples = np.exp(-decay * _time(seconds) / seconds) * _edges(seconds)
    return envelope


def _harmonics(frequency: Samples | float, seconds: Seconds, draw: Draw) -> Samples:
    """A tone of up to eight harmonics of random strength; `frequency` may be one a sample (T,)."""
    t = _time(seconds)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(frequency, t.shape)) / SAMPLE_RATE
    top = float(np.max(frequency))
    count = max(1, min(int(draw.integers(1, 9)), int(0.45 * SAMPLE_RATE / top)))
    wave = np.zeros_like(t)
    for harmonic in range(1, count + 1):
        strength = draw.uniform(0.2, 1) / harmonic**0.7
        wave += strength * np.sin(harmonic * phase + draw.uniform(0, 2 * np.pi))
    return wave


def _pitch(draw: Draw, low: float = 180, high: float = 1400) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def _tone(seconds: Seconds, draw: Draw) -> Samples:
    return _harmonics(_pitch(draw), seconds, draw)


def _glide(seconds: Seconds, draw: Draw) -> Samples:
    t = _time(seconds)
    semitones = draw.uniform(4, 12)
    frequency = _pitch(draw) * 2 ** (semitones / 12 * (t / seconds - 0.5))
    return _harmonics(frequency, seconds, draw) * _edges(seconds)


def _trill(seconds: Seconds, draw: Draw, rate: float) -> Samples:
    t = _time(seconds)
    swing = np.sin(2 * np.pi * (rate * t + draw.uniform()))
    semitones = draw.uniform(1.0, 3.0)
    frequency = _pitch(draw) * 2 ** (semitones / 12 * np.tanh(3 * swing))
    return _harmonics(frequency, seconds, draw) * _edges(seconds)


def _knocks(seconds: Seconds, draw: Draw, places: Samples) -> Samples:
    """Short decaying bursts at `places`, shares of the length."""
    t = _time(seconds)
    wave = np.zeros_like(t)
    pitch, decay = _pitch(draw, 300, 2000), draw.uniform(80, 200)
    for place in places:
        since = t - place * seconds
        burst = np.exp(-decay * np.maximum(since, 0)) * (since >= 0)
        knock = np.sin(2 * np.pi * pitch * since) + 0.7 * draw.standard_normal(len(t))
        wave += draw.uniform(0.6, 1) * burst * knock
    return wave


def _sweep(seconds: Seconds, draw: Draw) -> Samples:
    """Noise around a gliding centre: a carrier modulated by noise of a few hundred Hz."""
    t = _time(seconds)
    octaves = draw.uniform(0.5, 1.5)
    centre = np.minimum(_pitch(draw, 700, 1900) * 2 ** (octaves * (t / seconds - 0.5)), 3600)
    phase = 2 * np.pi * np.cumsum(centre) / SAMPLE_RATE
    width = draw.uniform(80, 250)
    inphase, quadrature = (_lowpass(draw.standard_normal(len(t)), width) for _ in range(2))
    return (inphase * np.cos(phase) - quadrature * np.sin(phase)) * _edges(seconds)


def _lowpass(wave: Samples, cutoff: float) -> Samples:
    spectrum = np.fft.rfft(wave)
    frequency = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    filtered: Samples = np.fft.irfft(spectrum / (1 + (frequency / cutoff) ** 4), len(wave))
    return filtered


def _noise(frames: int, slope: float, draw: Draw) -> Samples:
    """(T,) noise of unit power whose amplitude spectrum goes with frequency to the `slope`."""
    frequency = np.maximum(np.fft.rfftfreq(frames, 1 / SAMPLE_RATE), 50.0)
    spectrum = np.fft.rfft(draw.standard_normal(frames)) * frequency**slope
    wave: Samples = np.fft.irfft(spectrum, frames)
    wave /= np.sqrt(np.mean(wave**2))
    return wave
