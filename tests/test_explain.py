"""`raudio explain` finds what made-up searches were made with, and says when it can't know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from raudio import records
from raudio.cli.main import app
from raudio.records import RecordWriter
from raudio.report import analysis
from raudio.report.explain import Explanation, explain
from raudio.report.next_space import _at_most
from raudio.report.run import read_run
from raudio.report.values import interactions
from raudio.search import space_file

METRIC = "valid/accuracy"
SPACE = {
    "about": "made up",
    "params": {
        "model": "choice(cnn, crnn)",
        "model.width": "choice(8, 16)",
        "model.dropout": "interval(0.0, 0.5)",
        "optimizer.lr": "tag(log, interval(0.0001, 0.01))",
    },
    "conditions": [{"when": {"model": "crnn"}, "params": {"model.rnn_units": "choice(32, 64)"}}],
}
Value = Callable[[Mapping[str, Any]], float]


def search(
    run: Path, value: Value, trials: int = 120, *, failed: int = 0, mode: str = "max"
) -> Explanation:
    """A random search of `SPACE` whose trials are as good as `value` says, explained."""
    draw = np.random.default_rng(7)
    run.mkdir()
    (run / records.SPACE_YAML).write_text(yaml.safe_dump(SPACE))
    (run / records.SEARCH_YAML).write_text(
        yaml.safe_dump({"overrides": ["search.trials=120", "run.dir=runs/x"], "configuration": {}})
    )
    with RecordWriter(run / records.RECORDS) as out:
        out.append("search_start", version="0", metric=METRIC, mode=mode, trials=trials)
        for number in range(trials + failed):
            name = records.trial_id(number)
            params = {
                "model": str(draw.choice(["cnn", "crnn"])),
                "model.width": int(draw.choice([8, 16])),
                "model.dropout": float(draw.uniform(0, 0.5)),
                "optimizer.lr": float(np.exp(draw.uniform(np.log(1e-4), np.log(1e-2)))),
            }
            if params["model"] == "crnn":
                params["model.rnn_units"] = int(draw.choice([32, 64]))
            out.append("trial_start", id=name, params=params, signature=name)
            if number >= trials:
                out.append("trial_end", id=name, state="failed", kind="error", reason="x")
                continue
            metrics = {METRIC: value(params) + 0.001 * float(draw.standard_normal())}
            out.append("report", id=name, epoch=1, metrics=metrics, seconds=1.0, final=True)
            state = records.PRUNED if number % 3 == 0 else records.COMPLETED
            out.append("trial_end", id=name, state=state, kind=None, reason=None, seconds=1.0)
        out.append("search_end", state="completed", reason=None)
    return explain(read_run(run))


def rate(params: Mapping[str, Any]) -> float:
    """0 to 1 over the logarithm of the learning rate."""
    return float(np.log(params["optimizer.lr"] / 1e-4) / np.log(100))


def clear(found: Explanation) -> set[str]:
    return {one.setting for one in found.importances if one.share > one.chance}


def together(found: Explanation) -> list[tuple[str, str]]:
    return [one.settings for one in found.interactions if one.share > one.chance]


def changes(found: Explanation) -> dict[str, str]:
    return {change.setting: change.after for change in found.next.changes}


def test_an_optimum_inside_narrows_and_what_does_not_matter_is_fixed(tmp_path: Path) -> None:
    found = search(tmp_path / "run", lambda p: -((rate(p) - 0.5) ** 2), failed=3)
    assert clear(found) == {"optimizer.lr"}
    assert found.importances[0].setting == "optimizer.lr"
    assert together(found) == []
    assert (found.trials, found.pruned, found.failed) == (120, 40, 3)
    assert "3 failed, which count for nothing" in found.verdict
    (lr,) = [one for one in found.values if one.setting == "optimizer.lr"]
    assert lr.best is not None
    assert 3e-4 < lr.best[0] < 1e-3 < lr.best[1] < 3e-3  # a quarter of a range around 1e-3
    after = changes(found)
    low, high = eval(after["optimizer.lr"].removeprefix("tag(log, interval").removesuffix(")"))
    assert 1e-4 < low <= lr.best[0]
    assert lr.best[1] <= high < 1e-2
    best = read_run(tmp_path / "run").valued[0].params
    assert after["model.width"] == f"choice({best['model.width']})"
    assert after["model"] == f"choice({best['model']})"


def test_an_optimum_at_the_edge_is_searched_beyond_it(tmp_path: Path) -> None:
    found = search(tmp_path / "run", rate)
    low, high = eval(changes(found)["optimizer.lr"].removeprefix("tag(log, interval")[:-1])
    assert high == pytest.approx(1e-2 * 100**0.5, rel=0.1)  # half of the two decades
    assert 1e-3 < low < 1e-2
    (change,) = [one for one in found.next.changes if one.setting == "optimizer.lr"]
    assert "touch its high end" in change.reason


def test_a_range_is_not_extended_beyond_what_a_setting_may_be(tmp_path: Path) -> None:
    found = search(tmp_path / "run", lambda p: -p["model.dropout"])
    low, high = eval(changes(found)["model.dropout"].removeprefix("interval"))
    assert low == 0.0
    assert 0.1 < high < 0.3


def test_what_only_acts_together_is_found_and_kept(tmp_path: Path) -> None:
    """An exclusive or: neither setting alone tells anything."""
    found = search(tmp_path / "run", lambda p: float((p["model.width"] == 8) != (rate(p) > 2 / 3)))
    assert together(found) == [("model.width", "optimizer.lr")]
    assert found.interactions[0].trials == 120
    assert "model.width" not in changes(found)
    assert "optimizer.lr" not in changes(found)


def test_an_additive_function_has_no_interaction_and_noise_has_nothing(tmp_path: Path) -> None:
    noise = iter(np.random.default_rng(1).standard_normal(1000))
    found = search(tmp_path / "noise", lambda p: float(next(noise)))
    assert found.next.changes == ()
    assert found.next.space == {}
    assert together(found) == []
    wide = search(tmp_path / "wide", lambda p: float(p["model.width"] == 8) + 0.2 * rate(p))
    assert "model.width" in clear(wide)
    assert changes(wide)["model.width"] == "choice(8)"


def test_conditional_settings_are_compared_among_the_trials_that_have_them(tmp_path: Path) -> None:
    found = search(
        tmp_path / "run", lambda p: {32: 1.0, 64: 0.5}.get(p.get("model.rnn_units", 0), 0.0)
    )
    (units,) = [one for one in found.values if one.setting == "model.rnn_units"]
    having = [t for t in read_run(tmp_path / "run").valued if "model.rnn_units" in t.params]
    assert units.trials == len(having) < 120
    assert sum(of for of, _ in units.counts.values()) == len(having)
    assert {"model", "model.rnn_units"} <= clear(found)
    assert changes(found)["model"] == "choice(crnn)"
    assert changes(found)["model.rnn_units"] == "choice(32)"


@pytest.mark.parametrize("trials", [0, 1, analysis.FEWEST_TRIALS - 1])
def test_too_few_trials_say_so_and_nothing_else(tmp_path: Path, trials: int) -> None:
    found = search(tmp_path / "run", rate, trials)
    assert (found.importances, found.interactions, found.next.changes) == ((), (), ())
    assert "too few" in found.verdict
    assert CliRunner().invoke(app, ["explain", str(tmp_path / "run")]).exit_code == 0


def test_the_least_is_best_where_the_mode_says_so(tmp_path: Path) -> None:
    found = search(tmp_path / "run", lambda p: -rate(p), mode="min")
    (change,) = [one for one in found.next.changes if one.setting == "optimizer.lr"]
    assert "high end" in change.reason


def test_few_trials_without_an_order_seldom_show_pairs(tmp_path: Path) -> None:
    """Of 24 trials in any order, 8 settings' pairs of many cells were found in two of five."""
    draw = np.random.default_rng(3)
    sizes = (2, 3, 3, 4, 4, 5, 5, 2)
    with RecordWriter(tmp_path / records.RECORDS) as out:
        out.append("search_start", version="0", metric=METRIC, mode="max", trials=24)
        for number in range(24):
            name = records.trial_id(number)
            params = {f"s{place}": int(draw.integers(size)) for place, size in enumerate(sizes)}
            out.append("trial_start", id=name, params=params, signature=name)
            metrics = {METRIC: float(number)}
            out.append("report", id=name, epoch=1, metrics=metrics, seconds=1.0, final=True)
            out.append("trial_end", id=name, state="completed", seconds=1.0)
    run = read_run(tmp_path)
    trials, found = list(run.drawn), 0
    for _ in range(20):
        draw.shuffle(trials)  # type: ignore[arg-type]
        run.__dict__["drawn"] = list(trials)
        found += any(pair.share > pair.chance for pair in interactions(run))
    assert found <= 3


