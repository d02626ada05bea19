"""Runs in a store: what is there when a driver dies between any two objects, who may drive it, and
what happens while the store fails. The bucket is moto's, on loopback.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flaky
import pytest
from flaky import Fault
from search_kit import Clock, KilledError, Session, after_the_first_session, ends, outcome
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.core import storage
from raudio.core.copies import copies_of, local_run
from raudio.core.errors import RunError
from raudio.export.make import export
from raudio.records import RECORDS, RunLock, read_history, read_records
from raudio.search import mirror, runner
from raudio.search.mirror import Mirror

RUN = "s3://sounds/runs/a"


@pytest.fixture(scope="module")
def front() -> Iterator[flaky.Proxy]:
    with flaky.s3() as front:
        yield front


@pytest.fixture(autouse=True)
def store(
    front: flaky.Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[flaky.Proxy]:
    for name, value in flaky.environment(front).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(mirror, "PAUSE", 3600.0)  # tests say when
    on_machine(monkeypatch, tmp_path / "one")
    front.reset()
    yield front
    front.reset()
    storage.remove("s3://sounds/runs")


def on_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Another machine has another cache and another name."""
    monkeypatch.setenv("RAUDIO_CACHE", str(folder))
    monkeypatch.setattr("raudio.search.mirror.socket.gethostname", lambda: folder.name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock()


def opened(*, new: bool = True) -> Mirror:
    return Mirror(RUN, new=new, say=lambda text: None)


def die(copy: Mirror) -> None:
    """What kill -9 leaves: threads that do nothing more, an owner in the store."""
    copy._ended.set()
    for thread in copy._threads:
        thread.join()


def stored() -> dict[str, bytes]:
    return {file: storage.read_bytes(f"{RUN}/{file}") for file in storage.listing(RUN)}


def make(folder: Path, files: dict[str, str]) -> None:
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        storage.write_atomic(folder / file, text)


# --- what is sent ------------------------------------------------------------------------------

START = '{"event": "search_start", "time": 1, "metric": "m", "mode": "max"}\n'


def test_the_store_holds_what_the_folder_holds(store: flaky.Proxy) -> None:
    with opened() as copy:
        make(copy.folder, {RECORDS: START, "trials/0000/experiment.yaml": "a", "search.yaml": "x"})
        make(copy.folder, {"bundle/card": "first", ".hidden/own": "1"})
        copy.send()
        assert set(stored()) == {
            "owner.json", RECORDS, "search.yaml", "trials/0000/experiment.yaml", "bundle/card",
        }  # fmt: skip
        store.reset()
        copy.send()
        assert [method for method, _ in store.requests] == []  # nothing has changed
        make(copy.folder, {"trials/0000/experiment.yaml": "b"})
        (copy.folder / "bundle/card").unlink()
        copy.send()
        assert stored()["trials/0000/experiment.yaml"] == b"b"
        assert "bundle/card" not in stored()
    assert set(stored()) == {RECORDS, "search.yaml", "trials/0000/experiment.yaml"}


def test_the_order_in_which_objects_are_sent(store: flaky.Proxy) -> None:
    """What the records count on, then the records, then what they know to be useless goes."""
    storage.write_atomic(f"{RUN}/trials/0000/last.pt", "kept by its trial")
    with opened() as copy:
        make(copy.folder, {RECORDS: START, "trials/0001/best.pt": "of an earlier run"})
        make(copy.folder, {"trials/0001/experiment.yaml": "c", "space.yaml": "d"})
        copy.remove("trials/0000/last.pt", "trials/0000/donor.pt")
        assert copy.checkpoints() == {"trials/0000/last.pt"}
        store.reset()
        copy.send()
        sent = [(method, path.partition("/a/")[2]) for method, path in store.requests]
        assert sent.index(("PUT", RECORDS)) == 3
        assert sent[4:] == [
            ("DELETE", "trials/0000/last.pt"),
            ("DELETE", "trials/0000/donor.pt"),
        ]
        assert copy.checkpoints() == {"trials/0001/best.pt"}
        copy.remove("trials/0001/best.pt")
        assert not (copy.folder / "trials/0001/best.pt").exists()
        copy.send()
        assert copy.checkpoints() == set()


def test_what_changes_while_a_round_is_sent_comes_with_the_next_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint goes only when the records in the store know why."""
    storage.write_atomic(f"{RUN}/trials/0000/last.pt", "1")
    with opened() as copy:
        make(copy.folder, {RECORDS: START, "space.yaml": "d"})
        upload = storage.upload

        def gets_on(path: Path, uri: str) -> None:
            make(copy.folder, {RECORDS: START + START})
            copy.remove("trials/0000/last.pt")
            upload(path, uri)

        monkeypatch.setattr(storage, "upload", gets_on)
        copy.send()
        assert stored()["trials/0000/last.pt"] == b"1"
        assert stored()[RECORDS] == START.encode()
        monkeypatch.setattr(storage, "upload", upload)
        copy.send()
        assert "trials/0000/last.pt" not in stored()
        assert stored()[RECORDS] == (START + START).encode()


def test_a_copy_is_made_in_the_store(store: flaky.Proxy) -> None:
    storage.write_atomic(f"{RUN}/trials/0000/last.pt", "1")
    with opened() as copy:
        copy.copy("trials/0000/last.pt", "trials/0001/donor.pt")
        assert stored()["trials/0001/donor.pt"] == b"1"
        with pytest.raises(FileNotFoundError):
            copy.copy("trials/0002/last.pt", "trials/0001/donor.pt")


# --- going on ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objects", [0, 1, 2, 3, 4, 6, 9])
def test_a_driver_that_dies_between_two_objects_is_taken_over_by_another_machine(
    objects: int, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search ends as if nothing had happened, wherever in a round its driver died."""
    settings: dict[str, Any] = {"trials": 6, "sampler": "random", "seed": 5}
    Session(tmp_path / "whole", clock, **settings).finish()
    copy = opened().__enter__()
    session = Session(copy.folder, clock, place=copy, **settings)
    session.drive(steps=5)
    copy.send()
    session.drive(steps=4 + objects)
    upload, write, remove = storage.upload, storage.write_atomic, storage.remove_file
    left = [objects]

    def alive() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError

    def dying_upload(path: Path, uri: str) -> None:
        alive()
        upload(path, uri)

    def dying_write(path: Any, content: bytes | str) -> None:
        alive()
        write(path, content)

    def dying_remove(path: Any) -> None:
        alive()
        remove(path)

    with monkeypatch.context() as patch, contextlib.suppress(KilledError):
        patch.setattr(storage, "upload", dying_upload)
        patch.setattr(storage, "remove_file", dying_remove)
        patch.setattr(storage, "write_atomic", dying_write)
        copy.send()
    die(copy)
    session.records.close()
    storage.remove(f"{RUN}/owner.json")  # a minute later
    on_machine(monkeypatch, tmp_path / "two")
    with opened(new=False) as other:
        assert other.folder != copy.folder
        finished = set(ends(other.folder))
        Session(other.folder, clock, place=other, **settings).finish()
        again = after_the_first_session(other.folder)
        assert not {r["id"] for r in again if r["event"] == "trial_start"} & finished
    assert outcome(local_run(RUN)) == outcome(tmp_path / "whole")


def test_on_the_same_machine_nothing_is_lost_that_was_not_yet_sent(clock: Clock) -> None:
    copy = opened().__enter__()
    session = Session(copy.folder, clock, place=copy, trials=3)
    session.drive(steps=3)
    copy.send()
    session.drive(steps=3)
    session.records.close()
    local = (copy.folder / RECORDS).read_bytes()
    die(copy)
    assert len(stored()[RECORDS]) < len(local)
    with opened(new=False) as again:  # its owner was alive a moment ago: it is of this machine
        assert (again.folder / RECORDS).read_bytes() == local
    assert stored()[RECORDS] == local


def test_what_another_machine_did_since_is_not_overwritten(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with opened() as one:
        make(one.folder, {RECORDS: START, "trials/0000/experiment.yaml": "1"})
    on_machine(monkeypatch, tmp_path / "two")
    with opened(new=False) as two:
        make(two.folder, {RECORDS: START + START, "trials/0000/experiment.yaml": "2"})
        storage.write_atomic(f"{RUN}/trials/0000/last.pt", "large")
    on_machine(monkeypatch, tmp_path / "one")
    with opened(new=False) as back:
        assert (back.folder / RECORDS).read_text() == START + START
        assert (back.folder / "trials/0000/experiment.yaml").read_text() == "2"
        assert not (back.folder / "trials/0000/last.pt").exists()  # its trial reads it


# --- owner -------------------------------------------------------------------------------------


def test_two_drivers_do_not_write_one_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = opened().__enter__()
    make(copy.folder, {RECORDS: START})
    with RunLock(copy.folder):
        copy.send()
        with pytest.raises(RunError, match=r"in use by process .* on one"):
            opened(new=False).__enter__()
    on_machine(monkeypatch, tmp_path / "two")
    with pytest.raises(RunError, match=r"in use by process .* on one"):
        opened(new=False).__enter__()
    assert read_history(local_run(RUN)).state == "running"
    die(copy)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 61)
    assert read_history(local_run(RUN)).state == "interrupted"
    opened(new=False).__enter__().__exit__(None, None, None)  # the dead one's time is over
    assert "owner.json" not in stored()


def test_a_driver_that_was_taken_over_stops_and_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirror, "BEAT", 0.02)
    with opened() as copy:
        make(copy.folder, {RECORDS: START})
        copy.send()
        deadline = time.monotonic() + 10
        while not copy.broken and time.monotonic() < deadline:
            # Again and again: the first may write over it between its look and its beat.
            storage.write_atomic(f"{RUN}/owner.json", json.dumps({"token": "another"}))
            time.sleep(0.02)
        assert copy.broken == f"another driver has taken over {RUN}"
        make(copy.folder, {RECORDS: START + START})
    assert stored()[RECORDS] == START.encode()
    assert json.loads(stored()["owner.json"]) == {"token": "another"}


