"""Nothing is lost: a search on recorded curves is killed everywhere, its record cut at every byte,
its disk filled up, and it ends as if nothing had happened.

The search is TPE under ASHA. Killing a driver is taking a copy of its folder at that moment.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from search_kit import METRIC, Clock, KilledError, Session, ends, outcome, possible

from raudio.core.errors import RunError
from raudio.records import RECORDS, RecordWriter, read_history, read_records

SETTINGS: dict[str, Any] = {"trials": 48, "sampler": "tpe", "seed": 2, "experiment_for": possible}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    return Clock()


class Copying(RecordWriter):
    """Copies the run's folder at records, when they are on the disk."""

    def __init__(self, path: Path, out: Path, at: set[int]) -> None:
        super().__init__(path)
        self.run, self.out, self.at, self.count = path.parent, out, at, 0

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        record = super().append(event, **fields)
        self.count += 1
        if self.count in self.at:
            shutil.copytree(self.run, self.out / f"{self.count:03d}")
        return record


def searched(run: Path, clock: Clock, out: Path, at: set[int], slots: int = 1) -> int:
    """A search that nothing disturbs, with copies of its folder; its number of records."""
    session = Session(run, clock, **SETTINGS)
    session.records.close()
    session.records = session.engine._records = Copying(run / RECORDS, out, at)  # type: ignore[assignment]
    session.drive(slots)
    session.engine.close("completed", None)
    session.records.close()
    return session.records.count


def fate(run: Path) -> Any:
    """The final ranking, every trial's end, and all reports."""
    found = outcome(run)
    return found["ranked"], found["reports"], found["files"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "every", [5, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_killed_at_every_one_of_200_points_the_search_is_the_same(
    tmp_path: Path, clock: Clock, every: int
) -> None:
    points = range(1, 201, every)
    count = searched(tmp_path / "whole", clock, tmp_path, set(points))
    assert count > 200
    expected = fate(tmp_path / "whole")
    states = {ended for _, ended, *_ in expected[0]}
    assert states == {"completed", "pruned"}
    for point in points:
        run = tmp_path / f"{point:03d}"
        Session(run, clock, **SETTINGS).finish()
        assert fate(run) == expected, f"killed after record {point}"
        assert set(ends(run).values()) == {1}
        shutil.rmtree(run)


@pytest.mark.slow
def test_killed_at_some_points_the_search_is_the_same(tmp_path: Path, clock: Clock) -> None:
    points = {58, 121}
    searched(tmp_path / "whole", clock, tmp_path, points)
    for point in points:
        run = tmp_path / f"{point:03d}"
        Session(run, clock, **SETTINGS).finish()
        assert fate(run) == fate(tmp_path / "whole"), f"killed after record {point}"


@pytest.mark.slow
@pytest.mark.parametrize("slots", [2, 4])
def test_with_several_slots_no_report_is_lost_no_trial_runs_twice_and_the_rungs_are_whole(
    tmp_path: Path, clock: Clock, slots: int
) -> None:
    points = set(random.Random(slots).sample(range(3, 150), 3))
    searched(tmp_path / "whole", clock, tmp_path, points, slots)
    for point in points:
        run = tmp_path / f"{point:03d}"
        known = {trial.id: trial.reports for trial in read_history(run).trials.values()}
        finished = set(ends(run))
        before = len(list(read_records(run)))
        session = Session(run, clock, **SETTINGS)
        session.drive(slots)
        session.engine.close("completed", None)
        session.records.close()
        history = read_history(run)
        assert ends(run) == {f"{number:04d}": 1 for number in range(48)}
        assert all(history.trials[name].reports[: len(r)] == r for name, r in known.items())
        late = list(read_records(run))[before:]
        assert not {r["id"] for r in late if r["event"] in ("report", "trial_start")} & finished
        # Each rung holds exactly the trials that have reported its epoch.
        for epoch, trials in session.engine.scheduler.rungs():
            reached = [t for t in history.trials.values() if t.epochs >= epoch]
            assert trials == len(reached), f"rung at epoch {epoch}, killed at {point}"


@pytest.mark.slow
def test_cut_at_every_byte_the_record_is_whole_up_to_there(tmp_path: Path, clock: Clock) -> None:
    """What the kernel had of a record when the power went."""
    session = Session(tmp_path, clock, trials=2)
    session.finish()
    content = (tmp_path / RECORDS).read_bytes()
    lines = content.splitlines(keepends=True)
    records = list(read_records(tmp_path))
    torn = tmp_path / "torn"
    torn.mkdir()
    for size in range(len(content) + 1):
        (torn / RECORDS).write_bytes(content[:size])
        whole = content[:size].count(b"\n")
        assert list(read_records(torn)) == records[:whole]
        with RecordWriter(torn / RECORDS, clock) as writer:
            writer.append("search_start", version="é", metric="valid/accuracy", mode="max")
        assert (torn / RECORDS).read_bytes().startswith(b"".join(lines[:whole]))
        assert len(list(read_records(torn))) == whole + 1


def test_cut_at_any_byte_the_search_goes_on(tmp_path: Path, clock: Clock) -> None:
    settings = {"trials": 6, "sampler": "random", "seed": 5}
    searched_once = Session(tmp_path / "whole", clock, **settings)
    searched_once.finish()
    expected = outcome(tmp_path / "whole")
    for number in range(12):
        run = tmp_path / str(number)
        with pytest.raises(KilledError):
            Session(run, clock, deadline=4 + number, **settings).finish()
        content = (run / RECORDS).read_bytes()
        last = len(content.splitlines(keepends=True)[-1])
        cut = random.Random(number).randrange(1, last)
        # The trial's checkpoint may know an epoch whose report is torn: it reports it again.
        (run / RECORDS).write_bytes(content[:-cut])
        Session(run, clock, **settings).finish()
        assert outcome(run) == expected


@pytest.mark.parametrize("written", [None, 0, 7])
def test_a_full_disk_is_one_message_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, written: int | None
) -> None:
    settings = {"trials": 5, "sampler": "random", "seed": 5}
    Session(tmp_path / "whole", clock, **settings).finish()
    run = tmp_path / "run"
    session = Session(run, clock, **settings)
    session.drive(steps=5)
    before = (run / RECORDS).read_bytes()
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if written is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[:written]) if written else 0

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(RunError, match=r"records\.jsonl' cannot be written: No space left"):
            session.drive()
        assert session.engine.broken
        assert session.engine.next() is None
        session.engine.close("failed", session.engine.broken)  # which cannot be recorded either
    session.records.close()
    assert (run / RECORDS).read_bytes() == before
    Session(run, clock, **settings).finish()
    assert outcome(run) == outcome(tmp_path / "whole")


def test_reports_reach_the_disk_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, synced = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("os.fsync", synced.append)
    with RecordWriter(tmp_path / RECORDS) as writer:
        for now[0] in (0.4, 0.9, 1.1, 1.5, 2.2):
            writer.append("lost", id="0000", reason=METRIC)
        assert len(synced) == 2
    assert len(synced) == 3


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / RECORDS) as writer:
        writer.append("search_start", format=2, version="9.1", metric="m", mode="max")
    with pytest.raises(RunError, match=r"format 2, made by raudio 9\.1; .* install raudio 9\.1"):
        read_history(tmp_path)
