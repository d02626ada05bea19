"""raudio's part in `predict.py`: a bundle, loaded once, predicts for all files of a job.

Run as `python raudio_predict.py JOB.json`, with a job as predict.py writes it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import raudio


def main(args: Sequence[str]) -> None:
    """Loads the bundle, predicts once for one file and once for all; writes what came of it."""
    job = json.loads(Path(args[0]).read_text())
    torch.set_num_threads(job["threads"])
    predictor = raudio.load(job["bundle"], format=job["format"])
    how = {"batch_size": job["batch_size"]}
    predictor.predict([job["first"]], **how)
    began, before = time.perf_counter(), time.process_time()
    results = predictor.predict(job["files"], **how)
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - before}
    scores = {result["file"]: list(result["scores"].values()) for result in results}
    Path(job["out"]).write_text(json.dumps({**took, "scores": scores}))


if __name__ == "__main__":
    main(sys.argv[1:])
