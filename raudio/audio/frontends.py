"""Waveform to features, on the batch's device: log-mel spectrogram and MFCC.

B clips, T samples, F frames, N features a frame, K bins of the Fourier transform.

Frame f is centred on sample f * hop, with zeros beyond the clip's ends, so that a clip of L samples
has 1 + L // hop valid frames, and what a batch pads a clip with never reaches them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
import torchaudio.functional as audio_functional
from torch import Tensor, nn

from raudio.core.errors import ConfigError
from raudio.core.units import Hertz, Seconds

NORMALIZE = ("none", "channel", "dataset")

# Added to the mel energies before the logarithm, as in torchaudio's MFCC(log_mels=True): digital
# silence has a finite level, a little above the rounding noise of int16.
_LOG_OFFSET = 1e-6
# Below this deviation a band is constant up to rounding, and is left at 0 instead of magnified.
_MIN_STD = 1e-3
_MAX_N_FFT = 1 << 15
# On a CPU, clips go through the transform in groups whose frames take about this much memory: the
# group stays in the cache and its buffers are reused (measured: 1.3 to 2.5 times faster).
_CPU_GROUP_BYTES = 1 << 20


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """(B, frames) bool: True where a frame belongs to the clip, from (B,) int64 `lengths`."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


class FrontEnd(nn.Module):
    """Waveform to features in two halves: what is fixed by the settings, and what is fitted.

    A plugin's front end may be any `nn.Module` with `n_features` and this `forward`. One that is a
    `FrontEnd` has its `transform` computed once and kept, where the waves it gets are always the
    same.
    """

    #: N, features a frame.
    n_features: int
    #: All that decides what `transform` gives, as JSON; None: it is never kept.
    fixed: dict[str, Any] | None = None
    #: Whether `fit` has to be called before the features are as asked for.
    needs_fit = False

    def forward(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) float32 waves and (B,) int64 lengths in samples to (B, F, N) features and (B,)
        int64 lengths in frames; frames beyond a clip's length are 0."""
        features, frame_lengths = self.transform(waves, lengths)
        return self.standardise(features, frame_lengths), frame_lengths

    def transform(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The first half of `forward`, a function of the settings alone."""
        raise NotImplementedError

    def standardise(self, features: Tensor, frame_lengths: Tensor) -> Tensor:
        """(B, F, N) features of `transform` as the model gets them; unchanged by default."""
        return features

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Sets what `standardise` needs from batches that `transform` gave."""


class LogMel(FrontEnd):
    """Log-mel spectrogram: the natural logarithm of the energy in bands equally wide in mel.

    Hann window, power spectrum, triangular bands on the HTK mel scale (the definition, and the
    filters, of torchaudio). The transform's length is the smallest power of two that holds the
    window and leaves no band without a bin.

    Args:
        sample_rate: of the waves, in Hz.
        n_mels: bands, and so features a frame.
        window: length of the analysis window, in seconds.
        hop: step between windows, in seconds.
        f_min: lower edge of the lowest band, in Hz.
        f_max: upper edge of the highest band, in Hz; None: half the sample rate.
        normalize: "channel" gives every band of every clip mean 0 and deviation 1 over its valid
            frames; "dataset" the same over the clips that `fit` has seen; "none" neither.

    Raises:
        ConfigError: a frequency, the hop or the number of bands that the sample rate can't give.
    """

    #: The statistics of "dataset", (N,) each; kept with the weights.
    mean: Tensor
    std: Tensor
    #: () frames that the statistics come from; 0 until fitted.
    fitted_frames: Tensor
    _window: Tensor
    _filters: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        n_mels: int = 64,
        window: Seconds = 0.025,
        hop: Seconds = 0.010,
        f_min: Hertz = 0.0,
        f_max: Hertz | None = None,
        normalize: str = "dataset",
    ) -> None:
        super().__init__()
        self.fixed = {
            "front end": "logmel",
            "version": 1,
            "sample_rate": sample_rate,
            "n_mels": n_mels,
            "window": window,
            "hop": hop,
            "f_min": f_min,
            "f_max": f_max,
        }
        if normalize not in NORMALIZE:
            raise ConfigError(f"features.normalize={normalize!r} is none of {', '.join(NORMALIZE)}")
        self.n_features = n_mels
        self.normalize = normalize
        self.hop_samples = round(hop * sample_rate)
        window_samples = round(window * sample_rate)
        if self.hop_samples < 1 or window_samples < 2:
            raise ConfigError(
                f"features.hop={hop} s is {self.hop_samples} samples at {sample_rate} Hz and "
                f"features.window={window} s is {window_samples}; a hop takes at least 1 sample, "
                "a window at least 2"
            )
        filters = _mel_filters(sample_rate, n_mels, window_samples, f_min, f_max)
        self.n_fft = 2 * (filters.shape[0] - 1)
        padded_window = torch.zeros(self.n_fft)
        start = (self.n_fft - window_samples) // 2
        padded_window[start : start + window_samples] = torch.hann_window(window_samples)
        # Made again from the settings, so not kept with the weights.
        self.register_buffer("_window", padded_window, persistent=False)
        self.register_buffer("_filters", filters, persistent=False)
        self._register_statistics()

    def transform(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `FrontEnd`: log-mel energies before they are normalised."""
        frame_lengths = 1 + lengths.div(self.hop_samples, rounding_mode="floor")
        frames = 1 + waves.shape[1] // self.hop_samples
        full = all_full(lengths, waves.shape[1])
        if not full:
            waves = waves * frame_mask(lengths, waves.shape[1])
        # Energies span more than half precision holds: never under the training loop's autocast,
        # which a graph that is exported knows nothing of.
        exporting = torch.compiler.is_exporting()
        with nullcontext() if exporting else torch.autocast(waves.device.type, enabled=False):
            padded = nn.functional.pad(waves.float(), (self.n_fft // 2, self.n_fft // 2))
            if exporting or padded.device.type != "cpu":
                features = self._transform(padded)
            else:
                group = max(1, _CPU_GROUP_BYTES // (4 * frames * self.n_fft))
                parts = [self._transform(part) for part in torch.split(padded, group)]
                features = parts[0] if len(parts) == 1 else torch.cat(parts)
        if not full:
            features = features * frame_mask(frame_lengths, frames)[:, :, None]
        return features, frame_lengths

    def standardise(self, features: Tensor, frame_lengths: Tensor) -> Tensor:
        """See `FrontEnd`: normalised as asked for."""
        if self.normalize == "none":
            return features
        mask = None
        if not all_full(frame_lengths, features.shape[1]):
            mask = frame_mask(frame_lengths, features.shape[1])[:, :, None]
        if self.normalize == "dataset":
            features = (features - self.mean) / self.std
        else:
            features = _normalize_clips(features, frame_lengths, mask)
        return features if mask is None else features * mask

    @property
    def needs_fit(self) -> bool:  # type: ignore[override]
        """See `FrontEnd`."""
        return self.normalize == "dataset" and int(self.fitted_frames) == 0

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Sets the statistics of "dataset" from the valid frames of batches that `transform` gave:
        (features (B, F, N), lengths (B,)); one pass, nothing is kept but sums."""
        total = torch.zeros(2, self.n_features, dtype=torch.float64, device=self.mean.device)
        count = 0
        for features, frame_lengths in batches:
            values = features.double()  # 0 in frames that are not valid
            total += torch.stack([values.sum((0, 1)), values.square().sum((0, 1))])
            count += int(frame_lengths.sum())
        assert count, "no batch to fit the front end on"
        mean = total[0] / count
        variance = (total[1] / count - mean.square()).clamp_(min=0)
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt().clamp_(min=_MIN_STD))
        self.fitted_frames.fill_(count)

    def _register_statistics(self) -> None:
        self.register_buffer("mean", torch.zeros(self.n_features))
        self.register_buffer("std", torch.ones(self.n_features))
        self.register_buffer("fitted_frames", torch.zeros((), dtype=torch.int64))

    def _transform(self, padded: Tensor) -> Tensor:
        """(B, n_fft // 2 + T + n_fft // 2) waves to (B, F, N) log-mel energies."""
        if torch.compiler.is_exporting():  # one operator, where the others need a table of places
            bins = torch.stft(
                padded,
                self.n_fft,
                self.hop_samples,
                window=self._window,
                center=False,
                return_complex=True,
            )
            power = torch.view_as_real(bins).square().sum(-1).transpose(1, 2)  # (B, F, K)
        else:
            windows = padded.unfold(-1, self.n_fft, self.hop_samples) * self._window
            spectrum = torch.fft.rfft(windows)  # (B, F, K) of (B, F, n_fft)
            # Not abs().square(): the root in between takes longer than the transform.
            power = spectrum.real.square() + spectrum.imag.square()
        energies: Tensor = power @ self._filters
        return energies.add_(_LOG_OFFSET).log_()


