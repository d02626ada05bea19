"""What an autoscaler may add: read from its configuration, planned with, and asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pages import CLUSTER
from search_kit import METRIC, Clock, Session

from raudio.cluster import growth as module
from raudio.cluster.capacity import Capacity, Node, cluster_capacity
from raudio.cluster.growth import Group, Growth, from_config, of_head
from raudio.config import compose
from raudio.config.schema import Resources, Search
from raudio.core.errors import ConfigError
from raudio.search import demand as demand_module
from raudio.search.demand import MOST, PATIENCE, Demand, all_bundles, trial_bundles
from raudio.search.planner import Plan, plan

GB = 10**9
HEAD = {"node:__internal_head__": 1.0, "CPU": 0.0, "memory": 8e9}
CPU = {"CPU": 4, "memory": 8 * GB}
GPU = {"CPU": 8, "GPU": 1, "memory": 32 * GB, "accelerator_type:T4": 1}
CONFIG = {
    "max_workers": 10,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 2}, "max_workers": 0},
        "cpu": {"resources": CPU, "max_workers": 6, "labels": {"raudio/role": "data"}},
        "gpu": {"resources": GPU, "min_workers": 0},  # as many as all may be
        "off": {"resources": GPU, "max_workers": 0},
    },
}


def node(
    name: str, resources: Mapping[str, float], alive: bool = True, **labels: str
) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": dict(resources), "Labels": labels}


# --- what may come ------------------------------------------------------------------------------


def test_groups_of_a_cluster_file() -> None:
    assert from_config(CONFIG) == Growth(
        (
            Group("cpu", CPU, {"raudio/role": "data"}, 6),
            Group("gpu", GPU, {}, 10),
        ),
        10,
    )


def test_no_group_that_grows_is_no_growth() -> None:
    fixed = {"max_workers": 0, "available_node_types": {"a": {"resources": CPU}}}
    assert from_config(fixed) == module.NONE


def test_nodes_that_are_there_come_no_more() -> None:
    data = {"raudio/role": "data"}
    nodes = [
        node("0", HEAD),
        node("1", CPU, **data),
        node("2", GPU),
        node("3", GPU, **{"ray.io/node-group": "gpu"}),
        node("4", {"CPU": 99}),  # somebody's, of no group: it counts in all
    ]
    each, room = from_config(CONFIG).coming(nodes)
    assert [(group.name, count) for group, count in each] == [("cpu", 5), ("gpu", 8)]
    assert room == 10 - 4
    capacity = cluster_capacity(
        [*nodes, node("5", GPU, alive=False)], "CLUSTER", from_config(CONFIG), {"2": 0}
    )
    # The one that drains is gone, and another may come for it.
    assert [(each.gpus, each.count) for each in capacity.nodes] == [(0, 1), (0, 1), (1, 1), (0, 1)]
    assert [(each.gpus, each.data, each.count) for each in capacity.coming] == [
        (0, True, 5),
        (1, False, 9),
    ]
    assert capacity.room == 7


def test_a_full_cluster_does_not_grow() -> None:
    nodes = [node(str(number), GPU) for number in range(10)]
    capacity = cluster_capacity(nodes, "CLUSTER", from_config(CONFIG))
    assert (capacity.coming, capacity.room) == ((), 0)


def test_an_unreadable_configuration_is_said_and_not_fatal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(gcs: str) -> None:
        raise PermissionError("cluster.yaml: no")

    monkeypatch.setattr(module, "_file_of_monitor", broken)
    found = of_head("127.0.0.1:1")
    assert not found.groups
    assert "could not be read (PermissionError: cluster.yaml: no)" in found.note


def test_groups_of_kuberay(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from ray.autoscaler._private.kuberay import node_provider

    def pod(cpus: int, gpus: int = 0) -> dict[str, Any]:
        limits = {"cpu": cpus, "memory": "4G", **({"nvidia.com/gpu": gpus} if gpus else {})}
        return {"spec": {"containers": [{"resources": {"limits": limits}}]}}

    cluster = {
        "metadata": {"name": "here", "namespace": "there"},
        "spec": {
            "enableInTreeAutoscaling": True,
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": pod(2)},
            "workerGroupSpecs": [
                {
                    "groupName": "spot",
                    "minReplicas": 0,
                    "maxReplicas": 5,
                    "rayStartParams": {},
                    "labels": {"raudio/role": "data"},
                    "template": pod(8, 1),
                }
            ],
        },
    }
    asked = []

    def get(self: Any, path: str) -> Any:
        asked.append((self._namespace, path))
        return cluster

    (tmp_path / "namespace").write_text("there\n")
    monkeypatch.setattr(module, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", get)
    monkeypatch.setenv("RAY_CLUSTER_NAME", "here")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    resources = {"CPU": 8, "GPU": 1, "memory": 4 * GB}
    spot = Group("spot", resources, {"raudio/role": "data"}, 5)
    assert of_head("127.0.0.1:1") == Growth((spot,), 5)
    assert asked == [("there", "rayclusters/here")]
    cluster["spec"]["enableInTreeAutoscaling"] = False
    assert of_head("127.0.0.1:1") == module.NONE


def test_the_first_autoscaler_adds_no_data_nodes() -> None:
    found = module.without_labelled(from_config(CONFIG))
    assert [group.name for group in found.groups] == ["gpu"]
    assert "RAY_enable_autoscaler_v2=1" in found.note
    assert module.without_labelled(found) == found  # nothing to say


def test_what_others_tell_ray_is_believed() -> None:
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    def group(name: str, most: int, cpus: int) -> Any:
        return NodeGroupConfig(name=name, max_count=most, resources={"CPU": cpus})

    told = ClusterConfig(
        node_group_configs=[group("head", 1, 2), group("a", -1, 4), group("b", 0, 4)]
    )
    found = module._from_proto(told, [node("0", {**HEAD, "CPU": 2})])
    assert found == Growth((Group("a", {"CPU": 4.0}, {}, 1000),))


# --- what is planned with it --------------------------------------------------------------------


def grows(*coming: Node, nodes: tuple[Node, ...] = (Node(0),), room: int | None = None) -> Capacity:
    total = sum(each.count for each in coming)
    growth = Growth((Group("g", {}, {}, 1),))
    return Capacity(nodes, "CLUSTER", coming, total if room is None else room, growth)


def planned(capacity: Capacity, feed: str = "resident", **resources: Any) -> Plan:
    return plan(capacity, Resources(**resources), Search(trials=1000), feed)


def test_from_nothing() -> None:
    found = planned(grows(Node(1, memory=GB, count=3)))
    assert (found.slots, found.most, found.gpus) == (0, 3, 0)
    assert found.rows[0].amount == "0, then 3"
    assert found.rows[0].why == (
        "0 of 1 CPU and 500.0 MB fit on CLUSTER (no CPUs), "
        "3 when it has grown to 3 x 1 CPU with 1.0 GB for trials"
    )


def test_the_plan_on_the_page_is_one() -> None:
    node = Node(16, 4, 64 * GB)
    capacity = replace(
        grows(replace(node, count=8), nodes=(node,)), where="the cluster at HEAD:6379"
    )
    row = planned(capacity).rows[0]
    assert f"{row.what} {row.amount} {row.why}" in " ".join(CLUSTER.read_text().split())


def test_what_is_there_is_used_at_once() -> None:
    found = planned(grows(Node(4, 1, 8 * GB, count=5), nodes=(Node(4, 2, 8 * GB),)))
    assert (found.slots, found.most, found.gpus) == (2, 7, 1)


def test_gpus_that_may_come_are_wanted() -> None:
    found = planned(grows(Node(4, 1, 8 * GB), nodes=(Node(8, memory=8 * GB),)))
    assert (found.slots, found.most, found.gpus) == (0, 1, 1)


def test_the_most_useful_nodes_come_where_not_all_may() -> None:
    cpu, gpu = Node(64, memory=64 * GB, count=9), Node(8, 1, 64 * GB, count=9)
    assert planned(grows(cpu, gpu, room=4)).most == 4  # with a GPU each
    assert planned(grows(gpu, cpu, room=4), gpus=0).most == 4 * 64


def test_no_group_has_a_gpu() -> None:
    with pytest.raises(ConfigError) as caught:
        planned(grows(Node(4, memory=GB)), gpus=1)
    assert str(caught.value) == (
        "resources.gpus=1, but CLUSTER has no GPU, and no node group has one; "
        "at most resources.gpus=0 fits"
    )


def test_no_node_that_may_come_is_large_enough() -> None:
    with pytest.raises(
        ConfigError, match=r"resources\.cpus=8, but .* the largest of CLUSTER has 4"
    ):
        planned(grows(Node(4, count=5)), cpus=8)


def test_concurrency_may_be_what_the_cluster_grows_to() -> None:
    capacity, search = grows(Node(1, memory=GB, count=3)), Search(trials=9, concurrency=3)
    found = plan(capacity, Resources(), search, "resident")
    assert (found.slots, found.most) == (0, 3)
    with pytest.raises(ConfigError, match="give at most 3"):
        plan(capacity, Resources(), replace(search, concurrency=4), "resident")


def test_fewer_trials_than_places_ask_for_no_more() -> None:
    found = plan(grows(Node(1, memory=GB, count=9)), Resources(), Search(trials=2), "resident")
    assert (found.slots, found.most) == (0, 2)


def test_a_group_without_a_memory_is_asked_for_none() -> None:
    # The autoscaler would never add one for who asks for memory.
    found = planned(grows(Node(4, count=2)))
    assert (found.memory, found.most) == (0, 8)
    assert "does not say" in found.rows[4].why


# --- what runs on nodes of its own --------------------------------------------------------------

DATA, TRAINS = Node(8, memory=8 * GB, data=True), Node(4, 4, 8 * GB)


def test_data_nodes_decode_and_do_nothing_else() -> None:
    streamed = partial_plan((DATA, TRAINS))
    assert (streamed.slots, streamed.data_nodes) == (4, True)  # without them 2, with 8 CPUs 4
    assert partial_plan((TRAINS,)).slots == 2
    assert partial_plan((replace(DATA, cpus=3), TRAINS)).slots == 3
    with pytest.raises(ConfigError):
        partial_plan((DATA,), gpus=0)


def partial_plan(nodes: tuple[Node, ...], **resources: Any) -> Plan:
    return planned(Capacity(nodes, "CLUSTER"), "streamed", **resources)


def test_without_its_data_nodes_a_streamed_trial_waits_for_them() -> None:
    found = planned(grows(replace(DATA, count=1), nodes=(TRAINS,)), "streamed")
    assert (found.slots, found.most) == (0, 4)


def test_bundles() -> None:
    found = planned(Capacity((DATA, TRAINS)), "streamed", data_cpus=2)
    own = {"CPU": 1, "GPU": 1.0, "memory": found.memory}
    other = {"raudio/role": "!data"}
    # What decodes for a trial of one worker has its CPUs from the start.
    assert (
        trial_bundles(found)
        == all_bundles(found)
        == (
            [own, {"CPU": 1.0}, {"CPU": 1.0}],
            [other, {"raudio/role": "data"}, {"raudio/role": "data"}],
        )
    )
    spread = planned(Capacity((replace(TRAINS, safe=True, count=2),)), workers=2, gpus=0)
    driver, worker = {"memory": 256 << 20, "safe": 0.001}, {"CPU": 1, "memory": 5 * 10**8}
    assert trial_bundles(spread) == ([driver], [])
    assert all_bundles(spread) == ([driver, worker, worker], [])


def test_drivers_are_where_it_is_safe() -> None:
    # 1 GB has room for three drivers, the others' memory is no use to them.
    nodes = (Node(0, memory=GB, safe=True), Node(8, memory=64 * GB))
    assert planned(Capacity(nodes), workers=2).slots == 3
    assert planned(Capacity((replace(nodes[0], safe=False), nodes[1])), workers=2).slots == 4


# --- what is asked for ----------------------------------------------------------------------------


class Groups:
    """Ray's placement groups, placed when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[int, str] = {}
        self.asked = 0
        util = SimpleNamespace(
            placement_group=self._add,
            remove_placement_group=lambda group: self.states.pop(group),
            placement_group_table=lambda group: {"state": self.states[group]},
        )
        monkeypatch.setattr(demand_module, "ray", SimpleNamespace(util=util))

    def _add(self, bundles: Any, **options: Any) -> int:
        self.asked += 1
        self.states[self.asked] = "PENDING"
        return self.asked

    def place(self, count: int) -> None:
        pending = [group for group, state in self.states.items() if state == "PENDING"]
        for group in pending[:count]:
            self.states[group] = "CREATED"


