"""What the fault campaign tells from its notes, on notes that are made up."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def found() -> Iterator[None]:
    """The benchmarks' modules can be imported."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def noted(folder: Path, **processes: str) -> Any:
    """Steps as processes have noted them: `p7="0000: 0@1.0 1@2.0"`."""
    from campaign.steps import steps

    for process, text in processes.items():
        trial, _, made = text.partition(": ")
        lines = [" ".join(step.split("@")) + "\n" for step in made.split()]
        (folder / f"{trial}.{process[1:]}").write_text("".join(lines))
    return steps(folder)


def test_an_interruption_costs_what_is_made_again(tmp_path: Path) -> None:
    from campaign.steps import Redone, missing, redone

    # Process 2 goes on from step 2; 1, which had been given up, makes one more.
    made = noted(
        tmp_path,
        p1="0000: 0@1 1@2 2@3 3@4 4@9.5",
        p2="0000: 2@8 3@9 4@10 5@11",
        p3="0001: 0@12 1@13",
        p4="0001: 2@15",
    )
    assert [step.again for step in made] == [False] * 4 + [True, True, False, True] + [False] * 4
    assert redone(made) == [Redone(time=8.0, start=2, count=2, seconds=1.0)]
    assert missing(made) == {}
    # What was written when the process was killed is no step.
    with (tmp_path / "0001.4").open("a") as file:
        file.write("4 17.0\n5")
    assert missing(noted(tmp_path)) == {"0001": [3]}


@pytest.mark.parametrize(
    ("start", "count", "seconds", "kind", "may"),
    [
        (20, 7, 0.7, "machine killed", True),
        (20, 8, 0.8, "machine killed", False),
        (20, 40, 4.0, "store: 503", True),  # the trial went on without it for an epoch
        (20, 41, 4.0, "store: 503", False),
        (0, 37, 3.7, "driver killed", True),  # the trial had just begun
        (0, 37, 3.7, "machine killed", False),
        (0, 137, 13.7, "driver killed", False),
        (20, 37, 3.7, "driver killed", False),
    ],
)
def test_what_an_interruption_may_cost(
    start: int, count: int, seconds: float, kind: str, may: bool
) -> None:
    from campaign.checks import _may_be
    from campaign.conduct import Course, Struck
    from campaign.steps import Redone

    course = Course(struck=[Struck(kind, 100.0, "it")])
    assert _may_be(Redone(130.0, start, count, seconds), course, interval=7, epoch=20) is may
    assert not _may_be(Redone(300.0, start, 8, seconds), course, interval=7, epoch=20)  # long ago


def test_what_faults_cost_adds_up(tmp_path: Path) -> None:
    from campaign.conduct import Course, Struck
    from campaign.costs import costs

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed = Course(0.0, 10.0, steps=noted(tmp_path / "a", p1="0000: 0@2 1@4 2@6 3@8"))
    steps = noted(tmp_path / "b", p1="0000: 0@2 1@4", p2="0000: 1@10 2@12 3@19")
    struck = [Struck("killed", 5.0, "it"), Struck("slow", 13.0, "it")]
    course = Course(0.0, 21.0, struck=struck, steps=steps)
    killed, slow = costs(course, undisturbed, epoch_steps=2)
    assert (killed.kind, slow.kind) == ("killed", "slow")
    assert (killed.epochs, slow.epochs) == ([0.5], [0.0])
    assert killed.seconds == [8.0 - 2.0]  # a step takes 2 s, from the first one on
    assert slow.seconds == [8.0 - 2.0]


def test_faults_are_drawn_from_the_seed_and_spread() -> None:
    from campaign import plan

    faults = plan.plan(3, plan.COUNTS)
    assert faults == plan.plan(3, plan.COUNTS) != plan.plan(4, plan.COUNTS)
    assert len(faults) >= 30
    places = [fault.at for fault in faults]
    assert places == sorted(places)
    # No more than two of them in any stretch of an equal part's length.
    part = 0.88 / len(faults)
    assert all(after - before > part for before, after in zip(places, places[2:], strict=False))
    assert {fault.kind for fault in faults} == set(plan.COUNTS)


@pytest.mark.parametrize("slots", [1, 2])
def test_the_search_of_a_campaign_is_one_that_raudio_takes(slots: int) -> None:
    from faults import search

    from raudio.config.compose import compose

    given = Namespace(slots=slots, feed="resident", checkpoint_steps=7, trials=20, epochs=6)
    arguments = search(given, "s3://sounds/data", Path("space.yaml"))
    # The plugin and its schedule, which it would register for all tests.
    own = [each for each in arguments if not each.startswith(("plugins=", "schedule="))]
    found = compose(own)
    assert (found.search.concurrency, found.search.trials) == (slots, 20)
    assert found.experiment.training.checkpoint_every == "7 steps"


def test_a_part_in_a_process_of_its_own_answers_and_ends(tmp_path: Path) -> None:
    from campaign.served import Served

    script = tmp_path / "child.py"
    script.write_text(
        "import subprocess, sys\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from campaign.served import Channel\n"
        "channel = Channel()\n"
        "print('not an answer')\n"
        "other = subprocess.Popen(['sleep', '600'])\n"
        "channel.serve({'add': lambda a, b: a + b, 'other': lambda: other.pid})\n"
    )
    with Served(script, log=tmp_path / "log") as child:
        assert child.ask("add", a=1, b=2) == 3
        with pytest.raises(RuntimeError, match="add: TypeError"):
            child.ask("add", a=1)
        other = child.ask("other")
    assert child.process.returncode == 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{other}/exe").exists():
        time.sleep(0.01)
    assert not Path(f"/proc/{other}/exe").exists()  # a dead process that nobody waits for has none
    assert (tmp_path / "log").read_text() == "not an answer\n"
