"""What an experiment's augmentations make of some clips: files to listen to and to look at.

B clips, T samples, F frames, N features a frame.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from raudio.audio.augment import Examples
from raudio.audio.build import build_augmenter, build_front_end
from raudio.audio.decode import decode
from raudio.audio.picture import heatmap, png, table, waveform
from raudio.config.schema import Experiment
from raudio.core import seeding
from raudio.core.errors import ConfigError

_WIDTH, _WAVE, _FEATURES = 480, 120, 240


def preview(
    clips: Sequence[str],
    experiment: Experiment,
    out: str,
    *,
    count: int,
    seed: int,
    echo: Callable[[str], None],
) -> list[str]:
    """Writes each clip as it is and `count` times augmented, as in as many epochs of a training.

    `CLIP.wav` and `CLIP-1.wav`, ... (float32, so that nothing is clipped), and `CLIP-1.png`, ...
    with the wave above the features, before on the left, after on the right, on one scale. What
    works on features is in the picture alone.

    Args:
        clips: files of audio; one alone can't be mixed.
        experiment: whose features and augmentations are used, at `dataset.sample_rate` or else at
            the first clip's own.
        out: folder to be made.
        count: variants of each clip.
        seed: of the draws.
        echo: told what can't be heard.

    Returns:
        The paths written.

    Raises:
        ConfigError: `out` exists, one clip is to be mixed, or the augmentations can't be built.
        DataError: a clip can't be decoded.
    """
    if os.path.lexists(out):
        raise ConfigError(f"--out {out!r} exists; give a new folder")
    first, rate = decode(clips[0], experiment.dataset.sample_rate)
    waves = [first, *(decode(clip, rate)[0] for clip in clips[1:])]
    augmenter = build_augmenter(experiment.augment, sample_rate=rate, seed=seed)
    if augmenter.mixes and len(clips) < 2:
        raise ConfigError(
            "clips are to be mixed with each other, and one was given; name a second one"
        )
    features = experiment.features
    if hasattr(features, "normalize"):  # no data set to normalise by, and levels are to be seen
        features = dataclasses.replace(features, normalize="none")
    front_end = build_front_end(features, rate)

    given = _examples(waves)
    names = _names(clips)
    keys = seeding.clip_keys(names)
    seen = front_end(given.data, given.lengths)
    parent = Path(out).absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".augment-") as made:
        folder = Path(made) / "out"  # a folder that is renamed whole
        folder.mkdir()
        for name, wave in zip(names, waves, strict=True):
            soundfile.write(folder / f"{name}.wav", wave, rate, subtype="FLOAT")
        for variant in range(1, count + 1):
            after = augmenter.wave(given, keys, variant)
            after = augmenter.mix(after, variant)
            values, frames = front_end(after.data, after.lengths)
            shown = augmenter.spectrogram(
                Examples(values, frames, after.targets), keys, variant, variant
            )
            for clip, name in enumerate(names):
                length = int(after.lengths[clip])
                wave = after.data[clip, :length].numpy()
                soundfile.write(folder / f"{name}-{variant}.wav", wave, rate, subtype="FLOAT")
                before = seen[0][clip, : int(seen[1][clip])].numpy()
                changed = shown.data[clip, : int(shown.lengths[clip])].numpy()
                picture = _picture((waves[clip], wave), (before, changed))
                (folder / f"{name}-{variant}.png").write_bytes(picture)
        os.rename(folder, out)
    if shown.data is not values:
        echo("what works on features is seen in the pictures, and not heard")
    return [str(path) for path in sorted(Path(out).iterdir())]


def _examples(waves: Sequence[NDArray[np.float32]]) -> Examples:
    """Waves of any lengths, padded with zeros; each clip is its own class."""
    lengths = torch.tensor([len(wave) for wave in waves])
    data = torch.zeros(len(waves), int(lengths.max()))
    for clip, wave in enumerate(waves):
        data[clip, : len(wave)] = torch.from_numpy(wave)
    return Examples(data, lengths, torch.eye(len(waves)))


def _names(clips: Sequence[str]) -> list[str]:
    """File names without their endings; numbered where two clips have the same."""
    stems = [Path(clip).stem for clip in clips]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{number}-{stem}" for number, stem in enumerate(stems, 1)]


def _picture(
    waves: tuple[NDArray[np.float32], NDArray[np.float32]],
    features: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> bytes:
    peak = max(float(np.abs(wave).max()) for wave in waves) or 1.0
    # Silence is far below all else in decibels: the scale leaves out the lowest hundredth.
    low = float(np.percentile(np.concatenate([f.ravel() for f in features]), 1))
    high = max(float(f.max()) for f in features)
    return png(
        table(
            [
                [waveform(wave, peak, _WIDTH, _WAVE) for wave in waves],
                [heatmap(each, low, high, _WIDTH, _FEATURES) for each in features],
            ]
        )
    )
