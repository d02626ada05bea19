"""Recorded curves and the searches that replay them, against hand computations and themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.config.schema import Search
from raudio.core.errors import DataError, RunError
from raudio.data.manifest import Manifest
from raudio.records import (
    DATASET_JSON,
    ENVIRONMENT_JSON,
    RECORDS,
    SEARCH_YAML,
    SPACE_YAML,
    History,
    RecordWriter,
    read_history,
    read_records,
)
from raudio.search.curves import Curve, Curves
from raudio.search.replay import replay
from raudio.search.space_file import load

METRIC = "valid/accuracy"
EPOCHS = 9
SPACE = load("cnn_or_crnn")
FIXED = {
    "model.dropout": 0.1,
    "model.pooling": "mean",
    "features.n_mels": 64,
    "training.batch_size": 32,
}
CNN = {"model": "cnn", "model.width": 8, "optimizer.lr": 1e-3, "model.depth": 3, **FIXED}
CRNN = {
    **CNN,
    "model": "crnn",
    "model.depth": 3,
    "model.rnn_units": 64,
    "model.rnn_layers": 1,
}


def curve(params: Mapping[str, Any], seconds: float = 1.0, epochs: int = EPOCHS) -> Curve:
    """The better, the nearer its learning rate is to 2e-3; an epoch takes `seconds`."""
    level = 0.9 - 0.3 * abs(math.log10(params["optimizer.lr"] / 2e-3))
    values = [level * (1 - math.exp(-epoch / 3)) for epoch in range(1, epochs + 1)]
    return Curve(params, tuple({METRIC: value} for value in values), (seconds,) * epochs)


def table(*curves: Curve) -> Curves:
    return Curves(SPACE, (), METRIC, "max", 0.0, {"dataset": "d", "environment": {}}, curves)


def many(count: int = 40) -> Curves:
    draw = np.random.default_rng(0)
    rates = 10 ** draw.uniform(np.log10(3e-4), -2, count)
    return table(
        *(
            curve({**(CRNN if n % 3 else CNN), "optimizer.lr": float(rate)}, 1 + n % 4)
            for n, rate in enumerate(rates)
        )
    )


# --- the nearest configuration -----------------------------------------------------------------


def test_the_logarithm_of_a_log_axis_is_compared() -> None:
    low, high = (curve({**CNN, "optimizer.lr": rate}) for rate in (5e-4, 8e-3))
    # 2.5e-3 is nearer to 5e-4 as a number, and to 8e-3 as a factor: 3.2 against 5.
    assert table(low, high).nearest({**CNN, "optimizer.lr": 2.5e-3})[0] is high


def test_steps_are_places_on_their_axis_and_choices_differ_or_not() -> None:
    mels = curve({**CNN, "features.n_mels": 80})  # one step of 16 in 48 away: 1/9
    dropout = curve({**CNN, "model.dropout": 0.3})  # two steps of four away: 1/4
    pooling = curve({**CNN, "model.pooling": "max"})  # 1
    assert table(pooling, dropout, mels).nearest(CNN)[0] is mels
    assert table(pooling, dropout).nearest(CNN)[0] is dropout
    # Widths are a choice: 24 is as far from 8 as 16 is, and the first of equals counts.
    wide, middle = (curve({**CNN, "model.width": width}) for width in (24, 16))
    assert table(wide, middle).nearest(CNN)[0] is wide


def test_the_same_branch_comes_first() -> None:
    far = {**CRNN, "optimizer.lr": 1e-2, "model.pooling": "max", "model.width": 24}
    far |= {"model.rnn_units": 32, "model.dropout": 0.4, "training.batch_size": 64}
    branch = curve(far)
    assert table(curve(CNN), branch).nearest(CRNN)[0] is branch


def test_a_recorded_configuration_answers_for_itself() -> None:
    curves = many()
    for each in curves.curves:
        assert curves.nearest(each.params)[0] is each


def test_several_neighbours_answer_by_their_mean() -> None:
    one, two, three = (
        Curve({**CNN, "features.n_mels": mels}, ({METRIC: value}, {METRIC: 2 * value}), (s, s))
        for mels, value, s in ((32, 0.1, 1.0), (48, 0.3, 3.0), (80, 0.4, 7.0))
    )
    curves = replace(table(three, one, two), neighbours=2)
    answer = curves.answer({**CNN, "features.n_mels": 32})
    assert curves.nearest({**CNN, "features.n_mels": 32}) == [one, two]
    assert [epoch[METRIC] for epoch in answer.metrics] == pytest.approx([0.2, 0.4])
    assert answer.seconds == (2.0, 2.0)
    assert table(three, one, two).answer(one.params) is one


# --- the table ---------------------------------------------------------------------------------


def make_run(run: Path) -> list[dict[str, float]]:
    """A run with a completed, a pruned and a failed trial; the metrics of the first."""
    run.mkdir()
    recorded = {
        "overrides": ["space=cnn_or_crnn"],
        "configuration": {"experiment": {"schedule": {"name": "cosine", "warmup": 0.05}}},
    }
    (run / SEARCH_YAML).write_text(yaml.safe_dump(recorded))
    (run / SPACE_YAML).write_text(yaml.safe_dump(SPACE.to_mapping(), sort_keys=False))
    (run / ENVIRONMENT_JSON).write_text(json.dumps({"command": ["raudio", "search"]}))
    manifest = Manifest(
        path="d", labels=("a", "b"), splits={}, shards=(), index_sha256="", sample_rates={},
        channels={}, seconds_min=1.0, seconds_median=1.0, seconds_p95=1.0, seconds_max=1.0,
        source="s", licence="", made_with={}, skipped=(),
    )  # fmt: skip
    (run / DATASET_JSON).write_text(manifest.to_json())
    metrics = [{METRIC: 0.1 + 0.1 / 3, "valid/loss": 2.0}, {METRIC: 0.4, "valid/loss": math.inf}]
    with RecordWriter(run / RECORDS) as records:
        records.append("search_start", version="0", metric=METRIC, mode="max")
        for number, state in enumerate(("completed", "pruned", "failed")):
            name = f"{number:04d}"
            records.append("trial_start", id=name, params=CRNN, signature="s")
            for epoch, values in enumerate(metrics, start=1):
                records.append(
                    "report", id=name, epoch=epoch, metrics=values, seconds=0.1 * epoch, final=False
                )
            records.append("trial_end", id=name, state=state, seconds=1.0)
        records.append("search_end", state="completed")
    return metrics


def test_a_run_becomes_a_table_and_is_read_back_exactly(tmp_path: Path) -> None:
    metrics = make_run(tmp_path / "run")
    out = tmp_path / "curves.parquet"
    result = CliRunner().invoke(app, ["curves", str(tmp_path / "run"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 configuration" in result.stderr
    assert result.stdout.split() == [str(out)]
    read = Curves.read(out)
    assert read == Curves.record(tmp_path / "run")
    assert read.curves == (
        Curve(CRNN, (metrics[0], {METRIC: 0.4}), (0.1, 0.2)),  # no loss where it was infinite
    )
    assert (read.metric, read.mode, read.warmup, read.epochs) == (METRIC, "max", 0.05, 2)
    assert read.source["environment"]["command"] == ["raudio", "search"]
    assert read.source["dataset"] == Manifest.read(str(tmp_path / "run")).fingerprint
    assert read.space.params == SPACE.params


def test_a_run_without_completed_trials_has_no_curves(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / RECORDS) as records:
        records.append("search_start", version="0", metric=METRIC, mode="max")
    with pytest.raises(RunError, match="no completed trial"):
        Curves.record(tmp_path)


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    text, parquet = tmp_path / "text.parquet", tmp_path / "other.parquet"
    text.write_text("no table")
    pq.write_table(pa.table({"a": [1]}), parquet)
    with pytest.raises(DataError, match=r"missing\.parquet' does not exist"):
        Curves.read(tmp_path / "missing.parquet")
    for path in (text, parquet):
        with pytest.raises(DataError, match=rf"{path.name}.*raudio curves RUN --out FILE"):
            Curves.read(path)
    later = tmp_path / "later.parquet"
    metadata = {"raudio.curves": json.dumps({"format": 2})}
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), later)
    with pytest.raises(DataError, match="format"):
        Curves.read(later)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"curves": ()}, "it has no row"),
        ({"mode": "up"}, "its mode is 'up'"),
        ({"warmup": 2.0}, r"its warm-up 2\.0"),
        ({"metric": "valid/nope"}, "row 1 has no value of 'valid/nope'"),
        ({"seconds": (0.1,)}, "row 1 has not as many seconds as values"),
        ({"seconds": (0.1, -1.0)}, "row 1 has seconds that are no time"),
        ({"params": {**CNN, "model": "xyz"}}, "model=xyz is outside choice"),
        ({"params": {"model": "cnn"}}, "it has no 'model.width'"),
    ],
)
def test_a_table_that_no_search_can_be_replayed_on_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """When it is read, and not by a traceback in the middle of a search."""
    whole = table(curve(CNN, epochs=2))
    own = {field.name for field in fields(Curves)}
    row = {key: value for key, value in change.items() if key not in own}
    changed = {key: value for key, value in change.items() if key in own}
    curves = (replace(whole.curves[0], **row),)
    out = tmp_path / "curves.parquet"
    replace(whole, **{"curves": curves, **changed}).write(out)
    with pytest.raises(DataError, match=said):
        Curves.read(out)


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    result = CliRunner().invoke(app, ["curves", str(tmp_path / "run"), "--out", str(tmp_path)])
    assert isinstance(result.exception, RunError)
    assert "cannot write" in str(result.exception)


# --- searches ----------------------------------------------------------------------------------


def test_two_workers_by_hand(tmp_path: Path) -> None:
    """One configuration of 2 s an epoch, three trials: the third starts when the first ends, with
    the second, at 18 s, and has 18 s to itself."""
    seen: list[Mapping[str, Any]] = []
    history = replay(
        table(curve(CNN, seconds=2.0)),
        Search(sampler="random", scheduler="none", trials=3),
        tmp_path,
        workers=2,
        watch=seen.append,
    )
    assert (history.state, history.seconds) == ("completed", 36.0)
    times = {(r["event"], r["id"]): r["time"] for r in seen if r["event"] in _OF_TRIALS}
    assert times == {
        ("trial_start", "0000"): 0.0,
        ("trial_start", "0001"): 0.0,
        ("trial_end", "0000"): 18.0,
        ("trial_start", "0002"): 18.0,
        ("trial_end", "0001"): 18.0,
        ("trial_end", "0002"): 36.0,
    }
    reports = [(r["time"], r["id"]) for r in seen if r["event"] == "report"]
    assert reports[:4] == [(2.0, "0000"), (2.0, "0001"), (4.0, "0000"), (4.0, "0001")]
    assert all(trial.seconds == 18.0 for trial in history.trials.values())
    assert list(read_records(tmp_path)) == seen


_OF_TRIALS = ("trial_start", "trial_end")


def test_a_time_budget_is_of_the_simulated_clock(tmp_path: Path) -> None:
    settings = {"sampler": "random", "scheduler": "none", "time_budget": "20s"}
    curves = table(curve(CNN, seconds=2.0))
    history = replay(curves, Search(**settings, trials=3), tmp_path)
    assert [trial.state for trial in history.trials.values()] == ["completed", "stopped"]
    assert (history.trials["0001"].epochs, history.seconds) == (0, 20.0)
    history = replay(curves, Search(sampler="random", scheduler="none", trials=3), tmp_path)
    assert [trial.epochs for trial in history.trials.values()] == [9, 9, 9]
    assert history.seconds == 20 + 18 + 18


def test_asha_prunes_and_saves_epochs(tmp_path: Path) -> None:
    history = replay(many(), Search(sampler="random", trials=40), tmp_path, workers=4)
    states = [trial.state for trial in history.trials.values()]
    assert set(states) == {"completed", "pruned"}
    assert sum(trial.epochs for trial in history.trials.values()) < 40 * EPOCHS / 2


class KilledError(Exception):
    """The driver is gone."""


def outcome(history: History) -> list[tuple[Any, ...]]:
    """All that is the same however often a search was interrupted."""
    return [(t.id, t.state, t.epochs, sorted(t.params.items())) for t in history.ranked()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "every", [37, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
def test_killed_at_a_record_and_resumed_the_search_is_the_same(tmp_path: Path, every: int) -> None:
    """At each of the first 200 records, with one worker: the same trials, ends and ranking."""
    curves, search = many(), Search(trials=50, seed=3)
    whole = outcome(replay(curves, search, tmp_path / "whole"))
    length = sum(1 for _ in read_records(tmp_path / "whole"))
    assert length > 200
    for deadline in range(1, 201, every):
        run = tmp_path / f"{deadline}"
        left = iter(range(deadline - 1))

        def kill(record: Mapping[str, Any], left: Any = left) -> None:
            if next(left, None) is None:
                raise KilledError

        with pytest.raises(KilledError):
            replay(curves, search, run, watch=kill)
        assert sum(1 for _ in read_records(run)) == deadline
        assert outcome(replay(curves, search, run)) == whole, deadline


def test_killed_with_many_workers_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    curves, search, seen = many(), Search(trials=50, seed=3), iter(range(150))

    def kill(record: Mapping[str, Any]) -> None:
        if next(seen, None) is None:
            raise KilledError

    with pytest.raises(KilledError):
        replay(curves, search, tmp_path, workers=8, watch=kill)
    replay(curves, search, tmp_path, workers=8)
    reports = [(r["id"], r["epoch"]) for r in read_records(tmp_path) if r["event"] == "report"]
    assert len(set(reports)) == len(reports)
    history = read_history(tmp_path)
    assert len(history.trials) == 50
    for trial in history.trials.values():
        assert trial.state in ("completed", "pruned")
        assert [report.epoch for report in trial.reports] == list(range(1, trial.epochs + 1))
