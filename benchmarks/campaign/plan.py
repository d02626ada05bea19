"""Which faults strike, and when: drawn from a seed, placed by what the search has got done."""

from __future__ import annotations

import random
from dataclasses import dataclass

TRIAL, DATA = "trial process killed", "data worker killed"
KILLED, DRAINED, FROZEN = "machine killed", "machine drained, then killed", "machine frozen"
DRIVER, TERMINATED = "driver killed", "driver ended by SIGTERM"
BUSY, CUT, RESET, SLOW = "store: 503", "store: cut off", "store: reset", "store: slow"
CLUSTER = "whole cluster killed"

#: How often each kind strikes in a full campaign.
COUNTS = {
    TRIAL: 5,
    DATA: 4,
    KILLED: 5,
    DRAINED: 4,
    FROZEN: 2,
    DRIVER: 4,
    TERMINATED: 3,
    BUSY: 2,
    CUT: 2,
    RESET: 2,
    SLOW: 2,
    CLUSTER: 1,
}
STORE = {BUSY: "503", CUT: "cut", RESET: "reset", SLOW: "delay"}
#: Those that end the driver.
ENDING = (DRIVER, TERMINATED, CLUSTER)
#: A smoke test has one of each of these.
QUICK = (TRIAL, KILLED, DRIVER, BUSY)


@dataclass(frozen=True)
class Fault:
    """One fault to come.

    Attributes:
        kind: of it.
        at: it strikes when so large a share of the search's steps has been made.
        seconds: how long it lasts, or how long before its end a machine is told; where the kind has
            such a thing.
        luck: in [0, 1), for what the kind has to choose.
    """

    kind: str
    at: float
    seconds: float
    luck: float


def plan(seed: int, counts: dict[str, int]) -> list[Fault]:
    """The faults of a campaign, in their order.

    One in each equal part of the search, somewhere in it: two may come close together, but a trial
    gets something done between any three.
    """
    draw = random.Random(seed)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    draw.shuffle(kinds)
    places = [(number + draw.random()) / len(kinds) for number in range(len(kinds))]
    return [
        # The last tenth is left alone: a fault that the search does not live to see is none.
        Fault(kind, 0.02 + 0.88 * place, draw.uniform(*_lasts(kind)), draw.random())
        for kind, place in zip(kinds, places, strict=True)
    ]


def _lasts(kind: str) -> tuple[float, float]:
    if kind == DRAINED:
        return 6.0, 12.0
    if kind == FROZEN:
        return 35.0, 45.0  # longer than Ray waits for a silent machine
    return 2.0, 10.0
