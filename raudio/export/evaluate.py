"""How good a bundle is on a split of a dataset, how sure that is, and what breaks it.

Shapes: N clips of the split, C outputs.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from raudio.config.schema import Dataset, Experiment
from raudio.core.errors import ConfigError, DataError, closest, unknown
from raudio.data.clips import Clips, decode_shard, stored_tables
from raudio.data.feeds import ResidentFeed
from raudio.data.folds import on_fold
from raudio.data.locate import SYNTH, locate
from raudio.data.manifest import Manifest, Shard
from raudio.export import measures
from raudio.export.bundle import Bundle, read_bundle
from raudio.export.predictor import device_of
from raudio.export.robustness import Change, ChangedFeed, conditions
from raudio.tasks import bootstrap

#: Instead of a split: every clip of the dataset.
ALL = "all"
_GROUP = "group"
#: Labels that a message names: of those that are wrong, and of those that there are.
_NAMED = 5
_SHOWN = 20


def evaluate(
    bundle: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    split: str = "test",
    *,
    labels: str | None = None,
    by: Sequence[str] = (),
    robustness: bool = False,
    draws: int = bootstrap.DRAWS,
    device: str = "cpu",
    format: str | None = None,
    batch_size: int = 64,
    echo: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Scores every clip of a split with a bundle, and measures them together.

    One shard is in memory at a time, and the scores of one pass over the split. The metrics are
    those that training computes for the same weights and clips.

    Args:
        bundle: its folder.
        dataset: folder or URI of a dataset, a plain folder of audio, or "synth".
        split: `train`, `valid`, `test`, or `all` of them.
        labels: label file of a plain folder of audio.
        by: columns of the dataset whose values are measured one by one, besides `group`.
        robustness: measure the same clips under each of `raudio.export.robustness.conditions` too.
        draws: of the bootstrap that the intervals come from.
        device, format: as for `raudio.load`.
        batch_size: windows computed at once.
        echo: gets what is worth telling on the way, line by line.
        progress: told how many clips of how many are scored, over all conditions.

    Returns:
        `{"bundle", "trial", "dataset", "split", "clips", "seen": "trained" or "chosen" where the
        bundle was so on these clips, "metrics": {"accuracy": ...}, "intervals":
        {"accuracy": [low, high] or None}, "modes", "bootstrap": how the intervals were made,
        "groups": {column: [{"value", "clips", "metrics", "intervals"}]}, "robustness": None or
        {"conditions": [{"condition", "metrics", "differences", "intervals": of the differences}],
        "skipped": {condition: reason}}, "fingerprint", "seconds"}`; of a classification also
        "labels", "confusion" (rows of true classes), "classes", "calibration" and "wrong", the most
        wrong clips with their `clip_id`.

    Raises:
        RunError: no bundle.
        DataError: no dataset, no such split or column, nothing in it, labels that the bundle does
            not know, a clip that can't be decoded, or scores that are not finite.
        ConfigError: there is no such device or format, or fewer than two draws.
    """
    started = time.monotonic()
    if draws < 2:
        raise ConfigError(f"draws={draws}: an interval takes at least 2, and 1000 are usual")
    where = device_of(device)
    opened = read_bundle(bundle)
    manifest = _on_its_fold(opened, _located(opened, os.fspath(dataset), labels, echo), echo)
    shards = _shards(manifest, split)
    count = sum(shard.clips for shard in shards)
    if count < manifest.clips and os.fspath(dataset) not in (manifest.path, SYNTH):
        echo(f"  split {split!r} is {count} of its {manifest.clips} clips; {ALL!r} is every one")
    rows = _rows(manifest, shards, by)
    _check_labels(opened, manifest, split, rows, echo)
    found, skipped = conditions(_rate(opened)) if robustness else ([], {})
    pass_ = _Pass(opened, manifest, shards, where, format, batch_size, progress, 1 + len(found))

    system = pass_.system
    scores, y = pass_.scores()
    if broken := _not_finite(scores):
        raise DataError(
            f"bundle {opened.path!r} gives scores that are not finite for {broken} of {len(y)} "
            f"clips of {manifest.path!r}"
        )
    over = measures.Draws.over(rows[_GROUP], draws)
    drawn = measures.over_draws(system.task, scores, y, over)
    metrics = system.task.metrics(scores, y)
    result: dict[str, Any] = {
        "bundle": os.fspath(bundle),
        "trial": opened.metrics.get("trial"),
        "dataset": os.fspath(dataset),
        "split": split,
        "clips": len(y),
        "seen": _seen(opened, manifest, split),
        "metrics": metrics,
        "intervals": measures.intervals(drawn),
        "modes": dict(system.task.modes),
        "bootstrap": over.about(),
    }
    if hasattr(system.task, "confusion"):
        result |= {
            "labels": list(opened.labels),
            "confusion": system.task.confusion(scores, y).tolist(),
            "classes": measures.of_classes(opened.labels, scores, y, over),
            "calibration": measures.calibration(scores, y),
            "wrong": _wrong(system.task, scores, y, rows),
        }
    columns = [*by, *((_GROUP,) if len(set(rows[_GROUP])) > 1 and _GROUP not in by else ())]
    result["groups"] = {
        column: measures.of_groups(system.task, scores, y, rows[column], over) for column in columns
    }
    result["robustness"] = None
    if robustness:
        tried = []
        for condition in found:
            changed, _ = pass_.scores(condition.change)
            if broken := _not_finite(changed):
                skipped[condition.name] = f"its scores are not finite for {broken} clips"
                continue
            there = system.task.metrics(changed, y)
            others = measures.over_draws(system.task, changed, y, over)
            tried.append(
                {
                    "condition": condition.name,
                    "metrics": there,
                    "differences": {name: there[name] - metrics[name] for name in metrics},
                    # Paired: each draw has the same clips with and without the condition.
                    "intervals": measures.intervals(
                        {name: others[name] - drawn[name] for name in drawn}
                    ),
                }
            )
        result["robustness"] = {"conditions": tried, "skipped": skipped}
    result["fingerprint"] = manifest.fingerprint
    result["seconds"] = round(time.monotonic() - started, 3)
    return result


