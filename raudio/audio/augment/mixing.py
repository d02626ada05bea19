"""Clips of a batch mixed with each other: mixup, between-class, hard mix, cutmix, concatenation,
and MixStyle along frequency.

Each clip has a partner: a permutation of the batch, drawn for its optimizer step.

B clips, T samples, F frames, N features a frame, C classes, K target frames.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raudio.audio.augment.base import (
    Draw,
    Examples,
    Mixing,
    between,
    check_range,
    column,
    moved_targets,
)
from raudio.audio.frontends import frame_mask
from raudio.core.units import Decibels


class Mixup(Mixing):
    """Two clips and their targets as one, in proportions from a Beta distribution (Zhang et al.
    2018): one weight a batch. The longer clip gives the length.

    Args:
        p: probability a batch.
        alpha: the weight is drawn from Beta(alpha, alpha); small values mix little.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, alpha: float = 0.2) -> None:
        super().__init__(p=p)
        self.alpha = alpha

    def draw(self, clips: int, generator: np.random.Generator) -> Draw:
        weight = np.full(clips, generator.beta(self.alpha, self.alpha))
        return {"weight": weight, "partner": _permutation(clips, generator)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        partner = _partners(examples, draw)
        weight = column(draw["weight"], examples.data)
        return Examples(
            torch.lerp(partner.data, examples.data, weight),
            torch.maximum(examples.lengths, partner.lengths),
            _weighed(examples, partner, weight),
        )


class BetweenClass(Mixing):
    """Two clips at a ratio that is heard, not that of their samples (Tokozume et al. 2018,
    "Learning from between-class examples for deep sound recognition"): the targets are mixed r to
    1 - r with r uniform, the waves so that their levels are, at an energy that stays.

    The levels are those of the waves' power, without the paper's A-weighting.

    Args:
        p: probability a batch.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0) -> None:
        super().__init__(p=p)

    def draw(self, clips: int, generator: np.random.Generator) -> Draw:
        return {"ratio": generator.random(clips), "partner": _permutation(clips, generator)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        partner = _partners(examples, draw)
        ratio = column(draw["ratio"], examples.data)
        # The paper's p = 1 / (1 + 10^((G1 - G2) / 20) (1 - r) / r), of levels G1 and G2 in dB.
        own, other = ratio * _rms(partner), (1 - ratio) * _rms(examples)
        share = own / (own + other).clamp(min=1e-12)
        waves = share * examples.data + (1 - share) * partner.data
        return Examples(
            waves / (share.square() + (1 - share).square()).sqrt(),
            torch.maximum(examples.lengths, partner.lengths),
            _weighed(examples, partner, ratio),
        )


class HardMix(Mixing):
    """Two clips sounding together, each with all its labels: the targets are united, not weighed
    ("hard" mixup, as in the baseline of DCASE 2021 task 4). For tasks of several labels a clip.

    Args:
        p: probability a batch.
        min_snr, max_snr: power of the clip over that of its partner, in dB, drawn for each clip.

    Raises:
        ConfigError: min_snr above max_snr.
    """

    stage = "wave"

    def __init__(
        self, *, p: float = 0.0, min_snr: Decibels = -5.0, max_snr: Decibels = 5.0
    ) -> None:
        super().__init__(p=p)
        check_range("hard_mix", "snr", min_snr, max_snr)
        self.min_snr = min_snr
        self.max_snr = max_snr

    def draw(self, clips: int, generator: np.random.Generator) -> Draw:
        snr = between(generator.random(clips), self.min_snr, self.max_snr)
        return {"snr": snr, "partner": _permutation(clips, generator)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        partner = _partners(examples, draw)
        own, other = _rms(examples), _rms(partner)
        # Where either is silent there is no ratio: both stay as they are.
        heard = (own > 0) & (other > 0)
        gain = own / other.clamp(min=1e-12) * column(10 ** (-draw["snr"] / 20), own)
        return Examples(
            examples.data + torch.where(heard, gain, 1.0) * partner.data,
            torch.maximum(examples.lengths, partner.lengths),
            torch.maximum(examples.targets, partner.targets),
        )


class CutMix(Mixing):
    """A span of the clip replaced by the same span of its partner (Yun et al. 2019, along time);
    the targets of whole clips are mixed by the lengths, those of frames come with the span.

    Args:
        p: probability a batch.
        alpha: the share that stays is drawn from Beta(alpha, alpha), for each clip.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, alpha: float = 1.0) -> None:
        super().__init__(p=p)
        self.alpha = alpha

    def draw(self, clips: int, generator: np.random.Generator) -> Draw:
        return {
            "share": 1 - generator.beta(self.alpha, self.alpha, clips),
            "place": generator.random(clips),
            "partner": _permutation(clips, generator),
        }

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        partner = _partners(examples, draw)
        # The span lies where both clips are.
        room = torch.minimum(examples.lengths, partner.lengths)[:, None]
        width = (column(draw["share"], room, torch.float64) * room).round().long()
        start = (column(draw["place"], room, torch.float64) * (room - width + 1)).long()

        def inside(time: Tensor) -> Tensor:
            return (time >= start) & (time < start + width)

        position = torch.arange(examples.data.shape[1], device=examples.data.device)
        data = torch.where(inside(position), partner.data, examples.data)
        if examples.targets.ndim == 3:
            pasted = inside(_centres(examples))[:, :, None]
            targets = torch.where(pasted, partner.targets, examples.targets)
        else:
            kept = (1 - width / examples.lengths[:, None]).to(examples.data.dtype)
            targets = _weighed(examples, partner, kept)
        return Examples(data, examples.lengths, targets)


