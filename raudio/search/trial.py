"""One trial, in the process that Tune gives it: from the engine's experiment to its reports.

An error ends the trial, is named, and leaves its traceback in the trial's folder; it is reported,
not raised, because what Tune sees failing is taken for a lost process, and started again.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raudio.config.goal import Goal
from raudio.config.validate import dump_yaml, experiment_from
from raudio.core.errors import PreemptedError
from raudio.core.storage import is_remote, join, write_atomic
from raudio.records import ERROR_TXT, EXPERIMENT_YAML, TRIALS, trial_folder
from raudio.search.failures import kind_of, reason_of
from raudio.training.launch import LostWorkerError, as_result, launch
from raudio.training.worker import Data, Keeping, OverLimitError

if TYPE_CHECKING:  # a trial's process needs no Optuna
    from raudio.search.engine import TrialSpec

#: In a trial's config: it has ended, and Tune, which starts it again, does not know.
GIVEN_UP = "given_up"


def open_trial(run: Path, spec: TrialSpec) -> None:
    """Makes the folder of a trial that is about to start.

    Args:
        run: the run folder; of a run in a store its working copy.
        spec: the trial.
    """
    write_atomic(trial_folder(run, spec.id) / EXPERIMENT_YAML, dump_yaml(spec.experiment))


def run_trial(
    config: Mapping[str, Any],
    *,
    data: Data,
    keeping: Keeping,
    gpus: float,
    memory: int,
    goal: Goal,
) -> None:
    """Tune's trainable.

    Args:
        config: {"id", "experiment"} of the trial, and "max_workers", that it may grow to; one that
            is `GIVEN_UP` ends at once.
        data: where the clips are.
        keeping: the run's checkpoints.
        gpus, memory: that each worker gets.
        goal: what the search is after.
    """
    from ray import tune

    if config.get(GIVEN_UP):
        return
    keeping = keeping.below(TRIALS, config["id"])
    try:
        launch(
            experiment_from(config["experiment"], plugins=True),
            data,
            gpus=gpus,
            memory=memory,
            max_workers=config["max_workers"],
            keeping=keeping,
            goal=goal,
            report=lambda report: tune.report(as_result(report)),
        )
    except (LostWorkerError, PreemptedError):
        raise
    except OverLimitError as error:
        tune.report({"over": {"reason": error.reason, "costs": error.costs}})
    except Exception as error:
        _keep_traceback(keeping.place)
        tune.report({"failed": {"kind": kind_of(error), "reason": reason_of(error)}})


def _keep_traceback(place: str) -> None:
    """Leaves the traceback of what was raised in the trial's folder or URI, if it can be done."""
    if is_remote(place) or Path(place).is_dir():
        # On a full disk what is known of it is told, and not kept.
        with contextlib.suppress(OSError):
            write_atomic(join(place, ERROR_TXT), traceback.format_exc())
