"""Whether a machine of this trial is to be taken away: Ray's word for it is draining."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

from raudio.core.errors import PreemptedError
from raudio.core.units import Seconds

#: Between two looks at the cluster.
INTERVAL: Seconds = 1.0
#: How long one of several ranks still waits for its data when it has heard that a machine goes: all
#: save their last step and leave together when it has made its own.
_WAITS_ON: Seconds = 10.0


@contextlib.contextmanager
def noticing(
    on: bool, world: int = 1, driver: str | None = None
) -> Iterator[Callable[[], Seconds | None]]:
    """A function that says until when the nodes of a trial are there: Unix seconds, infinite where
    no deadline was given; None while nobody takes one away.

    Args:
        on: whether to look; off, it is always None. A thread asks Ray, so that calling the function
            costs nothing.
        world: how many ranks there are; with more than one, the process group is up.
        driver: id of the node of the process that waits for them; None: this one.
    """
    if not on:
        yield lambda: None
        return
    import ray

    nodes = [ray.get_runtime_context().get_node_id()]
    if world > 1:
        from torch import distributed

        nodes *= world
        distributed.all_gather_object(nodes, nodes[0])
    if driver is not None:
        nodes.append(driver)
    until: list[Seconds] = []
    ended = threading.Event()

    def watch() -> None:
        while not until and not ended.wait(INTERVAL):
            with contextlib.suppress(Exception):  # of a cluster that ends, or is busy
                draining = ray._private.state.state.get_draining_nodes()
                if going := [draining[node] for node in nodes if node in draining]:
                    until.append(min(deadline / 1000 or math.inf for deadline in going))

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield lambda: until[0] if until else None
    finally:
        ended.set()


def heeding(notice: Callable[[], Seconds | None], world: int = 1) -> Callable[[], None]:
    """What a rank calls while it waits for a store: it raises PreemptedError after a notice.

    Args:
        notice: of `noticing`.
        world: how many ranks there are.
    """
    heard: Seconds | None = None

    def heed() -> None:
        nonlocal heard
        if notice() is None:
            return
        now = time.monotonic()
        heard = heard or now
        if world == 1 or now - heard > _WAITS_ON:
            raise PreemptedError("the machine is being taken away")

    return heed