@dataclass
class _Pass:
    """Goes over a split's clips and scores them; again for each condition."""

    bundle: Bundle
    manifest: Manifest
    shards: Sequence[Shard]
    device: torch.device
    format: str | None
    batch_size: int
    progress: Callable[[int, int], None]
    passes: int

    def __post_init__(self) -> None:
        self.system = self.bundle.system(self.format).to(self.device)
        self._done = 0

    def scores(self, change: Change | None = None) -> tuple[Tensor, Tensor]:
        """(N, C) scores and (N,) targets of the clips, under a condition."""
        scores, targets = [], []
        total = self.passes * sum(shard.clips for shard in self.shards)
        for feed in self._feeds():
            heard: Any = feed if change is None else ChangedFeed(feed, change)
            some, _ = self.system.score(heard, self.batch_size, self.device)
            scores.append(some)
            targets.append(feed.targets().cpu())
            feed.close()
            self._done += len(some)
            self.progress(self._done, total)
        return torch.cat(scores), torch.cat(targets)

    def _feeds(self) -> Iterator[ResidentFeed]:
        data = self.bundle.experiment.dataset
        assert data.clip_seconds is not None  # read_bundle refuses others
        rate = _rate(self.bundle)
        for shard in self.shards:
            table = decode_shard(
                self.manifest.shard_path(shard),
                sample_rate=rate,
                precision=data.precision,  # type: ignore[arg-type]
                sha256=shard.sha256,
            )
            yield ResidentFeed(
                Clips.from_tables([table]),
                encode=self.system.task.encode,
                frames=max(1, round(data.clip_seconds * rate)),
                pad=data.pad,  # type: ignore[arg-type]
            )


def _located(
    bundle: Bundle, dataset: str, labels: str | None, echo: Callable[[str], None]
) -> Manifest:
    """The dataset; what is told of a plain folder is what the bundle hears of it."""
    heard = bundle.experiment.dataset
    settings = Dataset(
        path=dataset,
        labels=labels,
        sample_rate=heard.sample_rate,
        clip_seconds=heard.clip_seconds,
    )
    return locate(settings, echo)


def _on_its_fold(bundle: Bundle, manifest: Manifest, echo: Callable[[str], None]) -> Manifest:
    """The dataset as the bundle's trial saw it, where that was trained on a fold of it."""
    fold = bundle.experiment.dataset.fold
    if fold is None or not any(shard.fold == fold for shard in manifest.shards):
        return manifest
    view = on_fold(manifest, fold)
    if view.fingerprint != bundle.metrics.get("dataset"):
        return manifest
    echo(f"valid is fold {fold}, as it was for the bundle's trial")
    return view


