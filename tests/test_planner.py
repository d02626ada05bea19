"""The plan of a search on machines of every size, and the refusal of what would wait for ever."""

from __future__ import annotations

import json
import math
import operator
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raudio.cluster.capacity import Capacity, Node, cluster_capacity
from raudio.config.schema import Resources, Search
from raudio.core.errors import ConfigError
from raudio.search.planner import Plan, plan


def planned(
    present: float,
    present_gpus: float = 0,
    /,
    *,
    feed: str = "resident",
    search: dict[str, Any] | None = None,
    **resources: Any,
) -> Plan:
    settings = Search(**{"trials": 1000, **(search or {})})
    capacity = Capacity((Node(present, present_gpus),))
    return plan(capacity, Resources(**resources), settings, feed)


@pytest.mark.parametrize(
    ("cpus", "gpus", "feed", "resources", "slots"),
    [
        (1, 0, "resident", {}, 1),
        (2, 0, "resident", {}, 2),
        (4, 0, "resident", {}, 4),
        (64, 0, "resident", {}, 64),
        (2, 0, "streamed", {}, 1),
        (4, 0, "streamed", {}, 2),
        (64, 0, "streamed", {"data_cpus": 3}, 16),
        (5, 0, "resident", {"cpus": 2}, 2),
        (4, 0, "resident", {"cpus": 1.5}, 2),
        (2, 0, "resident", {"workers": 2}, 1),
        (4, 0, "streamed", {"workers": 2}, 1),
        (64, 0, "resident", {"workers": 4, "cpus": 4}, 4),
        (64, 8, "resident", {}, 8),  # a GPU a trial, unasked
        (4, 8, "resident", {}, 4),  # the CPUs are what is scarce
        (64, 1, "resident", {"gpus": 0.25}, 4),
        (64, 1, "resident", {"gpus": 0}, 64),
        (64, 8, "resident", {"workers": 2}, 4),
        (64, 2, "resident", {"gpus": 0.6}, 2),  # 0.4 of each GPU is left, and of no use
        (64, 0.3, "resident", {"gpus": 0.1}, 3),  # 0.3 / 0.1 is 2.9999999999999996
    ],
)
def test_slots(cpus: float, gpus: float, feed: str, resources: dict[str, Any], slots: int) -> None:
    found = planned(cpus, gpus, feed=feed, **resources)
    assert found.slots == slots
    # What the plan hands out is there: at no time do more CPUs or GPUs run than exist.
    assert slots * (found.workers * found.cpus + found.data_cpus) <= cpus
    assert slots * found.workers * found.gpus <= gpus + 1e-9
    assert found.rows


def test_decoding_cpus_are_a_streamed_trials_alone() -> None:
    assert planned(4, data_cpus=2).data_cpus == 0
    assert planned(4, feed="streamed", data_cpus=2).data_cpus == 2


def test_gpus_are_taken_where_there_are_any() -> None:
    assert planned(4).gpus == 0
    assert planned(4, 2).gpus == 1
    assert planned(4, 2, gpus=0.5).gpus == 0.5


def test_concurrency_and_trials_limit_the_slots() -> None:
    assert planned(64, search={"concurrency": 3}).slots == 3
    assert planned(64, search={"trials": 5}).slots == 5
    assert planned(64, search={"trials": 2, "concurrency": 3}).slots == 2


@pytest.mark.parametrize(
    ("search", "folds", "slots"),
    [
        ({"trials": 2, "repeat": 3}, 1, 6),
        ({"trials": 2, "repeat": 3}, 5, 30),
        ({"trials": 4, "confirm": 2, "confirm_seeds": 7}, 1, 14),
        ({"trials": 1, "confirm": 2, "confirm_seeds": 7}, 2, 14),
        ({"trials": 40, "repeat": 3}, 1, 64),
    ],
)
def test_repeats_folds_and_confirmations_are_trials_to_run(
    search: dict[str, int], folds: int, slots: int
) -> None:
    found = plan(
        Capacity((Node(64, 0, 1 << 40),)), Resources(), Search(**search), "resident", folds=folds
    )
    assert found.slots == slots
    why = f"search.trials={search['trials']} of several trials each is all there is to run"
    assert found.rows[0].why.startswith(why) == (slots < 64)


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


