"""From shards to batches: decoding, views, both feeds, and what goes wrong on the way.

The clips are ramps of their own: clip i holds the 16-bit values 150 * i, 150 * i + 1, ..., so that
a sample tells which clip it is of and where in it.
"""

from __future__ import annotations

import dataclasses
import io
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from raylets import one_node

from raudio.audio.augment import Examples
from raudio.audio.build import build_augmenter
from raudio.audio.frontends import FrontEnd
from raudio.config import compose
from raudio.config import schema as settings_schema
from raudio.config.schema import Dataset
from raudio.core import storage
from raudio.core.errors import ConfigError, DataError
from raudio.core.seeding import clip_keys, uniforms
from raudio.data import feeds as feeds_module
from raudio.data import kept as kept_module
from raudio.data import raydata
from raudio.data.build import build_epochs, build_feeds
from raudio.data.clips import WAVE, Clips, cut_windows, decode_shard, decode_windows, load_clips
from raudio.data.feeds import Batch, ResidentFeed, StreamedFeed
from raudio.data.folds import blocks_on_fold, on_fold
from raudio.data.index import Index
from raudio.data.kept import kept_shard, room_for_decoded
from raudio.data.manifest import MANIFEST, Manifest, Shard, SplitInfo
from raudio.data.pipeline import Share, Stream, choose_feed, materialise, resident_clips
from raudio.data.resolve import resolve
from raudio.data.rows import schema, shard_file, to_table, write_index, write_shard
from raudio.data.sampling import EpochPlan, Epochs

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
    columns = schema({"site": pa.string()})
    facts: list[Shard] = []
    splits = {}
    for split, parts in shards.items():
        own = [
            write_shard(folder, shard_file(split, number), to_table(rows, columns))
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
        index_sha256=write_index(
            folder,
            to_table(
                [r for parts in shards.values() for part in parts for r in part], columns
            ).drop_columns(["audio"]),
        ),
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


#: What is the feed's; all else is the epochs'.
FEED = ("pad", "rank", "world", "passes", "cpus")


def parts(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a feed and of its epochs: batches of 7 clips unless said otherwise."""
    feed = {"encode": encode, "frames": FRAMES}
    feed |= {name: value for name, value in settings.items() if name in FEED}
    epochs = {"frames": FRAMES, "seed": 1, "batch_size": 7}
    epochs |= {name: value for name, value in settings.items() if name not in FEED}
    return feed, epochs


def resident(dataset: Manifest, clips: Clips, **settings: Any) -> ResidentFeed:
    feed, epochs = parts(settings)
    index = Index.of(clips, dataset, "train", RATE)
    return ResidentFeed(clips, epochs=Epochs(index, **epochs), **feed)


def int16(waves: torch.Tensor) -> np.ndarray:
    return np.rint(waves.numpy() * 32767).astype(int)


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.inputs, other.inputs)
        and torch.equal(one.lengths, other.lengths)
        and torch.equal(one.targets, other.targets)
        and np.array_equal(one.keys, other.keys)
        and np.array_equal(one.clips, other.clips)
        and (one.total, one.stands_in) == (other.total, other.stands_in)
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


def test_windows_of_a_shard(dataset: Manifest) -> None:
    path = dataset.shard_path(dataset.shards_of("train")[1])

    def windows(*rows: tuple[int, int, int]) -> list[list[int]]:
        columns = np.array(rows, np.int64).reshape(-1, 3).T
        table = decode_windows(path, *columns, sample_rate=RATE, precision="int16")
        return table[WAVE].to_pylist()

    assert windows((1, 3, 4), (4, 0, 2)) == [
        list(range(STEP * 8 + 3, STEP * 8 + 7)),
        list(range(STEP * 11, STEP * 11 + 2)),
    ]
    # One that comes several times is decoded once.
    assert windows((1, 0, 2), (1, 0, 2), (1, 7, 3)) == [
        [STEP * 8, STEP * 8 + 1],
        [STEP * 8, STEP * 8 + 1],
        list(range(STEP * 8 + 7, STEP * 8 + 10)),
    ]
    assert windows() == []
    with pytest.raises(DataError, match=r"clip 'train/8\.wav': ends 5 samples before the length"):
        windows((1, 10, length_of(8) - 5))


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


def test_the_index_is_known_before_decoding(dataset: Manifest) -> None:
    for rate in (RATE, 2 * RATE, 11025):
        clips = load_clips(dataset, "train", sample_rate=rate, precision="int16")
        one, other = Index.read(dataset, "train", rate), Index.of(clips, dataset, "train", rate)
        assert one.frames.tolist() == other.frames.tolist() == clips.lengths.tolist()
        assert one.keys.tolist() == other.keys.tolist() == clips.keys.tolist()
        assert one.rows == other.rows == clips.rows
        assert one.shard_sizes == other.shard_sizes == SIZES["train"]
        assert one.datasets == other.datasets == (0,) * 5


# --- batches -----------------------------------------------------------------------------------


def test_a_batch_holds_what_it_says(dataset: Manifest, train: Clips) -> None:
    feed = resident(dataset, train)
    for epoch in (0, 1):
        taken: list[int] = []
        for batch in feed.epoch(epoch):
            assert batch.inputs.shape == (len(batch.clips), FRAMES)
            assert batch.inputs.dtype == torch.float32
            assert batch.lengths.dtype == torch.int64
            values = int16(batch.inputs)
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


def test_a_clip_is_the_same_in_any_batch_and_another_in_each_epoch(
    dataset: Manifest, train: Clips
) -> None:
    def items(epoch: int, batch_size: int, window: int | None = None) -> dict[int, Any]:
        feed = resident(dataset, train, window=window, batch_size=batch_size)
        batches = feed.epoch(epoch)
        return {
            int(clip): wave.tolist()
            for batch in batches
            for clip, wave in zip(batch.clips, batch.inputs, strict=True)
        }

    assert items(0, 5) == items(0, 10) == items(0, 15, window=2)
    changed = [clip for clip, wave in items(1, 5).items() if wave != items(0, 5)[clip]]
    assert {length_of(clip) > FRAMES for clip in changed} == {True}
    assert len(changed) > 5


@pytest.mark.parametrize("pad", ["repeat", "reflect"])
def test_centre_crop_and_padding_with_the_clip(dataset: Manifest, train: Clips, pad: str) -> None:
    for batch in resident(dataset, train, crop="centre", pad=pad).epoch(0):
        for item, clip in enumerate(batch.clips.tolist()):
            ramp = STEP * clip + np.arange(length_of(clip))
            if len(ramp) > FRAMES:
                first = (len(ramp) - FRAMES) // 2
                expected = ramp[first : first + FRAMES]
            elif pad == "repeat":
                expected = ramp[np.arange(FRAMES) % len(ramp)]
            else:
                back_and_forth = np.concatenate([ramp, ramp[-2:0:-1]])
                expected = back_and_forth[np.arange(FRAMES) % len(back_and_forth)]
            assert int16(batch.inputs[item]).tolist() == expected.tolist()
            assert batch.lengths[item] == FRAMES


@pytest.mark.parametrize("world", [1, 2])
def test_batches_by_seconds_are_padded_to_their_longest(
    dataset: Manifest, train: Clips, world: int
) -> None:
    settings = {"batch_frames": 300, "buckets": 3, "frames": 100, "world": world}
    feeds = [resident(dataset, train, rank=rank, **settings) for rank in range(world)]
    seen: list[int] = []
    for parts_of_a_batch in zip(*(feed.epoch(0) for feed in feeds), strict=True):
        clips = [clip for batch in parts_of_a_batch for clip in batch.clips.tolist()]
        longest = max(min(100, length_of(clip)) for clip in clips)
        assert longest * len(clips) <= 300
        assert {batch.inputs.shape[1] for batch in parts_of_a_batch} == {longest}
        seen += clips
    assert len(seen) >= 28
    assert len(set(seen)) == len(seen)


def test_batches_are_copies(dataset: Manifest, train: Clips) -> None:
    before = [train.wave(clip).tolist() for clip in range(30)]
    for batch in resident(dataset, train).epoch(0):
        batch.inputs.fill_(1.0)
    assert [train.wave(clip).tolist() for clip in range(30)] == before


def test_start_leaves_batches_out(dataset: Manifest, train: Clips) -> None:
    feed = resident(dataset, train, batch_size=8)
    whole = list(feed.epoch(3))
    assert len(whole) == feed.steps == 4
    for start in range(5):
        assert all_same(list(feed.epoch(3, start)), whole[start:])


def test_ranks_divide_the_batches(dataset: Manifest, train: Clips) -> None:
    settings = {"batch_size": 7}  # 30 clips: the last batch has two
    whole = list(resident(dataset, train, **settings).epoch(0))
    parts_of = [
        list(resident(dataset, train, rank=rank, world=3, **settings).epoch(0)) for rank in range(3)
    ]
    for step, batch in enumerate(whole):
        for rank in range(3):
            part = parts_of[rank][step]
            own = slice(0, 1) if part.stands_in else slice(rank, None, 3)
            assert part.clips.tolist() == batch.clips[own].tolist()
            assert torch.equal(part.inputs, batch.inputs[own])
            assert part.total == batch.total == len(batch.clips)
            assert part.stands_in == (rank >= part.total)
    assert [part[-1].stands_in for part in parts_of] == [False, False, True]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_windows_cover_every_sample_once_per_clip(train: Clips, world: int) -> None:
    seen: dict[int, set[int]] = {clip: set() for clip in range(30)}
    for rank in range(world):
        feed = ResidentFeed(train, encode=encode, frames=FRAMES, rank=rank, world=world)
        batches = list(feed.windows(7))
        assert [len(batch.clips) for batch in batches[:-1]] == [7] * (len(batches) - 1)
        for batch in batches:
            for wave, length, clip in zip(batch.inputs, batch.lengths, batch.clips, strict=True):
                assert clip % world == rank
                assert length == min(FRAMES, length_of(int(clip)))
                seen[int(clip)] |= set((int16(wave[:length]) - STEP * clip).tolist())
                assert batch.inputs.shape[1] == FRAMES
    assert seen == {clip: set(range(length_of(clip))) for clip in range(30)}


def test_targets_are_in_the_order_of_the_split(train: Clips) -> None:
    feed = ResidentFeed(train, encode=encode, frames=FRAMES)
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


def test_what_memory_cannot_hold_is_never_resident(dataset: Manifest) -> None:
    size = dataset.decoded_bytes(RATE, "int16", ("train", "valid"))
    enough = math.ceil(size / 0.8)
    auto, forced = Dataset(), Dataset(feed="resident")
    assert choose_feed(auto, dataset, RATE, enough)[0] == "resident"
    assert choose_feed(forced, dataset, RATE, enough)[0] == "resident"
    feed, why = choose_feed(auto, dataset, RATE, enough - 2)
    assert feed == "streamed"
    assert "more than memory has room for" in why
    with pytest.raises(ConfigError, match=r"dataset\.feed=resident: .* set dataset\.feed=streamed"):
        choose_feed(forced, dataset, RATE, enough - 2)
    assert choose_feed(Dataset(feed="streamed"), dataset, RATE, 1)[0] == "streamed"


def experiment_on(settings: Dataset, **training: Any) -> settings_schema.Experiment:
    return settings_schema.Experiment(
        dataset=settings,
        features=settings_schema.LogMel(),
        augment=settings_schema.Augment(),
        model=settings_schema.CNN(),
        task=settings_schema.Classification(),
        optimizer=settings_schema.AdamW(),
        schedule=settings_schema.Cosine(),
        training=settings_schema.Training(**training),
        resources=settings_schema.Resources(),
        seed=1,
    )


def test_a_budget_of_seconds_holds_a_batch_of_the_longest_clips(dataset: Manifest) -> None:
    longest = dataset.seconds_max  # 0.016
    resolve(experiment_on(Dataset(clip_seconds=9), batch_seconds=2 * longest), dataset)
    with pytest.raises(ConfigError, match=r"batch_seconds=0\.031 .* give at least 0\.032"):
        resolve(experiment_on(Dataset(clip_seconds=9), batch_seconds=0.031), dataset)
    short = experiment_on(Dataset(clip_seconds=0.01), batch_seconds=0.031)
    brief = settings_schema.LogMel(window=0.005)
    resolve(dataclasses.replace(short, features=brief), dataset)


@pytest.mark.parametrize("training", [{"batch_size": 7}, {"batch_seconds": 9.0}])
def test_the_batches_are_the_same_for_any_number_of_workers(
    dataset: Manifest, training: dict[str, Any]
) -> None:
    experiment = experiment_on(Dataset(epoch_clips=10, clip_seconds=3.0), **training)
    resolved = resolve(experiment, dataset)
    index = Index.read(dataset, "train", RATE)

    def plan(workers: Any) -> EpochPlan:
        resources = dataclasses.replace(resolved.resources, workers=workers)
        return build_epochs(dataclasses.replace(resolved, resources=resources), index).plan(0)

    one = plan(1)
    for workers in ((1, 4), 4):
        other = plan(workers)
        assert other.ends.tolist() == one.ends.tolist()
        assert other.keys.tolist() == one.keys.tolist()
    if "batch_size" in training:  # 10 clips: 7, and 3 of which a fourth worker has none
        assert one.ends.tolist() == [7, 10]


def test_what_the_data_decides_goes_with_what_is_set(dataset: Manifest) -> None:
    """The sample rate and the clip length are checked as if they had been given."""
    facts = dataclasses.replace(dataset, sample_rates={8000: 3}, seconds_p95=0.02)
    wide = dataclasses.replace(
        experiment_on(Dataset()), features=settings_schema.LogMel(f_max=5000, window=0.01)
    )
    with pytest.raises(ConfigError, match=r"f_max=5000 is too high .* at most 4000"):
        resolve(wide, facts)
    long = dataclasses.replace(wide, features=settings_schema.LogMel(window=0.5))
    with pytest.raises(ConfigError, match=r"clip_seconds=0\.02 is shorter than one analysis"):
        resolve(long, facts)


def test_resolve(dataset: Manifest) -> None:
    def decided(**given: Any) -> tuple[int | None, float | None, int | None]:
        experiment = experiment_on(Dataset(**given))
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
    with one_node() as ray:
        yield ray


def streamed(dataset: Manifest, **settings: Any) -> StreamedFeed:
    feed, epochs = parts({"window": 2, **settings})
    index = Index.read(dataset, "train", RATE)
    return StreamedFeed(dataset, "train", index, epochs=Epochs(index, **epochs), **feed)


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


#: What an epoch is made of, besides all clips once in batches of 7.
DRAWN = [
    {"window": 1, "world": 2},
    {"window": 2},
    {"window": 3, "world": 3},
    {"crop": "all", "batch_frames": 300, "buckets": 3, "world": 2},
    {"sampling": "balanced", "epoch_items": 50},
    {"sampling": "inverse_frequency", "crop": "all", "batch_frames": 250, "world": 2},
    {"crop": "centre", "pad": "reflect", "epoch_items": 70, "replacement": True},
]


@pytest.mark.ray
@pytest.mark.parametrize("drawn", DRAWN, ids=lambda drawn: "-".join(map(str, drawn.values())))
def test_both_feeds_give_the_same_batches(
    ray: Any,
    dataset: Manifest,
    train: Clips,
    drawn: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = []
    original = feeds_module.Stream
    monkeypatch.setattr(
        feeds_module, "Stream", lambda *args, **kw: opened.append(1) or original(*args, **kw)
    )
    drawn = {"window": 2, **drawn}
    world = drawn.get("world", 1)
    for rank in range(world):
        opened.clear()
        one = resident(dataset, train, rank=rank, **drawn)
        other = streamed(dataset, passes=3, cpus=1 / world, rank=rank, **drawn)
        for epoch in range(3):
            assert all_same(list(one.epoch(epoch)), list(other.epoch(epoch)))
        assert len(opened) == 1, "three epochs are one execution"
        assert not executions(), "which ends with the last batch"
        assert all_same(list(one.windows(4)), list(other.windows(4)))
        assert torch.equal(one.targets(), other.targets())


@pytest.mark.ray
def test_a_stream_starts_and_goes_on_anywhere(ray: Any, dataset: Manifest, train: Clips) -> None:
    one, other = resident(dataset, train, window=2), streamed(dataset, passes=3)
    assert all_same(list(other.epoch(1, 2)), list(one.epoch(1, 2)))
    batches = other.epoch(2)
    half = [next(batches), next(batches)]
    stream = other._stream
    half += other.epoch(2, 2)  # goes on where the other iterator stopped
    assert stream is not None
    assert all_same(half, list(one.epoch(2)))
    # Beyond what was planned, or back again: a new execution, the same batches.
    assert all_same(list(other.epoch(5)), list(one.epoch(5)))
    assert all_same(list(other.epoch(0)), list(one.epoch(0)))
    other.close()
    drawn = {"sampling": "balanced", "crop": "all", "batch_frames": 300, "epoch_items": 60}
    one, other = resident(dataset, train, window=2, **drawn), streamed(dataset, **drawn)
    assert all_same(list(other.epoch(1, 3)), list(one.epoch(1))[3:])
    other.close()


@pytest.mark.ray
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stream_decodes_a_ranks_own_windows_alone(ray: Any, dataset: Manifest, rank: int) -> None:
    epochs = Epochs(
        Index.read(dataset, "train", RATE), frames=FRAMES, seed=1, window=2, batch_size=7
    )
    stream = Stream(
        dataset,
        "train",
        Share(epochs, SIZES["train"], rank, 2),
        sample_rate=RATE,
        precision="int16",
        epochs=range(1, 3),
        start=2,
    )
    decoded = [pair for shard in stream for pair in zip(*shard, strict=True)]
    first, second = epochs.plan(1).share(rank, 2, start=2), epochs.plan(2).share(rank, 2)
    items = [item for item, _ in decoded]
    assert sorted(items[: len(first)]) == first.tolist()
    assert sorted(items[len(first) :]) == second.tolist()
    lengths = [len(wave) for _, wave in decoded[: len(first)]]
    assert lengths == epochs.plan(1).frames[items[: len(first)]].tolist()
    assert max(lengths) == FRAMES, "of a longer clip no more than the crop"
    stream.close()


@pytest.mark.ray
def test_closing_early_ends_the_execution(ray: Any, dataset: Manifest, train: Clips) -> None:
    feed = streamed(dataset, passes=100)
    next(feed.epoch(0))
    stream = feed._stream  # held here, so that it is close() and not its deletion that ends it
    assert stream is not None
    assert len(executions()) == 1
    began = time.monotonic()
    feed.close()
    assert time.monotonic() - began < 5
    assert not executions()
    assert becomes(lambda: ray.available_resources().get("CPU") == 2)
    feed.close()
    assert all_same(list(feed.epoch(0)), list(resident(dataset, train, window=2).epoch(0)))
    feed.close()
    windows = feed.windows(4)
    next(windows)
    windows.close()
    assert becomes(lambda: not executions())


@pytest.mark.ray
def test_a_trials_feeds(ray: Any, dataset: Manifest, train: Clips) -> None:
    settings = Dataset(sample_rate=RATE, clip_seconds=FRAMES / RATE, shuffle_window=2)
    experiment = experiment_on(settings, batch_size=7)
    refs = materialise(dataset, sample_rate=RATE, precision="int16")
    expected = list(resident(dataset, train, window=2).epoch(0))
    for given in (refs, None):
        made = build_feeds(dataset, experiment, encode=encode, refs=given)
        assert all_same(list(made["train"].epoch(0)), expected)
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
    feed = streamed(broken, window=1, batch_size=2)
    with pytest.raises(DataError) as caught:
        list(feed.epoch(0))
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


@pytest.mark.ray
def test_ray_datas_loop_rests_in_proportion_to_its_work(
    ray: Any, dataset: Manifest, monkeypatch: Any
) -> None:
    slept: list[float] = []
    clock = iter([2.0, 2.5, 3.5, 4.0])
    monkeypatch.setattr(raydata.time, "thread_time", lambda: next(clock))
    monkeypatch.setattr(raydata.time, "sleep", slept.append)
    loop = raydata._Resting()
    loop.on_execution_step(None)  # it worked for 2 s, and 0.5 s pass before the next round
    loop.on_execution_step(None)
    assert slept == [2.0 * raydata._Resting.RESTS, 1.0 * raydata._Resting.RESTS]
    monkeypatch.undo()
    lazy = raydata.dataset([{"job": 0}], decode_shard)
    assert raydata._Resting in lazy.context.execution_callback_classes


# --- what is kept ------------------------------------------------------------------------------


class _Counting(FrontEnd):
    """Squares of the samples, two a frame; counts the clips it has transformed."""

    n_features = 2
    fixed: ClassVar[dict[str, Any]] = {"front end": "squares"}

    def __init__(self) -> None:
        super().__init__()
        self.transformed = 0

    def transform(self, waves: torch.Tensor, lengths: torch.Tensor) -> Any:
        self.transformed += len(waves)
        return waves.square().unflatten(1, (-1, 2)), lengths // 2


def kept_feed(dataset: Manifest, train: Clips, split: str = "train", **settings: Any) -> Any:
    """A feed that may keep features; with "valid", one of the same clips for evaluation."""
    feed, epochs = parts(settings)
    feed["frames"] = epochs["frames"]
    plans = Epochs(Index.of(train, dataset, "train", RATE), **epochs) if split == "train" else None
    return ResidentFeed(train, epochs=plans, content="clips", cache_limit=10**6, **feed)


def drawn(feed: Any, split: str) -> list[Batch]:
    return [*feed.epoch(0), *feed.epoch(1)] if split == "train" else list(feed.windows(7))


@pytest.mark.parametrize("crop", ["centre", "first", "all"])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_kept_features_are_those_of_the_waves(
    dataset: Manifest, train: Clips, split: str, crop: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path))
    plain = kept_feed(dataset, train, split, crop=crop)
    front_end = _Counting()
    for processes in range(2):
        feed = kept_feed(dataset, train, split, crop=crop)
        feed.keep(front_end, torch.device("cpu"))
        batches = drawn(feed, split)
        assert all(batch.transformed for batch in batches)
        for batch, wave in zip(batches, drawn(plain, split), strict=True):
            features, frames = _Counting()(wave.inputs, wave.lengths)
            assert torch.equal(batch.inputs, features)
            assert torch.equal(batch.lengths, frames)
            assert torch.equal(batch.targets, wave.targets)
            assert np.array_equal(batch.keys, wave.keys)
            assert np.array_equal(batch.clips, wave.clips)
        windows = sum(-(-length // FRAMES) for length in train.lengths.tolist())
        once = windows if crop == "all" or split == "valid" else len(train)
        assert front_end.transformed == once, f"process {processes} made them again"


def test_what_decides_features_makes_them_anew(
    dataset: Manifest, train: Clips, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path))
    front_end = _Counting()
    made = []

    def make(content: str = "clips", fixed: int = 1, **settings: Any) -> None:
        feed = kept_feed(dataset, train, crop="centre", **settings)
        feed._content = content
        front_end.fixed = {"version": fixed}  # type: ignore[misc]
        feed.keep(front_end, torch.device("cpu"))
        made.append(front_end.transformed // len(train))

    for change in ({}, {"pad": "repeat"}, {"frames": 62}, {"fixed": 2}, {"content": "others"}, {}):
        make(**change)  # type: ignore[arg-type]
    assert made == [1, 2, 3, 4, 5, 5]


def test_windows_that_change_are_not_kept(
    dataset: Manifest, train: Clips, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path))
    front_end = _Counting()
    for settings in ({"crop": "random"}, {"crop": "first", "batch_frames": 900}):
        feed = kept_feed(dataset, train, **settings)
        feed.keep(front_end, torch.device("cpu"))
        assert not any(batch.transformed for batch in feed.epoch(0))
    longer = kept_feed(dataset, train, crop="random", frames=130)  # no clip is as long
    longer.keep(front_end, torch.device("cpu"))
    assert all(batch.transformed for batch in longer.epoch(0))
    feed = kept_feed(dataset, train, crop="centre")
    feed.keep(torch.nn.Identity(), torch.device("cpu"))  # it doesn't say what decides it
    feed._cache_limit = 100  # no room
    feed.keep(front_end, torch.device("cpu"))
    assert not any(batch.transformed for batch in feed.epoch(0))


def test_a_kept_shard_is_the_decoded_one(
    dataset: Manifest, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path))
    shard = dataset.shards_of("train")[1]
    path = dataset.shard_path(shard)
    wanted = {"sample_rate": RATE, "precision": "int16", "sha256": shard.sha256}
    decoded = decode_shard(path, prefix="a/", **wanted)

    def kept(limit: int = 10**6, **changed: Any) -> Any:
        return kept_shard(path, size=shard.bytes, limit=limit, prefix="a/", **{**wanted, **changed})

    assert kept(limit=0) is None
    assert kept(limit=100) is None
    assert kept().equals(decoded)
    with monkeypatch.context() as patch:
        patch.setattr(kept_module, "decode_shard", None)
        assert kept().equals(decoded), "it was not kept"
    assert kept(sample_rate=2 * RATE).equals(
        decode_shard(path, prefix="a/", **{**wanted, "sample_rate": 2 * RATE})
    )
    assert kept(precision="float32")[WAVE].type.value_type == pa.float32()
    rows, starts, frames = np.array([[1, 3, 4], [4, 0, 2]]).T
    windows = decode_windows(path, rows, starts, frames, **wanted)
    assert cut_windows(kept(), rows, starts, frames).equals(windows)
    none = np.empty(0, np.int64)
    assert cut_windows(kept(), none, none, none).num_rows == 0


def test_a_shard_that_is_gone_is_told_though_it_is_kept(
    dataset: Manifest, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path / "cache"))
    shard = dataset.shards_of("train")[1]
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(Path(dataset.shard_path(shard)).read_bytes())
    wanted = {
        "sample_rate": RATE, "precision": "int16", "sha256": shard.sha256, "size": shard.bytes,
        "limit": 10**6,
    }  # fmt: skip
    assert kept_shard(str(copy), **wanted) is not None
    copy.write_bytes(copy.read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"copy\.parquet has {shard.bytes - 10} bytes, and"):
        kept_shard(str(copy), **wanted)
    copy.unlink()
    with pytest.raises(DataError, match=r"copy\.parquet is missing"):
        kept_shard(str(copy), **wanted)


def test_a_dataset_larger_than_the_cache_is_not_kept(dataset: Manifest) -> None:
    decoded = dataset.decoded_bytes(RATE, "int16")
    settings = Dataset(cache_limit=f"{decoded}B")
    assert room_for_decoded(settings, dataset, RATE) == decoded
    assert room_for_decoded(settings, dataset, 2 * RATE) == 0
    assert room_for_decoded(Dataset(cache_limit="0"), dataset, RATE) == 0


# --- augmented in the stream -------------------------------------------------------------------

CHOICE = (
    "augment.chain={either: {kind: choice, p: 0.9, of: {low: {kind: low_pass, min_cutoff: 500}, "
    "rate: {kind: speed, min_factor: 0.7, max_factor: 1.4}, mask: {kind: time_mask}}}}"
)
AUGMENTED = {
    "flat": ("augment.gain.p=0.7", "augment.noise.p=0.7", "augment.shift.p=0.7"),
    "chain": ("augment.gain.p=0.7", CHOICE),
    "lengths": ("augment.speed.p=0.8", "augment.gain.p=0.7", "augment.gain.max_db=40"),
}


def augmented(overrides: Sequence[str], where: str, **data: Any) -> settings_schema.Experiment:
    settings = Dataset(sample_rate=RATE, clip_seconds=FRAMES / RATE, shuffle_window=2, **data)
    given = compose.compose([*overrides, f"augment.where={where}"]).experiment.augment
    # Buckets: batches of several lengths.
    experiment = experiment_on(settings, batch_seconds=300 / RATE)
    features = settings_schema.LogMel(window=FRAMES / RATE)
    return dataclasses.replace(experiment, augment=given, features=features)


@pytest.mark.ray
@pytest.mark.parametrize("pad", ["zero", "reflect"])
@pytest.mark.parametrize("overrides", AUGMENTED.values(), ids=AUGMENTED)
def test_a_stream_augments_as_the_training_process_does(
    ray: Any, dataset: Manifest, overrides: Sequence[str], pad: str
) -> None:
    there = augmented(overrides, "stream", pad=pad)
    one = build_feeds(dataset, augmented(overrides, "device", pad=pad), encode=encode)["train"]
    feeds = build_feeds(dataset, there, encode=encode, passes=lambda steps: 2)
    other = feeds["train"]
    augmenter = build_augmenter(there.augment, sample_rate=RATE, seed=there.seed)
    changed, lengths = False, False
    for epoch in range(2):
        for given, got in zip(one.epoch(epoch), other.epoch(epoch), strict=True):
            before = Examples(given.inputs, given.lengths, given.targets)
            expected = augmenter.wave(before, given.keys, epoch)
            torch.testing.assert_close(got.inputs, expected.data, rtol=1e-5, atol=1e-6)
            assert torch.equal(got.lengths, expected.lengths)
            assert torch.equal(got.targets, given.targets)
            assert np.array_equal(got.keys, given.keys)
            assert np.array_equal(got.clips, given.clips)
            assert (given.augmented, got.augmented) == (False, True)
            changed |= not torch.equal(got.inputs, given.inputs)
            lengths |= not torch.equal(got.lengths, given.lengths)
    assert changed
    assert lengths == (overrides != AUGMENTED["flat"])
    # What is measured and what is validated stays as it is.
    assert all_same(list(other.plain(1, 2)), list(one.epoch(1))[:2])
    valid = load_clips(dataset, "valid", sample_rate=RATE, precision="int16")
    (windows,) = feeds["valid"].windows(100)
    assert int16(windows.inputs[0]).tolist()[:FRAMES] == valid.wave(0)[:FRAMES].tolist()
    for feed in (one, *feeds.values()):
        feed.close()


@pytest.mark.ray
def test_both_feeds_of_another_fold_give_its_clips(ray: Any, dataset: Manifest) -> None:
    """The clips were decoded by the splits as prepared, and are valid by the fold."""
    shards = [dataclasses.replace(s, fold=n % 3) for n, s in enumerate(dataset.shards)]
    folded = dataclasses.replace(dataset, shards=tuple(shards))
    refs = materialise(folded, sample_rate=RATE, precision="int16")
    settings = Dataset(sample_rate=RATE, clip_seconds=FRAMES / RATE, shuffle_window=2)
    view = on_fold(folded, 1)
    assert [s.fold for s in view.shards_of("valid")] == [1, 1]
    common: dict[str, Any] = {"experiment": experiment_on(settings), "encode": encode}
    one = build_feeds(view, refs=blocks_on_fold(refs, folded, view), **common)
    other = build_feeds(view, **common)
    valid = load_clips(view, "valid", sample_rate=RATE, precision="int16")
    for feeds in (one, other):
        assert feeds["valid"].clips == len(valid)
        keys = np.concatenate([batch.keys for batch in feeds["valid"].windows(4)])
        assert set(keys) == set(valid.keys)
        trained = {key for batch in feeds["train"].epoch(0) for key in batch.keys}
        assert trained
        assert not trained & set(valid.keys)
    assert all_same(list(one["train"].epoch(0)), list(other["train"].epoch(0)))
    assert all_same(list(one["valid"].windows(4)), list(other["valid"].windows(4)))
    for feed in (*one.values(), *other.values()):
        feed.close()


@pytest.mark.ray
def test_a_stream_without_wave_augmentations_only_decodes(ray: Any, dataset: Manifest) -> None:
    feed = build_feeds(dataset, augmented(["augment.time_mask.p=1"], "stream"), encode=encode)
    assert not next(feed["train"].epoch(0)).augmented
    feed["train"].close()


@pytest.mark.ray
def test_what_tasks_need_to_augment_and_do_not_find_is_named(
    ray: Any, dataset: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "hum.wav", np.sin(np.arange(8000) / 9), RATE)
    source = ("augment.background.p=1", f"augment.background.source={tmp_path / 'noise'}")
    feed = build_feeds(dataset, augmented(source, "stream"), encode=encode)["train"]
    (tmp_path / "noise" / "hum.wav").unlink()
    with pytest.raises(ConfigError, match=r"background: source=.*noise'.* nothing in it"):
        next(feed.epoch(0))
    feed.close()
