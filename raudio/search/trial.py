"""One trial, in the process that Tune gives it: from the engine's experiment to its reports.

An error ends the trial, is named, and leaves its traceback in the trial's folder; it is reported,
not raised, because what Tune sees failing is taken for a lost process, and started again.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raudio.config.goal import Goal
from raudio.config.validate import dump_yaml, experiment_from
from raudio.core.storage import write_atomic
from raudio.records import BEST, DONOR, ERROR_TXT, EXPERIMENT_YAML, LAST, trial_folder
from raudio.search.failures import CRASH, kind_of, reason_of
from raudio.training.launch import LostWorkerError, as_result, launch
from raudio.training.worker import Data, OverLimitError

if TYPE_CHECKING:  # a trial's process needs no Optuna
    from raudio.search.engine import TrialSpec

#: How often a trial's process may die in the same epoch before the trial is to blame.
_DEATHS_ALLOWED = 3
_ATTEMPTS = ".attempts"


def open_trial(run: Path, spec: TrialSpec) -> None:
    """Makes the folder of a trial that is about to start."""
    folder = trial_folder(run, spec.id)
    folder.mkdir(parents=True, exist_ok=True)
    if spec.new:
        for name in (LAST, BEST, DONOR):
            (folder / name).unlink(missing_ok=True)
    write_atomic(folder / EXPERIMENT_YAML, dump_yaml(spec.experiment))
    (folder / _ATTEMPTS).unlink(missing_ok=True)


def run_trial(
    config: Mapping[str, Any],
    *,
    data: Data,
    run: str,
    gpus: float,
    memory: int,
    goal: Goal,
) -> None:
    """Tune's trainable.

    Args:
        config: {"id", "experiment"} of the trial, and "max_workers", that it may grow to.
        data: where the clips are.
        run: the run folder.
        gpus, memory: that each worker gets.
        goal: what the search is after.
    """
    from ray import tune

    folder = trial_folder(Path(run), config["id"])
    try:
        if _dies_again(folder):
            reason = f"its process died {_DEATHS_ALLOWED} times in the same epoch"
            tune.report({"failed": {"kind": CRASH, "reason": reason}})
            return
        launch(
            experiment_from(config["experiment"], plugins=True),
            data,
            gpus=gpus,
            memory=memory,
            max_workers=config["max_workers"],
            folder=folder,
            goal=goal,
            report=lambda report: tune.report(as_result(report)),
        )
    except LostWorkerError:
        raise
    except OverLimitError as error:
        tune.report({"over": {"reason": error.reason, "costs": error.costs}})
    except Exception as error:
        # On a full disk what is known of it is told, and not kept.
        with contextlib.suppress(OSError):
            (folder / ERROR_TXT).write_text(traceback.format_exc())
        tune.report({"failed": {"kind": kind_of(error), "reason": reason_of(error)}})


def _dies_again(folder: Path) -> bool:
    """Counts starts of this trial from the same checkpoint; whether there were too many.

    A process that the machine takes away is not the trial's fault; one that dies each time in the
    same place is.
    """
    last = folder / LAST
    place = last.stat().st_mtime_ns if last.exists() else 0
    attempts = folder / _ATTEMPTS
    before = json.loads(attempts.read_text()) if attempts.exists() else {}
    count = before.get("count", 0) + 1 if before.get("place") == place else 1
    write_atomic(attempts, json.dumps({"place": place, "count": count}))
    return bool(count > _DEATHS_ALLOWED)