@pytest.mark.parametrize("cpus", [2, 4, 64])
def test_too_many_cpus_names_the_most_that_fit(cpus: int) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(cpus, workers=2, cpus=cpus)
    said = str(caught.value)
    assert f"resources.cpus={cpus}" in said
    assert f"{2 * cpus} CPUs a trial" in said
    assert f"this machine has {cpus}" in said
    nearest = number(r"at most resources\.cpus=([\d.]+) fits", said)
    assert planned(cpus, workers=2, cpus=nearest).slots == 1
    with pytest.raises(ConfigError):
        planned(cpus, workers=2, cpus=nearest + 1)


@pytest.mark.parametrize("cpus", [1, 2, 4, 64])
def test_too_many_workers_names_the_most_that_fit(cpus: int) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(cpus, workers=cpus + 1, cpus=1)
    nearest = int(number(r"at most resources\.workers=(\d+)", str(caught.value)))
    assert planned(cpus, workers=nearest, cpus=1).slots == 1
    with pytest.raises(ConfigError):
        planned(cpus, workers=nearest + 1, cpus=1)


def test_streaming_on_one_cpu_points_to_the_resident_feed() -> None:
    with pytest.raises(ConfigError, match=r"data_cpus=1 \(streamed\).*2 CPUs.*feed=resident"):
        planned(1, feed="streamed")
    assert planned(1, feed="resident").slots == 1


def test_streamed_cpus_count_in_what_fits() -> None:
    with pytest.raises(ConfigError) as caught:
        planned(4, feed="streamed", cpus=4)
    assert number(r"at most resources\.cpus=([\d.]+)", str(caught.value)) == 3
    assert planned(4, feed="streamed", cpus=3).slots == 1


def test_too_many_decoding_cpus() -> None:
    """The workers would fit; it is the decoding that does not."""
    with pytest.raises(ConfigError) as caught:
        planned(4, feed="streamed", data_cpus=4)
    nearest = number(r"at most resources\.data_cpus=([\d.]+)", str(caught.value))
    assert nearest == 3
    assert planned(4, feed="streamed", data_cpus=nearest).slots == 1


def test_several_changes_where_one_does_not_do() -> None:
    """Whatever the memory, which is not known here."""
    asked = {"workers": 4, "gpus": 2, "memory": "2GB", "data_cpus": 8}
    with pytest.raises(ConfigError) as caught:
        planned(1, feed="streamed", **asked)
    said = (
        r"dataset\.feed=resident resources\.workers=1 resources\.gpus=0 resources\.data_cpus=1 fits"
    )
    assert re.search(said, str(caught.value)), caught.value
    assert planned(1, **{**asked, "workers": 1, "gpus": 0, "data_cpus": 1}).slots == 1


def test_gpus_that_are_not_there() -> None:
    with pytest.raises(
        ConfigError, match=r"resources\.gpus=1 .*has 0; at most resources\.gpus=0 fits"
    ):
        planned(4, gpus=1)


@pytest.mark.parametrize(("gpus", "workers"), [(1, 1), (2, 1), (8, 3), (8, 8)])
def test_more_gpus_than_there_are_names_the_most_that_fit(gpus: int, workers: int) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(64, gpus, workers=workers, gpus=9)
    nearest = number(r"at most resources\.gpus=([\d.]+) fits", str(caught.value))
    assert planned(64, gpus, workers=workers, gpus=nearest).slots == 1
    with pytest.raises(ConfigError):
        planned(64, gpus, workers=workers, gpus=nearest + 1)


def test_ray_cannot_give_one_and_a_half_gpus() -> None:
    with pytest.raises(ConfigError, match=r"resources\.gpus=1\.5.*1 or 2"):
        planned(64, 8, gpus=1.5)


def test_concurrency_that_does_not_fit_names_the_most_that_does() -> None:
    with pytest.raises(ConfigError, match=r"concurrency=5.*2 trials of 2 CPUs.*at most 2"):
        planned(4, search={"concurrency": 5}, cpus=2)
    assert planned(4, search={"concurrency": 2}, cpus=2).slots == 2


def test_workers_of_a_trial_have_gpus_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"resources\.gpus=0\.5 .*workers=2: NCCL"):
        planned(64, 8, workers=2, gpus=0.5)


# --- several nodes -----------------------------------------------------------------------------

GB = 10**9
HEAD = Node(4, memory=8 * GB)
FOUR = Node(4, memory=8 * GB, count=4)
GPU = Node(16, 4, memory=64 * GB, count=2)


