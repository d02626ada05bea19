"""What has to be true of a run after all that happened to it, told from its files alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from campaign.conduct import Course
from campaign.driver import run as raudio
from campaign.plan import CLUSTER, DRIVER, STORE, TERMINATED
from campaign.steps import Redone, missing, redone
from raudio.core import storage
from raudio.records import BEST, ENDED, LAST, TrialHistory, read_history, read_records

#: Seconds that a store's fault and a trial's way to another machine take together, at most.
_AWAY = 90.0
#: Seconds for which a driver may keep its records to itself: `mirror.PAUSE`, and a round.
_UNTOLD = 10.0
#: Exit statuses of drivers that end by themselves.
_STATUS = {TERMINATED: 130, CLUSTER: 1}
#: What a run says of where and when it was made, which differs from run to run; and the report,
#: which only a command of the checks makes.
_OF_ITS_OWN = ("environment.json", "search.yaml", "ray.log", "report.html")


@dataclass(frozen=True)
class Check:
    """What was expected, whether it is so, and what was found."""

    name: str
    passed: bool
    found: str


def fetch(run: str, folder: Path) -> Path:
    """A copy of all files of a run, wherever it is."""
    for file in storage.listing(run):
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read_bytes(storage.join(run, file)))
    return folder


def check(
    disturbed: Path,
    undisturbed: Path,
    course: Course,
    interval: int,
    epoch: int,
    spared: Container[str] = (),
) -> Iterator[Check]:
    """Compares a run with one of the same search that nothing disturbed.

    Args:
        disturbed, undisturbed: copies of both.
        course: of the disturbed one.
        interval: steps between two checkpoints.
        epoch: steps of one.
        spared: kinds of faults that may not have found what to strike.
    """
    history = read_history(disturbed)
    records = list(read_records(disturbed))
    trials = history.trials
    yield Check("the search has completed", history.state == "completed", history.state)
    wrong = [kind for kind in course.left if kind not in spared]
    yield _check("every fault has struck", wrong, f"{len(course.struck)} faults")

    ends = Counter(
        record["id"]
        for record in records
        if record["event"] == "trial_end" and record["state"] in ENDED
    )
    wrong = [name for name in trials if ends[name] != 1]
    states = Counter(trial.state for trial in trials.values())
    found = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    yield _check("every trial has ended once, in one named state", wrong, found)

    reports: dict[str, list[int]] = {}
    for record in records:
        if record["event"] == "report":
            reports.setdefault(record["id"], []).append(record["epoch"])
    wrong = [n for n, epochs in reports.items() if epochs != list(range(1, len(epochs) + 1))]
    found = f"{sum(map(len, reports.values()))} reports of {len(reports)} trials"
    yield _check("no report is lost, doubled or out of order", wrong, found)

    wrong = [trial.id for trial in trials.values() if not _costs_grow(trial)]
    yield _check("device time grows from epoch to epoch", wrong)

    wrong = [f"{trial}: {gap}" for trial, gap in missing(course.steps).items()]
    yield _check("no step was left out", wrong, f"{len(course.steps)} steps made")
    again = redone(course.steps)
    wrong = [f"{each.count} steps" for each in again if not _may_be(each, course, interval, epoch)]
    most = max((each.count for each in again), default=0)
    yield _check(
        "no interruption cost more steps than lie between two checkpoints",
        wrong,
        f"at most {most}, and {interval} lie between",
    )

    yield from _compare(history.trials, read_history(undisturbed).trials)
    ours, theirs = (
        history.best(),
        read_history(undisturbed).best(),
    )
    assert ours
    assert theirs
    values = [trial.value(history.metric, history.mode) for trial in (ours, theirs)]
    yield Check(
        "the best trial and its value are the undisturbed search's",
        (ours.id, values[0]) == (theirs.id, values[1]),
        f"trial {ours.id}: {values[0]}",
    )

    files, expected = (_files(folder) for folder in (disturbed, undisturbed))
    wrong = [*(f"-{file}" for file in expected - files), *(f"+{file}" for file in files - expected)]
    yield _check("the run holds the files of the undisturbed one", wrong, f"{len(files)} files")
    yield _check("checkpoints belong to the last and best reports", list(_misplaced(disturbed)))

    yield _check("no process of a trial outlived its driver", course.orphans)
    stored = course.stored
    yield Check(
        "nothing is kept in the object stores after it",
        not stored["pinned bytes"] and not stored["spilled bytes"],
        ", ".join(f"{count} {what}" for what, count in stored.items()),
    )
    yield _check(
        "no driver ended but those that were ended",
        course.ended_badly,
        f"{course.drivers} drivers",
    )
    ended = [each for each in course.struck if each.kind in _STATUS and each.status is not None]
    wrong = [f"{each.kind}: {each.status}" for each in ended if each.status != _STATUS[each.kind]]
    found = ", ".join(str(each.status) for each in ended)
    yield _check("a driver that is told to end says 130, one without a cluster 1", wrong, found)


def commands(
    run: str, folder: Path, recording: Path, plugin: Path, environment: Mapping[str, str]
) -> Check:
    """Whether `status`, `report`, `export` and `predict` work on the run from another machine."""
    bundle = folder / "bundle"
    try:
        status = json.loads(raudio(["status", run, "--json"], folder, environment))
        page = folder / "report.html"
        raudio(["report", run, "--out", str(page)], folder, environment)
        raudio(["export", run, "--out", str(bundle)], folder, environment)
        said = raudio(
            ["predict", str(bundle), str(recording), "--json", "--plugin", str(plugin)],
            folder,
            environment,
        )
        label = json.loads(said.splitlines()[0])["label"]
        found = f"{len(status['trials'])} trials; page of {page.stat().st_size:,} bytes; {label}"
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        return Check("status, report, export and predict work elsewhere", False, str(error)[:500])
    return Check("status, report, export and predict work elsewhere", True, found)


def _may_be(again: Redone, course: Course, interval: int, epoch: int) -> bool:
    """Whether so many steps may have been lost.

    Those since the trial's last checkpoint; while the store fails, to the end of the next epoch,
    where the trial waits for it. And all of a trial that had just begun when its driver was killed:
    that it had, the store had not been told.
    """

    def lately(kinds: Container[str]) -> bool:
        """Whether one of these had struck before the trial went on."""
        return any(
            struck.kind in kinds and again.time - _AWAY < struck.time < again.time
            for struck in course.struck
        )

    if again.start == 0 and again.seconds < _UNTOLD and lately((DRIVER, CLUSTER)):
        return True
    return again.count <= (2 * epoch if lately(STORE) else interval)


def _check(name: str, wrong: Sequence[str], found: str = "") -> Check:
    few = "; ".join(map(str, wrong[:3])) + (" ..." if len(wrong) > 3 else "")
    return Check(name, not wrong, few if wrong else found)


def _costs_grow(trial: TrialHistory) -> bool:
    spent = [report.metrics.get("cost/device_seconds", 0.0) for report in trial.reports]
    return all(0 < before < after for before, after in pairwise(spent))


def _compare(
    ours: Mapping[str, TrialHistory], theirs: Mapping[str, TrialHistory]
) -> Iterator[Check]:
    """The same trials, drawn alike, ended alike, with the same curves."""
    same = ours.keys() == theirs.keys()  # several at once start in any order
    yield Check("as many trials as undisturbed", same, f"{len(ours)} of {len(theirs)}")
    both = [(ours[name], theirs[name]) for name in ours if name in theirs]
    wrong = [mine.id for mine, other in both if mine.params != other.params]
    yield _check("their settings are the undisturbed ones", wrong)
    wrong = [
        f"{mine.id}: {mine.state} after {mine.epochs}, not {other.state} after {other.epochs}"
        for mine, other in both
        if (mine.state, mine.epochs) != (other.state, other.epochs)
    ]
    yield _check("their ends are the undisturbed ones", wrong)
    wrong = [
        f"{mine.id} epoch {a.epoch}: {_difference(a.metrics, b.metrics)}"
        for mine, other in both
        for a, b in zip(mine.reports, other.reports, strict=False)
        if _curve(a.metrics) != _curve(b.metrics)
    ]
    yield _check("their curves are the undisturbed ones, bit for bit", wrong)


def _curve(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("cost/")}


def _difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    names = [name for name in _curve(theirs) if ours.get(name) != theirs[name]]
    return ", ".join(f"{name} {ours.get(name)} not {theirs[name]}" for name in names[:2])


def _files(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {file for file in found if file not in _OF_ITS_OWN}


def _misplaced(folder: Path) -> Iterator[str]:
    """Checkpoints whose epoch is not that of the report which they are said to belong to."""
    from raudio import checkpoint

    history = read_history(folder)
    for trial in history.trials.values():
        best = trial.best_report(history.metric, history.mode)
        for name, report in ((LAST, trial.reports[-1] if trial.reports else None), (BEST, best)):
            path = folder / "trials" / trial.id / name
            if path.exists():
                saved: Any = checkpoint.load(path)
                if report is None or saved["epoch"] != report.epoch:
                    yield f"{trial.id}/{name}: epoch {saved['epoch']}"
