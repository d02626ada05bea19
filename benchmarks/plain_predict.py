"""The peer of `predict.py`: predicting by hand, in batches, with the model already loaded.

What one writes for a folder of recordings: decode, resample, cut into windows, compute 64 at once,
average. It shares no code with raudio; it reads a bundle's weights, so that what it says can be
compared. Run as `python plain_predict.py JOB.json`, with a job as predict.py writes it.

Shapes: B windows of a batch, T samples, F frames, M mel bands, C classes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
import torchaudio
from safetensors.torch import load_file
from torch import Tensor, nn

#: Of a long file, seconds decoded at once.
PIECE = 30


class Spectrogram(nn.Module):
    """Waves (B, T) to normalised log-mel features (B, 1, F, M), by torchaudio."""

    def __init__(self, weights: dict[str, Tensor], rate: int) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            rate, n_fft=512, win_length=round(0.025 * rate), hop_length=round(0.01 * rate),
            f_max=rate / 2, n_mels=len(weights["front_end.mean"]), pad_mode="constant",
        )  # fmt: skip
        self.mean, self.std = weights["front_end.mean"], weights["front_end.std"]

    def forward(self, waves: Tensor) -> Tensor:
        log_mel = (self.mel(waves) + 1e-6).log().transpose(1, 2)
        return ((log_mel - self.mean) / self.std).unsqueeze(1)


def convolution(
    weights: dict[str, Tensor], block: str, number: str, stride: int
) -> list[nn.Module]:
    """3 x 3 convolution, batch normalisation, ReLU, with the weights of a bundle."""
    kernel = weights[f"{block}.conv{number}.weight"]
    layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, stride, padding=1, bias=False)
    layer.load_state_dict({"weight": kernel})
    norm = nn.BatchNorm2d(kernel.shape[0])
    start = f"{block}.norm{number}."
    norm.load_state_dict(
        {name.removeprefix(start): value for name, value in weights.items() if start in name}
    )
    return nn.Sequential(layer, norm, nn.ReLU(inplace=True))


class Network(nn.Module):
    """Features (B, 1, F, M) to scores (B, C): raudio's `cnn`, or PANNs' CNN10."""

    def __init__(self, weights: dict[str, Tensor], architecture: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.cnn10 = architecture == "cnn10"
        for block in (f"model.encoder.blocks.{number}" for number in range(4)):
            if self.cnn10:
                layers += [convolution(weights, block, number, 1) for number in ("1", "2")]
                layers.append(nn.AvgPool2d(2))
            else:
                layers.append(convolution(weights, block, "", 2))
        self.blocks = nn.Sequential(*layers)
        head: list[nn.Module] = []
        for name in ("model.head.1", "model.head.4") if self.cnn10 else ("model.head.1",):
            linear = nn.Linear(*reversed(weights[f"{name}.weight"].shape))
            linear.load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")})
            head += [linear, nn.ReLU()]
        self.head = nn.Sequential(*head[:-1])

    def forward(self, features: Tensor) -> Tensor:
        maps = self.blocks(features)
        frames = maps.mean(3) if self.cnn10 else maps.permute(0, 1, 3, 2).flatten(1, 2)
        scores: Tensor = self.head(frames.mean(2) + frames.amax(2)).softmax(-1)
        return scores


def windows_of(path: str, rate: int, frames: int) -> Iterator[np.ndarray]:
    """The (T,) windows of a file, mono and at `rate` Hz; the last one ends where the file ends."""
    with soundfile.SoundFile(path) as file:
        stream = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
        held = np.empty(0, np.float32)
        before = held
        last = False
        while not last:
            piece = file.read(PIECE * file.samplerate, dtype="float32", always_2d=True).mean(1)
            last = file.tell() >= file.frames
            held = np.concatenate([held, stream.resample_chunk(piece, last=last)])
            whole = len(held) // frames
            yield from held[: whole * frames].reshape(whole, frames)
            before, held = (
                held[(whole - 1) * frames : whole * frames] if whole else before,
                held[whole * frames :],
            )
        if len(held):
            wave = np.concatenate([before, held])[-frames:]
            yield np.pad(wave, (0, frames - len(wave)))


@torch.inference_mode()
def predict(model: nn.Module, files: Sequence[str], job: dict[str, Any]) -> dict[str, list[float]]:
    """The mean scores of each file."""
    frames = round(job["window_seconds"] * job["sample_rate"])
    total = {file: [0.0, 0] for file in files}
    held: list[tuple[str, np.ndarray]] = []

    def compute() -> None:
        scores = model(torch.from_numpy(np.stack([wave for _, wave in held])))
        for (file, _), row in zip(held, scores.numpy().astype(float), strict=True):
            total[file] = [total[file][0] + row, total[file][1] + 1]
        held.clear()

    for file in files:
        for window in windows_of(file, job["sample_rate"], frames):
            held.append((file, window))
            if len(held) == job["batch_size"]:
                compute()
    if held:
        compute()
    return {file: (scores / count).tolist() for file, (scores, count) in total.items()}


def main(args: Sequence[str]) -> None:
    """Loads the model, predicts once for one file and once for all; writes what came of it."""
    job = json.loads(Path(args[0]).read_text())
    torch.set_num_threads(job["threads"])
    weights = load_file(Path(job["bundle"]) / "weights.safetensors")
    network = Network(weights, job["architecture"])
    model = nn.Sequential(Spectrogram(weights, job["sample_rate"]), network).eval()
    predict(model, [job["first"]], job)
    began, before = time.perf_counter(), time.process_time()
    scores = predict(model, job["files"], job)
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - before}
    Path(job["out"]).write_text(json.dumps({**took, "scores": scores}))


if __name__ == "__main__":
    main(sys.argv[1:])