class MFCC(LogMel):
    """Mel-frequency cepstral coefficients: the orthonormal cosine transform of `LogMel`.

    Args:
        sample_rate: of the waves, in Hz.
        n_mfcc: coefficients, the lowest, and so features a frame; at most `n_mels`.
        n_mels: bands below them.
        window, hop, f_min, f_max, normalize: as `LogMel`, which is normalised here a coefficient.

    Raises:
        ConfigError: as `LogMel`, or more coefficients than bands.
    """

    _cosines: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        n_mfcc: int = 40,
        n_mels: int = 64,
        window: Seconds = 0.025,
        hop: Seconds = 0.010,
        f_min: Hertz = 0.0,
        f_max: Hertz | None = None,
        normalize: str = "dataset",
    ) -> None:
        if n_mfcc > n_mels:
            raise ConfigError(
                f"features.n_mfcc={n_mfcc} is more than features.n_mels={n_mels}; "
                "there are at most as many coefficients as bands"
            )
        super().__init__(
            sample_rate=sample_rate,
            n_mels=n_mels,
            window=window,
            hop=hop,
            f_min=f_min,
            f_max=f_max,
            normalize=normalize,
        )
        assert self.fixed is not None
        self.fixed |= {"front end": "mfcc", "n_mfcc": n_mfcc}
        self.n_features = n_mfcc
        cosines = audio_functional.create_dct(n_mfcc, n_mels, norm="ortho")
        self.register_buffer("_cosines", cosines, persistent=False)
        self._register_statistics()

    def _transform(self, padded: Tensor) -> Tensor:
        return super()._transform(padded) @ self._cosines


