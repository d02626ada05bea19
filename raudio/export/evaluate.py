"""How good a bundle is on a split of a dataset."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from raudio.config.schema import Dataset
from raudio.core.errors import DataError
from raudio.data.clips import Clips, decode_shard
from raudio.data.feeds import ResidentFeed
from raudio.data.locate import locate
from raudio.export.bundle import read_bundle
from raudio.export.predictor import device_of


def evaluate(
    bundle: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    split: str = "test",
    *,
    labels: str | None = None,
    device: str = "cpu",
    batch_size: int = 64,
    echo: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Scores every clip of a split with a bundle, and measures them together.

    One shard is in memory at a time. The numbers are those that training computes for the same
    weights and clips.

    Args:
        bundle: its folder.
        dataset: folder or URI of a dataset, a plain folder of audio, or "synth".
        split: `train`, `valid` or `test`.
        labels: label file of a plain folder of audio.
        device: as for `raudio.load`.
        batch_size: windows computed at once.
        echo: gets what is worth telling on the way, line by line.

    Returns:
        `{"bundle", "dataset", "split", "clips", "metrics": {"accuracy": ...}, "labels",
        "confusion": rows of true classes, "fingerprint", "seconds"}`.

    Raises:
        RunError: no bundle.
        DataError: no dataset, no such split, nothing in it, or labels that the bundle doesn't know.
        ConfigError: there is no such device.
    """
    started = time.monotonic()
    where = device_of(device)
    opened = read_bundle(bundle)
    system = opened.system().to(where)
    settings = opened.experiment.dataset
    manifest = locate(Dataset(path=os.fspath(dataset), labels=labels), echo)
    shards = manifest.shards_of(split)
    if not any(shard.clips for shard in shards):
        raise DataError(f"dataset {manifest.path!r}: split {split!r} has no clips")
    assert settings.sample_rate is not None  # read_bundle refuses others
    assert settings.clip_seconds is not None
    scores, targets = [], []
    for shard in shards:
        table = decode_shard(
            manifest.shard_path(shard),
            sample_rate=settings.sample_rate,
            precision=settings.precision,  # type: ignore[arg-type]
            sha256=shard.sha256,
        )
        feed = ResidentFeed(
            Clips.from_tables([table]),
            encode=system.task.encode,
            frames=max(1, round(settings.clip_seconds * settings.sample_rate)),
            pad=settings.pad,  # type: ignore[arg-type]
        )
        some, _ = system.score(feed, batch_size, where)
        scores.append(some)
        targets.append(feed.targets().cpu())
        feed.close()
    all_scores, all_targets = torch.cat(scores), torch.cat(targets)
    if broken := int((~all_scores.isfinite().all(dim=1)).sum()):
        raise DataError(
            f"bundle {opened.path!r} gives scores that are not finite for {broken} of "
            f"{len(all_targets)} clips of {manifest.path!r}"
        )
    return {
        "bundle": os.fspath(bundle),
        "dataset": os.fspath(dataset),
        "split": split,
        "clips": len(all_targets),
        "metrics": system.task.metrics(all_scores, all_targets),
        "labels": list(opened.labels),
        "confusion": system.task.confusion(all_scores, all_targets).tolist(),
        "fingerprint": manifest.fingerprint,
        "seconds": round(time.monotonic() - started, 3),
    }
