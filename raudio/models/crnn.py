"""Convolutional recurrent network: convolutions along frequency, a recurrent network along time.

B clips, F frames, N features a frame, D features that the encoder gives.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from raudio.models.cnn import ConvBlock, as_frames, as_map, bands_after, channels_of, mask_map
from raudio.models.compose import Composed, linear_head
from raudio.models.pooling import make_pooling

# Blocks that halve time too, as in the CRNN baselines of the DCASE challenges: the recurrent
# network steps every 4 frames, and takes a quarter of the time.
_TIME_HALVINGS = 2


class PackedGRU(nn.GRU):
    """A bidirectional GRU whose backward direction starts at each clip's own last frame."""

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """(B, F, D) frames of (B,) lengths to (B, F, 2 * units), 0 beyond each clip's length."""
        packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output: Any = nn.GRU.forward(self, packed)[0]
        encoded: Tensor
        encoded, _ = pad_packed_sequence(output, batch_first=True, total_length=frames.shape[1])
        return encoded


class CRNNEncoder(nn.Module):
    """Blocks that halve frequency, the first two also time, then a bidirectional GRU."""

    def __init__(
        self,
        *,
        n_features: int,
        width: int,
        depth: int,
        rnn_units: int,
        rnn_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels = channels_of(width, depth)
        self.n_outputs = 2 * rnn_units
        self.blocks = nn.ModuleList(
            ConvBlock(n_inputs, n_outputs, halve_time=block < _TIME_HALVINGS)
            for block, (n_inputs, n_outputs) in enumerate(
                zip([1, *channels], channels, strict=False)
            )
        )
        self.rnn = PackedGRU(
            channels[-1] * bands_after(n_features, depth),
            rnn_units,
            rnn_layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if rnn_layers > 1 else 0.0,  # between its layers
        )

    def forward(self, features: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, N) features to (B, ceil(F / 4), D) frames (depth 1: F / 2), and their lengths."""
        maps, lengths = mask_map(as_map(features), frame_lengths), frame_lengths
        for block in self.blocks:
            maps, lengths = block(maps, lengths)
        frames = as_frames(maps)
        return self.rnn(frames, lengths), lengths


class CRNN(Composed):
    """Convolutions along frequency, then a bidirectional GRU along time.

    Args:
        n_features: features a frame.
        n_outputs: logits a clip.
        width: channels of the first block, doubled by each up to 4 times.
        depth: blocks, each halving frequency, the first two also time.
        rnn_units: units of the GRU, in each direction.
        rnn_layers: layers of the GRU.
        dropout: share of values dropped between the GRU's layers and before the head.
        pooling: "mean", "max", "mean_max" or "attention".
    """

    def __init__(
        self,
        *,
        n_features: int,
        n_outputs: int,
        width: int = 16,
        depth: int = 3,
        rnn_units: int = 64,
        rnn_layers: int = 1,
        dropout: float = 0.1,
        pooling: str = "mean",
    ) -> None:
        encoder = CRNNEncoder(
            n_features=n_features,
            width=width,
            depth=depth,
            rnn_units=rnn_units,
            rnn_layers=rnn_layers,
            dropout=dropout,
        )
        size = encoder.n_outputs
        super().__init__(
            encoder, make_pooling(pooling, size), linear_head(size, n_outputs, dropout)
        )
