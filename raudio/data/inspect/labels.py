"""Checks of labels: classes that cannot be learnt or measured, and events that cannot be.

What is counted by class comes from the manifest, so it is right for one label a clip, several, and
events.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raudio.core.units import Seconds
from raudio.data.inspect.problem import ERROR, WARNING, Look, Problem, number, of_names

#: The largest class may have so many times the clips of the smallest before it is worth a word.
IMBALANCE = 10.0
#: Clips of a class in train below which little can be learnt of it.
FEW_CLIPS = 5
#: What an event may be beyond its clip's end: tables are rounded.
_ROUNDING: Seconds = 0.01


@dataclass(frozen=True)
class ClassCount:
    """A class in all splits: clips that have it, their seconds, and its events where there are."""

    clips: int
    seconds: Seconds
    events: int


def imbalance(look: Look) -> float:
    """Clips of train's largest class by those of its smallest; 0 without train."""
    counts = _counts(look, "train").values()
    return round(max(counts) / min(counts), 3) if counts else 0.0


def class_counts(look: Look) -> dict[str, ClassCount]:
    """Every class, with the most frequent first. Of event data, the seconds are its events'."""
    events = _events(look)
    clip, code, names = _classes(look)
    clips = np.bincount(code, minlength=len(names))
    seconds = np.bincount(code, weights=look.seconds[clip], minlength=len(names))
    position = {name: number for number, name in enumerate(names)}
    of_event = np.array([position.get(label, -1) for label in events.label], np.int64)
    counted = of_event >= 0
    occurred = np.bincount(of_event[counted], minlength=len(names))
    if look.table.num_rows and look.table["label"].null_count == look.table.num_rows:
        length = (events.offset - events.onset)[counted]
        lasted = np.bincount(of_event[counted], weights=length, minlength=len(names))
        seconds = np.where(occurred > 0, lasted, seconds)
    found = {
        name: ClassCount(int(clips[i]), round(float(seconds[i]), 3), int(occurred[i]))
        for i, name in enumerate(names)
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1].clips, item[0])))


def unlabelled(look: Look) -> Iterator[Problem | None]:
    """Labels of no letters; None is a clip of another kind of labels."""
    blank = np.array([label is not None and not label.strip() for label in look.values("label")])
    yield look.problem(
        "empty-label",
        "an empty label",
        blank.astype(bool),
        "clips of no known class are learnt as a class of their own",
        "label them, or leave them out, and prepare it again",
    )


def untrained_classes(look: Look) -> Iterator[Problem]:
    """Classes without a clip in train."""
    if "train" not in look.manifest.splits:
        return
    lacking = sorted(set(look.manifest.labels) - set(_counts(look, "train")))
    if lacking:
        yield of_names(
            ERROR,
            "untrained-class",
            f"no clip of {number(len(lacking), 'class')} is in train",
            lacking,
            "it can't be learnt, and every clip of it counts as wrong",
            "move clips of it into train, or leave the class out",
            count=sum(_total(look, name) for name in lacking),
        )


def unmeasured_classes(look: Look) -> Iterator[Problem]:
    """Classes without a clip in valid or test."""
    for split in look.manifest.splits:
        lacking = sorted(set(look.manifest.labels) - set(_counts(look, split)))
        if split != "train" and lacking:
            yield of_names(
                WARNING,
                "unseen-class",
                f"{split} has no clip of {number(len(lacking), 'class')}",
                lacking,
                f"what {split} measures says nothing of it",
                "prepare it again with larger shares, or with more clips of it",
                count=sum(_total(look, name) for name in lacking),
            )


def unbalanced_classes(look: Look) -> Iterator[Problem]:
    """A class many times another, and classes of very few clips."""
    counts = _counts(look, "train")
    if imbalance(look) > IMBALANCE:
        rarest = sorted(counts, key=lambda name: (counts[name], name))
        yield of_names(
            WARNING,
            "imbalance",
            f"train's largest class has {imbalance(look):.0f} times the clips of its smallest",
            [f"{name} ({number(counts[name], 'clip')})" for name in rarest],
            "accuracy can be high with the rare classes never found",
            "task.class_weights=balanced weighs them equally; choose by a metric that averages "
            "over classes",
            count=counts[rarest[0]],
        )
    few = sorted((count, name) for name, count in counts.items() if count < FEW_CLIPS)
    if few:
        yield of_names(
            WARNING,
            "rare-class",
            f"{number(len(few), 'class')} with fewer than {FEW_CLIPS} clips in train",
            [f"{name} ({number(count, 'clip')})" for count, name in few],
            "too little to learn from, and what is measured of it is chance",
            "collect more clips of it, merge it with another class, or leave it out",
            count=sum(count for count, _ in few),
        )


