"""What inspect calls a problem: each in a small table made by hand, none in a clean one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raudio.data.inspect.gather import _COLUMNS, CHECKS
from raudio.data.inspect.labels import class_counts
from raudio.data.inspect.problem import Look, Problem, ranked
from raudio.data.inspect.shortcuts import class_areas, shortcuts
from raudio.data.manifest import Manifest, Skipped, SplitInfo

Row = dict[str, Any]


def _rows(count: int = 80) -> list[Row]:
    """Clean clips of two classes: 1 s at 8 kHz, in splits that share nothing."""
    draw = np.random.default_rng(0)
    return [
        {
            "clip_id": f"{number:03d}.wav",
            "sample_rate": 8000,
            "frames": 8000,
            "channels": 1,
            "split": ("train", "train", "train", "train", "train", "train", "valid", "test")[
                number // 2 % 8
            ],
            "group": None,
            "label": ("cat", "dog")[number % 2],
            "peak": 0.5,
            "rms": float(draw.uniform(0.05, 0.2)),
            "clipped": 0,
            "content": f"{number:x}",
            "dc": float(draw.normal(0, 1e-5)),
            "silence": 0.1,
            "snr": 20.0,
            "speech": 0.1,
            "bandwidth": 4000.0,
            "labels": None,
            "events": None,
        }
        for number in range(count)
    ]


def _look(rows: list[Row], clip_seconds: float = 1.0, skipped: tuple[Skipped, ...] = ()) -> Look:
    def classes(row: Row) -> set[str]:
        if row["label"] is not None:
            return {row["label"]}
        return {*(row["labels"] or ()), *(event["label"] for event in row["events"] or ())}

    splits = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        chosen = [row for row in rows if row["split"] == split]
        counts = Counter(name for row in chosen for name in sorted(classes(row)))
        seconds = sum(row["frames"] / row["sample_rate"] for row in chosen)
        splits[split] = SplitInfo(len(chosen), seconds, dict(counts))
    lengths = [row["frames"] / row["sample_rate"] for row in rows]
    manifest = Manifest(
        path="d", labels=tuple(sorted({name for row in rows for name in classes(row)})),
        splits=splits, shards=(), index_sha256="",
        sample_rates=dict(Counter(row["sample_rate"] for row in rows)),
        channels={1: len(rows)}, seconds_min=min(lengths), seconds_median=1.0, seconds_p95=1.0,
        seconds_max=max(lengths), source="s", licence="", made_with={}, skipped=skipped,
    )  # fmt: skip
    return Look(manifest, pa.Table.from_pylist(rows, schema=_COLUMNS), 8000, clip_seconds)


def _found(look: Look) -> list[Problem]:
    return ranked(problem for check in CHECKS for problem in check(look))


def test_a_clean_table_has_no_problem() -> None:
    assert _found(_look(_rows())) == []


def _change(**values: Any) -> Callable[[list[Row]], None]:
    """Changes clip 5, a dog of train."""
    return lambda rows: rows[5].update(values)


def _copy(**values: Any) -> Callable[[list[Row]], None]:
    """Clip 7 is a copy of clip 5, but for `values`."""
    return lambda rows: rows[7].update(content=rows[5]["content"], **values)


def _each(when: Callable[[Row], bool], **values: Any) -> Callable[[list[Row]], None]:
    def apply(rows: list[Row]) -> None:
        for row in rows:
            if when(row):
                row.update(values)

    return apply


def _event(onset: float, offset: float, label: str = "bark") -> Row:
    return {"label": label, "onset": onset, "offset": offset}


@pytest.mark.parametrize(
    ("change", "code", "severity", "count", "example"),
    [
        (_change(peak=1e-4, rms=1e-5, silence=1.0), "silent", "warning", 1, "005.wav"),
        (_change(silence=0.95), "mostly-silent", "warning", 1, "005.wav"),
        (_change(clipped=4), "clipped", "warning", 1, "005.wav"),
        (_change(rms=0.002, peak=0.01), "quiet", "warning", 1, "005.wav"),
        (_change(dc=-0.03, rms=0.1), "dc-offset", "warning", 1, "005.wav"),
        (_change(speech=0.9, snr=2.0), "noisy-speech", "warning", 1, "005.wav"),
        (_change(sample_rate=16000, frames=16000, bandwidth=8000), "sample-rates", "warning", 1,
         "8000 Hz (79 clips)"),
        (_each(lambda r: int(r["clip_id"][:3]) % 8 < 2, bandwidth=2000.0), "narrow-band", "warning",
         20, "000.wav"),
        (_each(lambda r: True, frames=3000), "padding", "warning", 80, "000.wav"),
        (_each(lambda r: True, frames=24000), "cut", "warning", 80, "000.wav"),
        (_copy(), "duplicate-in-split", "warning", 2, "005.wav"),
        (_copy(split="valid"), "duplicate-across-splits", "error", 2, "005.wav"),
        (_copy(label="cat"), "conflicting-labels", "warning", 2, "005.wav (cat and dog)"),
        (_each(lambda r: r["clip_id"][:2] == "01", group="ann"), "group-across-splits", "warning",
         10, "ann"),
        (_each(lambda r: r["split"] == "valid", split="train"), "missing-split", "error", 80, None),
        (_each(lambda r: r["split"] == "test", split="train"), "no-test-split", "warning", 0, None),
        (_each(lambda r: r["split"] == "valid", label="owl"), "untrained-class", "error", 10,
         "owl"),
        (_each(lambda r: r["split"] == "test", label="cat"), "unseen-class", "warning", 35, "dog"),
        (_each(lambda r: r["split"] == "train" and r["clip_id"] > "008", label="cat"), "imbalance",
         "warning", 4, "dog (4 clips)"),
        (_each(lambda r: r["split"] == "train" and r["clip_id"] > "008", label="cat"), "rare-class",
         "warning", 4, "dog (4 clips)"),
        (_each(lambda r: r["label"] == "dog" and r["clip_id"] > "040", label="Cat "),
         "similar-labels", "warning", 60, "'Cat ' and 'cat'"),
        (_change(label=" "), "empty-label", "warning", 1, "005.wav"),
        (_change(events=[_event(0.5, 1.5)]), "event-outside", "warning", 1, "005.wav"),
        (_change(events=[_event(-0.5, 0.5)]), "event-outside", "warning", 1, "005.wav"),
        (_change(events=[_event(0.5, 0.5)]), "event-empty", "warning", 1, "005.wav"),
        (_change(events=[_event(0.4, 0.9), _event(0.1, 0.5)]), "event-overlap", "warning", 1,
         "005.wav"),
        (_each(lambda r: r["label"] == "dog", dc=1e-3), "told-by-offset", "warning", 80, None),
        (_each(lambda r: r["label"] == "dog", frames=6000), "told-by-length", "warning", 80, None),
        (_each(lambda r: r["label"] == "dog", rms=0.3), "told-by-level", "warning", 80, None),
        (_each(lambda r: r["label"] == "dog", bandwidth=3500.0), "told-by-bandwidth", "warning", 80,
         None),
        (_each(lambda r: r["label"] == "dog", sample_rate=16000, frames=16000),
         "told-by-sample-rate", "warning", 80, None),
        (_each(lambda r: True, dc=None, silence=None, snr=None, speech=None, bandwidth=None),
         "not-measured", "warning", 80, None),
    ],
)  # fmt: skip
def test_each_problem(
    change: Callable[[list[Row]], None], code: str, severity: str, count: int, example: str | None
) -> None:
    rows = _rows()
    change(rows)
    found = {problem.code: problem for problem in _found(_look(rows))}
    assert code in found
    problem = found[code]
    assert (problem.severity, problem.count) == (severity, count)
    if example is not None:
        assert problem.examples[0] == example
    assert problem.effect
    assert problem.cure


@pytest.mark.parametrize(
    "change",
    [
        _change(clipped=3),
        _change(silence=0.85),
        _change(dc=0.03, rms=0.4),  # the mean of a short sound is not zero
        _change(snr=-5.0),  # not speech: it need not have pauses
        _change(bandwidth=100.0),  # one clip among many may be a low tone
        _change(events=[_event(0.0, 1.005)]),  # tables are rounded
        _change(events=[_event(0.1, 0.5), _event(0.5, 0.9)]),
        _change(events=[_event(0.1, 0.5), _event(0.4, 0.9, "meow")]),
        _change(snr=None, bandwidth=None),
        _each(lambda r: r["clip_id"] > "078", dc=1e-3),  # too few to be told by anything
    ],
)
def test_what_is_no_problem(change: Callable[[list[Row]], None]) -> None:
    rows = _rows()
    change(rows)
    assert _found(_look(rows)) == []


def test_silent_clips_are_not_copies_of_each_other() -> None:
    rows = _rows()
    for row in rows[5], rows[12]:  # of train and of valid
        row.update(peak=0.0, rms=0.0, content="0", silence=1.0)
    assert [problem.code for problem in _found(_look(rows))] == ["silent"]


@pytest.mark.parametrize(("clips", "told"), [(9, False), (10, True)])
def test_a_class_of_few_clips_is_not_told_by_chance(clips: int, told: bool) -> None:
    rows = _rows(400)
    for row in rows[:clips]:
        row.update(label="owl", dc=1e-3)
    found = [(problem.code, problem.examples) for problem in shortcuts(_look(rows))]
    assert found == ([("told-by-offset", ("owl (1.00 of 1)",))] if told else [])


def test_skipped_files() -> None:
    (problem,) = _found(_look(_rows(), skipped=(Skipped("x.wav", "empty"),)))
    assert (problem.code, problem.examples) == ("skipped", ("x.wav",))


def test_problems_are_ranked_and_their_clips_are_the_worst() -> None:
    rows = _rows()
    for number, dc in ((3, 0.03), (5, -0.5), (7, 0.1)):
        rows[number].update(dc=dc, rms=0.1)
    rows[9]["clipped"] = 50
    rows[10].update(split="valid", content=rows[11]["content"])
    found = _found(_look(rows))
    assert [problem.code for problem in found] == [
        "duplicate-across-splits", "dc-offset", "conflicting-labels", "clipped",
    ]  # fmt: skip
    assert found[1].clips == ("005.wav", "007.wav", "003.wav")


def test_classes_of_several_labels_and_of_events() -> None:
    rows = _rows(8)
    for number, row in enumerate(rows):
        row.update(label=None, labels=["rain", "wind"] if number < 3 else ["wind"])
    counts = class_counts(_look(rows))
    assert {name: (c.clips, c.seconds, c.events) for name, c in counts.items()} == {
        "wind": (8, 8.0, 0), "rain": (3, 3.0, 0),
    }  # fmt: skip
    for row in rows:
        row.update(labels=None, events=[_event(0.1, 0.3), _event(0.5, 0.6)])
    rows[0]["events"] = []
    rows[1]["labels"] = ["bark"]
    counts = class_counts(_look(rows))
    assert {name: (c.clips, c.seconds, c.events) for name, c in counts.items()} == {
        "bark": (7, 2.1, 14),
    }  # fmt: skip
    for row in rows:  # a clip's label comes before what its events are called
        row.update(label="dog")
    counts = class_counts(_look(rows))
    assert {name: (c.clips, c.seconds, c.events) for name, c in counts.items()} == {
        "dog": (8, 8.0, 0), "bark": (0, 0.0, 14),
    }  # fmt: skip


def test_class_areas_are_shares_of_pairs() -> None:
    draw = np.random.default_rng(0)
    classes = draw.integers(0, 4, 200)
    values = np.round(draw.normal(classes == 2, 1.0), 1)  # with ties
    area, error = class_areas(values, classes, 4)
    for number in range(4):
        here, there = values[classes == number, None], values[None, classes != number]
        won = (here > there) + 0.5 * (here == there)
        assert area[number] == pytest.approx(won.mean())
    # By chance alone the areas spread as their standard error says.
    chance = [class_areas(draw.permutation(200), classes, 4)[0] for _ in range(500)]
    np.testing.assert_allclose(np.std(chance, axis=0), error, rtol=0.15)
