"""What follows from a trial's failure, by its kind: also when the driver dies in between."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayTaskError
from search_kit import EPOCHS, METRIC, Clock, KilledError, Session, files, outcome, possible

from raudio.config import compose
from raudio.config.schema import Experiment
from raudio.core.errors import ConfigError
from raudio.records import BEST, LAST, read_history, read_records, trial_folder
from raudio.search.failures import loss_of, with_half_the_memory
from raudio.search.tune import RayActorManager
from raudio.training.launch import NO_MEMORY, LostWorkerError, end_of

SAME = [("error", f"RuntimeError: step {n} of 1.5e-{n:02d} at {n / 7}") for n in range(6)]
NON_FINITE = [("non-finite loss", f"the loss is nan at step {n} of 9") for n in range(6)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


def run_failing(session: Session, reasons: list[tuple[str, str] | None]) -> int:
    """Trials that fail so, or complete (None); how many ran before the search broke."""
    for count, reason in enumerate(reasons, start=1):
        spec = session.engine.next()
        assert spec is not None
        if reason is None:
            session.engine.report(spec.id, EPOCHS, {METRIC: 0.5}, 1.0, True)
        else:
            session.engine.fail(spec.id, *reason)
        if session.engine.broken:
            return count
    return len(reasons)


# --- one after the other -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reasons", "count", "said"),
    [
        (SAME, 3, "every trial fails: "),
        (NON_FINITE, 3, "every trial fails: "),
        ([("error", "RuntimeError: one thing"), *SAME], 4, "every trial fails: "),
        ([None, *SAME], 4, "3 trials in a row have failed: "),
        ([SAME[0], SAME[1], None, *SAME[2:]], 6, "3 trials in a row have failed: "),
        ([None, *[("crash", "its process died")] * 3], 4, "3 trials in a row have failed: "),
    ],
)
def test_so_many_failures_that_are_alike_stop_the_search(
    tmp_path: Path, clock: Clock, reasons: Any, count: int, said: str
) -> None:
    session = Session(tmp_path, clock, max_failures=3, experiment_for=possible)
    assert run_failing(session, list(reasons)) == count
    kind, reason = reasons[count - 3]
    assert session.engine.broken == f"{said}{kind}: {reason}"
    assert session.engine.next() is None


@pytest.mark.parametrize(
    "reasons",
    [
        [*SAME[:2], None, *SAME[:2], None, *SAME[:2]],
        [*SAME[:2], ("error", "RuntimeError: another"), *SAME[:2], ("error", "OSError: x")],
        [None, *NON_FINITE],
        [None, *[("configuration", "these do not go together")] * 6],
    ],
)
def test_others_do_not(tmp_path: Path, clock: Clock, reasons: Any) -> None:
    session = Session(tmp_path, clock, max_failures=3, experiment_for=possible)
    assert run_failing(session, reasons) == len(reasons)
    assert session.engine.broken is None
    assert session.engine.next() is not None


def test_numbers_differ_where_the_error_is_the_same(tmp_path: Path, clock: Clock) -> None:
    said = "the loss is {} at step {} of 9 (learning rate {})"
    reasons: list[tuple[str, str] | None] = [
        ("non-finite loss", said.format(*numbers))
        for numbers in (("nan", 1, "100"), ("inf", 2, "3e+04"), ("-inf", 3, "0.5"))
    ]
    session = Session(tmp_path, clock, max_failures=3, experiment_for=possible)
    assert run_failing(session, reasons) == 3
    assert session.engine.broken


def test_a_search_of_one_trial_that_fails_has_failed(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, trials=1, experiment_for=possible)
    run_failing(session, [SAME[0]])
    assert session.engine.broken == f"every trial fails: error: {SAME[0][1]}"


def test_failures_are_counted_over_a_killed_driver_and_anew_after_a_stop(
    tmp_path: Path, clock: Clock
) -> None:
    settings = {"max_failures": 3, "experiment_for": possible}
    first = Session(tmp_path, clock, **settings)
    assert run_failing(first, [None, *SAME[:2]]) == 3
    first.records.close()  # killed
    second = Session(tmp_path, clock, **settings)
    assert run_failing(second, [SAME[2], None]) == 1
    second.records.close()  # killed before it could stop
    third = Session(tmp_path, clock, **settings)
    assert third.engine.broken
    assert third.engine.next() is None
    third.engine.close("failed", third.engine.broken)
    third.records.close()
    fourth = Session(tmp_path, clock, **settings)  # by somebody who has been told
    assert run_failing(fourth, [*SAME[:2], None]) == 3
    assert not fourth.engine.broken


def test_settings_that_never_work_together_end_the_search(tmp_path: Path, clock: Clock) -> None:
    def never(params: Mapping[str, Any]) -> Any:
        raise ConfigError("features.f_max is above half the sample rate")

    session = Session(tmp_path, clock, trials=100, max_failures=3, experiment_for=never)
    assert session.engine.next() is None
    assert (
        session.engine.broken
        == "every trial fails: configuration: features.f_max is above half the sample rate"
    )
    assert len(session.engine.history.trials) == 3


def test_a_failed_trial_is_failed_whatever_it_reported(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, experiment_for=possible)
    spec = session.engine.next()
    assert spec is not None
    folder = trial_folder(tmp_path, spec.id)
    folder.mkdir(parents=True)
    for name in (LAST, BEST):
        (folder / name).write_text("1")
    session.engine.report(spec.id, 1, {METRIC: 0.99}, 1.0, False)
    session.engine.fail(spec.id, "non-finite loss", "the loss is nan at step 7")
    trial = session.engine.history.trials[spec.id]
    assert (trial.state, trial.kind) == ("failed", "non-finite loss")
    assert session.engine.history.best() is None
    assert files(tmp_path) == []


# --- what stops the search, and is mended --------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "cure"), [("bad data", "prepare it again"), ("disk full", "make room")]
)
def test_what_no_trial_would_escape_stops_the_search_and_when_it_is_mended_nothing_is_lost(
    tmp_path: Path, clock: Clock, kind: str, cure: str
) -> None:
    whole = Session(tmp_path / "whole", clock)
    whole.finish()
    run = tmp_path / "run"
    first = Session(run, clock)
    first.drive(steps=12)
    (name,) = (trial.id for trial in first.engine.running)
    first.engine.fail(name, kind, "clip 'a.wav' of shards/train-00000.parquet")
    broken = first.engine.broken
    assert broken is not None
    assert broken.startswith(f"{kind}: clip 'a.wav' of shards/train-00000.parquet; ")
    assert cure in broken
    assert first.engine.next() is None
    first.engine.close("failed", broken)
    first.records.close()
    history = read_history(run)
    assert (history.state, history.reason) == ("failed", broken)
    stopped = history.trials[name]
    assert (stopped.state, stopped.kind) == ("stopped", kind)
    Session(run, clock).finish()
    assert outcome(run) == outcome(tmp_path / "whole")


# --- lost ----------------------------------------------------------------------------------------

#: As Ray 2.60 says it.
NODE_DIED = (
    "The actor died because its node has died. Node Id: 81c9 Node Ip address: 10.0.0.7. The "
    "actor's node was terminated unexpectedly: health check failed due to missing heartbeats"
)
WORKER_DIED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code 2. End of file."
)
RESET = (
    "The actor is temporarily unavailable: RpcError: RPC error: recvmsg:Connection reset by peer "
    "rpc_code: 14"
)
LOW = (
    "3 worker(s) were killed due to the node running low on memory. Memory on the node (IP: "
    "10.0.0.7) was 23.4GB used / 23.5GB limit (0.99)"
)


def actor_died(message: str) -> ActorDiedError:
    context = ActorDiedErrorContext(
        error_message=message, actor_id=b"1" * 16, class_name="ImplicitFunc", pid=7
    )
    return ActorDiedError(context)


def creation_failed() -> ActorDiedError:
    try:
        raise ImportError("no module named torch")
    except ImportError as error:
        said = traceback.format_exc()
        return ActorDiedError(RayTaskError("ImplicitFunc.__init__", said, error, actor_id="0a"))


@pytest.mark.parametrize(
    ("error", "reason", "blameless"),
    [
        (actor_died(NODE_DIED), "its machine is gone", True),
        (ActorUnavailableError(RESET, b"1" * 16), "its machine does not answer", True),
        (actor_died(WORKER_DIED), "killed, crashed, or out of memory", False),
        (creation_failed(), "its process did not start: ImportError: no module named torch", True),
        (None, "its process or machine is gone", False),
        (LostWorkerError("closed by peer\nand more"), "closed by peer", False),
        (ValueError(), "ValueError", False),
    ],
)
def test_a_lost_machine_is_told_from_a_process_that_died(
    error: Exception | None, reason: str, blameless: bool
) -> None:
    assert loss_of(error) == (reason, blameless)


@pytest.mark.parametrize(
    ("error", "reason", "blameless"),
    [
        (actor_died(NODE_DIED), "its machine is gone", True),
        (actor_died(WORKER_DIED), "killed, crashed, or out of memory", False),
        (OutOfMemoryError(LOW), NO_MEMORY, False),
    ],
)
def test_the_same_of_a_worker_of_several(error: Exception, reason: str, blameless: bool) -> None:
    end = end_of([error])
    assert isinstance(end, LostWorkerError)
    assert loss_of(end) == (f"a worker of the trial is gone: {reason}", blameless)


def test_a_process_that_ray_ends_for_want_of_memory_has_died_for_tune() -> None:
    """Tune itself ends the search by a RuntimeError."""
    seen: list[Exception] = []
    actor = SimpleNamespace(actor_id=1, _on_error=lambda actor, error: seen.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=None)
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda **actor: None)
    failed = partial(RayActorManager._actor_task_failed, manager)
    failed(tracked_actor_task=task, exception=OutOfMemoryError(LOW))
    assert [loss_of(error) for error in seen] == [(NO_MEMORY, False)]
    with pytest.raises(RuntimeError, match="Caught unexpected"):
        failed(tracked_actor_task=task, exception=ValueError("else"))


# --- out of memory -------------------------------------------------------------------------------


def experiment(*overrides: str) -> Experiment:
    return compose.compose(overrides).experiment


PLAIN = experiment()


def trainable(params: Mapping[str, Any]) -> Experiment:
    """An experiment that differs in `accumulate` only: composing one takes long."""
    parts = params.get("training.accumulate", 1)
    return dataclasses.replace(
        PLAIN, training=dataclasses.replace(PLAIN.training, accumulate=parts)
    )


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["training.batch_size=32"], 2),
        (["training.batch_size=32", "training.accumulate=4"], 8),
        (["training.batch_size=5", "training.accumulate=2"], 4),
        (["training.batch_size=5", "training.accumulate=3"], None),
        (["training.batch_size=1"], None),
        (["training.batch_size=32", "resources.workers=8", "training.accumulate=2"], 4),
        (["training.batch_size=32", "resources.workers=8", "training.accumulate=3"], None),
    ],
)
def test_half_the_clips_are_on_the_device_and_the_optimizer_sees_as_many(
    overrides: list[str], parts: int | None
) -> None:
    changed = with_half_the_memory(experiment(*overrides))
    assert changed == (None if parts is None else {"training.accumulate": parts})


def test_out_of_memory_is_tried_once_more_in_smaller_parts(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, trials=1, experiment_for=trainable)
    engine = session.engine
    spec = engine.next()
    assert spec is not None
    assert engine.report(spec.id, 1, {METRIC: 0.5}, 1.0, False)
    clock.now += 5
    assert engine.exhausted  # no other trial is wanted ...
    engine.fail(spec.id, "out of memory", "OutOfMemoryError: CUDA out of memory")
    assert not engine.exhausted  # ... but this one again
    trial = engine.history.trials[spec.id]
    assert (trial.state, trial.kind, trial.seconds) == ("running", None, 5.0)
    assert engine.running == []
    again = engine.next()
    assert again is not None
    assert again.id == spec.id
    assert again.experiment.training.accumulate == 2
    assert trial.params == session.seen[1]["params"]  # what was drawn stays what was drawn
    clock.now += 2
    engine.fail(spec.id, "out of memory", "OutOfMemoryError: CUDA out of memory")
    assert (trial.state, trial.kind) == ("failed", "out of memory")
    assert trial.changed == {"training.accumulate": 2}
    assert trial.seconds == 7.0
    assert [record["event"] for record in session.seen].count("retry") == 1
    assert engine.next() is None


def test_a_batch_that_has_no_smaller_parts_has_failed(tmp_path: Path, clock: Clock) -> None:
    one = experiment("training.batch_size=1")
    session = Session(tmp_path, clock, experiment_for=lambda params: one)
    spec = session.engine.next()
    assert spec is not None
    session.engine.fail(spec.id, "out of memory", "MemoryError")
    assert session.engine.history.trials[spec.id].state == "failed"


class Hungry:
    """Trials of which every third runs out of memory after 4 epochs, unless in smaller parts."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def drive(self) -> None:
        engine = self.session.engine
        while (spec := engine.next()) is not None:
            folder = trial_folder(self.session.run, spec.id)
            folder.mkdir(parents=True, exist_ok=True)
            last = folder / LAST
            epoch = int(last.read_text()) if last.exists() else 0
            goes_on = epoch == 0 or self.report(spec.id, epoch)
            while goes_on:
                hungry = int(spec.id) % 3 == 1 and spec.experiment.training.accumulate == 1
                if epoch == 4 and hungry:
                    engine.fail(spec.id, "out of memory", "MemoryError")
                    break
                epoch += 1
                last.write_text(str(epoch))
                goes_on = self.report(spec.id, epoch)

    def report(self, trial: str, epoch: int) -> bool:
        value = int(trial) / 10 + epoch / 100
        return self.session.engine.report(trial, epoch, {METRIC: value}, 1.0, epoch == EPOCHS)


@pytest.mark.slow
def test_killed_at_every_record_the_second_try_is_the_second(tmp_path: Path, clock: Clock) -> None:
    settings: Any = {
        "trials": 5, "sampler": "random", "scheduler": "none", "experiment_for": trainable,
        "reuse": False,  # all trials are the same experiment
    }  # fmt: skip
    whole = Session(tmp_path / "whole", clock, **settings)
    Hungry(whole).drive()
    whole.engine.close("completed", None)
    expected = outcome(tmp_path / "whole")
    retried = [t.id for t in whole.engine.history.trials.values() if t.changed]
    assert retried == ["0001", "0004"]
    for deadline in range(2, whole.records.count):
        for before in (True, False):
            run = tmp_path / f"{deadline}{before}"
            with pytest.raises(KilledError):
                Hungry(Session(run, clock, deadline=deadline, before=before, **settings)).drive()
            second = Session(run, clock, **settings)
            Hungry(second).drive()
            second.engine.close("completed", None)
            assert outcome(run) == expected, deadline
            retries = [r["id"] for r in read_records(run) if r["event"] == "retry"]
            assert retries == retried
