"""One search of raudio on recorded curves; prints the metric of each epoch it spent, as JSON.

A process of its own for search_quality.py, which runs two at once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from raudio.config.schema import Search
from raudio.search.curves import Curves
from raudio.search.replay import replay


class Spent(Exception):  # noqa: N818 - not an error
    """All epochs are spent."""


def search(curves: Curves, settings: Mapping[str, Any], epochs: int, workers: int) -> list[float]:
    """The metric of each of the first `epochs` epochs, in the order of their reports."""
    values: list[float] = []

    def watch(record: Mapping[str, Any]) -> None:
        if record["event"] == "report":
            values.append(record["metrics"][curves.metric])
            if len(values) == epochs:
                raise Spent

    with tempfile.TemporaryDirectory() as run, suppress(Spent):
        replay(curves, Search(trials=epochs, **settings), Path(run), workers=workers, watch=watch)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=json.loads, help="of the search, as JSON")
    parser.add_argument("table", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("epochs", type=int)
    parser.add_argument("workers", type=int)
    parser.add_argument("neighbours", type=int)
    given = parser.parse_args()
    settings = {**given.settings, "seed": given.seed}
    curves = replace(Curves.read(given.table), neighbours=given.neighbours)
    print(json.dumps(search(curves, settings, given.epochs, given.workers)))


if __name__ == "__main__":
    main()
