"""`raudio data augment`: what it writes, by reading it back, and what it refuses."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from raudio.audio.picture import heatmap, png, table, waveform
from raudio.cli.main import app
from raudio.core.errors import ConfigError, DataError

RATE = 8000


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    paths = []
    for name, hertz, seconds in (("low", 300, 0.5), ("high", 2000, 0.4)):
        time = np.arange(round(RATE * seconds)) / RATE
        paths.append(str(tmp_path / f"{name}.wav"))
        soundfile.write(paths[-1], 0.2 * np.sin(2 * np.pi * hertz * time), RATE)
    return paths


def run(*arguments: str) -> list[str]:
    """The lines of stdout; errors are raised."""
    done = CliRunner().invoke(app, ["data", "augment", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def read_png(path: Path) -> np.ndarray:
    """(H, W, 3), by the standard's own words: chunks with checksums, rows with a filter of 0."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        (crc,) = struct.unpack_from(">I", content, place + 8 + length)
        assert crc == zlib.crc32(kind + data)
        chunks[kind], place = data, place + 12 + length
    width, height, depth, color = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, color, list(chunks)) == (8, 2, [b"IHDR", b"IDAT", b"IEND"])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_a_png_holds_the_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    (tmp_path / "x.png").write_bytes(png(pixels))
    np.testing.assert_array_equal(read_png(tmp_path / "x.png"), pixels)


def test_pictures_by_hand() -> None:
    wave = waveform(np.array([0, 0, 1, 1, -1, 0], np.float32), peak=1.0, width=3, height=5)
    inked = (wave != 255).any(-1)
    assert inked.T.tolist() == [
        [False, False, True, False, False],
        [True, False, False, False, False],
        [False, False, True, True, True],
    ]
    features = np.array([[0, 1], [0.5, 2]], np.float32)  # (F, N)
    colors = heatmap(features, 0.0, 1.0, width=2, height=2)
    yellow, violet, green = [253, 231, 37], [68, 1, 84], [33, 145, 140]
    assert colors.tolist() == [[yellow, yellow], [violet, green]]
    assert table([[wave, wave]], gap=2).shape == (5, 8, 3)


