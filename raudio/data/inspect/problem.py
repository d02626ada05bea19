"""What a problem is, and what a check is given to find one.

Shapes: N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raudio.core.units import Hertz, Seconds
from raudio.data.facts import SILENT_PEAK
from raudio.data.manifest import Manifest

#: An error makes results wrong or the dataset unusable; a warning is what to know before believing
#: a result. In order of rank.
SEVERITIES = ("error", "warning")
ERROR, WARNING = SEVERITIES

_EXAMPLES = 5
_HEARD = 3

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: error or warning.
        code: its name for programs, such as `silent`.
        title: what it is and how much of it, a sentence without an end.
        count: clips that have it; 0 where it is not about clips.
        examples: a few names (clips, classes, groups, files), the worst first.
        clips: a few clips to listen to, the worst first.
        effect: what it does to a result.
        cure: what to do about it.
    """

    severity: str
    code: str
    title: str
    count: int
    examples: tuple[str, ...]
    clips: tuple[str, ...]
    effect: str
    cure: str

    def __str__(self) -> str:
        shown = f", such as {', '.join(self.examples)}" if self.examples else ""
        return f"{self.title}{shown}: {self.effect}; {self.cure}"


@dataclass(frozen=True)
class Look:
    """What the checks are given.

    Attributes:
        manifest: of the dataset.
        table: its rows' small columns, of the shards that could be read; a column that the dataset
            lacks is null.
        sample_rate: that a search resamples to.
        clip_seconds: length that a search pads and cuts clips to.
    """

    manifest: Manifest
    table: pa.Table
    sample_rate: Hertz
    clip_seconds: Seconds

    def values(self, column: str) -> NDArray[Any]:
        """(N,) a column; of numbers null is NaN, of texts None."""
        found: NDArray[Any] = self.table[column].to_numpy(zero_copy_only=False)
        return found

    @cached_property
    def ids(self) -> NDArray[Any]:
        """(N,) every clip's `clip_id`."""
        return self.values("clip_id")

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """(N,) length of every clip."""
        found: NDArray[np.float64] = self.values("frames") / self.values("sample_rate")
        return found

    @cached_property
    def silent(self) -> Mask:
        """(N,) clips without any sound."""
        found: Mask = self.values("peak") < SILENT_PEAK
        return found

    def problem(
        self,
        code: str,
        what: str,
        clips: Mask,
        effect: str,
        cure: str,
        *,
        badness: NDArray[Any] | None = None,
    ) -> Problem | None:
        """The warning that the chosen clips are or have `what`; None when there are none.

        Args:
            code, effect, cure: see `Problem`.
            what: such as "silent" or "an empty label".
            clips: (N,) which.
            badness: (N,) the worst clips, which are shown, have the highest; None is any order.
        """
        chosen = np.flatnonzero(clips)
        if not len(chosen):
            return None
        if badness is not None:
            chosen = chosen[np.argsort(-badness[chosen], kind="stable")]
        names = tuple(self.ids[chosen[:_EXAMPLES]].tolist())
        return Problem(
            severity=WARNING,
            code=code,
            title=f"{number(len(chosen), 'clip')} ({share(len(chosen), len(clips))}): {what}",
            count=len(chosen),
            examples=names,
            clips=names[:_HEARD],
            effect=effect,
            cure=cure,
        )


Check = Callable[[Look], Iterable[Problem | None]]


def ranked(problems: Iterable[Problem | None]) -> list[Problem]:
    """By severity, then by how many clips have it; of equals the first stays first."""
    found = (problem for problem in problems if problem is not None)
    return sorted(found, key=lambda each: (SEVERITIES.index(each.severity), -each.count))


def of_names(
    severity: str,
    code: str,
    title: str,
    names: Sequence[str],
    effect: str,
    cure: str,
    *,
    count: int,
    clips: Sequence[str] = (),
) -> Problem:
    """A problem of classes, groups or files, of which the first are shown."""
    shown = tuple(names[:_EXAMPLES])
    return Problem(severity, code, title, count, shown, tuple(clips[:_HEARD]), effect, cure)


def number(count: int, what: str) -> str:
    """`1 clip`, `2 clips`, `2 classes`."""
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def share(count: float, total: float) -> str:
    """`12.5 %`."""
    return f"{100 * count / total:.1f} %"
