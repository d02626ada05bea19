"""The resident feed of a search, decoded before its first trial: what the screen says meanwhile,
and what ends the wait."""

from __future__ import annotations

import time
from typing import Any

from raudio.cluster.environment import address_of
from raudio.core.storage import patient
from raudio.core.units import Seconds, format_seconds, parse_seconds
from raudio.data.kept import room_for_decoded
from raudio.data.pipeline import check_resident, materialise
from raudio.search.engine import Engine
from raudio.search.job import Job
from raudio.search.live import Display

#: After how long is said what is waited for.
_SAID_AFTER: Seconds = 15.0


class BudgetUsedUpError(Exception):
    """The search's time is over."""


def decoded(job: Job, store: int | None, engine: Engine, display: Display) -> dict[str, list[Any]]:
    """The blocks of `materialise`, in a session.

    Args:
        store: bytes of the object store; None: not known.
        engine: whose budget ends the wait.
        display: told once what is waited for.

    Raises:
        BudgetUsedUpError: the budget is used up; its text says which.
        ConfigError: the object store cannot hold them.
        OutOfReachError: the dataset's store has failed for longer than `run.patience`.
        DataError: as `materialise`.
    """
    settings, configuration = job.experiment.dataset, job.configuration
    assert settings.sample_rate is not None
    if store is not None:
        check_resident(settings, job.manifest, settings.sample_rate, store)
    manifest, patience = job.manifest.anywhere(), parse_seconds(configuration.run.patience)
    began, said = time.monotonic(), False
    since = time.strftime("%H:%M:%S")

    def heed() -> None:
        nonlocal said
        display.tick()
        if (reason := engine.used_up) is not None:
            raise BudgetUsedUpError(reason)
        if not said and time.monotonic() - began > _SAID_AFTER:
            said = True
            display.say(
                f"waiting since {since} for {manifest.path} to be decoded; where it cannot be "
                f"read, it is tried again for {format_seconds(patience)} (run.patience)"
            )

    with patient(patience, heed):
        return materialise(
            manifest,
            sample_rate=settings.sample_rate,
            precision=settings.precision,  # type: ignore[arg-type]
            cache_limit=room_for_decoded(settings, job.manifest, settings.sample_rate),
            here=address_of(configuration.cluster) != "local",
        )