@pytest.mark.parametrize(
    ("nodes", "feed", "resources", "slots"),
    [
        ((FOUR,), "resident", {}, 16),
        ((FOUR,), "resident", {"cpus": 3}, 4),  # the fourth CPU of each is of no use
        ((FOUR,), "resident", {"cpus": 3, "workers": 2}, 2),
        ((FOUR,), "resident", {"cpus": 4, "workers": 4}, 1),  # one worker a node
        ((FOUR,), "streamed", {"cpus": 3}, 4),  # what is left of each decodes
        ((FOUR,), "streamed", {"cpus": 4}, 3),  # the fourth node decodes for three trials
        ((FOUR,), "streamed", {"cpus": 4, "data_cpus": 4}, 2),
        ((FOUR,), "streamed", {"cpus": 2, "workers": 2, "data_cpus": 3}, 2),  # 7 CPUs a trial
        ((HEAD, GPU), "resident", {}, 8),  # the head has no GPU, so no trial
        ((HEAD, GPU), "resident", {"gpus": 0}, 36),
        ((HEAD, GPU), "resident", {"workers": 8}, 1),
        ((HEAD, GPU), "resident", {"cpus": 8}, 4),
        ((HEAD, GPU), "streamed", {"cpus": 4}, 7),  # 28 CPUs train; 4 and the head's 4 decode
        ((HEAD, GPU), "resident", {"gpus": 0.5, "cpus": 2}, 16),
        ((HEAD,), "resident", {"memory": "3GB"}, 2),
        ((FOUR,), "resident", {"memory": "8GB", "workers": 2}, 1),  # a node's for the drivers
        ((Node(64, 8), Node(64)), "resident", {"cpus": 16}, 4),
    ],
)
def test_slots_on_several_nodes(
    nodes: tuple[Node, ...], feed: str, resources: dict[str, Any], slots: int
) -> None:
    settings = Search(trials=1000)
    assert plan(Capacity(nodes, "CLUSTER"), Resources(**resources), settings, feed).slots == slots


@pytest.mark.parametrize(
    ("nodes", "feed", "resources", "says", "nearest"),
    [
        ((FOUR,), "resident", {"cpus": 8}, "the largest of CLUSTER has 4 CPUs", {"cpus": 4}),
        ((FOUR,), "resident", {"cpus": 17}, "17 CPUs a trial, but CLUSTER has 16", {"cpus": 4}),
        ((FOUR,), "resident", {"workers": 17}, "but CLUSTER has 16", {"workers": 16}),
        ((FOUR,), "resident", {"cpus": 3, "workers": 5}, "ask for 15 CPUs", {"cpus": 2}),
        ((GPU,), "resident", {"gpus": 8}, "the largest of CLUSTER has 4 GPUs", {"gpus": 4}),
        ((GPU,), "resident", {"workers": 9}, "9 GPUs a trial, but CLUSTER has 8", {"workers": 8}),
        ((FOUR,), "resident", {"memory": "9GB"}, "4 x 4 CPUs with 8.0 GB", {"memory": "8000MB"}),
        ((FOUR,), "streamed", {"cpus": 4, "workers": 4}, "(streamed) ask", {"cpus": 3}),
        ((HEAD,), "streamed", {"data_cpus": 4}, "ask for 5 CPUs", {"data_cpus": 3}),
        # two on each node, one of which has the driver beside them
        (
            (replace(FOUR, count=2),),
            "resident",
            {"workers": 4, "memory": "9GB"},
            "no room",
            {"memory": "3865MB"},
        ),
    ],
)
def test_what_does_not_fit_on_several_nodes(
    nodes: tuple[Node, ...],
    feed: str,
    resources: dict[str, Any],
    says: str,
    nearest: dict[str, Any],
) -> None:
    capacity, settings = Capacity(nodes, "CLUSTER"), Search(trials=1000)
    with pytest.raises(ConfigError) as caught:
        plan(capacity, Resources(**resources), settings, feed)
    ((key, value),) = nearest.items()
    assert says in str(caught.value)
    assert f"; at most resources.{key}={value} fits" in str(caught.value)
    assert plan(capacity, Resources(**{**resources, **nearest}), settings, feed).slots


