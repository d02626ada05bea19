"""From shards to batches: decoding, views, both feeds, and what goes wrong on the way.

The clips are ramps of their own: clip i holds the 16-bit values 150 * i, 150 * i + 1, ..., so that
a sample tells which clip it is of and where in it.
"""

from __future__ import annotations

import dataclasses
import io
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from raudio.config import schema as settings_schema
from raudio.config.schema import Dataset
from raudio.core import storage
from raudio.core.errors import ConfigError, DataError
from raudio.core.seeding import clip_keys, uniforms
from raudio.data import feeds as feeds_module
from raudio.data.clips import WAVE, Clips, decode_shard, load_clips, stored_rows
from raudio.data.feeds import (
    Batch,
    ResidentFeed,
    StreamedFeed,
    choose_feed,
    make_feeds,
    materialise,
    resident_clips,
)
from raudio.data.manifest import MANIFEST, Manifest, Shard, SplitInfo
from raudio.data.pipeline import Share, Stream
from raudio.data.resolve import resolve
from raudio.data.rows import schema, shard_file, write_shard
from raudio.data.sampling import epoch_share

RATE = 8000
STEP = 150  # more than any clip's samples
FRAMES = 64
SIZES = {"train": (7, 5, 8, 6, 4), "valid": (5, 3)}


def encode(row: Mapping[str, Any]) -> int:
    return int(row["label"])


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.int16), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def row(clip_id: str, split: str, samples: np.ndarray, number: int) -> dict[str, Any]:
    return {
        "clip_id": clip_id,
        "audio": wav(samples),
        "sample_rate": RATE,
        "frames": len(samples),
        "channels": 1,
        "split": split,
        "group": f"speaker{number % 2}",
        "label": str(number % 3),
        "peak": 0.5,
        "rms": 0.1,
        "clipped": 0,
        "content": "",
        "site": f"site{number}",
    }


def length_of(number: int) -> int:
    return 20 + 13 * number % 110


