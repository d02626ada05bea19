"""Augmentations of training batches: of the waves, of the spectrogram, and of pairs of clips.

Each draws its numbers first and applies them second. A draw for a clip depends on (seed, epoch,
clip) alone, one for a batch on (seed, step): the same whatever the batch size, the order, or where
a run was interrupted. Nothing is changed in place.

B clips, T samples, F frames, N features a frame, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.frontends import frame_mask
from raudio.core import seeding
from raudio.core.errors import ConfigError
from raudio.core.units import Decibels

#: What an augmentation has drawn: name to one number, or one row of numbers, a clip.
Draw: TypeAlias = Mapping[str, NDArray[np.float64]]


class Augmentation(ABC):
    """One augmentation of clips, taken each by itself.

    A plugin's own is registered as `raudio.register.augmentation(NAME)`, takes its settings as flat
    keyword arguments, `p` among them, and says at which stage it works.

    Attributes:
        stage: "wave" gets (B, T) samples before the front end, "spectrogram" (B, F, N) features
            after it.
    """

    stage: ClassVar[str]

    def __init__(self, *, p: float) -> None:
        self.p = p

    @abstractmethod
    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        """Everything random, for the clips with these (B,) keys."""

    @abstractmethod
    def apply(self, batch: Tensor, lengths: Tensor, draw: Draw) -> Tensor:
        """A new batch of the same shape, on the same device.

        Args:
            batch: (B, T) or (B, F, N), 0 beyond a clip's length.
            lengths: (B,) int64 samples or frames that belong to each clip.
            draw: what `draw` gave for these clips.
        """


class Gain(Augmentation):
    """The level changed by a number of decibels drawn from [-max_db, max_db].

    Args:
        p: probability a clip.
        max_db: largest change, in dB.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, max_db: Decibels = 6.0) -> None:
        super().__init__(p=p)
        self.max_db = max_db

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        chance, u = seeding.uniforms(keys, 2, seed, "gain", epoch).T
        return {"db": np.where(chance < self.p, (2 * u - 1) * self.max_db, 0.0)}

    def apply(self, batch: Tensor, lengths: Tensor, draw: Draw) -> Tensor:
        return batch * _column(10.0 ** (draw["db"] / 20), batch)


class Noise(Augmentation):
    """White Gaussian noise over the clip's valid part, at a signal-to-noise ratio drawn from
    [min_snr, max_snr]; a silent clip stays silent.

    Args:
        p: probability a clip.
        min_snr, max_snr: power of the clip over that of the noise, in dB.

    Raises:
        ConfigError: min_snr above max_snr.
    """

    stage = "wave"

    def __init__(
        self, *, p: float = 0.0, min_snr: Decibels = 10.0, max_snr: Decibels = 40.0
    ) -> None:
        super().__init__(p=p)
        if min_snr > max_snr:
            raise ConfigError(
                f"augment.noise.min_snr={min_snr:g} dB is above augment.noise.max_snr={max_snr:g} "
                "dB; lower the one or raise the other"
            )
        self.min_snr = min_snr
        self.max_snr = max_snr

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        chance, u = seeding.uniforms(keys, 2, seed, "noise", epoch).T
        snr = self.min_snr + u * (self.max_snr - self.min_snr)
        # The noise itself is a draw too: the seed of its generator, 53 bits of it.
        field = np.floor(seeding.uniforms(keys, 1, seed, "noise field", epoch)[:, 0] * 2.0**53)
        return {"snr": np.where(chance < self.p, snr, np.inf), "field": field}

    def apply(self, batch: Tensor, lengths: Tensor, draw: Draw) -> Tensor:
        noisy = np.flatnonzero(np.isfinite(draw["snr"]))
        if not noisy.size:
            return batch.clone()
        # One generator a clip, on the batch's device, over the clip's own length: the noise of a
        # clip does not depend on the clips beside it.
        noise = torch.zeros_like(batch)
        samples = lengths.tolist()
        generator = torch.Generator(device=batch.device)
        for clip in noisy:
            generator.manual_seed(int(draw["field"][clip]))
            noise[clip, : samples[clip]].normal_(generator=generator)
        power = batch.square().sum(1) / noise.square().sum(1).clamp(min=1e-12)
        amplitude = power.sqrt() * _column(10.0 ** (-draw["snr"] / 20), batch)[:, 0]
        return torch.addcmul(batch, noise, amplitude[:, None])