# --- a store that fails --------------------------------------------------------------------------


def test_a_failing_store_slows_and_does_not_end_the_search(
    store: flaky.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(mirror, "PAUSE", 0.02)
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.01)
    with Mirror(RUN, new=True, say=said.append) as copy:
        store.reset(Fault("503", times=6, method="PUT", path=RECORDS))
        make(copy.folder, {RECORDS: START})
        deadline = time.monotonic() + 20
        while len(said) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "cannot be written" in said[0]
        assert said[1] == f"{RUN} can be written again"
        assert copy.broken is None
    assert stored()[RECORDS] == START.encode()


def test_a_store_that_fails_for_long_stops_it_and_says_where_the_run_is(
    store: flaky.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PAUSE", 0.02)
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.01)
    copy = opened().__enter__()
    copy.patience = 0.05
    store.reset(Fault("403", times=10**6, method="PUT", path=RECORDS))
    make(copy.folder, {RECORDS: START})
    deadline = time.monotonic() + 20
    while not copy.broken and time.monotonic() < deadline:
        time.sleep(0.02)
    assert copy.broken is not None
    assert str(copy.folder) in copy.broken
    with pytest.raises(RunError, match="is not up to date") as caught:
        copy.__exit__(None, None, None)
    assert str(copy.folder) in str(caught.value)
    store.reset()
    with opened(new=False):
        pass
    assert stored()[RECORDS] == START.encode()


