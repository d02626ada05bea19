"""Whether two systems give the same scores, on random and on real audio.

Shapes: N windows, T samples, C outputs.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raudio.audio import windows
from raudio.config.schema import Experiment
from raudio.core.errors import RunError
from raudio.data.build import window_frames
from raudio.data.synth import SAMPLE_RATE, SOUNDS, draw_clip
from raudio.export.measure import ValidSplit
from raudio.export.systems import WaveSystem
from raudio.system import System

#: By how much a graph's score may differ from the system's, for scores of up to 1; of larger ones,
#: the same share.
TOLERANCE = 1e-4
#: Windows of each kind that are compared.
WINDOWS = 32


class Probe:
    """Windows that systems are compared on.

    Args:
        experiment: what the windows are for.
        split: where real audio comes from; None: it is synthesised.
    """

    def __init__(self, experiment: Experiment, split: ValidSplit | None) -> None:
        self._frames = window_frames(experiment)
        self._pad: Any = experiment.dataset.pad
        self._rate = experiment.dataset.sample_rate
        real = None if split is None else self._of(split)
        self.source = "synthesised sounds" if real is None else "clips of the valid split"
        self._kinds = {"random": self._random(), "real": real or self._synthesised()}

    def compare(self, system: System | WaveSystem, other: System | WaveSystem) -> dict[str, Any]:
        """How far `other` is from `system`: of each kind the largest difference of a score, and the
        share of windows whose highest score is another's.

        In one batch, and the first window alone.

        Raises:
            RunError: scores that are not finite.
        """
        found: dict[str, Any] = {"real_from": self.source}
        for kind, (waves, lengths) in self._kinds.items():
            expected = system.scores(waves, lengths)
            given = other.scores(waves, lengths)
            alone = other.scores(waves[:1], lengths[:1])
            if not (expected.isfinite().all() and given.isfinite().all()):
                raise RunError(f"scores of {kind} audio are not finite: these weights are no good")
            difference = torch.cat([given - expected, alone - expected[:1]]).abs()
            scale = torch.cat([expected, expected[:1]]).abs().clamp(min=1)
            other_label = expected.argmax(1) != given.argmax(1)
            found[kind] = {
                "windows": len(waves),
                "difference": float((difference / scale).max()),
                "other_label": float(other_label.float().mean()),
            }
        return found

    def seconds(self, system: System | WaveSystem) -> float:
        """Seconds that a window takes, in a batch of 16 on this machine's CPU: the median of 5."""
        waves, lengths = (each[:16] for each in self._kinds["random"])
        times = []
        for _ in range(6):
            started = time.perf_counter()
            system.scores(waves, lengths)
            times.append(time.perf_counter() - started)
        return median(times[1:]) / len(waves)

    def _random(self) -> tuple[Tensor, Tensor]:
        """Noise at levels from 1e-4 to 1, of lengths from one sample to all.

        Not digital silence: there normalising a clip's bands, which are constant, magnifies what
        rounding leaves a thousandfold, in whatever computes it.
        """
        draw = torch.Generator().manual_seed(0)
        waves = torch.rand(WINDOWS, self._frames, generator=draw) * 2 - 1
        waves *= torch.logspace(-4, 0, WINDOWS).flip(0)[:, None]
        lengths = torch.randint(1, self._frames + 1, (WINDOWS,), generator=draw)
        lengths[0], lengths[1] = self._frames, 1
        waves *= torch.arange(self._frames) < lengths[:, None]
        return waves, lengths

    def _of(self, split: ValidSplit) -> tuple[Tensor, Tensor] | None:
        """The first windows of its clips that are not silent; None where all are."""
        batch = split.windows(WINDOWS)
        heard = batch.inputs.abs().amax(1) > 0
        return (batch.inputs[heard], batch.lengths[heard]) if heard.any() else None

    def _synthesised(self) -> tuple[Tensor, Tensor]:
        import soxr

        draw = np.random.default_rng(0)
        labels = [label for _ in range(WINDOWS) for label in SOUNDS][:WINDOWS]
        waves, lengths = [], []
        for label in labels:
            wave = soxr.resample(draw_clip(label, draw)[0], SAMPLE_RATE, self._rate)
            wave = wave[: self._frames].astype(np.float32)
            waves.append(windows.fit(wave, self._frames, self._pad))
            lengths.append(self._frames if self._pad == "repeat" else len(wave))
        return torch.from_numpy(np.stack(waves)), torch.tensor(lengths)


def check(name: str, found: dict[str, Any]) -> None:
    """Refuses a graph that is not the system's.

    Args:
        name: of its format.
        found: what `Probe.compare` gave.

    Raises:
        RunError: it differs by more than `TOLERANCE`.
    """
    for kind in ("random", "real"):
        if found[kind]["difference"] > TOLERANCE:
            raise RunError(
                f"--format {name}: on {kind} audio the graph's scores differ from the system's by "
                f"{found[kind]['difference']:.2g}, more than {TOLERANCE:g}; export it as "
                "safetensors"
            )
