"""Augmentations of training batches: of waves, of spectrograms, and of clips mixed together.

Each draws its numbers first and applies them second. A draw for a clip depends on (seed, epoch,
clip) alone, one for a batch on (seed, step): the same whatever the batch size, the order, or where
a run was interrupted. Nothing is changed in place.
"""

from raudio.audio.augment.base import Augmentation, Draw, Examples, Mixing

__all__ = ["Augmentation", "Draw", "Examples", "Mixing"]