def similar_names(look: Look) -> Iterator[Problem]:
    """Classes whose names differ by case, blanks, hyphens or the way that accents are written."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in look.manifest.labels:
        alike[_plain(name)].append(name)
    pairs = [names for names in alike.values() if len(names) > 1]
    if pairs:
        yield of_names(
            WARNING,
            "similar-labels",
            f"{number(len(pairs), 'group')} of classes with nearly the same name",
            [" and ".join(repr(name) for name in names) for names in pairs],
            "one class is learnt as several, each taken for a mistake of the other",
            "write them alike in the label file and prepare it again",
            count=sum(_total(look, name) for names in pairs for name in names),
        )


def odd_events(look: Look) -> Iterator[Problem | None]:
    """Events outside of their clip, of no length, or over another of their class."""
    events = _events(look)
    clips = len(look.ids)
    length = look.seconds[events.clip]
    outside = (events.onset < 0) | (events.offset > length + _ROUNDING)
    yield look.problem(
        "event-outside",
        "an event that begins before or ends after the clip",
        _any(events.clip[outside], clips),
        "the part outside is never heard; the table may belong to other files",
        "correct the event table and prepare it again",
    )
    yield look.problem(
        "event-empty",
        "an event that ends before it has begun",
        _any(events.clip[events.offset <= events.onset], clips),
        "it is never learnt",
        "correct the event table and prepare it again",
    )
    code = np.unique(np.array(events.label, object).astype(str), return_inverse=True)[1]
    order = np.lexsort((events.onset, code, events.clip))
    one, next_ = order[:-1], order[1:]
    same = (events.clip[one] == events.clip[next_]) & (code[one] == code[next_])
    over = same & (events.onset[next_] < events.offset[one])
    yield look.problem(
        "event-overlap",
        "events of one class that overlap",
        _any(events.clip[one[over]], clips),
        "they are told from one long event in the counts only: event-based scores are wrong",
        "merge them in the event table and prepare it again",
    )


@dataclass(frozen=True)
class _Events:
    """E events: row of the clip, class, onset and offset in seconds."""

    clip: NDArray[np.int64]
    label: list[str]
    onset: NDArray[np.float64]
    offset: NDArray[np.float64]


def _events(look: Look) -> _Events:
    column = look.table["events"].combine_chunks()
    inner = pc.list_flatten(column)
    return _Events(
        clip=pc.list_parent_indices(column).to_numpy(zero_copy_only=False),
        label=inner.field("label").to_pylist(),
        onset=inner.field("onset").to_numpy(zero_copy_only=False),
        offset=inner.field("offset").to_numpy(zero_copy_only=False),
    )


def _classes(look: Look) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Pairs of a clip (its row) and a class that it has (its position in the third), each once:
    its label, or its labels, or those of its events."""
    one = look.table["label"].combine_chunks()
    several = look.table["labels"].combine_chunks()
    events = look.table["events"].combine_chunks()
    clip = np.concatenate(
        [
            np.flatnonzero(one.is_valid()),
            pc.list_parent_indices(several).to_numpy(zero_copy_only=False),
            pc.list_parent_indices(events).to_numpy(zero_copy_only=False),
        ]
    ).astype(np.int64)
    labels = [one.drop_null(), pc.list_flatten(several), pc.list_flatten(events).field("label")]
    known = pa.array(look.manifest.labels, pa.string())
    encoded = pa.concat_arrays([known, *labels]).dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    code = encoded.indices.to_numpy(zero_copy_only=False)[len(known) :].astype(np.int64)
    single = one.is_valid().to_numpy(zero_copy_only=False)
    first = np.arange(len(clip)) < int(single.sum())
    kept = first | ~single[clip]
    pairs = np.unique(clip[kept] * len(names) + code[kept])
    return pairs // max(1, len(names)), pairs % max(1, len(names)), names


def _any(clips: NDArray[np.int64], total: int) -> NDArray[np.bool_]:
    chosen = np.zeros(total, bool)
    chosen[clips] = True
    return chosen


def _counts(look: Look, split: str) -> dict[str, int]:
    splits = look.manifest.splits
    return splits[split].class_counts if split in splits else {}


def _total(look: Look, name: str) -> int:
    return sum(info.class_counts.get(name, 0) for info in look.manifest.splits.values())


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_\-]+", " ", letters).strip()
