"""Convolutional networks: a small one, and CNN10 of PANNs.

B clips, F frames, N features a frame, W channels, H bands that are left of the N.

Maps are (B, W, F, H). Frames beyond a clip's length are set to 0 wherever a convolution is about to
see them, so that a clip's output is the same in every batch (in evaluation; in training, batch
normalisation ties the clips of a batch together anyway).
"""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn

from raudio.audio.frontends import all_full, frame_mask
from raudio.models.compose import Composed, linear_head
from raudio.models.pooling import make_pooling

_MAX_DOUBLINGS = 4


def as_map(features: Tensor) -> Tensor:
    """(B, F, N) features as (B, 1, F, N) with strides that make convolutions run channels-last
    (measured on one CPU thread: 1.3 times faster), while their weights stay contiguous."""
    return features.unsqueeze(-1).permute(0, 3, 1, 2)


def mask_map(maps: Tensor, lengths: Tensor) -> Tensor:
    """(B, W, F, H) maps with the frames beyond (B,) `lengths` set to 0."""
    frames = maps.shape[2]
    if all_full(lengths, frames):
        return maps
    return maps * frame_mask(lengths, frames)[:, None, :, None]


def halved(size: Tensor) -> Tensor:
    """Frames that are left of (B,) `size` after a stride of 2, the last one rounded up."""
    return (size + 1) // 2


def bands_after(n_features: int, depth: int) -> int:
    """Bands that are left of `n_features` after `depth` strides of 2, each rounded up."""
    return -(-n_features // (1 << depth))


def as_frames(maps: Tensor) -> Tensor:
    """(B, W, F, H) maps as (B, F, W * H) frames."""
    return maps.permute(0, 2, 1, 3).flatten(2)


def channels_of(width: int, depth: int) -> list[int]:
    """Channels of each block: `width`, doubled by each block up to 4 times."""
    return [width << min(block, _MAX_DOUBLINGS) for block in range(depth)]


class ConvBlock(nn.Module):
    """3 x 3 convolution, batch normalisation, ReLU; the stride halves bands and, if asked, frames.

    A stride instead of a pooling: a third of the time for the same width, as no map of full size is
    ever made.
    """

    def __init__(self, n_inputs: int, n_outputs: int, *, halve_time: bool) -> None:
        super().__init__()
        self.halve_time = halve_time
        stride = (2 if halve_time else 1, 2)
        self.conv = nn.Conv2d(n_inputs, n_outputs, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(n_outputs)

    def forward(self, maps: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W, F, H) maps, 0 beyond (B,) lengths, to maps with half the bands, and lengths."""
        maps = functional.relu_(self.norm(self.conv(maps)))
        if self.halve_time:
            lengths = halved(lengths)
        return mask_map(maps, lengths), lengths


class PANNsBlock(nn.Module):
    """Twice: 3 x 3 convolution, batch normalisation, ReLU; then the average over 2 x 2."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, n_outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_outputs)
        self.conv2 = nn.Conv2d(n_outputs, n_outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_outputs)

    def forward(self, maps: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W, F, H) maps, 0 beyond (B,) lengths, to maps half the size, and lengths.

        An odd last frame is dropped, as in PANNs, unless it is the clip's only one.
        """
        maps = mask_map(functional.relu_(self.norm1(self.conv1(maps))), lengths)
        maps = functional.relu_(self.norm2(self.conv2(maps)))
        # With few features, the bands run out before the blocks do.
        maps = functional.avg_pool2d(maps, (2, 2 if maps.shape[3] > 1 else 1))
        lengths = (lengths // 2).clamp(min=1)
        return mask_map(maps, lengths), lengths


class CNNEncoder(nn.Module):
    """Blocks that each halve time and frequency; the bands that are left are features each."""

    def __init__(self, *, n_features: int, width: int, depth: int) -> None:
        super().__init__()
        channels = channels_of(width, depth)
        self.n_outputs = channels[-1] * bands_after(n_features, depth)
        self.blocks = nn.ModuleList(
            ConvBlock(n_inputs, n_outputs, halve_time=True)
            for n_inputs, n_outputs in zip([1, *channels], channels, strict=False)
        )

    def forward(self, features: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, N) features to (B, ceil(F / 2**depth), D) frames, and their lengths."""
        maps, lengths = mask_map(as_map(features), frame_lengths), frame_lengths
        for block in self.blocks:
            maps, lengths = block(maps, lengths)
        return as_frames(maps), lengths


class CNN10Encoder(nn.Module):
    """The four blocks of CNN10, then the mean over what is left of frequency."""

    def __init__(self, *, width: int, dropout: float) -> None:
        super().__init__()
        channels = channels_of(width, 4)
        self.n_outputs = channels[-1]
        self.blocks = nn.ModuleList(
            PANNsBlock(n_inputs, n_outputs)
            for n_inputs, n_outputs in zip([1, *channels], channels, strict=False)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, N) features to (B, max(1, F // 16), D) frames, and their lengths."""
        maps, lengths = mask_map(as_map(features), frame_lengths), frame_lengths
        shortest = 1 << len(self.blocks)  # frames that the blocks average into one
        if maps.shape[2] < shortest:
            maps = functional.pad(maps, (0, 0, 0, shortest - maps.shape[2]))
        for block in self.blocks:
            maps, lengths = block(maps, lengths)
            maps = self.dropout(maps)
        return maps.mean(3).transpose(1, 2), lengths


class CNN(Composed):
    """A small convolutional network: one strided convolution a block.

    Args:
        n_features: features a frame.
        n_outputs: logits a clip.
        width: channels of the first block, doubled by each up to 4 times.
        depth: blocks, each halving time and frequency.
        dropout: share of the pooled vector's values dropped.
        pooling: "mean", "max", "mean_max" or "attention".
    """

    def __init__(
        self,
        *,
        n_features: int,
        n_outputs: int,
        width: int = 16,
        depth: int = 4,
        dropout: float = 0.1,
        pooling: str = "mean_max",
    ) -> None:
        encoder = CNNEncoder(n_features=n_features, width=width, depth=depth)
        size = encoder.n_outputs
        super().__init__(
            encoder, make_pooling(pooling, size), linear_head(size, n_outputs, dropout)
        )


class CNN10(Composed):
    """CNN10 of PANNs (Kong et al. 2020, "PANNs: large-scale pretrained audio neural networks").

    As published at width 64, but for the batch normalisation of the input, which the front end does
    here, and for one share of dropout everywhere (theirs: 0.2 after blocks, 0.5 before layers).

    Args:
        n_features: features a frame.
        n_outputs: logits a clip.
        width: channels of the first block, doubled by each of the other three.
        dropout: share of values dropped after each block and before each linear layer.
        pooling: "mean", "max", "mean_max" (the paper's) or "attention".
    """

    def __init__(
        self,
        *,
        n_features: int,
        n_outputs: int,
        width: int = 64,
        dropout: float = 0.2,
        pooling: str = "mean_max",
    ) -> None:
        encoder = CNN10Encoder(width=width, dropout=dropout)
        size = encoder.n_outputs
        head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(size, size),
            nn.ReLU(),
            *linear_head(size, n_outputs, dropout),
        )
        super().__init__(encoder, make_pooling(pooling, size), head)
