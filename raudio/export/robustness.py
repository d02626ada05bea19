"""What breaks a bundle: the conditions that its clips are put under, each by a known amount.

They are raudio's own augmentations with what they would draw fixed, and what else is random (the
noise itself) drawn by the clip. Each window that the model hears is changed by itself: a
signal-to-noise ratio is that of the window.

Shapes: B windows of a batch, T samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from raudio.audio.augment import Examples
from raudio.audio.build import build_augmentation
from raudio.audio.frontends import frame_mask
from raudio.core import seeding
from raudio.core.errors import ConfigError
from raudio.core.units import Hertz
from raudio.data.feeds import Batch, Feed

#: From windows and their (B,) keys to the same windows under the condition.
Change = Callable[[Examples, NDArray[np.uint64]], Examples]

_PROBE = 4000  # samples that a condition is tried on before it is used


@dataclass(frozen=True)
class Condition:
    """Something that may happen to a recording.

    Attributes:
        name: in few words, such as "white noise, 10 dB SNR".
        change: what it does.
    """

    name: str
    change: Change


def conditions(sample_rate: int) -> tuple[list[Condition], dict[str, str]]:
    """All conditions for waves of a sample rate, and those that cannot be had here: name to reason.

    Args:
        sample_rate: of the waves, in Hz.
    """
    half, quarter = sample_rate // 2, sample_rate // 4
    wanted: list[tuple[str, Callable[[], Change]]] = [
        *((f"white noise, {snr} dB SNR", _noise("white", snr, sample_rate)) for snr in (20, 10, 0)),
        ("pink noise, 10 dB SNR", _noise("pink", 10, sample_rate)),
        ("20 dB quieter", _fixed("gain", {}, sample_rate, db=-20.0)),
        ("20 dB louder", _fixed("gain", {}, sample_rate, db=20.0)),
        ("clipped 12 dB below the peak", _fixed("clipping", {}, sample_rate, db=12.0)),
        *(
            (f"nothing above {rate // 2} Hz", _fixed("bandwidth", {}, sample_rate, rate=rate))
            for rate in (half, quarter)
        ),
        ("telephone band, 300 to 3400 Hz", _telephone(sample_rate)),
        (f"at {half} Hz and back, without a filter", lambda: _aliased(sample_rate, half)),
        *(
            (
                f"{name}, smallest file",
                _fixed("codec", {"format": name.lower()}, sample_rate, compression=1.0),
            )
            for name in ("MP3", "Vorbis")
        ),
        ("mu-law, 6 bits", _fixed("mu_law", {}, sample_rate, bits=6.0)),
    ]
    found, skipped = [], {}
    for name, build in wanted:
        try:
            change = build()
            change(_probe(sample_rate), np.zeros(1, np.uint64))
        except (ConfigError, soundfile.SoundFileError) as error:
            skipped[name] = str(error).partition("\n")[0]
        else:
            found.append(Condition(name, change))
    return found, skipped


class ChangedFeed:
    """The windows of a feed under a condition; see `System.score`.

    Args:
        feed: whose windows are waves.
        change: of the condition.
    """

    def __init__(self, feed: Feed, change: Change) -> None:
        self._feed, self._change = feed, change

    def windows(self, batch_size: int) -> Iterator[Batch]:
        """See `Feed`."""
        last, before = -1, 0  # the clip of the last window, and how many windows of it there were
        for batch in self._feed.windows(batch_size):
            # Windows come clip by clip; the number of each within its clip addresses its draws.
            numbers = np.arange(len(batch.clips)) - np.searchsorted(batch.clips, batch.clips)
            numbers[batch.clips == last] += before
            last, before = int(batch.clips[-1]), int(numbers[-1]) + 1
            keys = seeding.numbered(batch.keys, numbers)
            changed = self._change(Examples(batch.inputs, batch.lengths, batch.targets), keys)
            yield replace(batch, inputs=changed.data, lengths=changed.lengths)


def _fixed(
    name: str, arguments: dict[str, Any], sample_rate: int, **values: float
) -> Callable[[], Change]:
    """The augmentation `name` with these values of its draw instead of drawn ones."""

    def build() -> Change:
        augmentation: Any = build_augmentation(
            name, {"p": 1.0, **arguments}, sample_rate, stream=f"robustness of {name}"
        )

        def change(examples: Examples, keys: NDArray[np.uint64]) -> Examples:
            drawn = augmentation.draw(keys, seed=0, epoch=0)
            fixed = {value: np.full(len(keys), number) for value, number in values.items()}
            changed: Examples = augmentation.apply(examples, {**drawn, **fixed})
            return changed

        return change

    return build


def _noise(color: str, snr: int, sample_rate: int) -> Callable[[], Change]:
    return _fixed("noise", {"color": color}, sample_rate, snr=float(snr))


def _telephone(sample_rate: int) -> Callable[[], Change]:
    return _fixed("band_pass", {}, sample_rate, low=300.0, high=3400.0)


def _aliased(sample_rate: int, rate: Hertz) -> Change:
    """Resampled to a lower rate and back by interpolation alone, as cheap devices do: what lies
    above half of the rate folds back below it."""

    def change(examples: Examples, keys: NDArray[np.uint64]) -> Examples:
        waves = examples.data.numpy().T  # (T, B)
        low = soxr.resample(waves, sample_rate, rate, quality="QQ")
        back = soxr.resample(low, rate, sample_rate, quality="QQ")[: len(waves)]
        back = np.pad(back, ((0, len(waves) - len(back)), (0, 0)))
        data = torch.from_numpy(np.ascontiguousarray(back.T))
        return replace(examples, data=data * frame_mask(examples.lengths, data.shape[1]))

    return change


def _probe(sample_rate: int) -> Examples:
    wave = torch.sin(torch.arange(_PROBE) * (2 * np.pi * 440 / sample_rate))[None] / 2
    return Examples(wave, torch.tensor([_PROBE]), torch.zeros(1))