def test_a_configuration_counts_once_and_an_answer_not_at_all(tmp_path: Path) -> None:
    """Repeats and confirmations of ten draws are ten draws of the settings, not fifty."""
    run = tmp_path / "run"
    run.mkdir()
    with RecordWriter(run / records.RECORDS) as out:
        out.append("search_start", version="0", metric=METRIC, mode="max", trials=10, repeats=4)
        for number in range(11 * 5):
            draw, repeat = divmod(number, 5)
            first = records.trial_id(draw * 5)
            fields = {"configuration": first, "repeat": repeat, "signature": str(number)}
            fields["confirms"] = first if repeat == 4 else None
            fields["same_as"] = "0000" if draw == 10 else None
            name = records.trial_id(number)
            out.append("trial_start", id=name, params={"model.width": draw % 10}, **fields)
            metrics = {METRIC: 0.1 * (repeat != 4) * (draw + 4 * repeat)}
            out.append("report", id=name, epoch=1, metrics=metrics, seconds=1.0, final=True)
            out.append("trial_end", id=name, state="completed", seconds=1.0)
    read = read_run(run)
    found = explain(read)
    assert (found.trials, found.importances, found.interactions) == (10, (), ())
    assert found.verdict.startswith("10 configurations of")
    assert "too few" in found.verdict
    assert [trial.params["model.width"] for trial in read.drawn] == list(range(9, -1, -1))
    assert read.worth(read.drawn[0]) == pytest.approx(0.1 * (9 + 4 * 1.5))