def _seen(bundle: Bundle, manifest: Manifest, split: str) -> str | None:
    """What the clips were to the bundle: trained (on them), chosen (by them), or nothing."""
    if manifest.fingerprint != bundle.metrics.get("dataset"):
        return None
    return {"train": "trained", ALL: "trained", "valid": "chosen"}.get(split)


def _rate(bundle: Bundle) -> int:
    experiment: Experiment = bundle.experiment
    assert experiment.dataset.sample_rate is not None  # read_bundle refuses others
    return experiment.dataset.sample_rate


def _not_finite(scores: Tensor) -> int:
    """Clips that have a score that is NaN or infinite."""
    return int((~scores.isfinite().all(dim=1)).sum())


def _shards(manifest: Manifest, split: str) -> tuple[Shard, ...]:
    """The shards of a split that has clips."""
    if split != ALL and split not in manifest.splits:
        raise DataError(
            f"dataset {manifest.path!r}: {unknown('split', split, [*manifest.splits, ALL])}"
        )
    shards = manifest.shards if split == ALL else manifest.shards_of(split)
    if not any(shard.clips for shard in shards):
        raise DataError(
            f"dataset {manifest.path!r}: split {split!r} has no clips; its splits are "
            + ", ".join(f"{name} ({info.clips} clips)" for name, info in manifest.splits.items())
        )
    return tuple(shard for shard in shards if shard.clips)


def _rows(manifest: Manifest, shards: Sequence[Shard], by: Sequence[str]) -> dict[str, list[Any]]:
    """What is known of the clips, in the order of their shards: column to (N,) values."""
    splits = dict.fromkeys(shard.split for shard in shards)
    table = pa.concat_tables([one for split in splits for one in stored_tables(manifest, split)])
    for column in by:
        if column not in table.column_names:
            raise DataError(
                f"dataset {manifest.path!r}: {unknown('column', column, table.column_names)}"
            )
    wanted = dict.fromkeys(["clip_id", "label", _GROUP, *by])
    lacking: list[Any] = [None] * table.num_rows
    return {
        column: table[column].to_pylist() if column in table.column_names else lacking
        for column in wanted
    }


def _check_labels(
    bundle: Bundle,
    manifest: Manifest,
    split: str,
    rows: dict[str, list[Any]],
    echo: Callable[[str], None],
) -> None:
    """Refuses clips of classes that the bundle doesn't know, and tells which it knows in vain."""
    if not bundle.labels:
        return
    there = Counter(label for label in rows["label"] if label is not None)
    known = set(bundle.labels)
    if foreign := {label: count for label, count in there.items() if label not in known}:
        named = ", ".join(
            f"{label!r} ({count} clip{'' if count == 1 else 's'}){closest(label, known)}"
            for label, count in sorted(foreign.items())[:_NAMED]
        )
        more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
        raise DataError(
            f"dataset {manifest.path!r}, split {split!r}: {sum(foreign.values())} of "
            f"{sum(there.values())} clips have a label that the bundle does not know: {named}"
            f"{more}; it knows {_listed(bundle.labels)}. Rename the labels in the label file, or "
            "leave these clips out, and prepare the dataset again"
        )
    if there and (unseen := [label for label in bundle.labels if label not in there]):
        echo(f"no clip of split {split!r} is of: {_listed(unseen)}")


def _listed(labels: Sequence[str]) -> str:
    """The first of some labels, and how many more there are."""
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(map(repr, labels[:_SHOWN])) + more


def _wrong(
    task: Any, scores: Tensor, y: Tensor, rows: dict[str, list[Any]]
) -> list[dict[str, Any]]:
    """The most wrong clips, with names instead of numbers."""
    return [
        {
            "clip_id": rows["clip_id"][one["clip"]],
            "group": rows[_GROUP][one["clip"]],
            "position": one["clip"],
            "true": task.labels[one["true"]],
            "predicted": task.labels[one["predicted"]],
            "true_score": one["true_score"],
            "score": one["score"],
        }
        for one in task.details(scores, y)["wrong"]
    ]