def test_variants_of_a_clip_are_heard_and_seen(clips: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines = run(clips[0], "--with", "gain.max_db=20", "--out", str(out), "--count", "2")
    assert lines == sorted(str(path) for path in out.iterdir())
    names = ["low.wav", "low-1.wav", "low-1.png", "low-2.wav", "low-2.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    before = soundfile.read(out / "low.wav")[0]
    np.testing.assert_allclose(before, soundfile.read(clips[0])[0], atol=1e-6)
    levels = []
    for variant in (1, 2):
        after, rate = soundfile.read(out / f"low-{variant}.wav")
        assert rate == RATE
        levels.append(20 * np.log10(after.std() / before.std()))
        np.testing.assert_allclose(after, before * 10 ** (levels[-1] / 20), atol=1e-5)
        pixels = read_png(out / f"low-{variant}.png")
        left, right = pixels[128:, :480], pixels[128:, 488:]
        assert (right.mean() > left.mean()) == (levels[-1] > 0), "louder is brighter"
    assert levels[0] != pytest.approx(levels[1], abs=0.1)
    assert max(map(abs, levels)) <= 20
    again = tmp_path / "again"
    run(clips[0], "--with", "gain.max_db=20", "--out", str(again), "--count", "2")
    assert (again / "low-2.png").read_bytes() == (out / "low-2.png").read_bytes()
    one, two = (soundfile.read(folder / "low-1.wav")[0] for folder in (out, again))
    np.testing.assert_array_equal(one, two)
    other = tmp_path / "other"
    run(clips[0], "--with", "gain.max_db=20", "--out", str(other), "--seed", "1")
    assert (soundfile.read(other / "low-1.wav")[0] != one).any()


def test_a_spectrogram_s_augmentation_is_in_the_picture_alone(
    clips: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(clips[0], "--with", "time_mask", "--with", "time_mask.max_share=1", "--out", str(out))
    before = soundfile.read(out / "low.wav")[0]
    np.testing.assert_array_equal(soundfile.read(out / "low-1.wav")[0], before)
    pixels = read_png(out / "low-1.png")
    left, right = pixels[:, : pixels.shape[1] // 2 - 4], pixels[:, pixels.shape[1] // 2 + 4 :]
    np.testing.assert_array_equal(left[:120], right[:120])
    assert (left[128:] != right[128:]).any()


def test_adapters_chains_and_presets(clips: list[str], tmp_path: Path) -> None:
    named = ["--with", "audiomentations.PolarityInversion", "--with", "torch_audiomentations.Shift"]
    more = ["--with", "torch_audiomentations.Shift.rollover=false"]
    run(clips[0], *named, *more, "--out", str(tmp_path / "a"), "--count", "1")
    turned = "{kind: choice, of: {only: {kind: polarity}}}"
    run(clips[0], "--config", f"augment.chain.x={turned}", "--out", str(tmp_path / "b"))
    before, after = (soundfile.read(tmp_path / "b" / f"low{n}.wav")[0] for n in ("", "-1"))
    np.testing.assert_array_equal(after, -before)
    run(*clips, "--config", "augment=strong", "--out", str(tmp_path / "c"))


def test_mixing_takes_two_clips(clips: list[str], tmp_path: Path) -> None:
    mixup = ["--with", "mixup", "--with", "mixup.alpha=10"]
    run(*clips, *mixup, "--out", str(tmp_path / "out"), "--count", "8")
    one, two = (soundfile.read(clip)[0] for clip in clips)
    two = np.pad(two, (0, len(one) - len(two)))
    mixed = 0
    for variant in range(1, 9):
        after = soundfile.read(tmp_path / "out" / f"low-{variant}.wav")[0]
        share = np.linalg.lstsq(np.stack([one, two], 1), after, rcond=None)[0]
        np.testing.assert_allclose(after, share[0] * one + share[1] * two, atol=1e-5)
        assert share.sum() == pytest.approx(1, abs=1e-3)
        mixed += 0.05 < share[1] < 0.95
    assert mixed
    with pytest.raises(ConfigError, match="name a second one"):
        run(clips[0], *mixup, "--out", str(tmp_path / "x"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--with", "gian"], "unknown augmentation 'gian' (closest: 'gain')"),
        (["--with", "gain=3"], "gain.SETTING=VALUE"),
        (["--with", "gain.max_db"], "gain.SETTING=VALUE"),
        (["--with", "gain.max_bd=3"], "closest: 'augment.gain.max_db'"),
        (["--with", "audiomentations.Trm"], "closest: 'Trim'"),
        (["--with", "audiomentations.Trim.top_dB=3"], "closest: 'top_db'"),
        (["--config", "augment=lihgt"], "closest: 'light'"),
        (["--with", "low_pass", "--with", "low_pass.min_cutoff=9000"], "min_cutoff=9000"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    clips: list[str], tmp_path: Path, arguments: list[str], part: str
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError) as caught:
        run(clips[0], *arguments, "--out", str(tmp_path / "out"))
    assert part in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_clips_that_cannot_be_read_and_folders_that_exist(clips: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"bad\.wav"):
        run(str(tmp_path / "bad.wav"), "--with", "gain", "--out", str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"nowhere\.wav"):
        run(str(tmp_path / "nowhere.wav"), "--with", "gain", "--out", str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="exists"):
        run(clips[0], "--with", "gain", "--out", str(tmp_path))
    assert sorted(tmp_path.iterdir()) == before
    done = CliRunner().invoke(app, ["data", "augment", clips[0], "--out", str(tmp_path / "x")])
    assert done.exit_code == 2
