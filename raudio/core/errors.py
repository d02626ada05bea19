"""The errors that raudio raises on purpose.

A `UserError` is one that the person at the keyboard can mend: the command line prints its message
without a traceback and exits with status 2. Anything else keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RaudioError(Exception):
    """Base of every error that raudio raises on purpose."""


class UserError(RaudioError, ValueError):
    """Wrong usage, configuration or data: says what, where, the value and the cure."""


class ConfigError(UserError):
    """A setting, a search space or a combination of them that cannot work."""


class DataError(UserError):
    """A recording, a label file or a dataset that cannot be used."""


class OutOfReachError(DataError):
    """A dataset whose store has failed for too long; that says nothing of the dataset."""


class RunError(UserError):
    """A run folder or a bundle that is missing, foreign, damaged or in use."""


class NonFiniteError(RaudioError):
    """The loss or a gradient became NaN or infinite: the trial has failed."""


class PreemptedError(RaudioError):
    """The machine of a trial is being taken away; the trial goes on elsewhere."""


#: Names that a sentence lists although one of them must be meant.
_MANY = 20


def closest(name: str, options: Iterable[str]) -> str:
    """` (closest: 'cnn10')` when one of `options` resembles `name`, else an empty string."""
    matches = difflib.get_close_matches(str(name), [str(o) for o in options], n=1, cutoff=0.5)
    return f" (closest: {matches[0]!r})" if matches else ""


def unknown(kind: str, name: str, options: Iterable[str]) -> str:
    """One sentence for a name that no `options` hold: value, closest match, options; of many, where
    one is close, only how many."""
    names = sorted(str(o) for o in options)
    near = closest(name, names)
    if near and len(names) > _MANY:
        return f"unknown {kind} {name!r}{near}; there are {len(names)}"
    return f"unknown {kind} {name!r}{near}; there are: {', '.join(names) or 'none'}"
