"""Decoding: formats, rates, channels, broken files, and the same samples in pieces."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raudio.audio import decode as decoding
from raudio.audio.decode import (
    blocks,
    decode,
    decode_window,
    from_precision,
    info,
    resampled_frames,
    to_precision,
)
from raudio.core.errors import DataError


def sine(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype("f4")


def encode(wave: np.ndarray, rate: int, format: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [
        ("WAV", "FLOAT", 0.0),
        ("WAV", "PCM_16", 1 / 32768),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_U8", 1 / 64),
        ("FLAC", "PCM_16", 1 / 32768),
        ("AIFF", "PCM_16", 1 / 32768),
        ("OGG", "VORBIS", 0.02),
    ],
)
def test_every_format_gives_what_was_written(format: str, subtype: str, tolerance: float) -> None:
    wave = sine(16000)
    decoded, rate = decode(encode(wave, 16000, format, subtype))
    assert rate == 16000
    assert decoded.dtype == np.float32
    assert decoded.shape == wave.shape
    assert np.abs(decoded - wave).max() <= tolerance


def test_mp3_keeps_pitch_and_level() -> None:
    decoded, rate = decode(encode(sine(16000, 1.0), 16000, "MP3"))
    spectrum = np.abs(np.fft.rfft(decoded))
    assert np.argmax(spectrum) * rate / len(decoded) == pytest.approx(440, abs=2)
    assert np.abs(decoded).max() == pytest.approx(0.5, abs=0.05)


def test_channels_are_averaged() -> None:
    left, right = sine(8000), sine(8000, hertz=100.0)
    decoded, _ = decode(encode(np.stack([left, right, 0 * left], 1), 8000, "WAV", "FLOAT"))
    np.testing.assert_allclose(decoded, (left + right) / 3, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_resampling_keeps_the_sine(rate: int) -> None:
    decoded, got = decode(encode(sine(rate, 1.0), rate, "WAV", "FLOAT"), 16000)
    assert got == 16000
    assert len(decoded) == 16000
    inner = slice(1000, -1000)  # a resampling filter rings at the edges
    np.testing.assert_allclose(decoded[inner], sine(16000, 1.0)[inner], atol=1e-3)


def test_resampling_removes_what_would_alias() -> None:
    decoded, _ = decode(encode(sine(48000, 1.0, 9000.0), 48000, "WAV", "FLOAT"), 16000)
    assert np.abs(decoded[1000:-1000]).max() < 1e-3


def test_bytes_path_and_text_are_the_same(tmp_path: Path) -> None:
    content = encode(sine(8000), 8000, "FLAC")
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    expected, _ = decode(content)
    for source in (path, str(path)):
        np.testing.assert_array_equal(decode(source)[0], expected)


def test_info_says_what_the_header_says() -> None:
    stereo = np.stack([sine(22050), sine(22050)], 1)
    found = info(encode(stereo, 22050, "FLAC", "PCM_16"))
    assert found == decoding.AudioInfo(22050, 11025, 2, "FLAC", "PCM_16", cut=False)


def test_a_flac_that_does_not_say_its_length_is_named() -> None:
    content = bytearray(encode(sine(8000), 8000, "FLAC"))
    # STREAMINFO starts at byte 8; the total is the low 36 bits of its bytes 13 to 17, 0: unknown.
    content[8 + 13] &= 0xF0
    content[8 + 14 : 8 + 18] = bytes(4)
    for use in (decode, info):
        with pytest.raises(DataError, match=r"^piped: its header doesn't say how long it is"):
            use(bytes(content), where="piped")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no audio at all, just text", "can't be decoded"),
        (b"", "can't be decoded"),
        (encode(np.zeros(0, "f4"), 8000, "WAV"), "is empty"),
        (encode(np.array([0, np.nan, 0], "f4"), 8000, "WAV", "FLOAT"), "NaN or infinite"),
        (encode(np.array([0, np.inf, -np.inf], "f4"), 8000, "WAV", "FLOAT"), "NaN or infinite"),
        (encode(np.random.default_rng(0).normal(size=9000) / 9, 8000, "FLAC")[:9000], "lost sync"),
    ],
    ids=["text", "nothing", "empty", "nan", "infinite", "cut"],
)
def test_what_cannot_be_used_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"^clip 7: .*{reason}"):
        decode(content, where="clip 7")
    with pytest.raises(DataError, match=rf"^clip 7: .*{reason}"):
        list(blocks(content, None, 0.1, where="clip 7"))


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)]
)
def test_a_file_cut_off_gives_what_is_there(format: str, subtype: str | None) -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=80000)
    content = encode(noise, 16000, format, subtype)
    whole, _ = decode(content)
    part, _ = decode(content[: len(content) // 2])
    assert 0.2 * len(whole) < len(part) < 0.7 * len(whole)
    np.testing.assert_allclose(part[:16000], whole[:16000], atol=1e-3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for use in (decode, info):
        with pytest.raises(DataError, match=r"gone\.wav: no such audio file"):
            use(tmp_path / "gone.wav")


@pytest.mark.parametrize(
    ("rate", "target"), [(8000, None), (8000, 8000), (44100, 16000), (8000, 48000)]
)
@pytest.mark.parametrize("seconds", [0.1, 0.33, 5.0])
def test_blocks_are_decode_in_pieces(rate: int, target: int | None, seconds: float) -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=(rate * 2 + 17, 2))
    content = encode(noise, rate, "WAV", "FLOAT")
    whole, got = decode(content, target)
    pieces = list(blocks(content, target, seconds))
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4)
    length = round(seconds * got)
    assert all(len(piece) == length for piece in pieces[:-1])
    assert 0 < len(pieces[-1]) <= length


def test_a_file_read_in_parts_is_the_file_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(np.stack([sine(8000), sine(8000)], 1), 8000, "FLAC")
    whole, _ = decode(content)
    monkeypatch.setattr(decoding, "_READ_FRAMES", 999)
    np.testing.assert_array_equal(decode(content)[0], whole)


def test_int16_rounds_and_clips() -> None:
    kept = to_precision(np.array([0, 0.5, 1, -1, 1.5, -1.5, 1.4 / 32767], "f4"), "int16")
    assert kept.dtype == np.int16
    assert kept.tolist() == [0, 16384, 32767, -32767, 32767, -32767, 1]
    every = np.arange(-32767, 32768, dtype=np.int16)
    np.testing.assert_array_equal(to_precision(from_precision(every), "int16"), every)
    assert from_precision(every).dtype == np.float32


def test_float32_is_kept_without_a_copy() -> None:
    wave = sine(8000)
    assert from_precision(to_precision(wave, "float32")) is wave


def test_real_speech(fsdd: Path) -> None:
    path = fsdd / "recordings" / "7_theo_0.wav"
    expected, rate = soundfile.read(path, dtype="float32")
    decoded, got = decode(path)
    assert got == rate == 8000
    np.testing.assert_array_equal(decoded, expected)


# --- windows -----------------------------------------------------------------------------------

RATES = [(44100, 16000), (8000, 16000), (48000, 44100), (22050, 16000), (16000, 16000)]


def noise(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    draws = np.random.default_rng(0).standard_normal((round(rate * seconds), channels))
    return (0.3 * draws).clip(-1, 1).astype("f4")


@pytest.mark.parametrize(("rate", "target"), RATES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_a_window_is_the_crop_of_the_whole(
    rate: int, target: int, channels: int, format: str
) -> None:
    content = encode(noise(rate, 1.3, channels), rate, format, "PCM_16")
    whole = to_precision(decode(content, target)[0], "int16").astype(int)
    last = len(whole) - 1
    draw = np.random.default_rng(1)
    starts = [0, 1, last, *draw.integers(0, last, 12)]
    for start in map(int, starts):
        frames = int(draw.integers(1, len(whole) - start + 1))
        window = to_precision(decode_window(content, start, frames, target), "int16").astype(int)
        assert len(window) == frames
        apart = np.abs(window - whole[start : start + frames]).max()
        assert apart <= (rate != target), (start, frames)


@pytest.mark.parametrize("rate", [8000, 22050])
@pytest.mark.parametrize("format", ["MP3", "OGG"])
def test_where_seeking_is_inexact_the_whole_is_decoded(format: str, rate: int) -> None:
    content = encode(noise(rate, 1.0), rate, format)
    whole, _ = decode(content, 16000)
    assert np.array_equal(decode_window(content, 5000, 700, 16000), whole[5000:5700])


def test_a_window_reads_little_more_than_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(noise(44100, 10.0), 44100, "FLAC", "PCM_16")
    read: list[int] = []
    plain = soundfile.SoundFile.read

    def counting(self: soundfile.SoundFile, frames: int, **options: Any) -> np.ndarray:
        read.append(frames)
        return plain(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    decode_window(content, 80_000, 16_000, 16000)
    assert 44100 < sum(read) < 1.1 * 44100


def test_a_window_beyond_the_end_is_short_and_one_of_nothing_refused() -> None:
    content = encode(sine(8000), 8000, "WAV", "PCM_16")
    assert len(decode_window(content, 3990, 100)) == 10
    with pytest.raises(DataError, match="is empty"):
        decode_window(content, 4000, 1)


@given(
    frames=st.integers(1, 300_000),
    rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000]),
    target=st.sampled_from([8000, 11025, 16000, 32000, 44100, 48000]),
)
@example(frames=1600, rate=48000, target=11025)  # 367.5 samples
@example(frames=2000, rate=16000, target=44100)
@settings(max_examples=50, deadline=None)
def test_the_length_after_resampling_is_known_before(frames: int, rate: int, target: int) -> None:
    resampled = soxr.resample(np.zeros(frames, "f4"), rate, target, quality="HQ")
    assert resampled_frames(frames, rate, target) == len(resampled)
    several = resampled_frames(np.array([frames, 0]), np.array([rate, rate]), target)
    assert several.tolist() == [len(resampled), 0]