def write_dataset(
    folder: Path, shards: Mapping[str, Sequence[Sequence[dict[str, Any]]]]
) -> Manifest:
    import pyarrow as pa

    columns = schema({"site": pa.string()})
    facts: list[Shard] = []
    splits = {}
    for split, parts in shards.items():
        own = [
            write_shard(folder, shard_file(split, number), rows, columns)
            for number, rows in enumerate(parts)
        ]
        splits[split] = SplitInfo(
            clips=sum(shard.clips for shard in own),
            seconds=sum(shard.seconds for shard in own),
            class_counts={},
        )
        facts += own
    manifest = Manifest(
        path=str(folder),
        labels=("0", "1", "2"),
        splits=splits,
        shards=tuple(facts),
        sample_rates={RATE: 38},
        channels={1: 38},
        seconds_min=0.0025,
        seconds_median=0.01,
        seconds_p95=0.0161234,
        seconds_max=0.016,
        source="",
        licence="",
        made_with={},
    )
    storage.write_atomic(folder / MANIFEST, manifest.to_json())
    return Manifest.read(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Clips of 20 to 129 samples, some shorter and some longer than FRAMES."""
    shards: dict[str, list[list[dict[str, Any]]]] = {}
    number = 0
    for split, sizes in SIZES.items():
        shards[split] = []
        for size in sizes:
            rows = []
            for _ in range(size):
                samples = STEP * number + np.arange(length_of(number))
                rows.append(row(f"{split}/{number}.wav", split, samples, number))
                number += 1
            shards[split].append(rows)
    return write_dataset(tmp_path_factory.mktemp("dataset"), shards)


@pytest.fixture(scope="module")
def train(dataset: Manifest) -> Clips:
    return load_clips(dataset, "train", sample_rate=RATE, precision="int16")


def resident(clips: Clips, **settings: Any) -> ResidentFeed:
    return ResidentFeed(clips, **{"encode": encode, "frames": FRAMES, "seed": 1, **settings})


def int16(waves: torch.Tensor) -> np.ndarray:
    return np.rint(waves.numpy() * 32767).astype(int)


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.waves, other.waves)
        and torch.equal(one.lengths, other.lengths)
        and torch.equal(one.targets, other.targets)
        and np.array_equal(one.keys, other.keys)
        and np.array_equal(one.clips, other.clips)
    )


def all_same(ones: Sequence[Batch], others: Sequence[Batch]) -> bool:
    return len(ones) == len(others) and all(map(same, ones, others))


# --- decoding ----------------------------------------------------------------------------------


def test_a_decoded_split_holds_every_sample(train: Clips) -> None:
    assert len(train) == 30
    assert train.shard_sizes == SIZES["train"]
    assert train.ids == [f"train/{number}.wav" for number in range(30)]
    assert np.array_equal(train.keys, clip_keys(train.ids))
    for number in range(30):
        wave = train.wave(number)
        assert wave.dtype == np.int16
        assert wave.tolist() == list(range(STEP * number, STEP * number + length_of(number)))
        assert train.lengths[number] == length_of(number)
    assert train.rows[4] == {
        "clip_id": "train/4.wav",
        "group": "speaker0",
        "label": "1",
        "site": "site4",
    }


def test_float32_keeps_what_the_file_holds(dataset: Manifest) -> None:
    clips = load_clips(dataset, "valid", sample_rate=RATE, precision="float32")
    first = STEP * 30
    expected = (first + np.arange(length_of(30))) / 32768
    assert clips.wave(0).dtype == np.float32
    assert np.array_equal(clips.wave(0), expected.astype(np.float32))


def test_resampled_while_decoding(dataset: Manifest) -> None:
    clips = load_clips(dataset, "valid", sample_rate=2 * RATE, precision="int16")
    assert clips.lengths.tolist() == [2 * length_of(number) for number in range(30, 38)]


def test_some_rows_of_a_shard(dataset: Manifest) -> None:
    path = dataset.shard_path(dataset.shards_of("train")[1])
    table = decode_shard(
        path, sample_rate=RATE, precision="int16", rows=np.array([1, 4], dtype=np.int64)
    )
    assert table["clip_id"].to_pylist() == ["train/8.wav", "train/11.wav"]
    assert Clips.from_tables([table]).wave(1)[0] == STEP * 11
    none = decode_shard(
        path, sample_rate=RATE, precision="int16", rows=np.array([], dtype=np.int64)
    )
    assert none.num_rows == 0
    assert none.schema == table.schema


def test_clips_are_views_of_their_tables(train: Clips) -> None:
    position = 0
    for table in train.tables:
        (chunk,) = table[WAVE].chunks
        values = chunk.values
        address = values.buffers()[1].address
        for _ in range(table.num_rows):
            place = train.wave(position).__array_interface__["data"][0]
            assert address <= place < address + 2 * len(values)
            position += 1


def test_a_changed_shard_is_refused(dataset: Manifest, tmp_path: Path) -> None:
    shard = dataset.shards_of("train")[0]
    path = tmp_path / "train-00000.parquet"
    content = Path(dataset.shard_path(shard)).read_bytes()
    path.write_bytes(content)
    settings = {"sample_rate": RATE, "precision": "int16", "sha256": shard.sha256}
    assert decode_shard(str(path), **settings).num_rows == 7
    path.write_bytes(content[:1000] + b"x" + content[1001:])
    with pytest.raises(DataError, match=r"train-00000\.parquet is not the one .* SHA-256"):
        decode_shard(str(path), **settings)
    path.unlink()
    with pytest.raises(DataError, match=r"train-00000\.parquet is missing"):
        decode_shard(str(path), **settings)


def test_targets_without_the_audio(dataset: Manifest, train: Clips) -> None:
    assert stored_rows(dataset, "train") == train.rows


# --- batches -----------------------------------------------------------------------------------


def test_a_batch_holds_what_it_says(train: Clips) -> None:
    feed = resident(train)
    for epoch in (0, 1):
        taken: list[int] = []
        for batch in feed.epoch(epoch, 8):
            assert batch.waves.shape == (len(batch.clips), FRAMES)
            assert batch.waves.dtype == torch.float32
            assert batch.lengths.dtype == torch.int64
            values = int16(batch.waves)
            starts = uniforms(batch.keys, 1, 1, "crop", epoch)[:, 0]
            for item, clip in enumerate(batch.clips.tolist()):
                frames = length_of(clip)
                valid = min(frames, FRAMES)
                start = int(starts[item] * (frames - FRAMES + 1)) if frames > FRAMES else 0
                assert batch.lengths[item] == valid
                assert values[item, :valid].tolist() == list(
                    range(STEP * clip + start, STEP * clip + start + valid)
                )
                assert not values[item, valid:].any()
                assert batch.targets[item] == clip % 3
                assert batch.keys[item] == train.keys[clip]
            taken += batch.clips.tolist()
        assert sorted(taken) == list(range(30))


def test_a_clip_is_the_same_in_any_batch_and_another_in_each_epoch(train: Clips) -> None:
    def items(epoch: int, batch_size: int, window: int | None = None) -> dict[int, Any]:
        batches = resident(train, window=window).epoch(epoch, batch_size)
        return {
            int(clip): wave.tolist()
            for batch in batches
            for clip, wave in zip(batch.clips, batch.waves, strict=True)
        }

    assert items(0, 5) == items(0, 10) == items(0, 15, window=2)
    changed = [clip for clip, wave in items(1, 5).items() if wave != items(0, 5)[clip]]
    assert {length_of(clip) > FRAMES for clip in changed} == {True}
    assert len(changed) > 5


def test_centre_crop_and_repeat_padding(train: Clips) -> None:
    for batch in resident(train, crop="centre", pad="repeat").epoch(0, 8):
        for item, clip in enumerate(batch.clips.tolist()):
            ramp = STEP * clip + np.arange(length_of(clip))
            if len(ramp) > FRAMES:
                first = (len(ramp) - FRAMES) // 2
                expected = ramp[first : first + FRAMES]
            else:
                expected = ramp[np.arange(FRAMES) % len(ramp)]
            assert int16(batch.waves[item]).tolist() == expected.tolist()
            assert batch.lengths[item] == FRAMES


def test_batches_are_copies(train: Clips) -> None:
    before = [train.wave(clip).tolist() for clip in range(30)]
    for batch in resident(train).epoch(0, 8):
        batch.waves.fill_(1.0)
    assert [train.wave(clip).tolist() for clip in range(30)] == before


def test_start_leaves_batches_out(train: Clips) -> None:
    feed = resident(train)
    whole = list(feed.epoch(3, 8))
    assert len(whole) == feed.epoch_steps(8) == 4
    for start in range(5):
        assert all_same(list(feed.epoch(3, 8, start)), whole[start:])


def test_ranks_divide_the_batches(train: Clips) -> None:
    whole = list(resident(train).epoch(0, 9))
    parts = [list(resident(train, rank=rank, world=3).epoch(0, 9)) for rank in range(3)]
    for step, batch in enumerate(whole):
        for rank in range(3):
            part = parts[rank][step]
            assert part.clips.tolist() == batch.clips[rank::3].tolist()
            assert torch.equal(part.waves, batch.waves[rank::3])


def test_windows_cover_every_sample_once_per_clip(train: Clips) -> None:
    seen: dict[int, set[int]] = {clip: set() for clip in range(30)}
    for rank in range(2):
        feed = resident(train, rank=rank, world=2)
        batches = list(feed.windows(7))
        assert [len(batch.clips) for batch in batches[:-1]] == [7] * (len(batches) - 1)
        for batch in batches:
            for wave, length, clip in zip(batch.waves, batch.lengths, batch.clips, strict=True):
                assert clip % 2 == rank
                assert length == min(FRAMES, length_of(int(clip)))
                seen[int(clip)] |= set((int16(wave[:length]) - STEP * clip).tolist())
                assert batch.waves.shape[1] == FRAMES
    assert seen == {clip: set(range(length_of(clip))) for clip in range(30)}


def test_targets_are_in_the_order_of_the_split(train: Clips) -> None:
    feed = resident(train)
    assert feed.targets().tolist() == [clip % 3 for clip in range(30)]
    assert feed.targets().dtype == torch.int64
    assert feed.clips == 30


# --- which feed --------------------------------------------------------------------------------


def test_choose_feed(dataset: Manifest) -> None:
    size = 2 * round(RATE * (dataset.splits["train"].seconds + dataset.splits["valid"].seconds))
    fits = Dataset(resident_budget=f"{size}B")
    feed, why = choose_feed(fits, dataset, RATE)
    assert feed == "resident"
    assert f"within dataset.resident_budget={size}B" in why
    feed, why = choose_feed(Dataset(resident_budget=f"{size - 1}B"), dataset, RATE)
    assert feed == "streamed"
    assert f"more than dataset.resident_budget={size - 1}B" in why
    assert (
        choose_feed(dataclasses.replace(fits, precision="float32"), dataset, RATE)[0] == "streamed"
    )
    assert choose_feed(dataclasses.replace(fits, feed="streamed"), dataset, RATE)[0] == "streamed"
    with pytest.raises(ConfigError, match=r"dataset\.resident_budget='much'"):
        choose_feed(Dataset(resident_budget="much"), dataset, RATE)


def test_resolve(dataset: Manifest) -> None:
    def decided(**given: Any) -> tuple[int | None, float | None, int | None]:
        experiment = settings_schema.Experiment(
            dataset=Dataset(**given),
            features=settings_schema.LogMel(),
            augment=settings_schema.Augment(),
            model=settings_schema.CNN(),
            task=settings_schema.Classification(),
            optimizer=settings_schema.AdamW(),
            schedule=settings_schema.Cosine(),
            training=settings_schema.Training(),
            resources=settings_schema.Resources(),
        )
        resolved = resolve(experiment, dataclasses.replace(dataset, **facts))
        same = dataclasses.replace(resolved, dataset=experiment.dataset)
        assert same == experiment, "nothing else changes"
        settings = resolved.dataset
        return settings.sample_rate, settings.clip_seconds, settings.shuffle_window

    facts: dict[str, Any] = {"sample_rates": {8000: 3, 44100: 5}, "seconds_p95": 0.6621}
    assert decided() == (44100, 0.663, None)
    assert decided(sample_rate=16000) == (16000, 0.663, None)
    assert decided(clip_seconds=2.5) == (44100, 2.5, None)
    assert decided(shuffle_window=3) == (44100, 0.663, 3)
    # What a feed shuffles together changes the result, and so it is in the resolved experiment.
    assert decided(feed="streamed") == (44100, 0.663, 4)
    assert decided(resident_budget="1KB") == (44100, 0.663, 4)
    assert decided(feed="streamed", shuffle_window=3) == (44100, 0.663, 3)
    facts["seconds_p95"] = 31.4
    assert decided() == (44100, 10.0, None)


# --- with Ray Data -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray
    ray.shutdown()


def streamed(dataset: Manifest, split: str = "train", **settings: Any) -> StreamedFeed:
    common: dict[str, Any] = {"encode": encode, "sample_rate": RATE, "frames": FRAMES, "seed": 1}
    return StreamedFeed(dataset, split, **{**common, "window": 2, **settings})


def executions() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("StreamingExecutor")]


def becomes(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.ray
def test_materialised_clips_are_the_decoded_ones(
    ray: Any, dataset: Manifest, capfd: pytest.CaptureFixture[str]
) -> None:
    refs = materialise(dataset, sample_rate=RATE, precision="int16")
    assert {split: len(blocks) for split, blocks in refs.items()} == {"train": 5, "valid": 2}
    for split in refs:
        clips = resident_clips(refs[split])
        plain = load_clips(dataset, split, sample_rate=RATE, precision="int16")
        assert clips.ids == plain.ids
        assert clips.rows == plain.rows
        assert clips.shard_sizes == plain.shard_sizes
        assert all(np.array_equal(clips.wave(i), plain.wave(i)) for i in range(len(plain)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.ray
def test_the_decoded_data_is_in_memory_once(ray: Any, tmp_path: Path) -> None:
    # Ray keeps small objects outside the shared memory: these are larger.
    shards = [
        [row(f"{shard}-{clip}", "train", np.arange(50_000) % 1000, clip) for clip in range(3)]
        for shard in range(2)
    ]
    large = write_dataset(tmp_path, {"train": shards})
    refs = materialise(large, ["train"], sample_rate=RATE, precision="int16")["train"]

    def addresses(clips: Clips) -> list[int]:
        return [clips.wave(i).__array_interface__["data"][0] for i in range(len(clips))]

    first, second = resident_clips(refs), resident_clips(refs)
    assert addresses(first) == addresses(second)
    assert not first.wave(0).flags.writeable

    def shared(clips: Clips) -> bool:
        """Whether the samples lie in the object store's mapping."""
        regions = []
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "plasma" in line:
                low, _, high = line.split()[0].partition("-")
                regions.append(range(int(low, 16), int(high, 16)))
        return all(any(a in region for region in regions) for a in addresses(clips))

    assert shared(first)

    @ray.remote
    def trial(blocks: list[Any]) -> bool:
        return shared(resident_clips(blocks))

    assert all(ray.get([trial.remote(refs) for _ in range(2)]))


@pytest.mark.ray
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_both_feeds_give_the_same_batches(
    ray: Any,
    dataset: Manifest,
    train: Clips,
    window: int,
    world: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = []
    original = feeds_module.Stream
    monkeypatch.setattr(
        feeds_module, "Stream", lambda *args, **kw: opened.append(1) or original(*args, **kw)
    )
    for rank in range(world):
        opened.clear()
        place = {"rank": rank, "world": world}
        one = resident(train, window=window, **place)
        other = streamed(dataset, window=window, epochs=3, cpus=1 / world, **place)
        for epoch in range(3):
            assert all_same(list(one.epoch(epoch, 7)), list(other.epoch(epoch, 7)))
        assert len(opened) == 1, "three epochs are one execution"
        assert not executions(), "which ends with the last batch"
        assert all_same(list(one.windows(4)), list(other.windows(4)))
        assert torch.equal(one.targets(), other.targets())


@pytest.mark.ray
def test_a_stream_starts_and_goes_on_anywhere(ray: Any, dataset: Manifest, train: Clips) -> None:
    one, other = resident(train, window=2), streamed(dataset, epochs=3)
    assert all_same(list(other.epoch(1, 7, 2)), list(one.epoch(1, 7, 2)))
    batches = other.epoch(2, 7)
    half = [next(batches), next(batches)]
    stream = other._stream
    half += other.epoch(2, 7, 2)  # goes on where the other iterator stopped
    assert stream is not None
    assert all_same(half, list(one.epoch(2, 7)))
    # Beyond what was planned, or back again: a new execution, the same batches.
    assert all_same(list(other.epoch(5, 7)), list(one.epoch(5, 7)))
    assert all_same(list(other.epoch(0, 4)), list(one.epoch(0, 4)))
    other.close()


@pytest.mark.ray
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stream_decodes_a_ranks_own_clips_alone(ray: Any, dataset: Manifest, rank: int) -> None:
    share = Share(SIZES["train"], rank, 2, seed=1, window=2, batch_size=7)
    stream = Stream(
        dataset,
        "train",
        share,
        sample_rate=RATE,
        precision="int16",
        epochs=range(1, 3),
        start=2,
    )
    decoded = [position for _, positions in stream for position in positions.tolist()]
    first = epoch_share(share.order(1), 7, rank, 2, start=2)
    second = epoch_share(share.order(2), 7, rank, 2)
    assert sorted(decoded) == sorted([*first, *second])
    assert set(decoded[: len(first)]) == set(first)
    stream.close()


@pytest.mark.ray
def test_closing_early_ends_the_execution(ray: Any, dataset: Manifest, train: Clips) -> None:
    feed = streamed(dataset, epochs=100)
    next(feed.epoch(0, 7))
    stream = feed._stream  # held here, so that it is close() and not its deletion that ends it
    assert stream is not None
    assert len(executions()) == 1
    began = time.monotonic()
    feed.close()
    assert time.monotonic() - began < 5
    assert not executions()
    assert becomes(lambda: ray.available_resources().get("CPU") == 2)
    feed.close()
    assert all_same(list(feed.epoch(0, 7)), list(resident(train, window=2).epoch(0, 7)))
    feed.close()
    windows = feed.windows(4)
    next(windows)
    windows.close()
    assert becomes(lambda: not executions())


@pytest.mark.ray
def test_a_trials_feeds(ray: Any, dataset: Manifest, train: Clips) -> None:
    settings = Dataset(sample_rate=RATE, clip_seconds=FRAMES / RATE, shuffle_window=2)
    refs = materialise(dataset, sample_rate=RATE, precision="int16")
    expected = list(resident(train, window=2).epoch(0, 7))
    for given in (refs, None):
        made = make_feeds(dataset, settings, encode=encode, seed=1, refs=given)
        assert all_same(list(made["train"].epoch(0, 7)), expected)
        assert made["valid"].clips == 8
        assert len(list(made["valid"].windows(100))) == 1
        for feed in made.values():
            feed.close()


@pytest.mark.ray
def test_a_bad_clip_is_named(ray: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [row(f"{clip}.wav", "train", np.arange(100), clip) for clip in range(4)]
    rows[2]["audio"] = b"not audio"
    broken = write_dataset(tmp_path, {"train": [rows[:2], rows[2:]]})
    message = r"^shard .*train-00001\.parquet, clip '2\.wav': can't be decoded \(.*\); convert it"
    with pytest.raises(DataError, match=message) as plain:
        load_clips(broken, "train", sample_rate=RATE, precision="int16")
    with pytest.raises(DataError) as caught:
        materialise(broken, ["train"], sample_rate=RATE, precision="int16")
    assert str(caught.value) == str(plain.value)
    feed = streamed(broken, window=1)
    with pytest.raises(DataError) as caught:
        list(feed.epoch(0, 2))
    assert str(caught.value) == str(plain.value)
    feed.close()
    assert becomes(lambda: not executions())
    assert capfd.readouterr() == ("", "")


@pytest.mark.ray
def test_a_shard_that_is_gone_or_changed_is_named(ray: Any, tmp_path: Path) -> None:
    rows = [row(f"{clip}.wav", "train", np.arange(100), clip) for clip in range(4)]
    broken = write_dataset(tmp_path, {"train": [rows[:2], rows[2:]]})
    path = Path(broken.shard_path(broken.shards[1]))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"^shard .*train-00001\.parquet is not the one"):
        materialise(broken, ["train"], sample_rate=RATE, precision="int16")
    path.unlink()
    with pytest.raises(DataError, match=r"^shard .*train-00001\.parquet is missing"):
        materialise(broken, ["train"], sample_rate=RATE, precision="int16")
    with pytest.raises(DataError, match="unknown split 'valid'"):
        materialise(broken, ["valid"], sample_rate=RATE, precision="int16")
