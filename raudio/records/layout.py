"""What a run folder holds, and by which names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raudio.core.copies import local_run
from raudio.core.errors import RunError, closest
from raudio.core.storage import is_remote

SEARCH_YAML = "search.yaml"
EXPERIMENT_YAML = "experiment.yaml"
SPACE_YAML = "space.yaml"
ENVIRONMENT_JSON = "environment.json"
DATASET_JSON = "dataset.json"  # the dataset's manifest, as it was: the model card quotes it
PREFLIGHT_JSON = "preflight.json"  # what was found in the dataset before the search started
RECORDS = "records.jsonl"
PRIOR = "prior"  # what is known from earlier runs
#: The format of a run. Runs from before there was a number have the first.
FORMAT = 1
JOURNAL = "optuna.journal"
TRIALS = "trials"
ERROR_TXT = "error.txt"
LOCK = ".lock"
OWNER = "owner.json"  # of a run in a store: who drives it, and when it was last seen alive
#: Seconds after which a driver that does not show itself in the store is taken for dead.
OWNER_STALE = 60.0
#: A trial's two checkpoints: to go on from, and the epoch with the best value.
LAST, BEST = "last.pt", "best.pt"
#: Another trial's LAST, which a trial of a population goes on from.
DONOR = "donor.pt"

#: The ways a trial ends; until then it is RUNNING.
COMPLETED, PRUNED, FAILED, STOPPED = "completed", "pruned", "failed", "stopped"
RUNNING = "running"
#: Those of which nothing comes any more; a stopped one can go on.
ENDED = (COMPLETED, PRUNED, FAILED)
#: Why a trial of a population is stopped for now.
WAITS = "waits for its turn in the population"
#: What a run is called that neither ended nor has a driver.
INTERRUPTED = "interrupted"


def trial_id(number: int) -> str:
    """The id of the trial with this number, from 0: `0007`."""
    return f"{number:04d}"


def trial_folder(run: Path, trial: str) -> Path:
    """Where a trial keeps its experiment, checkpoints and outputs."""
    return Path(run) / TRIALS / trial


def trial_file(trial: str, name: str) -> str:
    """The path inside a run of a trial's file: `trials/0007/last.pt`."""
    return f"{TRIALS}/{trial}/{name}"


def check_run(run: str | os.PathLike[str]) -> Path:
    """`run` as a path, when it is a run folder.

    Raises:
        RunError: it does not exist or holds no records.
    """
    path = Path(run)
    if (path / RECORDS).is_file():
        return path
    near = closest(str(run), _runs_near(path))
    if not path.exists():
        raise RunError(f"no such run folder: {str(run)!r}{near}; `raudio search` makes one")
    raise RunError(
        f"{str(run)!r} is not a run folder: it holds no {RECORDS}{near}; "
        "give the folder that `raudio search` or `raudio train` wrote"
    )


def find_run(
    run: str | os.PathLike[str], wanted: Callable[[str], bool] = lambda file: True
) -> Path:
    """A run as a local folder, to read: itself, or the copy of a run in a store.

    Args:
        run: path or URI.
        wanted: which of its files are to be there, as for `local_run`; its records among them.

    Raises:
        RunError: there is no run, or its store cannot be read.
    """
    folder = local_run(run, wanted)
    if is_remote(run) and not (folder / RECORDS).is_file():
        raise no_run(os.fspath(run))
    return check_run(folder)


def no_run(uri: str) -> RunError:
    """The error of a run in a store that is not there."""
    return RunError(f"no such run: {uri!r} holds no {RECORDS}; `raudio search` makes one")


def check_format(found: Any, version: Any) -> None:
    """Refuses a run whose format this raudio does not know.

    Raises:
        RunError: with the version that wrote it.
    """
    if found not in range(1, FORMAT + 1):
        raise RunError(
            f"a run of format {found!r}, made by raudio {version}; this raudio reads formats up to "
            f"{FORMAT}: install raudio {version}, or a later one"
        )


def _runs_near(path: Path) -> list[str]:
    """Run folders inside, beside and one level above `path`."""
    found = []
    for parent in (path, path.parent, path.parent.parent):
        try:
            found += [str(p.parent) for p in parent.glob(f"*/{RECORDS}")]
        except OSError:
            continue
    return found
