"""What a search says of its data before it starts, and writes into its run."""

from __future__ import annotations

import json

from raudio.data.inspect.gather import Inspection
from raudio.data.inspect.problem import ERROR, WARNING

_SHOWN = 3
# Lists as long as the dataset.
_LONG = ("silent", "clipped", "duplicates", "straddling", "skipped", "errors", "warnings")


def notes(found: Inspection) -> list[str]:
    """At most one line of errors and one of warnings, the worst first."""
    lines = []
    for severity in (ERROR, WARNING):
        titles = [problem.title for problem in found.problems if problem.severity == severity]
        if titles:
            more = f"; and {len(titles) - _SHOWN} more" if len(titles) > _SHOWN else ""
            lines.append(f"data {severity}: {'; '.join(titles[:_SHOWN])}{more}")
    if lines:
        lines[-1] += f" (all of it: raudio data inspect {found.dataset})"
    return lines


def to_json(found: Inspection) -> str:
    """The file's text: the inspection less what lists every clip."""
    short = {name: value for name, value in found.to_mapping().items() if name not in _LONG}
    return json.dumps(short, indent=1, ensure_ascii=False) + "\n"