def _mel_filters(
    sample_rate: int, n_mels: int, window_samples: int, f_min: Hertz, f_max: Hertz | None
) -> Tensor:
    """(K, N) triangular filters, for the shortest transform that leaves none of them empty."""
    nyquist = sample_rate / 2
    if f_max is not None and f_max > nyquist:
        raise ConfigError(
            f"features.f_max={f_max:g} Hz is above {nyquist:g} Hz, half the sample rate; "
            "lower it, or leave it out for half the sample rate"
        )
    top = nyquist if f_max is None else f_max
    if f_min >= top:
        raise ConfigError(
            f"features.f_min={f_min:g} Hz is not below features.f_max={top:g} Hz; lower it"
        )
    n_fft = 1 << (window_samples - 1).bit_length()
    while n_fft <= _MAX_N_FFT:
        if _bins_in_every_band(n_fft, sample_rate, n_mels, f_min, top):
            filters: Tensor = audio_functional.melscale_fbanks(
                n_fft // 2 + 1, f_min, top, n_mels, sample_rate
            )
            return filters
        n_fft *= 2
    raise ConfigError(
        f"features.n_mels={n_mels} bands between {f_min:g} and {top:g} Hz are narrower than a "
        f"transform of {_MAX_N_FFT} samples at {sample_rate} Hz tells apart; take fewer bands or a "
        "wider range (features.f_min, features.f_max)"
    )


def _bins_in_every_band(
    n_fft: int, sample_rate: int, n_mels: int, f_min: Hertz, f_max: Hertz
) -> bool:
    """Whether each triangle has a bin of the transform strictly between its feet."""
    edges = torch.tensor([f_min, f_max], dtype=torch.float64)
    low, high = 2595.0 * torch.log10(1.0 + edges / 700.0)  # hertz to mel (HTK)
    mels = torch.linspace(float(low), float(high), n_mels + 2, dtype=torch.float64)
    feet = 700.0 * (10.0 ** (mels / 2595.0) - 1.0) * n_fft / sample_rate  # in bins
    # The first bin above the lower foot has to lie below the upper one; the margin keeps a bin
    # that rounding puts on a foot, where the triangle is 0, from counting.
    margin = 1e-3
    first = torch.floor(feet[:-2] + margin) + 1
    return bool((first < feet[2:] - margin).all())


def all_full(lengths: Tensor, size: int) -> bool:
    """Whether masking can be left out. Asked on a CPU alone: a GPU would have to wait for it, and a
    graph that is exported is for any lengths."""
    if lengths.device.type != "cpu" or torch.compiler.is_exporting():
        return False
    return bool((lengths >= size).all())


def _normalize_clips(features: Tensor, frame_lengths: Tensor, mask: Tensor | None) -> Tensor:
    """(B, F, N) with mean 0 and deviation 1 for each clip and band over its valid frames."""
    count = frame_lengths[:, None, None]
    valid = features if mask is None else features * mask
    centred = features - valid.sum(1, keepdim=True) / count
    deviations = centred if mask is None else centred * mask
    std = (deviations.square().sum(1, keepdim=True) / count).sqrt()
    return centred / std.clamp(min=_MIN_STD)
