"""Whether the machine of this process is to be taken away: Ray's word for it is draining."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator

from raudio.core.units import Seconds

#: Between two looks at the cluster.
INTERVAL: Seconds = 1.0


@contextlib.contextmanager
def noticing(on: bool) -> Iterator[Callable[[], Seconds | None]]:
    """A function that says until when this process's node is there: Unix seconds, infinite where no
    deadline was given; None while nobody takes it away.

    Args:
        on: whether to look; off, it is always None. A thread asks Ray, so that calling the function
            costs nothing.
    """
    if not on:
        yield lambda: None
        return
    import ray

    node = ray.get_runtime_context().get_node_id()
    until: list[Seconds] = []
    ended = threading.Event()

    def watch() -> None:
        while not until and not ended.wait(INTERVAL):
            with contextlib.suppress(Exception):  # of a cluster that ends, or is busy
                draining = ray._private.state.state.get_draining_nodes()
                if node in draining:
                    until.append(draining[node] / 1000 or math.inf)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield lambda: until[0] if until else None
    finally:
        ended.set()
