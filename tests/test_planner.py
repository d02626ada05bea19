"""The plan of a search on machines of every size, and the refusal of what would wait for ever."""

from __future__ import annotations

import re
from typing import Any

import pytest

from raudio.cluster.session import Capacity
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
    return plan(Capacity(present, present_gpus), Resources(**resources), settings, feed)


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
        (64, 8, "resident", {"workers": 2, "gpus": 0.5}, 8),
        (64, 2, "resident", {"gpus": 0.6}, 2),  # 0.4 of each GPU is left, and of no use
        (64, 4, "resident", {"workers": 3, "gpus": 0.4}, 2),  # two a GPU are eight places
        (64, 0.3, "resident", {"gpus": 0.1}, 3),  # 0.3 / 0.1 is 2.9999999999999996
    ],
)
def test_slots(cpus: float, gpus: float, feed: str, resources: dict[str, Any], slots: int) -> None:
    found = planned(cpus, gpus, feed=feed, **resources)
    assert found.slots == slots
    # What the plan hands out is there: at no time do more CPUs or GPUs run than exist.
    assert slots * (found.workers * found.cpus + found.data_cpus) <= cpus
    assert slots * found.workers * found.gpus <= gpus + 1e-9
    assert found.reasons


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


def test_gpus_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"resources\.gpus=1 .*has 0; leave resources\.gpus out"):
        planned(4, gpus=1)


@pytest.mark.parametrize(("gpus", "workers"), [(1, 4), (1, 3), (2, 3), (8, 3), (8, 9)])
def test_more_gpus_than_there_are_names_the_most_that_fit(gpus: int, workers: int) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(64, gpus, workers=workers, gpus=4)
    nearest = number(r"at most resources\.gpus=([\d.]+) fits", str(caught.value))
    assert planned(64, gpus, workers=workers, gpus=nearest).slots == 1
    with pytest.raises(ConfigError):
        planned(64, gpus, workers=workers, gpus=nearest + (0.01 if nearest < 1 else 1))


def test_ray_cannot_give_one_and_a_half_gpus() -> None:
    with pytest.raises(ConfigError, match=r"resources\.gpus=1\.5.*1 or 2"):
        planned(64, 8, gpus=1.5)


def test_concurrency_that_does_not_fit_names_the_most_that_does() -> None:
    with pytest.raises(ConfigError, match=r"concurrency=5.*2 trials of 2 CPUs.*at most 2"):
        planned(4, search={"concurrency": 5}, cpus=2)
    assert planned(4, search={"concurrency": 2}, cpus=2).slots == 2


def test_a_share_is_of_one_gpu() -> None:
    """1.8 of 2 GPUs, and yet the third worker would wait for ever: 0.4 of each is left."""
    with pytest.raises(ConfigError, match=r"at most resources\.gpus=0\.5 fits"):
        planned(64, 2, workers=3, gpus=0.6)
