"""What is to be computed, in numbers; without torch, which raudio's driver does not import."""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 32
MAX_DB = 6.0
MIN_SNR, MAX_SNR = 10.0, 40.0  # dB
MAX_ROLL = 0.5  # share of the clip, either way


@dataclass(frozen=True)
class Shape:
    """What a clip becomes: its rate in Hz, and the samples of a crop."""

    sample_rate: int
    frames: int