class Shift(Augmentation):
    """The clip earlier or later by a share of its length drawn from [-max_share, max_share]: zeros
    in the gap, what leaves the clip is lost.

    Args:
        p: probability a clip.
        max_share: longest shift, as a share of the clip's valid part.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, max_share: float = 0.1) -> None:
        super().__init__(p=p)
        self.max_share = max_share

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        chance, u = seeding.uniforms(keys, 2, seed, "shift", epoch).T
        return {"share": np.where(chance < self.p, (2 * u - 1) * self.max_share, 0.0)}

    def apply(self, batch: Tensor, lengths: Tensor, draw: Draw) -> Tensor:
        share = _column(draw["share"], lengths, torch.float64)[:, 0]
        offset = (share * lengths).round().to(torch.int64)[:, None]
        position = torch.arange(batch.shape[1], device=batch.device)
        source = position - offset  # (B, T) where each sample comes from
        inside = (source >= 0) & (source < lengths[:, None]) & (position < lengths[:, None])
        return batch.gather(1, source.clamp_(0, batch.shape[1] - 1)) * inside


class TimeMask(Augmentation):
    """SpecAugment along time (Park et al. 2019): runs of frames set to the clip's mean.

    Args:
        p: probability a clip.
        max_share: longest mask, as a share of the clip's valid frames; its length is uniform.
        count: masks a clip.
    """

    stage = "spectrogram"

    def __init__(self, *, p: float = 0.0, max_share: float = 0.2, count: int = 1) -> None:
        super().__init__(p=p)
        self.max_share = max_share
        self.count = count

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        return _draw_masks(self, keys, seed, "time_mask", epoch)

    def apply(self, batch: Tensor, lengths: Tensor, draw: Draw) -> Tensor:
        masked = _masked(draw, self.max_share, lengths, batch.shape[1])  # (B, F)
        return torch.where(masked[:, :, None], _clip_mean(batch, lengths), batch)


class FreqMask(Augmentation):
    """SpecAugment along frequency (Park et al. 2019): runs of bands set to the clip's mean.

    Args:
        p: probability a clip.
        max_share: widest mask, as a share of the bands; its width is uniform.
        count: masks a clip.
    """

    stage = "spectrogram"

    def __init__(self, *, p: float = 0.0, max_share: float = 0.2, count: int = 1) -> None:
        super().__init__(p=p)
        self.max_share = max_share
        self.count = count

    def draw(self, keys: NDArray[np.uint64], *, seed: int, epoch: int) -> Draw:
        return _draw_masks(self, keys, seed, "freq_mask", epoch)

    def apply(self, batch: Tensor, lengths: Tensor, draw: Draw) -> Tensor:
        _, frames, bands = batch.shape
        masked = _masked(draw, self.max_share, torch.full_like(lengths, bands), bands)  # (B, N)
        valid = frame_mask(lengths, frames)  # padded frames stay 0
        return torch.where(
            masked[:, None, :] & valid[:, :, None], _clip_mean(batch, lengths), batch
        )


class Mixup:
    """Two clips and their targets as one, in proportions from a Beta distribution (Zhang et al.
    2018): one weight a batch, with a permutation of the batch.

    Args:
        p: probability a batch.
        alpha: the weight is drawn from Beta(alpha, alpha); small values mix little.
    """

    stage = "mix"

    def __init__(self, *, p: float = 0.0, alpha: float = 0.2) -> None:
        self.p = p
        self.alpha = alpha

    def draw(self, clips: int, *, seed: int, step: int) -> tuple[float, NDArray[np.int64]] | None:
        """The weight of a clip and (B,) the positions of its partners, or None: not this batch."""
        generator = seeding.generator(seed, "mixup", step)
        if generator.random() >= self.p:
            return None
        return float(generator.beta(self.alpha, self.alpha)), generator.permutation(clips)

    def apply(
        self,
        waves: Tensor,
        lengths: Tensor,
        targets: Tensor,
        draw: tuple[float, NDArray[np.int64]] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) waves, (B,) lengths, (B, C) targets, mixed; the longer clip gives the length."""
        if draw is None:
            return waves, lengths, targets
        weight, partners = draw
        partner = torch.as_tensor(partners, device=waves.device)
        return (
            torch.lerp(waves[partner], waves, weight),
            torch.maximum(lengths, lengths[partner.to(lengths.device)]),
            torch.lerp(targets[partner.to(targets.device)], targets, weight),
        )


def _column(values: NDArray[np.float64], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(B,) drawn numbers as a (B, 1) tensor on the device of `like`, in its type or `dtype`."""
    return torch.as_tensor(values, dtype=dtype or like.dtype, device=like.device)[:, None]


def _draw_masks(
    augmentation: TimeMask | FreqMask,
    keys: NDArray[np.uint64],
    seed: int,
    stream: str,
    epoch: int,
) -> Draw:
    """(B, count) numbers in [0, 1): widths as shares of the widest, places of the room left."""
    count = augmentation.count
    u = seeding.uniforms(keys, 1 + 2 * count, seed, stream, epoch)
    on = u[:, :1] < augmentation.p
    return {"width": on * u[:, 1 : 1 + count], "place": u[:, 1 + count :]}


def _masked(draw: Draw, max_share: float, lengths: Tensor, size: int) -> Tensor:
    """(B, size) bool: the positions that the drawn masks cover, all below (B,) `lengths`.

    A mask is 0 to `max_share` of the length wide, rounded down, each width as likely, and so is
    each place where it fits.
    """
    width, place = (
        torch.as_tensor(draw[name], device=lengths.device) for name in ("width", "place")
    )  # (B, count) float64
    room = lengths[:, None]
    widths = (width * ((max_share * room.double()).floor() + 1)).floor()
    starts = (place * (room - widths + 1)).floor()
    position = torch.arange(size, device=lengths.device)[None, :, None]
    inside = (position >= starts[:, None]) & (position < (starts + widths)[:, None])
    return inside.any(-1)


def _clip_mean(features: Tensor, lengths: Tensor) -> Tensor:
    """(B, 1, 1) mean of each clip over valid frames and bands; padded frames are 0."""
    return features.sum((1, 2), keepdim=True) / (lengths[:, None, None] * features.shape[2])