class Case:
    """A search of whose trials as many run as there are slots, unless fewer are left."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, slots: int, most: int, trials: int | None
    ) -> None:
        self.groups, self.clock = Groups(monkeypatch), Clock()
        self.said: list[str] = []
        self.waited: list[int] = []
        self.engine = SimpleNamespace(running=[], runnable=trials)
        first = planned(Capacity((Node(1, memory=GB),)))
        self.slots = SimpleNamespace(plan=replace(first, slots=slots, most=most), look=self._look)
        self.there = slots
        self.demand = Demand(
            self.engine,  # type: ignore[arg-type]
            self.slots,  # type: ignore[arg-type]
            changed=self.waited.append,
            say=self.said.append,
            clock=self.clock,
        )

    def _look(self, *, now: bool) -> None:
        self.slots.plan = replace(self.slots.plan, slots=self.there)

    def pass_(self, seconds: float = 1.0) -> int:
        """A while later, how many places are asked for."""
        self.clock.now += seconds
        self.demand.look()
        trials = self.engine.runnable
        runs = self.slots.plan.slots if trials is None else min(self.slots.plan.slots, trials)
        self.engine.running = [None] * runs
        return len(self.groups.states)


def test_all_places_are_asked_for_at_once_and_given_up_as_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(monkeypatch, slots=2, most=6, trials=None)
    assert case.pass_() == 0  # what is there is given out first
    assert case.pass_() == 4
    assert case.demand.waiting == 4
    case.groups.place(3)
    case.there = 5
    assert case.pass_() == 1  # three trials have their places now
    assert (case.pass_(), case.waited) == (1, [4, 1])
    case.groups.place(1)
    case.there = 6
    assert (case.pass_(), case.waited) == (0, [4, 1, 0])
    assert case.groups.asked == 4


def test_fewer_trials_than_places_let_them_go(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, slots=0, most=6, trials=6)
    assert case.pass_() == 6
    case.engine.runnable = 2
    assert case.pass_() == 2
    case.engine.runnable = 0
    assert case.pass_() == 0


def test_a_place_on_what_is_there_already_is_a_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, slots=1, most=3, trials=None)
    case.pass_()
    assert case.pass_() == 2
    case.groups.place(1)  # where a trial has just ended
    case.engine.running = []
    assert case.pass_() == 1


def test_no_more_than_the_autoscaler_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Case(monkeypatch, slots=0, most=10**6, trials=None).pass_() == MOST


def test_all_are_given_up_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, slots=0, most=6, trials=None)
    case.pass_()
    case.groups.place(2)
    case.pass_()
    case.demand.close()
    assert not case.groups.states


def test_machines_that_never_come_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Case(monkeypatch, slots=0, most=2, trials=None)
    for _ in range(3):
        nothing.pass_(PATIENCE)
    assert len(nothing.said) == 2  # every few minutes, as nothing runs
    assert "machines for 2 trials have not come in 5 min 0 s: nothing runs until" in nothing.said[0]
    some = Case(monkeypatch, slots=1, most=2, trials=None)
    for _ in range(9):
        some.pass_(PATIENCE)
    (said,) = some.said
    assert "machines for 1 trial have not come" in said
    assert "goes on with those that are there" in said


# --- what the engine knows of it ------------------------------------------------------------------


def session(folder: Path, clock: Clock, **settings: Any) -> Session:
    return Session(
        folder,
        clock,
        experiment_for=lambda params: compose.compose([]).experiment,
        scheduler="none",
        reuse=False,
        **settings,
    )


def test_the_trials_that_could_run_at_once(tmp_path: Path) -> None:
    driver = session(tmp_path, Clock(), trials=3)
    engine = driver.engine
    counts = []
    for name in ("0000", "0001", "0002"):
        counts.append(engine.runnable)
        engine.next()
        engine.report(name, 1, {METRIC: 0.5}, 1.0, name == "0000")
    counts.append(engine.runnable)
    assert counts == [3, 2, 2, 2]  # the first ended, the others run on
    driver.records.close()
    # What the next session finds open may run at once, too.
    resumed = session(tmp_path, Clock(), trials=5)
    assert resumed.engine.runnable == 2 + 2
    resumed.records.close()


def test_repeats_and_confirmations_run_at_once(tmp_path: Path) -> None:
    driver = session(tmp_path, Clock(), trials=1, repeat=3, confirm=1, confirm_seeds=4)
    engine, counts = driver.engine, []
    while (spec := engine.next()) is not None:
        counts.append(engine.runnable)
        engine.report(spec.id, 1, {METRIC: 0.5}, 1.0, True)
        counts.append(engine.runnable)
    assert counts == [1, 2, 2, 1, 1, 4, 4, 3, 3, 2, 2, 1, 1, 0]
    driver.records.close()


def test_without_a_number_of_trials_any_number_could_run(tmp_path: Path) -> None:
    clock = Clock()
    driver = session(tmp_path, clock, trials=None, epochs_budget=100, time_budget=60.0)
    assert driver.engine.runnable is None
    clock.now += 60
    assert driver.engine.runnable == 0
    driver.records.close()


def test_the_wait_for_another_machine_is_not_the_trials_time(tmp_path: Path) -> None:
    clock = Clock()
    driver = session(tmp_path, clock, trials=1)
    engine = driver.engine
    engine.next()
    engine.goes_on("0000")  # on its first machine
    clock.now += 10
    engine.waits("0000")
    clock.now += 1000
    engine.goes_on("0000")
    clock.now += 5
    engine.report("0000", 1, {METRIC: 0.5}, 1.0, True)
    assert engine.history.trials["0000"].seconds == 15
    driver.records.close()
