"""Log-mel and MFCC against torchaudio's transforms, and what padding may not change."""

from __future__ import annotations

import pytest
import torch
import torchaudio
from torch import Tensor

from raudio.audio.build import build_front_end
from raudio.audio.frontends import MFCC, LogMel
from raudio.config import schema
from raudio.core.errors import ConfigError

# B clips, T samples, F frames, N features
LENGTHS = torch.tensor([8000, 3001, 4560, 1])


def batch(lengths: Tensor = LENGTHS, size: int = 8000) -> tuple[Tensor, Tensor]:
    """(B, T) noise of several levels with what is not valid far from 0, and (B,) lengths."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(len(lengths), size, generator=generator)
    waves *= torch.logspace(-3, 0, len(lengths))[:, None]
    for wave, length in zip(waves, lengths.tolist(), strict=True):
        wave[length:] = 7.0
    return waves, lengths


def mel_options(n_fft: int, window: int, hop: int, n_mels: int) -> dict[str, object]:
    return {
        "n_fft": n_fft, "win_length": window, "hop_length": hop, "n_mels": n_mels,
        "pad_mode": "constant", "f_min": 50.0, "f_max": 3000.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "n_mels", "window", "hop", "n_fft"),
    [
        (8000, 32, 0.025, 0.01, 256),
        (16000, 128, 0.032, 0.016, 1024),
        (8000, 16, 0.0128, 0.00125, 128),
    ],
)
def test_logmel_is_torchaudios(
    rate: int, n_mels: int, window: float, hop: float, n_fft: int
) -> None:
    front_end = LogMel(
        sample_rate=rate, n_mels=n_mels, window=window, hop=hop, f_min=50, f_max=3000,
        normalize="none",
    )  # fmt: skip
    options = mel_options(n_fft, round(window * rate), round(hop * rate), n_mels)
    reference = torchaudio.transforms.MelSpectrogram(rate, **options)
    waves, _ = batch()
    features, frames = front_end(waves, torch.full((4,), 8000))
    expected = (reference(waves) + 1e-6).log().transpose(1, 2)
    torch.testing.assert_close(features, expected, atol=2e-4, rtol=1e-4)
    assert frames.tolist() == [expected.shape[1]] * 4
    assert front_end.n_features == features.shape[2] == n_mels


def test_mfcc_is_torchaudios() -> None:
    front_end = MFCC(sample_rate=8000, n_mfcc=13, n_mels=40, f_min=50, f_max=3000, normalize="none")
    options = mel_options(front_end.n_fft, 200, 80, 40)
    reference = torchaudio.transforms.MFCC(8000, 13, log_mels=True, melkwargs=options)
    waves, _ = batch()
    features, _ = front_end(waves, torch.full((4,), 8000))
    assert front_end.n_features == 13
    torch.testing.assert_close(features, reference(waves).transpose(1, 2), atol=1e-3, rtol=1e-4)


def test_a_sine_is_in_the_band_that_holds_it() -> None:
    front_end = LogMel(sample_rate=16000, n_mels=40, normalize="none")
    wave = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)[None]
    features, _ = front_end(wave, torch.tensor([16000]))
    mel = 2595 * torch.log10(torch.tensor(1 + 1000 / 700))
    top = 2595 * torch.log10(torch.tensor(1 + 8000 / 700))
    band = round(float(mel / top) * 41) - 1  # band k peaks at (k + 1) / (n_mels + 1) of the range
    assert int(features[0, 50].argmax()) == band


@pytest.mark.parametrize("kind", [LogMel, MFCC])
@pytest.mark.parametrize("normalize", ["none", "channel", "dataset"])
def test_padding_changes_nothing(kind: type[LogMel], normalize: str) -> None:
    front_end = kind(sample_rate=8000, n_mels=40, normalize=normalize)
    waves, lengths = batch()
    if front_end.needs_fit:
        front_end.fit([front_end.transform(waves, lengths)])
    before = waves.clone()
    features, frames = front_end(waves, lengths)
    assert torch.equal(waves, before)
    assert frames.tolist() == [1 + length // 80 for length in lengths.tolist()]
    for clip, (length, count) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        alone, _ = front_end(waves[clip : clip + 1, :length], lengths[clip : clip + 1])
        assert alone.shape[1] == count
        torch.testing.assert_close(features[clip, :count], alone[0], atol=1e-4, rtol=1e-4)
        assert not features[clip, count:].any()


def test_channel_gives_each_clip_and_band_mean_0_and_deviation_1() -> None:
    front_end = LogMel(sample_rate=8000, n_mels=40, normalize="channel")
    waves, lengths = batch(torch.tensor([8000, 3001]))
    features, frames = front_end(waves, lengths)
    for clip, count in enumerate(frames.tolist()):
        valid = features[clip, :count]
        torch.testing.assert_close(valid.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
        torch.testing.assert_close(valid.std(0, correction=0), torch.ones(40), atol=1e-3, rtol=0)


def test_dataset_statistics_are_those_of_all_valid_frames() -> None:
    front_end = LogMel(sample_rate=8000, n_mels=40, normalize="dataset")
    raw = LogMel(sample_rate=8000, n_mels=40, normalize="none")
    waves, lengths = batch()
    assert front_end.needs_fit
    assert not raw.needs_fit
    front_end.fit(front_end.transform(waves[i : i + 2], lengths[i : i + 2]) for i in (0, 2))
    assert not front_end.needs_fit
    features, frames = raw(waves, lengths)
    valid = torch.cat([clip[:n] for clip, n in zip(features, frames.tolist(), strict=True)])
    torch.testing.assert_close(front_end.mean, valid.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(front_end.std, valid.std(0, correction=0), atol=1e-4, rtol=1e-4)
    normalised, _ = front_end(waves, lengths)
    torch.testing.assert_close(
        normalised[0], (features[0] - valid.mean(0)) / valid.std(0, correction=0), atol=1e-3, rtol=0
    )


def test_statistics_go_with_the_state_and_nothing_else_does() -> None:
    fitted = LogMel(sample_rate=8000, normalize="dataset")
    fitted.fit([fitted.transform(*batch())])
    assert set(fitted.state_dict()) == {"mean", "std", "fitted_frames"}
    other = LogMel(sample_rate=8000, normalize="dataset")
    other.load_state_dict(fitted.state_dict())
    assert not other.needs_fit
    assert torch.equal(other(*batch())[0], fitted(*batch())[0])


@pytest.mark.parametrize("normalize", ["none", "channel", "dataset"])
def test_silence_is_finite(normalize: str) -> None:
    front_end = LogMel(sample_rate=8000, normalize=normalize)
    silence = (torch.zeros(2, 800), torch.tensor([800, 100]))
    if front_end.needs_fit:
        front_end.fit([front_end.transform(*silence)])
    features, _ = front_end(*silence)
    assert features.isfinite().all()
    if normalize != "none":
        assert features.abs().max() < 0.1


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("n_mels", [8, 64, 128, 256])
def test_no_band_is_empty(rate: int, n_mels: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: pytest.fail(str(a)))  # torchaudio's, of it
        front_end = LogMel(sample_rate=rate, n_mels=n_mels)
    assert (front_end._filters.amax(0) > 0).all()
    window = round(0.025 * rate)
    assert front_end.n_fft >= window
    assert front_end.n_fft & (front_end.n_fft - 1) == 0
    if n_mels == 8:
        assert front_end.n_fft < 2 * window


def test_features_are_float32_under_autocast() -> None:
    front_end = LogMel(sample_rate=8000, normalize="none")
    waves, lengths = batch()
    expected, _ = front_end(waves, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, _ = front_end(waves, lengths)
    assert torch.equal(features, expected)


def test_large_batches_go_through_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    front_end = LogMel(sample_rate=8000, normalize="none")
    waves, lengths = batch()
    expected, _ = front_end(waves, lengths)
    monkeypatch.setattr("raudio.audio.frontends._CPU_GROUP_BYTES", 1)
    assert torch.allclose(front_end(waves, lengths)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"f_max": 5000.0}, r"features\.f_max=5000 Hz is above 4000 Hz"),
        ({"f_min": 4000.0}, r"features\.f_min=4000 Hz is not below"),
        ({"f_min": 900.0, "f_max": 800.0}, r"features\.f_min=900 Hz is not below .*800"),
        ({"hop": 0.00001}, r"features\.hop=1e-05 s is 0 samples at 8000 Hz"),
        ({"normalize": "clip"}, r"features\.normalize='clip' is none of none, channel, dataset"),
        ({"n_mels": 256, "f_min": 100.0, "f_max": 101.0}, r"features\.n_mels=256 bands between"),
    ],
)
def test_settings_that_cannot_work_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LogMel(sample_rate=8000, **options)  # type: ignore[arg-type]


def test_more_coefficients_than_bands_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"features\.n_mfcc=65 .* features\.n_mels=64"):
        MFCC(sample_rate=8000, n_mfcc=65, n_mels=64)


@pytest.mark.parametrize(
    "settings",
    [schema.LogMel(), schema.MFCC(), schema.LogMel(n_mels=32, f_max=3000.0, normalize="channel")],
)
def test_built_from_the_schema(settings: schema.LogMel | schema.MFCC) -> None:
    front_end = build_front_end(settings, 8000)
    assert type(front_end).__name__ == type(settings).__name__
    features, _ = front_end(*batch())
    assert features.shape[2] == front_end.n_features
