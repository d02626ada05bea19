"""How many trials run at once while nodes come and go, and GPUs turn out to have room."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from raylets import SMALL, raylets
from search_kit import METRIC, Clock, Session

from raudio.cluster.capacity import Capacity, Node
from raudio.cluster.session import present_capacity, session
from raudio.config import compose
from raudio.config.schema import Cluster, Resources, Search
from raudio.core.errors import ConfigError
from raudio.records import History, read_records
from raudio.search import slots as module
from raudio.search.planner import Plan, plan
from raudio.search.slots import Slots, gpu_share
from raudio.training.gpu import CONTEXT, forget_peak, gpu_costs

SEARCH = Search(trials=1000)


def planned(nodes: tuple[Node, ...], share: float | None = None, **resources: Any) -> Plan:
    return plan(Capacity(nodes), Resources(**resources), SEARCH, "resident", gpu_share=share)


# --- the plan that holds now -------------------------------------------------------------------


def test_slots_follow_the_nodes() -> None:
    clock, said, nodes = Clock(), list[str](), [Node(4)]
    now = Slots(
        planned((Node(4),), cpus=2),
        lambda: planned(tuple(nodes), cpus=2),
        changed=lambda plan, text: said.append(f"{plan.slots}/{text}"),
        clock=clock,
    )
    counts = []
    for present in ([Node(4)], [Node(4), Node(6)], [Node(6)], [Node(1)], [Node(4)]):
        nodes[:] = present
        now.look()  # too early
        counts.append(now.plan.slots)
        clock.now += module.INTERVAL
        now.look()
    counts.append(now.plan.slots)
    assert counts == [2, 2, 5, 3, 0, 2]
    assert [text.split(":")[0] for text in said] == [
        "5/5 trials at once, were 2",
        "3/3 trials at once, were 5",
        "0/0 trials at once, were 3",
        "2/2 trials at once, were 0",
    ]
    assert "resources.cpus=2 ask for 2 CPUs a trial, but this machine has 1" in said[2]


# --- sharing GPUs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "share", "slots", "each"),
    [
        (1, None, 1, 0.01),  # the first one, alone
        (8, None, 1, 0.01),
        (1, 0.1, 8, 0.125),  # 1 / (1.2 * 0.1) is 8.3
        (1, 0.2, 4, 0.25),
        (1, 0.3, 2, 0.5),
        (2, 0.27, 6, 0.3333),
        (8, 0.5, 8, 1.0),
        (1, 0.95, 1, 1.0),
        (8, 0.1, 32, 0.125),  # the CPUs are what is scarce
        (1, 0.001, 32, 0.01),
    ],
)
def test_as_many_share_a_gpu_as_the_first_one_shows(
    gpus: int, share: float | None, slots: int, each: float
) -> None:
    found = planned((Node(32, gpus),), share, share_gpus=True)
    assert (found.slots, found.gpus) == (slots, each)


@pytest.mark.parametrize("share", [0.009, 0.011, 0.013, 0.1, 0.2, 0.25, 0.3, 0.4, 0.8])
def test_beside_the_first_one_there_is_room_for_one_fewer(share: float) -> None:
    first, later = (planned((Node(200, 1),), s, share_gpus=True) for s in (None, share))
    assert first.gpus + (later.slots - 1) * later.gpus <= 1 < first.gpus + later.slots * later.gpus


def test_no_gpu_no_sharing() -> None:
    assert planned((Node(4),), share_gpus=True).slots == 4


@pytest.mark.parametrize(
    ("nodes", "resources", "says"),
    [
        ((Node(4, 1),), {"gpus": 0.5}, r"gpus=0\.5 .*leave resources\.gpus"),
        ((Node(4, 2),), {"workers": 2}, r"workers=2.*leave"),
        (
            (Node(4, 1, accelerator="T4"), Node(4, 1, accelerator="H200")),
            {},
            r"several kinds \(H200, T4\).*give resources\.gpus",
        ),
    ],
)
def test_what_cannot_be_shared(
    nodes: tuple[Node, ...], resources: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        planned(nodes, share_gpus=True, **resources)


def test_the_share_is_the_largest_in_the_records(tmp_path: Path) -> None:
    driver = Session(tmp_path, Clock(), scheduler="none", experiment_for=lambda params: params)
    assert gpu_share(driver.engine.history.trials.values()) is None
    for share in (0.2, 0.4, 0.3):
        spec = driver.engine.next()
        assert spec is not None
        driver.engine.report(spec.id, 1, {METRIC: 0.5, "cost/gpu_share": share}, 1.0, False)
    driver.records.close()
    # A resumed search knows it too.
    resumed = Session(tmp_path, Clock(), scheduler="none").engine.history
    for history in (driver.engine.history, resumed):
        assert gpu_share(history.trials.values()) == 0.4
    assert gpu_share(History().trials.values()) is None


def test_a_trial_reports_what_it_held_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fake = SimpleNamespace(
        empty_cache=lambda: done.append("empty_cache"),
        reset_peak_memory_stats=lambda device: done.append("reset"),
        max_memory_reserved=lambda device: 3 * 10**9,
        get_device_properties=lambda device: SimpleNamespace(total_memory=10 * 10**9),
    )
    monkeypatch.setattr(torch, "cuda", fake)
    device = torch.device("cuda")
    forget_peak(device)
    assert done == ["empty_cache", "reset"]
    memory = 3 * 10**9 + CONTEXT
    assert gpu_costs(device) == {"cost/gpu_memory": memory, "cost/gpu_share": memory / 10**10}
    assert gpu_costs(torch.device("cpu")) == {}


# --- on a real cluster -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One node of two CPUs, and a GPU that is none; `add` adds one."""
    node = {"num_cpus": 2, "memory": 4 * 10**9}
    with raylets({**node, "num_gpus": 1}) as cluster:
        cluster.add = partial(cluster.add_node, **SMALL, **node)
        yield cluster