class Concat(Mixing):
    """The first part of the clip, then the first part of its partner, in as little time as both
    have together; the targets of whole clips are mixed by the parts' lengths.

    Args:
        p: probability a batch.
        min_share: the clip's part is a share drawn from [min_share, 1 - min_share], and its
            partner's is the rest, each of its own length. At most 0.5.
    """

    stage = "wave"

    def __init__(self, *, p: float = 0.0, min_share: float = 0.3) -> None:
        super().__init__(p=p)
        self.min_share = min_share

    def draw(self, clips: int, generator: np.random.Generator) -> Draw:
        share = between(generator.random(clips), self.min_share, 1 - self.min_share)
        return {"share": share, "partner": _permutation(clips, generator)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        partner = _partners(examples, draw)
        size = examples.data.shape[1]
        share = column(draw["share"], examples.lengths, torch.float64)
        first = (share * examples.lengths[:, None]).ceil().long()  # (B, 1), at least 1
        second = ((1 - share) * partner.lengths[:, None]).floor().long()
        lengths = (first + second)[:, 0].clamp(max=size)
        position = torch.arange(size, device=examples.data.device)
        later = (position - first).clamp(min=0)
        data = torch.where(position < first, examples.data, partner.data.gather(1, later))
        if examples.targets.ndim == 3:
            after = moved_targets(partner, lengths, lambda time: time - first)
            own = (_centres(examples) < first)[:, :, None]
            targets = torch.where(own, examples.targets, after)
        else:
            weight = (first / lengths[:, None]).to(examples.data.dtype)
            targets = _weighed(examples, partner, weight)
        return Examples(data * frame_mask(lengths, size), lengths, targets)


class FreqMixStyle(Mixing):
    """Each band's mean and deviation over time mixed with the partner's, as another device would
    have recorded the clip: MixStyle (Zhou et al. 2021) along frequency (Schmid et al. 2022,
    "CP-JKU submission to DCASE22"). The targets stay.

    With `training.accumulate`, the partners are those of the same part of a batch.

    Args:
        p: probability a batch.
        alpha: the share of the own statistics is drawn from Beta(alpha, alpha), for each clip.
    """

    stage = "spectrogram"

    def __init__(self, *, p: float = 0.0, alpha: float = 0.3) -> None:
        super().__init__(p=p)
        self.alpha = alpha

    def draw(self, clips: int, generator: np.random.Generator) -> Draw:
        weight = generator.beta(self.alpha, self.alpha, clips)
        return {"weight": weight, "partner": _permutation(clips, generator)}

    def apply(self, examples: Examples, draw: Draw) -> Examples:
        features, lengths = examples.data, examples.lengths
        valid = frame_mask(lengths, features.shape[1])[:, :, None]
        frames = lengths[:, None, None]
        mean = features.sum(1, keepdim=True) / frames  # (B, 1, N)
        variance = ((features - mean).square() * valid).sum(1, keepdim=True) / frames
        deviation = (variance + 1e-6).sqrt()
        partner = _positions(draw, features)
        weight = column(draw["weight"], features)[:, :, None]
        mixed_mean = torch.lerp(mean[partner], mean, weight)
        mixed_deviation = torch.lerp(deviation[partner], deviation, weight)
        data = (features - mean) / deviation * mixed_deviation + mixed_mean
        return replace(examples, data=data * valid)


def _permutation(clips: int, generator: np.random.Generator) -> NDArray[np.float64]:
    return generator.permutation(clips).astype(np.float64)


def _positions(draw: Draw, like: Tensor) -> Tensor:
    """(B,) int64 positions of the drawn partners, on the device of `like`."""
    return torch.as_tensor(draw["partner"], dtype=torch.int64, device=like.device)


def _partners(examples: Examples, draw: Draw) -> Examples:
    return examples[_positions(draw, examples.data)]


def _weighed(examples: Examples, partner: Examples, weight: Tensor) -> Tensor:
    """Targets (B, C) or (B, K, C), (B, 1) `weight` of them the examples' own."""
    shape = [-1] + [1] * (examples.targets.ndim - 1)
    return torch.lerp(partner.targets, examples.targets, weight.reshape(shape))


def _rms(examples: Examples) -> Tensor:
    """(B, 1) root of the mean power of each clip; padded samples are 0."""
    power = examples.data.square().sum(1) / examples.lengths
    return power.sqrt()[:, None]


def _centres(examples: Examples) -> Tensor:
    """(1, K) centres of the target frames, in samples."""
    frames = examples.targets.shape[1]
    step = examples.data.shape[1] / frames
    return (torch.arange(frames, device=examples.data.device)[None] + 0.5) * step