def test_importances_are_optuna_s_of_the_same_trials(tmp_path: Path) -> None:
    import optuna

    found = search(tmp_path / "run", lambda p: rate(p) + 0.3 * (p["model.width"] == 8))
    wanted: dict[str, optuna.distributions.BaseDistribution] = {
        "model": optuna.distributions.CategoricalDistribution(["cnn", "crnn"]),
        "model.width": optuna.distributions.CategoricalDistribution(["16", "8"]),
        "model.rnn_units": optuna.distributions.CategoricalDistribution(["32", "64"]),
    }
    trials = read_run(tmp_path / "run").valued
    for key, log in (("model.dropout", False), ("optimizer.lr", True)):
        drawn = [trial.params[key] for trial in trials]
        wanted[key] = optuna.distributions.FloatDistribution(min(drawn), max(drawn), log=log)
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        params = {
            key: value if isinstance(value, float) else str(value)
            for key, value in trial.params.items()
        }
        here = {key: wanted[key] for key in params}
        value = trial.value(METRIC, "max")
        study.add_trial(optuna.trial.create_trial(params=params, distributions=here, value=value))
    shares = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    )
    assert {one.setting: one.share for one in found.importances} == pytest.approx(shares)


def test_the_next_space_is_a_space_and_the_command_searches_it(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "next.yaml"
    search(run, lambda p: -((rate(p) - 0.5) ** 2))
    done = CliRunner().invoke(app, ["explain", str(run), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert f"raudio search space={out} search.trials=120" in done.output.replace("\n", "")
    space = space_file.load(str(out))
    assert {str(p.axis) for p in space.params if p.key == "optimizer.lr"} < set(
        changes(explain(read_run(run))).values()
    )
    assert "What decides" in done.output


def test_the_chance_of_few_good_ones_is_hypergeometric() -> None:
    from scipy.stats import hypergeom

    for count, trials, drawn, good in ((0, 40, 13, 10), (2, 40, 13, 10), (5, 7, 5, 6)):
        expected = hypergeom.cdf(count, trials, drawn, good)
        assert _at_most(count, trials, drawn, good) == pytest.approx(expected)


def test_as_data(tmp_path: Path) -> None:
    found = search(tmp_path / "run", rate)
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "run"), "--json"])
    data = json.loads(done.stdout)
    assert data["importances"][0]["setting"] == found.importances[0].setting
    assert data["next"]["space"] == found.next.space
    assert data["trials"] == 120


def test_a_space_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    search(tmp_path / "few", rate, 5)
    out = tmp_path / "next.yaml"
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "few"), "--out", str(out)])
    assert "too few" in str(done.exception)
    assert not out.exists()
    search(tmp_path / "run", rate)
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "run"), "--out", str(tmp_path)])
    assert "cannot write" in str(done.exception)
