"""What every model is made of: an encoder, a pooling and a head.

B clips, F frames, N features a frame, F' frames and D features an encoder gives, C outputs.
"""

from __future__ import annotations

from torch import Tensor, nn


class Composed(nn.Module):
    """A model composed of three parts.

    Args:
        encoder: (features (B, F, N), frame lengths (B,)) to (frames (B, F', D), lengths (B,)); its
            frames do not depend on what is beyond a clip's length.
        pooling: (frames (B, F', D), lengths (B,)) to (B, D).
        head: (B, D) to (B, C).
    """

    def __init__(self, encoder: nn.Module, pooling: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.head = head

    def forward(self, features: Tensor, frame_lengths: Tensor) -> Tensor:
        """(B, F, N) features with (B,) lengths in frames to (B, C) logits."""
        logits: Tensor = self.head(self.embed(features, frame_lengths))
        return logits

    def embed(self, features: Tensor, frame_lengths: Tensor) -> Tensor:
        """(B, F, N) features with (B,) lengths in frames to one vector (B, D) a clip."""
        frames, lengths = self.encoder(features, frame_lengths)
        vectors: Tensor = self.pooling(frames, lengths)
        return vectors


def linear_head(n_inputs: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Dropout, then one linear layer: (B, n_inputs) to (B, n_outputs) logits."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(n_inputs, n_outputs))