@pytest.mark.parametrize(
    ("nodes", "feed", "resources", "search", "expected"),  # slots, workers, most workers
    [
        ((Node(1),), "resident", {"workers": (1, 4)}, {}, (1, 1, 1)),
        ((Node(2),), "resident", {"workers": (1, 4)}, {}, (2, 1, 1)),
        ((Node(2),), "resident", {"workers": (1, 4)}, {"concurrency": 1}, (1, 1, 2)),
        ((Node(4),), "resident", {"workers": (1, 4)}, {"trials": 2}, (2, 1, 2)),
        ((Node(4),), "resident", {"workers": (2, 4)}, {}, (2, 2, 2)),
        ((Node(4),), "resident", {"workers": (1, 2)}, {"trials": 1}, (1, 1, 2)),
        ((Node(4),), "streamed", {"workers": (1, 4)}, {"trials": 1}, (1, 1, 3)),  # and one decodes
        ((Node(64),), "resident", {"workers": (1, 4)}, {"trials": 10}, (10, 1, 4)),
        ((Node(64),), "resident", {"workers": (1, 8)}, {"concurrency": 10}, (10, 1, 6)),
        ((Node(64),), "resident", {"workers": (5, 8), "cpus": 2}, {}, (6, 5, 5)),
        ((Node(64, 1),), "resident", {"workers": (1, 4)}, {}, (1, 1, 1)),
        ((Node(64, 8),), "resident", {"workers": (1, 4)}, {"concurrency": 3}, (3, 1, 2)),
        ((Node(64, 8),), "resident", {"workers": (3, 8)}, {}, (2, 3, 4)),
        ((FOUR,), "resident", {"workers": (2, 8), "cpus": 3}, {}, (2, 2, 2)),
        ((FOUR,), "resident", {"workers": (2, 8), "cpus": 3}, {"trials": 1}, (1, 2, 4)),
        ((HEAD, GPU), "resident", {"workers": (1, 9)}, {"trials": 1}, (1, 1, 8)),
        # A worker fills a node, and the trial's driver needs room on another.
        ((FOUR,), "resident", {"workers": (1, 4), "memory": "8GB"}, {"trials": 1}, (1, 1, 3)),
    ],
)
def test_elastic_trials_have_the_fewest_workers_for_certain_and_grow_alike(
    nodes: tuple[Node, ...],
    feed: str,
    resources: dict[str, Any],
    search: dict[str, Any],
    expected: tuple[int, int, int],
) -> None:
    settings = Search(**{"trials": 1000, **search})
    found = plan(Capacity(nodes), Resources(**resources), settings, feed)
    assert (found.slots, found.workers, found.max_workers) == expected
    assert found.distributed


def test_a_plan_says_how_far_a_trial_grows() -> None:
    def said(workers: Any, slots: int) -> str:
        rows = planned(8, workers=workers, search={"concurrency": slots}).rows
        return next(f"{row.amount}: {row.why}" for row in rows if row.what == "workers a trial")

    assert said((1, 4), 1) == "1 to 4: resources.workers=[1, 4]"
    assert said((1, 4), 3) == "1 to 2: resources.workers=[1, 4], room for 2 with 3 at once"
    assert said((1, 4), 8) == "1: resources.workers=[1, 4], room for 1 with 8 at once"
    assert said((2, 2), 4) == "2: resources.workers=[2, 2]"
    assert said(3, 1) == "3: resources.workers"
    shared = planned(8, workers=2, parallel="fsdp").rows
    assert any((row.what, row.amount) == ("how they share it", "fsdp") for row in shared)
    assert not any(row.what == "how they share it" for row in planned(8).rows)


def test_too_many_of_the_fewest_workers_names_what_fits() -> None:
    with pytest.raises(
        ConfigError, match=r"workers=\[5, 8\] .* at most resources.workers=\[4, 8\] fits"
    ):
        planned(4, workers=(5, 8))
    assert planned(4, workers=(4, 8)).max_workers == 4


def test_memory_is_that_of_what_trials_hold() -> None:
    """A process has 0.5 GB; a stream's clips and its decoder, 0.2 GB a CPU, come on top."""
    resident = plan(Capacity((HEAD,)), Resources(), Search(trials=9), "resident")
    streamed = plan(Capacity((HEAD,)), Resources(), Search(trials=9), "streamed", held=2 * GB)
    assert (resident.memory, resident.slots) == (0.5 * GB, 4)
    assert (streamed.memory, streamed.slots) == (2.7 * GB, 2)


def test_nothing_fits_on_a_node_without_cpus() -> None:
    with pytest.raises(ConfigError, match="but this machine has 0; it needs a larger node"):
        planned(0)


def ray_node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": "0", "Alive": alive, "Resources": {"node:127.0.0.1": 1.0, **resources}}