@contextmanager
def searching(
    folder: Path, address: str, resources: Resources, trainable: Any, trials: int
) -> Iterator[tuple[Session, Slots, Callable[[Callable[[], None]], tuple[str, str | None]]]]:
    """A search on the cluster at `address`: its engine, its slots, and what runs it."""
    from raudio.search.tune import run_trials

    experiment = compose.compose([]).experiment
    driver = Session(
        folder,
        time.monotonic,  # type: ignore[arg-type]
        experiment_for=lambda params: experiment,
        scheduler="none",
        reuse=False,  # all trials are the same experiment
        trials=trials,
    )
    settings = Cluster(address=address)
    with session(settings, folder / "ray.log"):

        def now() -> Plan:
            share = gpu_share(driver.engine.history.trials.values())
            return plan(present_capacity(settings), resources, SEARCH, "resident", gpu_share=share)

        slots = Slots(now(), now)
        yield driver, slots, lambda tick: run_trials(driver.engine, trainable, slots, tick=tick)
    driver.records.close()


@pytest.mark.ray
def test_trials_share_a_gpu_once_the_first_has_shown_what_it_needs(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.2)

    def trainable(config: dict[str, Any]) -> None:
        import ray
        from ray import tune

        gpus = ray.get_runtime_context().get_assigned_resources().get("GPU", 0)
        for epoch in range(1, 7):
            time.sleep(0.3)
            metrics = {METRIC: 0.5, "cost/gpu_share": 0.35, "gpus": gpus}
            tune.report(
                {"epoch": epoch, "metrics": metrics, "loop_seconds": 0.3, "final": epoch == 6}
            )

    resources = Resources(share_gpus=True)
    with searching(tmp_path, cluster.address, resources, trainable, 5) as (driver, slots, run):
        alone: list[int] = []
        together: list[int] = []

        def tick() -> None:
            trials = driver.engine.history.trials.values()
            measured = any(trial.reports for trial in trials)
            (together if measured else alone).append(len(driver.engine.running))

        assert run(tick) == ("completed", None)
        assert (max(alone), max(together)) == (1, 2)
        assert slots.plan.gpus == 0.5
        trials = driver.engine.history.trials.values()
        given = [trial.reports[-1].metrics["gpus"] for trial in trials]
        assert given == [0.01, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.ray
def test_tune_forgets_trials_that_have_ended(cluster: Any, tmp_path: Path) -> None:
    """Also those whose process has died meanwhile; else it would keep every trial for ever. And
    those go on whose process died, or was not let go of by the trial before, when Tune made it
    ready for them."""
    from ray.tune.experiment import Trial

    (tmp_path / "dead").mkdir()

    def trainable(config: dict[str, Any]) -> None:
        from ray import tune
        from ray.train._internal.session import get_session

        if int(config["id"]) % 4 == 1 and not (dead := tmp_path / "dead" / config["id"]).exists():
            dead.touch()
            os._exit(1)
        if int(config["id"]) % 4 == 3:
            get_session().finish = lambda **_: os._exit(1)  # while it is made ready for the next
        if config["id"] == "0006":
            get_session().finish = lambda **_: None  # it never is
        report = {"epoch": 1, "metrics": {METRIC: 0.5}, "loop_seconds": 0.0, "final": True}
        tune.report(report)

    with searching(tmp_path, cluster.address, Resources(), trainable, 13) as (driver, _, run):
        alive: list[int] = []

        def tick() -> None:
            if len(driver.engine.history.trials) > 10:
                gc.collect()
                # Not isinstance, which asks a weak reference for what may be gone.
                alive.append(sum(type(each) is Trial for each in gc.get_objects()))

        assert run(tick) == ("completed", None)
        trials = driver.engine.history.trials.values()
        assert [trial.state for trial in trials] == ["completed"] * 13
        assert sum(trial.lost for trial in trials) == 3 + 3 + 1
        assert alive
        assert max(alive) <= 2 + 2 + 1  # those that run, those that have just ended; Tune's loop


@pytest.mark.ray
def test_slots_grow_with_a_node_that_comes_and_shrink_when_it_goes(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raudio.search.tune import SearchEnded

    monkeypatch.setattr(module, "INTERVAL", 0.2)

    def trainable(config: dict[str, Any]) -> None:
        import ray
        from ray import tune

        node = ray.get_runtime_context().get_node_id()
        for epoch in range(1, 10**6):
            time.sleep(0.2)
            metrics = {METRIC: 0.5, "node": int(node[:8], 16)}
            tune.report({"epoch": epoch, "metrics": metrics, "loop_seconds": 0.2, "final": False})

    resources = Resources(cpus=2, gpus=0)
    with searching(tmp_path, cluster.address, resources, trainable, 5) as (driver, slots, run):
        assert slots.plan.slots == 1
        history = driver.engine.history
        seen: list[str] = []
        added: list[Any] = []

        def tick() -> None:
            running = [trial for trial in driver.engine.running if trial.reports]
            if not seen and running:
                added.append(cluster.add())
                seen.append("one node")
            elif seen == ["one node"] and len(running) == 2:
                assert slots.plan.slots == 2
                places = {trial.reports[-1].metrics["node"] for trial in running}
                assert len(places) == 2  # a trial on each
                cluster.remove_node(added[0], allow_graceful=False)
                seen.append("two nodes")
            elif seen[1:] and slots.plan.slots == 1 and any(t.lost for t in running):
                raise SearchEnded("completed", "seen it all")

        assert run(tick) == ("completed", "seen it all")
        assert len(history.trials) == 2  # the one that lost its node waits for a place
    lost = [record["reason"] for record in read_records(tmp_path) if record["event"] == "lost"]
    # Which, depends on whether Ray was started in this process before: see session.DEATHS.
    assert set(lost) <= {"its machine is gone", "its machine does not answer"}
