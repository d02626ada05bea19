"""The settings of augmentations: the group `augment`.

A field of `Augment` names an entry of the registry of augmentations, and its class holds that
entry's arguments; but for `where`, a setting, and `chain`, whose steps hold entries too, nested
under names of the user's own. The fields' order is the order in which they are applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raudio.config.meta import group, setting


def _p() -> Any:
    return setting(0.0, "probability a clip; 0 is off", min=0, max=1)


def _p_batch() -> Any:
    return setting(0.0, "probability a batch; 0 is off", min=0, max=1)


def _snr(default: float, help: str) -> Any:
    return setting(default, help, unit="dB", min=-20, max=80)


def _hertz(default: float, help: str) -> Any:
    return setting(default, help, unit="Hz", min=10, max=192000)


def _share(default: float, help: str) -> Any:
    return setting(default, help, min=0, max=1)


def _factor(default: float, help: str) -> Any:
    return setting(default, help, min=0.5, max=2)


# --- waves: what happened -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Speed:
    p: float = _p()
    min_factor: float = _factor(0.9, "slowest")
    max_factor: float = _factor(1.1, "fastest, at least min_factor")


@dataclass(frozen=True, kw_only=True)
class Stretch:
    p: float = _p()
    min_factor: float = _factor(0.8, "slowest")
    max_factor: float = _factor(1.25, "fastest, at least min_factor")


@dataclass(frozen=True, kw_only=True)
class Pitch:
    p: float = _p()
    max_semitones: float = setting(
        2.0, "largest change, either way", unit="semitones", min=0, max=12
    )


@dataclass(frozen=True, kw_only=True)
class Shift:
    p: float = _p()
    max_share: float = _share(0.1, "longest shift, as a share of the clip")


@dataclass(frozen=True, kw_only=True)
class Roll:
    p: float = _p()
    max_share: float = _share(0.5, "longest way, as a share of the clip; 0.5 reaches every place")


@dataclass(frozen=True, kw_only=True)
class Polarity:
    p: float = _p()


# --- waves: where, and with what it was recorded ------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reverb:
    p: float = _p()
    source: str | None = setting(
        None, "folder, URI or dataset of impulse responses; none: generated ones"
    )
    min_rt60: float = setting(
        0.2, "shortest reverberation time of generated ones", unit="s", min=0.02, max=4
    )
    max_rt60: float = setting(1.0, "longest, at least min_rt60", unit="s", min=0.02, max=4)
    min_drr: float = setting(
        -3.0, "least direct sound over the rest, of generated ones", unit="dB", min=-30, max=60
    )
    max_drr: float = setting(12.0, "most, at least min_drr", unit="dB", min=-30, max=60)


@dataclass(frozen=True, kw_only=True)
class Background:
    p: float = _p()
    source: str | None = setting(
        None, "folder, URI or dataset of recordings, which p above 0 needs"
    )
    min_snr: float = _snr(0.0, "loudest background")
    max_snr: float = _snr(20.0, "quietest background, at least min_snr")


@dataclass(frozen=True, kw_only=True)
class Noise:
    p: float = _p()
    color: str = setting(
        "white",
        "spectrum: flat, falling by 3 dB an octave (pink), or by 6 (brown)",
        choices=("white", "pink", "brown"),
    )
    min_snr: float = _snr(10.0, "loudest noise")
    max_snr: float = _snr(40.0, "quietest noise, at least min_snr")


@dataclass(frozen=True, kw_only=True)
class LowPass:
    p: float = _p()
    min_cutoff: float = _hertz(1000.0, "lowest cutoff")
    max_cutoff: float = _hertz(7500.0, "highest cutoff, at least min_cutoff")


@dataclass(frozen=True, kw_only=True)
class HighPass:
    p: float = _p()
    min_cutoff: float = _hertz(50.0, "lowest cutoff")
    max_cutoff: float = _hertz(1000.0, "highest cutoff, at least min_cutoff")


@dataclass(frozen=True, kw_only=True)
class BandPass:
    p: float = _p()
    min_centre: float = _hertz(300.0, "lowest middle of the band")
    max_centre: float = _hertz(3000.0, "highest middle of the band, at least min_centre")
    min_octaves: float = setting(1.0, "narrowest band", unit="octaves", min=0.1, max=10)
    max_octaves: float = setting(
        4.0, "widest band, at least min_octaves", unit="octaves", min=0.1, max=10
    )


@dataclass(frozen=True, kw_only=True)
class Gain:
    p: float = _p()
    max_db: float = setting(6.0, "largest change, either way", unit="dB", min=0, max=60)


@dataclass(frozen=True, kw_only=True)
class Clipping:
    p: float = _p()
    max_db: float = setting(
        12.0, "how far below the peak samples are cut off, at most", unit="dB", min=0, max=60
    )


# --- waves: what the way here did to it ---------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bandwidth:
    p: float = _p()
    min_rate: float = _hertz(4000.0, "lowest sample rate")
    max_rate: float = _hertz(16000.0, "highest sample rate, at least min_rate")


@dataclass(frozen=True, kw_only=True)
class MuLaw:
    p: float = _p()
    min_bits: int = setting(5, "fewest a sample", unit="bits", min=2, max=16)
    max_bits: int = setting(8, "most a sample, at least min_bits", unit="bits", min=2, max=16)


@dataclass(frozen=True, kw_only=True)
class Codec:
    p: float = _p()
    format: str = setting("mp3", "how clips are encoded", choices=("mp3", "vorbis"))
    min_compression: float = _share(0.5, "best quality: 0 is the format's best, 1 its worst")
    max_compression: float = _share(1.0, "worst quality, at least min_compression")


@dataclass(frozen=True, kw_only=True)
class Mute:
    p: float = _p()
    max_share: float = _share(0.2, "longest silence, as a share of the clip")


# --- waves mixed --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Concat:
    p: float = _p_batch()
    min_share: float = setting(0.3, "least share of a clip that is kept", min=0, max=0.5)


@dataclass(frozen=True, kw_only=True)
class CutMix:
    p: float = _p_batch()
    alpha: float = setting(
        1.0, "the share that stays is drawn from Beta(alpha, alpha)", above=0, max=10
    )


@dataclass(frozen=True, kw_only=True)
class Mixup:
    p: float = _p_batch()
    alpha: float = setting(
        0.2, "the mixing weight is drawn from Beta(alpha, alpha)", above=0, max=10
    )


@dataclass(frozen=True, kw_only=True)
class BetweenClass:
    p: float = _p_batch()


@dataclass(frozen=True, kw_only=True)
class HardMix:
    p: float = _p_batch()
    min_snr: float = _snr(-5.0, "loudest partner")
    max_snr: float = _snr(5.0, "quietest partner, at least min_snr")


# --- spectrograms -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TimeWarp:
    p: float = _p()
    max_share: float = setting(
        0.1, "farthest that a point moves, as a share of the frames", min=0, below=0.5
    )


@dataclass(frozen=True, kw_only=True)
class FreqCrop:
    p: float = _p()
    min_share: float = setting(0.6, "narrowest range, as a share of the bands", min=0.1, max=2)
    max_share: float = setting(
        1.0, "widest range, at least min_share; above 1, sounds shrink", min=0.1, max=2
    )


@dataclass(frozen=True, kw_only=True)
class FilterAugment:
    p: float = _p()
    shape: str = setting(
        "step", "one weight a band, or linear from edge to edge", choices=("step", "linear")
    )
    max_change: float = setting(
        0.7,
        "largest weight, in the features' unit: deviations if normalised, else nepers of power",
        min=0,
        max=10,
    )
    min_bands: int = setting(3, "fewest bands", min=1, max=20)
    max_bands: int = setting(6, "most bands, at least min_bands", min=1, max=20)
    min_width: int = setting(6, "least width of a band", unit="features", min=1, max=100)


@dataclass(frozen=True, kw_only=True)
class TimeMask:
    p: float = _p()
    max_share: float = _share(0.2, "longest mask, as a share of the frames")
    count: int = setting(1, "masks a clip", min=1, max=10)
    count_share: float = _share(
        0.0, "masks as a share of the frames, at most 20, instead of count; 0: count"
    )


@dataclass(frozen=True, kw_only=True)
class FreqMask:
    p: float = _p()
    max_share: float = _share(0.2, "widest mask, as a share of the bands")
    count: int = setting(1, "masks a clip", min=1, max=10)


@dataclass(frozen=True, kw_only=True)
class FreqMixStyle:
    p: float = _p_batch()
    alpha: float = setting(
        0.3, "the share of the own style is drawn from Beta(alpha, alpha)", above=0, max=10
    )


#: Those that mix the clips of a batch with each other: their p is of a batch.
MIXING = ("concat", "cutmix", "mixup", "between_class", "hard_mix", "freq_mixstyle")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Augmentations of training batches, in this order; each is off until its p is set."""

    where: str = setting(
        "device",
        "what changes waves clip by clip runs on the batch's device, or (stream) on the CPUs that "
        "decode for a streamed feed; mixing and spectrograms are the device's in any case",
        choices=("device", "stream"),
    )
    speed: Speed = group(Speed, "tempo and pitch")
    stretch: Stretch = group(Stretch, "tempo")
    pitch: Pitch = group(Pitch, "pitch")
    shift: Shift = group(Shift, "position in time")
    roll: Roll = group(Roll, "position in time, round and round")
    polarity: Polarity = group(Polarity, "sign")
    reverb: Reverb = group(Reverb, "room")
    background: Background = group(Background, "recorded noise")
    noise: Noise = group(Noise, "generated noise")
    low_pass: LowPass = group(LowPass, "no high frequencies")
    high_pass: HighPass = group(HighPass, "no low frequencies")
    band_pass: BandPass = group(BandPass, "a band of frequencies")
    gain: Gain = group(Gain, "level")
    clipping: Clipping = group(Clipping, "overdrive")
    bandwidth: Bandwidth = group(Bandwidth, "a lower sample rate")
    mu_law: MuLaw = group(MuLaw, "telephone coding")
    codec: Codec = group(Codec, "lossy coding")
    mute: Mute = group(Mute, "a silent span")
    concat: Concat = group(Concat, "two clips one after another")
    cutmix: CutMix = group(CutMix, "a span of another clip")
    mixup: Mixup = group(Mixup, "two clips at once")
    between_class: BetweenClass = group(BetweenClass, "two clips at once, by their levels")
    hard_mix: HardMix = group(HardMix, "two clips at once, with all labels")
    time_warp: TimeWarp = group(TimeWarp, "SpecAugment's warp")
    freq_crop: FreqCrop = group(FreqCrop, "a range of the bands")
    filter_augment: FilterAugment = group(FilterAugment, "weights of bands")
    time_mask: TimeMask = group(TimeMask, "SpecAugment along time")
    freq_mask: FreqMask = group(FreqMask, "SpecAugment along frequency")
    freq_mixstyle: FreqMixStyle = group(FreqMixStyle, "another clip's spectrum")
    #: Steps under names of the user's own, after the others: see `raudio.config.chain`.
    chain: Mapping[str, Any] = field(default_factory=dict)
