"""Ray Data as raudio uses it: a task a job, in order, quietly, and errors as they were raised.

What goes wrong in a task comes back as the `UserError` that it was; Ray's own messages and progress
bars are kept off the screen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from raudio.core import storage
from raudio.core.errors import UserError
from raudio.core.units import Seconds

#: The label of nodes that decode, and do nothing else.
DATA_NODES = {"raudio/role": "data"}
#: Of all others, in Ray's words.
OTHER_NODES = {"raudio/role": "!data"}

#: Where the tasks of this process's datasets run; None: wherever there is a CPU.
_group: Any = None


def run_apart(apart: bool) -> None:
    """Has the tasks of this process's datasets run on `DATA_NODES` alone, or on any node.

    An execution of Ray Data asks for it by itself when it is said here: other ways that it offers
    (`DataConfig.default_ingest_options`) leave the labels out.
    """
    from ray.data import DataContext

    DataContext.get_current().execution_options.label_selector = DATA_NODES if apart else None


def run_in(group: Any) -> None:
    """Has the tasks of this process's datasets run in a placement group that holds their CPUs."""
    global _group
    _group = group


def hold(cpus: float, apart: bool) -> None:
    """Has the tasks of this process's datasets run on CPUs that it holds until it ends.

    Args:
        cpus: one for each task at a time, or less than one for a single task.
        apart: whether they are those of `DATA_NODES`.
    """
    from ray.util import placement_group

    bundles = [{"CPU": min(1.0, cpus)}] * max(1, int(cpus))
    labels = [DATA_NODES] * len(bundles) if apart else None
    run_in(placement_group(bundles, bundle_label_selector=labels))


def settle_here() -> None:
    """Starts what Ray Data has once in a cluster on this node.

    Else it lives, for as long as the cluster, on the node of the trial that comes first, and no
    autoscaler ever takes that away.
    """
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
    from ray.data._internal.stats import get_or_create_stats_actor

    get_or_create_stats_actor()
    get_or_create_autoscaling_coordinator()


def dataset(
    jobs: list[dict[str, Any]],
    work: Callable[..., pa.Table],
    limits: tuple[float, int] | None = None,
    **arguments: Any,
) -> Any:
    """A lazy `ray.data.Dataset` that gives `work(job, **arguments)`: a job a task, in order.

    A task waits for stores as long as this thread does.

    Args:
        jobs: one row each.
        work: a function of a module, which goes to the workers by its name.
        limits: CPUs, and bytes of blocks that nobody has taken yet; None: Ray Data's own.
        arguments: of `work`.
    """
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    lazy = _lazy(jobs)
    num_cpus = 1.0
    options: dict[str, Any] = {}
    if _group is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(_group)
    if limits is not None:
        cpus, memory = limits
        num_cpus = min(1.0, cpus)
        execution = lazy.context.execution_options
        execution.resource_limits = execution.resource_limits.copy(
            cpu=cpus, object_store_memory=memory
        )
    return lazy.map_batches(
        _patiently,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=num_cpus,
        fn_kwargs={"work": work, "patience": storage.patience(), "arguments": arguments},
        **options,
    )


def _patiently(
    job: pa.Table, work: Callable[..., pa.Table], patience: Seconds, arguments: Mapping[str, Any]
) -> pa.Table:
    with storage.patient(patience):
        return work(job, **arguments)


def by_actors(
    jobs: list[dict[str, Any]], worker: type, most: int, *, gpu: bool = False, **arguments: Any
) -> Any:
    """As `dataset`, by processes that keep what is costly to make: as many as there is room for.

    Args:
        jobs: one row each.
        worker: a class of a module; its instances are called with a job.
        most: processes at a time, of a CPU each.
        gpu: whether each has a GPU as well.
        arguments: that instances are made with.
    """
    from ray.data import ActorPoolStrategy

    lazy = _lazy(jobs)
    lazy.context.execution_options.label_selector = None  # these compute, and may want GPUs
    return lazy.map_batches(
        worker,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        num_gpus=int(gpu),
        compute=ActorPoolStrategy(min_size=1, max_size=most),
        fn_constructor_kwargs=arguments,
    )


def _lazy(jobs: list[dict[str, Any]]) -> Any:
    import ray.data

    # On the screen Ray Data says when each execution starts, ends and fails. The log file of
    # Ray's session still gets it all.
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL + 1)
    lazy = ray.data.from_items(jobs, override_num_blocks=len(jobs))
    context = lazy.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = None  # what a task gives stays one block
    context.raise_original_map_exception = True  # see surfacing
    context.custom_execution_callback_classes = [_Resting]
    context.execution_options.preserve_order = True
    return lazy


class _Resting:
    """Makes Ray Data's scheduling loop rest for as long as it worked, several times over, and heed
    what whoever waits for its blocks has to heed.

    The loop runs in a thread of the process that takes the blocks, and without a pause while that
    process is behind: it took up to five sixths of a training loop's speed. An `ExecutionCallback`
    of Ray Data.
    """

    #: Seconds of rest for each second of work.
    RESTS = 4.0

    def __init__(self) -> None:
        self._worked = 0.0
        self._heed = storage.heed()  # of the thread that waits for the blocks

    def before_execution_starts(self, executor: Any) -> None:
        """Nothing to do."""

    def on_execution_step(self, executor: Any) -> None:
        """Called by the loop's thread after each round; whoever waits gets what it raises."""
        self._heed()
        time.sleep(self.RESTS * max(0.0, time.thread_time() - self._worked))
        self._worked = time.thread_time()

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing to do."""


class _TaskError(Exception):
    """A `UserError` on its way out of a task; Ray Data adds advice of its own to its text."""

    def __init__(self, message: str, kind: type[UserError] = UserError) -> None:
        super().__init__(message)
        self.message, self.kind = message, kind


@contextmanager
def marking() -> Iterator[None]:
    """In a task: keeps the message of a `UserError` as it is."""
    try:
        yield
    except UserError as error:
        raise _TaskError(str(error), type(error)) from None


@contextmanager
def surfacing() -> Iterator[None]:
    """In the process that waits: raises a task's `UserError` without what Ray wraps around it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, _TaskError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise cause.kind(cause.message) from None
