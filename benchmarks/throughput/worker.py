"""The process of one contender: `python -m throughput.worker JOB.json`."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

from throughput.contenders import CONTENDERS, Contender
from throughput.measure import Consumed, Job, consume


def main(args: Sequence[str]) -> None:
    """Runs the contender of a job; writes what was measured."""
    job = Job.read(args[0])
    contender = CONTENDERS[job.contender]
    ray_alone = 0
    if contender.kind == "raudio":
        from throughput import raudio_feeds

        consumed, ray_alone = raudio_feeds.run(job, contender)
    else:
        consumed = _run(job, contender)
    result = {"consumers": [each.as_data() for each in consumed], "ray_alone": ray_alone}
    Path(job.out).write_text(json.dumps(result))


def _run(job: Job, contender: Contender) -> list[Consumed]:
    """In this process, or in as many forked ones as there are consumers."""
    trial = getattr(import_module(f"throughput.{contender.kind}s"), contender.trial)
    if contender.consumers == 1:
        return [consume(trial, job)]
    with ProcessPoolExecutor(
        contender.consumers, mp_context=multiprocessing.get_context("fork")
    ) as pool:
        running = [pool.submit(consume, trial, job) for _ in range(contender.consumers)]
        return [each.result() for each in running]


if __name__ == "__main__":
    main(sys.argv[1:])
