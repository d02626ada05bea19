"""The peer of `search_overhead.py`: a few configurations trained one after the other, by hand.

What one writes for a first comparison of settings: decode everything into memory, then loop. It
shares no code with raudio; it reads a dataset's Parquet shards (encoded audio and labels) with
PyArrow and soundfile. Run as `python plain_loop.py JOB.json`, with a job as `Job` reads it.

Shapes: N clips, B clips of a batch, T samples, F frames, M mel bands, C classes.
"""

from __future__ import annotations

import io
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
import torchaudio
from torch import Tensor, nn


@dataclass(frozen=True)
class Job:
    """What to train, on what.

    Attributes:
        shards: Parquet files of each split, "train" and "valid".
        labels: class names, in the order of the outputs.
        frames: samples a clip is cut or filled up to.
        sample_rate, n_fft, window, hop, n_mels: of the spectrogram; window and hop in samples.
        depth, dropout: of the network.
        epochs, batch_size, weight_decay, warmup, clip_norm: of the training.
        configurations: {"lr", "width"} of each training.
        fit_clips: training clips that the normalisation is measured on.
        out: the JSON file for the results; checkpoints are written beside it.
    """

    shards: dict[str, list[str]]
    labels: list[str]
    frames: int
    sample_rate: int
    n_fft: int
    window: int
    hop: int
    n_mels: int
    depth: int
    dropout: float
    epochs: int
    batch_size: int
    weight_decay: float
    warmup: float
    clip_norm: float
    configurations: list[dict[str, float]]
    fit_clips: int
    out: str

    @classmethod
    def read(cls, path: str | Path) -> Job:
        """The job of a JSON file."""
        return cls(**json.loads(Path(path).read_text()))


class Spectrogram(nn.Module):
    """Waves (B, T) to normalised log-mel features (B, 1, F, M)."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            job.sample_rate,
            n_fft=job.n_fft,
            win_length=job.window,
            hop_length=job.hop,
            n_mels=job.n_mels,
            pad_mode="constant",
        )
        self.register_buffer("mean", torch.zeros(job.n_mels))
        self.register_buffer("std", torch.ones(job.n_mels))

    @torch.no_grad()
    def fit(self, waves: Tensor) -> None:
        """Measures mean and deviation of each band over (N, T) waves."""
        features = self.log_mel(waves)
        self.mean.copy_(features.mean((0, 1)))
        self.std.copy_(features.std((0, 1)))

    def log_mel(self, waves: Tensor) -> Tensor:
        return (self.mel(waves) + 1e-6).log().transpose(1, 2)  # (B, F, M)

    def forward(self, waves: Tensor) -> Tensor:
        return ((self.log_mel(waves) - self.mean) / self.std).unsqueeze(1)


class Network(nn.Module):
    """Features (B, 1, F, M) to logits (B, C): strided convolutions, mean plus maximum, linear."""

    def __init__(self, job: Job, width: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs, bands = 1, job.n_mels
        for block in range(job.depth):
            outputs = width << min(block, 4)
            blocks += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            inputs, bands = outputs, (bands + 1) // 2
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Dropout(job.dropout), nn.Linear(inputs * bands, len(job.labels))
        )

    def forward(self, features: Tensor) -> Tensor:
        maps = self.blocks(features)
        frames = maps.permute(0, 2, 1, 3).flatten(2)
        logits: Tensor = self.head(frames.mean(1) + frames.amax(1))
        return logits


def parameters_of(model: nn.Module) -> int:
    """How many values training changes."""
    return sum(p.numel() for p in model.parameters())


def decode(audio: bytes, job: Job) -> np.ndarray:
    """(T,) samples of an encoded file, cut or filled up with zeros."""
    wave, rate = soundfile.read(io.BytesIO(audio), dtype="float32", always_2d=True)
    assert rate == job.sample_rate, "resampling is left out: the data have one rate"
    wave = wave.mean(1)[: job.frames]
    return np.pad(wave, (0, job.frames - len(wave)))


def load(job: Job, split: str) -> tuple[Tensor, Tensor]:
    """(N, T) waves and (N,) classes of a split."""
    waves, classes = [], []
    for shard in job.shards[split]:
        table = pq.read_table(shard, columns=["audio", "label"])
        waves += [decode(audio.as_py(), job) for audio in table["audio"]]
        classes += [job.labels.index(label.as_py()) for label in table["label"]]
    return torch.from_numpy(np.stack(waves)), torch.tensor(classes)


def optimizer_of(model: nn.Module, job: Job, lr: float, steps: int) -> tuple[Any, Any]:
    """AdamW with a warm-up and half a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=job.weight_decay)
    rising = max(1, round(job.warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train_step(
    spectrogram: nn.Module,
    model: nn.Module,
    optimizer: Any,
    schedule: Any,
    job: Job,
    waves: Tensor,
    classes: Tensor,
) -> float:
    """One optimizer step on (B, T) waves of (B,) classes; the loss."""
    loss = nn.functional.cross_entropy(model(spectrogram(waves)), classes)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), job.clip_norm)
    optimizer.step()
    schedule.step()
    return loss.item()


@torch.no_grad()
def hits(spectrogram: nn.Module, model: nn.Module, waves: Tensor, classes: Tensor) -> int:
    """How many of the (B, T) waves are told right."""
    return int((model(spectrogram(waves)).argmax(1) == classes).sum())


def train(
    job: Job,
    configuration: dict[str, float],
    spectrogram: nn.Module,
    train_data: tuple[Tensor, Tensor],
    valid_data: tuple[Tensor, Tensor],
    checkpoint: Path,
) -> dict[str, Any]:
    """Trains one configuration; what came of it."""
    start = time.time()
    torch.manual_seed(0)
    model = Network(job, int(configuration["width"]))
    waves, classes = train_data
    batches = -(-len(waves) // job.batch_size)
    optimizer, schedule = optimizer_of(model, job, configuration["lr"], job.epochs * batches)
    best = 0.0
    for _ in range(job.epochs):
        model.train()
        order = torch.randperm(len(waves))
        for chosen in order.split(job.batch_size):
            train_step(spectrogram, model, optimizer, schedule, job, waves[chosen], classes[chosen])
        model.eval()
        right = sum(
            hits(spectrogram, model, *batch)
            for batch in zip(*(data.split(job.batch_size) for data in valid_data), strict=True)
        )
        accuracy = right / len(valid_data[0])
        if accuracy > best:
            best = accuracy
            torch.save(model.state_dict(), checkpoint)
    return {
        "configuration": configuration,
        "start": start,
        "end": time.time(),
        "accuracy": best,
        "parameters": parameters_of(model),
    }


def main(args: Sequence[str]) -> None:
    """Loads the data and trains every configuration of the job; writes the results."""
    torch.set_num_threads(1)
    job = Job.read(args[0])
    train_data, valid_data = load(job, "train"), load(job, "valid")
    spectrogram = Spectrogram(job)
    spectrogram.fit(train_data[0][: job.fit_clips])
    out = Path(job.out)
    trials = [
        train(job, configuration, spectrogram, train_data, valid_data, out.with_suffix(".pt"))
        for configuration in job.configurations
    ]
    out.write_text(json.dumps({"trials": trials}))


if __name__ == "__main__":
    main(sys.argv[1:])
