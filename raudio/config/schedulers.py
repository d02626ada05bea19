"""The schedulers that there are, and the settings of each: the groups inside `search`."""

from __future__ import annotations

from dataclasses import dataclass

from raudio.config.meta import setting

#: Name -> one line.
SCHEDULERS = {
    "auto": "asha, or none with several objectives",
    "asha": "asynchronous successive halving: at rungs, only the best of those before go on",
    "hyperband": "ASHA in every bracket there is, from the most impatient to one that stops nobody",
    "median": "stops what is worse than the median of the others' running averages",
    "pbt": "population based training: the worst go on from the best, with settings nearby",
    "none": "every trial trains to its end",
}

#: Setting, or group of settings, in `search` -> the schedulers that read it.
READERS = {
    "grace": ("asha", "hyperband", "median", "pbt", "auto"),
    "reduction_factor": ("asha", "hyperband", "auto"),
    "asha": ("asha", "auto"),
    "median": ("median",),
    "pbt": ("pbt",),
}


@dataclass(frozen=True, kw_only=True)
class ASHA:
    """Li et al. 2020."""

    brackets: int = setting(
        1, "brackets; each next one has its first rung where the one before has its second", min=1
    )


@dataclass(frozen=True, kw_only=True)
class Median:
    """Golovin et al. 2017."""

    min_samples: int = setting(
        3, "other trials that must have come to an epoch before one is stopped there", min=1
    )


@dataclass(frozen=True, kw_only=True)
class PBT:
    """Jaderberg et al. 2017."""

    interval: int | None = setting(
        None, "epochs from one comparison to the next; none: a ninth of a trial's", min=1
    )
    quantile: float = setting(
        0.25, "share of the trials that copy, and that are copied from", above=0, max=0.5
    )
    resample: float = setting(
        0.25, "probability that a copied setting is drawn anew, not changed a little", min=0, max=1
    )
