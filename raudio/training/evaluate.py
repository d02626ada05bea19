"""Evaluation of a split: every clip once, over all ranks, scored once.

Shapes: N clips of the split, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from raudio.core.errors import NonFiniteError, PreemptedError
from raudio.system import System

if TYPE_CHECKING:
    from raudio.data.feeds import Batch, Feed


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, in the split's clip order, on the CPU.

    Attributes:
        scores: (N, C), the mean over a clip's windows.
        targets: (N,).
        clips: (N,) positions in the split: 0 to N - 1.
        metrics: name to value, over all clips.
    """

    scores: Tensor
    targets: Tensor
    clips: Tensor
    metrics: dict[str, float]

    def details(self, system: System) -> dict[str, Any]:
        """What else the task tells of these scores, as plain values; a task may tell nothing."""
        tell = getattr(system.task, "details", None)
        return {} if tell is None else dict(tell(self.scores, self.targets))


def evaluate(
    system: System,
    feed: Feed,
    *,
    batch_size: int,
    device: torch.device | str,
    world: int = 1,
    leaving: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Scores and metrics of a split; each rank gives its clips and gets the whole.

    Metrics are computed once, from the gathered scores: the mean of the ranks' metrics would not be
    the split's.

    Args:
        system: on `device`.
        feed: of the split, with this rank's clips.
        batch_size: windows computed at once, on each rank.
        device: where to compute.
        world: how many ranks there are; with more than one, the process group is up.
        leaving: asked before each batch: whether this rank is to leave, which ends the evaluation.

    Raises:
        PreemptedError: a rank is to leave; raised on all of them.
        NonFiniteError: a score is NaN or infinite.
    """
    heard: Any = _UntilLeaving(feed, leaving)
    own = system.score(heard, batch_size, device)
    parts: list[tuple[Tensor, Tensor] | None] = [None if heard.left else own]
    if world > 1:
        parts *= world
        distributed.all_gather_object(parts, parts[0])
    whole = [part for part in parts if part is not None]
    if len(whole) < world:
        raise PreemptedError("the machine of a rank is being taken away")
    scores = torch.cat([part for part, _ in whole])
    clips, order = torch.cat([part for _, part in whole]).sort()
    scores = scores[order]
    targets = feed.targets().cpu()
    assert torch.equal(clips, torch.arange(len(targets))), "not every clip was scored once"
    if broken := int((~scores.isfinite().all(dim=1)).sum()):
        raise NonFiniteError(f"the scores of {broken} of {len(targets)} clips are not finite")
    return Evaluation(scores, targets, clips, system.task.metrics(scores, targets))


class _UntilLeaving:
    """The windows of a feed, until this rank is to leave; `left` says whether there were more."""

    def __init__(self, feed: Feed, leaving: Callable[[], bool]) -> None:
        self._feed, self._leaving = feed, leaving
        self.left = False

    def windows(self, batch_size: int) -> Iterator[Batch]:
        try:
            for batch in self._feed.windows(batch_size):
                self.left = self._leaving()
                if self.left:
                    return
                yield batch
        except PreemptedError:  # while it waited for them
            self.left = True
