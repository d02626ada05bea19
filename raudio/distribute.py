"""Predictions on a Ray cluster: those of `Predictor.results`, by actors with a predictor each.

It stands above export, which runs without Ray, and data, whose Ray Data it uses.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from raudio.config.validate import use_plugins
from raudio.core import storage
from raudio.data import raydata
from raudio.export.predictor import Options, Predictor, Result, device_of
from raudio.export.recordings import Encoded, Recording, StoredClip, name_of

# A job is at most so many recordings, and a call has as many jobs as this if it has recordings for
# them. Neither depends on the cluster, and so the batches, and what they round, do not.
_MOST_RECORDINGS, _JOBS = 64, 256


def results(
    predictor: Predictor,
    recordings: Sequence[Recording],
    options: Options,
    *,
    cpus: float,
    gpus: float = 0,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int = 1,
    plugins: Sequence[str] = (),
) -> Iterator[Result]:
    """The results for recordings, in order, given out as they are there; inside a Ray session.

    The bundle goes to the nodes; the recordings must be where all of them can read.

    Args:
        predictor: what is to be computed.
        recordings: paths and URIs, clips of datasets.
        options: as for `Predictor.results`.
        cpus, gpus: of the cluster. There is an actor a GPU where `device` means them, else a CPU.
        device: where each computes, as for `raudio.load`.
        batch_size, workers: of each, as for `Predictor.results`.
        plugins: Python files of components, which the session has been given too.

    Raises:
        UserError: as `Predictor.results`.
    """
    import ray

    if not recordings:
        return
    size = min(_MOST_RECORDINGS, max(1, len(recordings) // _JOBS))
    parts = [recordings[start : start + size] for start in range(0, len(recordings), size)]
    on_gpu = gpus >= 1 and device.partition(":")[0] in ("auto", "cuda")
    with raydata.surfacing():
        found = raydata.by_actors(
            [{"part": pickle.dumps([_anywhere(each) for each in part])} for part in parts],
            _Actor,
            min(len(parts), max(1, int(gpus if on_gpu else cpus))),
            gpu=on_gpu,
            bundle=ray.put((predictor.bundle, predictor.format)),
            device="cuda" if on_gpu else device,
            options=options,
            batch_size=batch_size,
            workers=workers,
            plugins=[os.path.abspath(plugin) for plugin in plugins],
        )
        before = 0
        for batch in found.iter_batches(batch_size=None, batch_format="pyarrow"):
            for part in batch["results"].to_pylist():
                of_part: list[Result] = pickle.loads(part)
                for result in of_part:
                    yield replace(result, position=before + result.position)
                before += of_part[-1].position + 1


def _anywhere(recording: Recording) -> Recording:
    """The same recording for a process in another folder; results call it as they did."""
    if isinstance(recording, StoredClip):
        return replace(recording, shard=storage.absolute(recording.shard))
    if isinstance(recording, (str, os.PathLike)) and not storage.is_remote(recording):
        path = os.fspath(recording).removeprefix("file://")
        return Encoded(name_of(recording) or "", os.path.abspath(path))
    return recording


class _Actor:
    """A process of the cluster with its predictor; called with a job."""

    def __init__(
        self, bundle: Any, device: str, plugins: Sequence[str], options: Options, **arguments: Any
    ) -> None:
        import ray

        use_plugins(plugins)
        opened, format = ray.get(bundle)
        self._predictor = Predictor(opened, device_of(device), format)
        self._options, self._arguments = options, arguments

    def __call__(self, batch: pa.Table) -> pa.Table:
        with raydata.marking():
            found = [
                list(
                    self._predictor.results(
                        pickle.loads(part), options=self._options, **self._arguments
                    )
                )
                for part in batch["part"].to_pylist()
            ]
        return pa.table({"results": [pickle.dumps(results) for results in found]})
