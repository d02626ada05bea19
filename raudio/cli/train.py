"""`raudio train`: one experiment, no search."""

from __future__ import annotations

from raudio.cli.search import Json, Overrides, Quiet, show


def train(overrides: Overrides = None, quiet: Quiet = False, json: Json = False) -> None:
    """Train one experiment, without a search, and export it.

    Example: raudio train dataset.path=data/fsdd model=crnn optimizer.lr=0.003 run.dir=runs/crnn
    """
    from raudio.search import runner

    show(runner.train(*(overrides or []), quiet=quiet), json)
