"""The other peer of `search_overhead.py`: the pattern of Ray's documentation.

A Tune function starts a TorchTrainer of one worker with Ray Data datasets, two trials at once
(docs.ray.io: "Hyperparameter Tuning with Ray Tune" and "Data Loading and Preprocessing" of Ray
Train). The training itself is `plain_loop.py`'s. Clips are read and decoded once for the whole
search, once a trial (both with `materialize`, a performance tip of the documentation), or once an
epoch (its first examples).

Run as `python ray_pattern.py JOB.json --decode search|trial|epoch`. Shapes as in `plain_loop.py`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plain_loop
import ray.data
import ray.train
import ray.tune
import torch
from plain_loop import Job, Network, Spectrogram
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

#: Two trials with a function and a worker each, and two for Ray Data; of real cores there are two.
LOGICAL_CPUS = 6
#: Clips that each epoch shuffles among (the whole is shuffled once, when it is read).
SHUFFLED = 256


def decoded(batch: dict[str, np.ndarray], job: Job) -> dict[str, np.ndarray]:
    """The waves (B, T) and classes (B,) of encoded rows."""
    return {
        "wave": np.stack([plain_loop.decode(audio, job) for audio in batch["audio"]]),
        "class": np.array([job.labels.index(label) for label in batch["label"]]),
    }


def datasets_of(job: Job, *, lazy: bool) -> dict[str, ray.data.Dataset]:
    """Both splits as Ray Data datasets, decoded now or, if lazy, whenever they are iterated."""
    datasets = {}
    for split, shards in job.shards.items():
        data = ray.data.read_parquet(shards, columns=["audio", "label"])
        data = data.map_batches(partial(decoded, job=job), batch_size=256)
        if not lazy:
            if split == "train":
                data = data.random_shuffle(seed=0)
            data = data.materialize()
        datasets[split] = data
    return datasets


def train_worker(config: Mapping[str, Any]) -> None:
    """Runs in Ray Train's worker: one configuration from first epoch to last."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    job = Job(**config["job"])
    spectrogram = Spectrogram(job)
    spectrogram.load_state_dict(config["spectrogram"])
    model = ray.train.torch.prepare_model(Network(job, int(config["width"])))
    train_data, valid_data = (ray.train.get_dataset_shard(name) for name in ("train", "valid"))
    steps = job.epochs * -(-config["clips"] // job.batch_size)
    optimizer, schedule = plain_loop.optimizer_of(model, job, config["lr"], steps)
    best, first_step = 0.0, 0.0
    for epoch in range(job.epochs):
        model.train()
        shuffled = train_data.iter_torch_batches(
            batch_size=job.batch_size, local_shuffle_buffer_size=SHUFFLED
        )
        for batch in shuffled:
            first_step = first_step or time.time()
            plain_loop.train_step(
                spectrogram, model, optimizer, schedule, job, batch["wave"], batch["class"]
            )
        model.eval()
        right = count = 0
        for batch in valid_data.iter_torch_batches(batch_size=job.batch_size):
            right += plain_loop.hits(spectrogram, model, batch["wave"], batch["class"])
            count += len(batch["class"])
        metrics = {
            "accuracy": right / count,
            "epoch": epoch + 1,
            "first_step": first_step,
            "parameters": plain_loop.parameters_of(model),
        }
        if metrics["accuracy"] <= best:
            ray.train.report(metrics)
            continue
        best = metrics["accuracy"]
        with tempfile.TemporaryDirectory() as folder:
            torch.save(model.state_dict(), Path(folder) / "model.pt")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def train_driver(config: Mapping[str, Any], datasets: Any, common: Any, storage: str) -> None:
    """Tune's function: starts Ray Train for one configuration; no datasets: reads them itself."""
    TorchTrainer(
        train_worker,
        train_loop_config={**common, **config["configuration"]},
        datasets=datasets or datasets_of(Job(**common["job"]), lazy=False),
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=f"train-{ray.tune.get_context().get_trial_id()}",
            storage_path=storage,
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


class Clock(ray.tune.Callback):
    """Notes when each trial ends."""

    def __init__(self) -> None:
        self.ends: dict[str, float] = {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ends[trial.trial_id] = time.time()


def main() -> None:
    """Runs every configuration of the job; writes the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("--decode", choices=("search", "trial", "epoch"), default="search")
    args = parser.parse_args()
    job = Job.read(args.job)
    ray.init(
        address="local",
        num_cpus=LOGICAL_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    datasets = None
    if args.decode != "trial":
        datasets = datasets_of(job, lazy=args.decode == "epoch")
    waves, _ = plain_loop.load(job, "train")
    spectrogram = Spectrogram(job)
    spectrogram.fit(waves[: job.fit_clips])
    common = {
        "job": asdict(job),
        "spectrogram": spectrogram.state_dict(),
        "clips": len(waves),
    }
    clock = Clock()
    with tempfile.TemporaryDirectory() as storage:
        results = ray.tune.Tuner(
            ray.tune.with_parameters(
                train_driver, datasets=datasets, common=common, storage=storage
            ),
            param_space={"configuration": ray.tune.grid_search(job.configurations)},
            tune_config=ray.tune.TuneConfig(max_concurrent_trials=2),
            run_config=ray.tune.RunConfig(storage_path=storage, callbacks=[clock], verbose=0),
        ).fit()
    trials = [
        {
            "configuration": result.config["configuration"],
            "start": result.metrics["first_step"],
            "end": clock.ends[result.metrics["trial_id"]],
            "accuracy": result.metrics_dataframe["accuracy"].max(),
            "parameters": result.metrics["parameters"],
        }
        for result in results
    ]
    Path(job.out).write_text(json.dumps({"trials": trials}))
    ray.shutdown()


if __name__ == "__main__":
    main()