def test_a_running_cluster_is_read_node_by_node() -> None:
    small = {"CPU": 4.0, "memory": 8.04e9, "object_store_memory": 2e9}
    large = {"CPU": 16.0, "GPU": 4.0, "accelerator_type:H200": 1.0, "memory": 64e9}
    nodes = [ray_node(**small), ray_node(**large), ray_node(False, **large)]
    nodes.append(ray_node(**{**small, "memory": 8.01e9}))  # the same machine, but for a few bytes
    assert cluster_capacity(nodes, "CLUSTER") == Capacity(
        (Node(4, memory=8 * GB, store=2 * GB, count=2), Node(16, 4, 64 * GB, None, "H200")),
        "CLUSTER",
    )


# --- properties --------------------------------------------------------------------------------

ANY_NODES = st.lists(
    st.builds(
        Node,
        cpus=st.integers(0, 9),
        gpus=st.integers(0, 3),
        memory=st.none() | st.integers(0, 9).map(lambda count: count * GB),
        count=st.integers(1, 3),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
ANY_RESOURCES = st.builds(
    Resources,
    workers=st.integers(1, 5) | st.tuples(st.integers(1, 3), st.integers(3, 7)),
    cpus=st.integers(1, 6),
    gpus=st.sampled_from([None, 0, 1, 2]),
    data_cpus=st.integers(1, 4),
    memory=st.none() | st.integers(1, 5).map(lambda count: f"{count}GB"),
)
FEEDS = st.sampled_from(["resident", "streamed"])


def slots_on(nodes: tuple[Node, ...], resources: Resources, feed: str) -> int:
    try:
        return plan(Capacity(nodes), resources, Search(trials=10**6), feed).slots
    except ConfigError:
        return 0


def test_machines_that_are_alike_count_each_wherever_they_are_named() -> None:
    apart = (Node(2), Node(4), Node(2))
    assert slots_on(apart, Resources(), "resident") == 8


@given(ANY_NODES, ANY_RESOURCES, FEEDS)
def test_what_is_planned_can_be_placed(
    nodes: tuple[Node, ...], resources: Resources, feed: str
) -> None:
    """Worker after worker on any node that has room, as Ray does; then decoders on what is left."""
    try:
        found = plan(Capacity(nodes), resources, Search(trials=10**6), feed)
    except ConfigError:
        return
    free = [
        [node.cpus, node.gpus, math.inf if node.memory is None else node.memory]
        for node in nodes
        for _ in range(node.count)
    ]
    demand = (found.cpus, found.gpus, found.memory)
    for _ in range(found.slots * found.max_workers):
        room = next(node for node in free if all(map(operator.ge, node, demand)))
        room[:] = map(operator.sub, room, demand)
    assert sum(cpus for cpus, _, _ in free) >= found.slots * found.data_cpus


@given(ANY_NODES, ANY_RESOURCES)
def test_trials_grow_as_far_as_there_is_room(nodes: tuple[Node, ...], resources: Resources) -> None:
    try:
        found = plan(Capacity(nodes), resources, Search(trials=2), "resident")
    except ConfigError:
        return
    assert resources.min_workers == found.workers <= found.max_workers <= resources.max_workers
    if found.max_workers < resources.max_workers:
        more = replace(resources, workers=found.max_workers + 1)
        assert min(2, slots_on(nodes, more, "resident")) < found.slots


@given(ANY_NODES, ANY_RESOURCES, FEEDS)
def test_a_refusal_names_what_fits(
    nodes: tuple[Node, ...], resources: Resources, feed: str
) -> None:
    try:
        plan(Capacity(nodes), resources, Search(trials=10**6), feed)
    except ConfigError as error:
        advice = str(error).rpartition("; ")[2]
    else:
        return
    if not advice.endswith(" fits"):  # then not even the least asks for little enough
        assert not slots_on(nodes, Resources(memory="1MB", gpus=0), "resident")
        return
    feed = "resident" if advice.startswith("dataset.feed=resident") else feed
    found = re.findall(r"resources\.(\w+)=(\[.*?\]|\w+)", advice)
    changes = {key: value if key == "memory" else json.loads(value) for key, value in found}
    assert slots_on(nodes, replace(resources, **changes), feed)


@given(
    ANY_NODES, ANY_RESOURCES, FEEDS, st.integers(0, 2), st.sampled_from(["cpus", "gpus", "count"])
)
def test_more_capacity_never_means_fewer_slots(
    nodes: tuple[Node, ...], resources: Resources, feed: str, which: int, what: str
) -> None:
    resources = replace(resources, gpus=resources.gpus or 0)
    which %= len(nodes)
    more = replace(nodes[which], **{what: getattr(nodes[which], what) + 1})
    larger = (*nodes[:which], more, *nodes[which + 1 :])
    assert slots_on(larger, resources, feed) >= slots_on(nodes, resources, feed)
