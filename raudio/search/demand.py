"""What makes an autoscaler add machines: placement groups for the trials that would run on them.

An autoscaler adds nodes for what waits for resources, and takes away those on which nothing runs.
Trials themselves do not wait: one that is drawn before there is a place for it knows less than one
that is drawn when there is, and its time would count from then. So the places wait, all that the
trials still to come have a use for, and a trial is drawn when one is there. Ray removes them with
the driver, however that ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from raudio.cluster.capacity import SAFE
from raudio.core.units import format_seconds
from raudio.data.raydata import DATA_NODES, OTHER_NODES
from raudio.search.engine import Engine
from raudio.search.packing import DRIVER_MEMORY
from raudio.search.planner import Plan
from raudio.search.slots import Slots

#: Most places that are waited for: an autoscaler is told of no more.
MOST = 1000
#: Seconds between two looks.
INTERVAL = 1.0
#: Seconds without a new machine after which the user is told that they do not come.
PATIENCE = 300.0
#: Of the safe resource, for one driver: any number of them go where there is one.
_SOME = 0.001


def trial_bundles(plan: Plan) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """What is held for a trial with the process that Tune starts for it, which is the first, and
    the labels: all that it takes, but for workers, whose places Ray Train looks for itself.

    What decodes for a trial has its CPUs there. Without, they would be free between two tasks for
    whatever waits for a place, and the trial waits for them then.
    """
    bundles, labels = all_bundles(plan)
    own = 1 if plan.distributed else len(bundles)
    return bundles[:own], labels[:own]


def all_bundles(plan: Plan) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """What a trial takes in all: its process, its workers, what decodes for it; and the labels."""
    worker: dict[str, float] = {"CPU": plan.cpus, "GPU": plan.gpus, "memory": plan.memory}
    bundles, labels = [worker] * plan.workers, [OTHER_NODES] * plan.workers
    if plan.distributed:
        driver: dict[str, float] = {"memory": DRIVER_MEMORY}
        bundles.insert(0, {**driver, SAFE: _SOME} if plan.safe_nodes else driver)
        labels.insert(0, {})
    bundles += [{"CPU": plan.data_cpus / plan.decoders} for _ in range(plan.decoders)]
    labels += [DATA_NODES] * plan.decoders
    taken = [{name: count for name, count in each.items() if count} for each in bundles]
    return taken, labels if plan.data_nodes else []


class Demand:
    """Asks for the machines on which more trials could run.

    Args:
        engine: whose trials they are.
        slots: how many run at once, on what is there and when it has grown.
        changed: told how many places are waited for, when that has changed.
        say: told what the user should know.
        clock: seconds; another one in tests.
    """

    def __init__(
        self,
        engine: Engine,
        slots: Slots,
        *,
        changed: Callable[[int], None] = lambda waiting: None,
        say: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._slots = engine, slots
        self._changed, self._say, self._clock = changed, say, clock
        self._waiting: deque[PlacementGroup] = deque()
        self._placed: list[PlacementGroup] = []
        self._plan = slots.plan
        self._looked = clock() - INTERVAL
        self._told = 0
        self._since = self._noted = clock()

    @property
    def waiting(self) -> int:
        """Trials for whose machines the search waits."""
        return len(self._waiting)

    def look(self) -> None:
        """Asks for more or less, if the last look is long enough ago."""
        if self._clock() - self._looked < INTERVAL:
            return
        self._looked = self._clock()
        if self._sort() and self._free <= 0:
            self._slots.look(now=True)  # a machine has come
        self._ask(self._wanted())
        # What has a place gives it to the trial that is drawn now.
        for _ in range(min(self._free, len(self._placed))):
            self._remove(self._placed.pop())
        if len(self._waiting) != self._told:
            if len(self._waiting) < self._told or not self._told:
                self._since = self._noted = self._clock()
            self._told = len(self._waiting)
            self._changed(self._told)
        self._complain()

    def close(self) -> None:
        """Asks for nothing any more."""
        while self._waiting or self._placed:
            self._remove((self._waiting or self._placed).pop())

    # --- inside ----------------------------------------------------------------------------

    @property
    def _free(self) -> int:
        """Trials that could be drawn now, were there enough of them."""
        return self._slots.plan.slots - len(self._engine.running)

    def _wanted(self) -> int:
        """Places to ask for."""
        plan, trials = self._slots.plan, self._engine.runnable
        could = plan.most if trials is None else min(plan.most, trials)
        return min(MOST, could - max(plan.slots, len(self._engine.running)))

    def _ask(self, count: int) -> None:
        if all_bundles(self._slots.plan) != all_bundles(self._plan):
            self.close()  # trials take something else by now
        self._plan = self._slots.plan
        while (self._waiting or self._placed) and len(self._waiting) + len(self._placed) > count:
            self._remove((self._placed or self._waiting).pop())
        # What is there is given out first: a place that is asked for would take it.
        if self._free <= 0:
            bundles, labels = all_bundles(self._plan)
            for _ in range(count - len(self._waiting) - len(self._placed)):
                self._waiting.append(
                    ray.util.placement_group(
                        bundles, strategy="PACK", bundle_label_selector=labels or None
                    )
                )

    def _sort(self) -> bool:
        """Finds those that have a place by now, some at a look; whether there are any."""
        for _ in range(min(len(self._waiting), max(20, len(self._waiting) // 10))):
            group = self._waiting.popleft()
            placed = _state(group) == "CREATED"
            (self._placed if placed else self._waiting).append(group)
        return bool(self._placed)

    def _remove(self, group: PlacementGroup) -> None:
        ray.util.remove_placement_group(group)

    def _complain(self) -> None:
        now = self._clock()
        if not self._told or now - self._noted < PATIENCE:
            return
        runs = bool(self._engine.running)
        if runs and self._noted > self._since:
            return  # once is enough: it gets on
        self._noted = now
        missing = f"machines for {self._told} trial{'' if self._told == 1 else 's'}"
        time = format_seconds(now - self._since)
        goes_on = (
            "the search goes on with those that are there"
            if runs
            else "nothing runs until they do; search.time_budget or Ctrl-C ends it"
        )
        self._say(
            f"{missing} have not come in {time}: {goes_on} (`ray status` shows what is wrong)"
        )


def _state(group: PlacementGroup) -> Any:
    return ray.util.placement_group_table(group)["state"]
