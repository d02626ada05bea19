"""One trial's training through Ray Train: inside this process, or on several workers.

`resources.workers=1` (the default) is TorchTrainer's local mode: the loop runs in the calling
process, without further processes or start-up. More workers are Ray Train's own, with DDP.

`resources.workers=[1,4]` trains with as many as there is room for. When one is lost, or a node has
come, those that remain go on from the last checkpoint: the batches are the same for any number.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raudio.config.goal import Goal
from raudio.config.schema import Experiment
from raudio.config.validate import experiment_from, to_mapping
from raudio.core.errors import PreemptedError, RaudioError
from raudio.core.units import Seconds
from raudio.data import raydata
from raudio.training.worker import Data, Keeping, Place, device_of, train_here

if TYPE_CHECKING:
    from raudio.training.loop import Report  # brings torch, which a search's driver has no use for


#: What of a distributed trial's result are its workers' placement group, and the name under which
#: Ray Train reserves their resources.
PLACES = "places"
REQUESTER = "requester"
#: Seconds in which Ray notices that a machine is gone, if it does.
_NOTICED = 20.0

_PREEMPTED = "the machine of a worker was taken away"
_LOST = "a worker of the trial is gone"
#: What the others say of it.
_UNKNOWN = "it has left them in the middle of a step"


#: What has become of a process that Ray has lost, for users; the first two are nobody's fault.
MACHINE_GONE = "its machine is gone"
MACHINE_SILENT = "its machine does not answer"
PROCESS_DIED = "killed, crashed, or out of memory"
NO_MEMORY = "ended by Ray, as its machine had no memory left (resources.memory gives trials more)"

#: What a rank that was left alone waits before it says so. Whoever left it is heard first then: by
#: an error of its own, or by Ray, which takes up to 20 s to know that a machine is gone.
_OTHERS_FIRST: Seconds = 45.0


class LostWorkerError(RaudioError):
    """A training process or its machine is gone; the trial can go on from its last checkpoint."""


class LeftAloneError(RaudioError):
    """What one of several ranks ran into because another had failed, or was gone."""


def launch(
    experiment: Experiment,
    data: Data,
    *,
    gpus: float,
    memory: int,
    max_workers: int,
    keeping: Keeping,
    goal: Goal,
    report: Callable[[Report], None],
) -> None:
    """Trains `experiment` to its end, or until `report` raises.

    Args:
        experiment: resolved; `resources.workers` decides how it runs.
        data: where the clips are.
        gpus: that each worker gets.
        memory: bytes that Ray reserves for each of several workers.
        max_workers: that the trial may have of `resources.workers=[fewest,most]`.
        keeping: the trial's checkpoints; it goes on from its last one.
        goal: what the search is after.
        report: called after each epoch of an inline trial. Several workers report to the Tune
            trial that this runs in by way of Ray Train.

    Raises:
        LostWorkerError: a worker of a distributed trial is gone.
        PreemptedError: its machine, or another of the trial, is or was taken away with notice.
        Errors of `train_here`, the loop and the feeds, as they raise them.
    """
    import ray
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    if not experiment.resources.distributed:
        place = Place(device=device_of(gpus))

        def inline() -> None:
            raydata.run_in(ray.util.get_current_placement_group())
            train_here(
                experiment,
                data,
                place=place,
                keeping=keeping,
                goal=goal,
                report=report,
            )

        TorchTrainer(inline, scaling_config=ScalingConfig(num_workers=0)).fit()
        return
    _distributed(experiment, data, gpus, memory, max_workers, keeping, goal)


def as_result(report: Report) -> dict[str, Any]:
    """A report as the dictionary that travels through Ray Train and Tune."""
    return {
        "epoch": report.epoch,
        "metrics": dict(report.metrics),
        "loop_seconds": report.seconds,
        "final": report.final,
    }


def _distributed(
    experiment: Experiment,
    data: Data,
    gpus: float,
    memory: int,
    max_workers: int,
    keeping: Keeping,
    goal: Goal,
) -> None:
    import ray
    from ray.train import (
        FailureConfig,
        PreemptionError,
        RunConfig,
        ScalingConfig,
        WorkerGroupError,
    )
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    class Reports(TuneReportCallback):  # type: ignore[misc]
        """Brings each report to Tune, with what `give_back` needs."""

        def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:
            told = [{**each, REQUESTER: f"train-{run_context.run_id}"} for each in metrics]
            super().after_report(run_context, told, checkpoint)

    resources = experiment.resources
    elastic = not isinstance(resources.workers, int)
    with tempfile.TemporaryDirectory(prefix="raudio-train-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "experiment": to_mapping(experiment),
                "data": data,
                "keeping": keeping,
                "goal": goal,
                "driver": ray.get_runtime_context().get_node_id(),
            },
            torch_config=TorchConfig(
                backend="nccl" if gpus else "gloo",
                timeout_s=round(TorchConfig.timeout_s + keeping.patience),  # one waits for a store
            ),
            scaling_config=ScalingConfig(
                num_workers=(
                    (resources.min_workers, max_workers) if elastic else resources.workers
                ),
                use_gpu=bool(gpus),
                resources_per_worker={
                    "CPU": resources.cpus,
                    "memory": memory,
                    **({"GPU": gpus} if gpus else {}),
                },
                label_selector=raydata.OTHER_NODES if data.apart else None,
            ),
            run_config=RunConfig(
                storage_path=scratch,
                callbacks=[Reports()],
                # Who starts the trial anew is Tune, whatever has become of it.
                failure_config=FailureConfig(max_preemption_failures=0),
            ),
        )
        nodes = _look_around()
        try:
            trainer.fit()
        except WorkerGroupError as error:
            end = end_of(list(error.worker_failures.values()))
            if str(end).endswith((MACHINE_SILENT, _UNKNOWN)) and _one_goes(nodes):
                end = LostWorkerError(f"{_LOST}: {MACHINE_GONE}")
            raise end from error
        except PreemptionError as error:
            raise PreemptedError(_PREEMPTED) from error


def _look_around() -> set[str]:
    """The nodes that are there, which Ray's coordinator of resources knows then as well. By itself
    it looks every 20 seconds, and Ray Train would wait a minute for workers on one that is gone."""
    import ray
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    coordinator = get_or_create_autoscaling_coordinator()
    looked = coordinator.get_reserved_resources.remote("raudio", recompute=True)
    ray.wait([looked], timeout=_NOTICED)
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _one_goes(nodes: set[str]) -> bool:
    """Whether one of these nodes is gone, or Ray soon finds it so: before, a trial that goes on
    would be given a place on it."""
    import ray

    deadline = time.monotonic() + _NOTICED
    while nodes <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def end_of(failures: Sequence[BaseException]) -> BaseException:
    """What ends a trial of several workers, of what they ran into, as Ray Train has it.

    A machine that is taken away comes before all else, and what one of them ran into before what
    others make of its absence.
    """
    from ray.exceptions import OutOfMemoryError, RayActorError

    causes = [_cause(failure) for failure in failures]
    if any(
        isinstance(each, PreemptedError) or getattr(each, "preempted", False) for each in causes
    ):
        return PreemptedError(_PREEMPTED)
    gone = [each for each in causes if isinstance(each, (RayActorError, OutOfMemoryError))]
    own = [each for each in causes if not isinstance(each, LeftAloneError)]
    if gone or not own:  # Ray may not know yet that it is gone
        return LostWorkerError(f"{_LOST}: {why_gone(gone[0]) if gone else _UNKNOWN}")
    return min(own, key=lambda each: not isinstance(each, RaudioError))


def why_gone(error: BaseException) -> str:
    """What has become of a process, from the error in which Ray tells it at length."""
    from ray.exceptions import ActorUnavailableError, OutOfMemoryError

    if isinstance(error, OutOfMemoryError) or NO_MEMORY in str(error):
        return NO_MEMORY
    if "its node has died" in str(error):
        return MACHINE_GONE
    # A process that dies on a machine that lives is known to have died: see cluster.session.
    return MACHINE_SILENT if isinstance(error, ActorUnavailableError) else PROCESS_DIED


def _cause(error: BaseException) -> BaseException:
    """The exception that the loop raised, from what Ray wrapped it into."""
    # A worker that is gone has failed Ray Train's health check, for a reason of its own.
    inner = getattr(error, "health_check_failure", None) or getattr(error, "cause", None)
    return inner or error.__cause__ or error


def _worker(config: Mapping[str, Any]) -> None:
    """The function that Ray Train runs in each worker."""
    import ray.train
    from ray.train.torch import get_device

    from raudio.training.parallel import is_left_alone

    context, places = ray.train.get_context(), ray.util.get_current_placement_group()
    place = Place(
        context.get_world_rank(),
        context.get_world_size(),
        str(get_device()),
        machines=-(-context.get_world_size() // context.get_local_world_size()),
        driver=config["driver"],
    )
    experiment, data = experiment_from(config["experiment"], plugins=True), config["data"]
    if data.refs is None:  # it streams; what Ray Train has placed is the workers alone
        raydata.hold(experiment.resources.data_cpus / place.world, data.apart)
    try:
        train_here(
            experiment,
            data,
            place=place,
            keeping=config["keeping"],
            goal=config["goal"],
            # Every rank reports, or Ray Train waits for the others; rank 0's is what counts.
            report=lambda report: ray.train.report({**as_result(report), PLACES: places}),
        )
    except RuntimeError as error:
        if is_left_alone(error):
            time.sleep(_OTHERS_FIRST)
            raise LeftAloneError(str(error)) from error
        raise
