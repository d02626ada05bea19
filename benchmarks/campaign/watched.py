"""A plugin: a learning-rate schedule that notes every optimizer step, outside the run, and rests.

The notes tell which steps were made more than once; the rest makes an epoch long enough for a fault
to hit it, at no cost to the machine's other processes. $WATCHED_NOTES is the folder of the notes,
one a process of a trial, a line a step; $WATCHED_REST the seconds.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import raudio
from raudio.training.schedules import Schedule


@raudio.register.schedule("watched", "one learning rate; each step is noted")
def watched(*, warmup: float = 0.0) -> Schedule:
    """A constant rate.

    Args:
        warmup: has no effect; every schedule has the setting.
    """
    from ray import tune

    rest = float(os.environ["WATCHED_REST"])
    trial = str(tune.get_context().get_trial_id()).partition("-")[0]
    notes = Path(os.environ["WATCHED_NOTES"], f"{trial}.{os.getpid()}")
    # Unbuffered: what a killed process has noted is there.
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def factor(step: int, total: int) -> float:
        time.sleep(rest)
        os.write(file, f"{step} {time.time():.3f}\n".encode())
        return 1.0

    return factor