# --- commands ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_and_every_command_take_the_uri(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted: list[int | None] = []

    def no_trials(
        job: Any, place: Any, engine: Any, display: Any, last_words: Any
    ) -> tuple[str, None]:
        wanted.append(engine.trials_wanted)
        return "stopped", None

    monkeypatch.setattr(runner, "_trials", no_trials)
    found = runner.search("search.trials=2", f"run.dir={RUN}", quiet=True)
    assert found.name == RUN
    assert found.run == copies_of(RUN) / "work"
    assert {"search.yaml", "space.yaml", "environment.json", RECORDS} <= set(stored())
    on_machine(monkeypatch, tmp_path / "two")
    runner.resume(RUN, "search.trials=5", quiet=True)
    on_machine(monkeypatch, tmp_path / "one")
    runner.resume(RUN, quiet=True)
    assert wanted == [2, 5, 5]
    with pytest.raises(RunError, match=f"{RUN}.* exists already"):
        runner.search("search.trials=2", f"run.dir={RUN}", quiet=True)
    status = CliRunner().invoke(app, ["status", RUN, "--json"])
    assert status.exit_code == 0, status.output
    data = json.loads(status.output)
    assert (data["run"], data["state"]) == (RUN, "stopped")
    report = CliRunner().invoke(app, ["report", RUN])
    assert report.exit_code == 0, report.output
    assert report.output.strip() == f"{RUN}/report.html"
    assert b"</html>" in stored()["report.html"]
    with pytest.raises(RunError, match=r"no such run: 's3://sounds/runs/none'"):
        runner.resume("s3://sounds/runs/none", quiet=True)


@pytest.mark.parametrize(
    "command", [["status"], ["report"], ["export", "--out", "bundle"], ["curves", "--out", "c.pq"]]
)
def test_a_run_that_is_not_there_is_named_as_it_was_given(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the copy of it that would be read."""
    monkeypatch.chdir(tmp_path)
    none = "s3://sounds/runs/none"
    done = CliRunner().invoke(app, [command[0], none, *command[1:]])
    assert isinstance(done.exception, RunError)
    assert (
        str(done.exception)
        == f"no such run: '{none}' holds no records.jsonl; `raudio search` makes one"
    )
    assert not any(Path(made).exists() for made in command[2:])


def test_a_run_that_lacks_a_trial_is_named_as_it_was_given(clock: Clock, tmp_path: Path) -> None:
    with opened() as copy:
        Session(copy.folder, clock, place=copy, trials=3).finish()
    with pytest.raises(RunError, match=rf"run '{RUN}' has no trial '7'.*status {RUN}"):
        export(RUN, tmp_path / "bundle", "7")


def test_a_copy_by_hand_is_a_run(clock: Clock, tmp_path: Path) -> None:
    with opened() as copy:
        Session(copy.folder, clock, place=copy, trials=3).finish()
    folder = local_run(RUN)
    shutil.copytree(folder, tmp_path / "mine")
    assert list(read_records(tmp_path / "mine")) == list(read_records(folder))
