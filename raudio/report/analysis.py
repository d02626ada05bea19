"""Figures that follow from a run's records: what the plots and tables of its report show."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from raudio import records
from raudio.config.axes import text
from raudio.config.goal import Goal
from raudio.progress import trial_state
from raudio.records import History, TrialHistory
from raudio.report.run import Point, Run
from raudio.report.svg import is_number

#: Trials with a value below which importances are noise: a quarter of them is "good", and
#: PED-ANOVA wants at least 5 good ones.
FEWEST_TRIALS = 20
_GOOD = 0.25
#: Trials that importances are computed from: of more, evenly many over the ranking.
MOST_TRIALS = 1000
#: Times that the values are shuffled to see what chance alone gives.
_SHUFFLES = 50
#: A setting with at most so many values is compared value by value, not along a line.
_CATEGORIES = 6

if TYPE_CHECKING:
    import optuna

_NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")


# --- course ------------------------------------------------------------------------------------


def incumbents(run: Run) -> list[Point]:
    """The reports that were better than all before them; those of failed trials don't count."""
    found: list[Point] = []
    sign = -1.0 if run.history.mode == "min" else 1.0
    for point in run.points:
        if point.value is None or run.history.trials[point.trial].state == records.FAILED:
            continue
        if not found or sign * point.value > sign * (found[-1].value or 0.0):
            found.append(point)
    return found


def best_points(run: Run) -> dict[str, Point]:
    """The report with the best value of each trial that has one and did not fail."""
    wanted = {}
    for trial in run.valued:
        best = trial.best_report(run.history.metric, run.history.mode)
        assert best is not None
        wanted[trial.id] = best.epoch
    return {p.trial: p for p in run.points if wanted.get(p.trial) == p.epoch}


@dataclass(frozen=True)
class Rung:
    """What became of the trials at a rung.

    Attributes:
        bracket: whose rung it is, from 0.
        epoch: where it is.
        arrived: trials that were compared there.
        stopped: those of them that the scheduler ended there.
        further: those that reported a later epoch.
    """

    bracket: int
    epoch: int
    arrived: int
    stopped: int
    further: int


def rungs(history: History) -> list[Rung]:
    """The rungs in order, bracket by bracket; none where there are none, or none were recorded."""
    found = []
    places = [(bracket, epoch) for bracket, rungs in enumerate(history.brackets) for epoch in rungs]
    for bracket, epoch in places:
        arrived = [
            trial
            for trial in history.trials.values()
            if trial.bracket == bracket
            and any(
                report.epoch >= epoch and history.metric in report.metrics
                for report in reversed(trial.reports)
            )
        ]
        stopped = sum(t.state == records.PRUNED and t.epochs == epoch for t in arrived)
        further = sum(trial.epochs > epoch for trial in arrived)
        found.append(Rung(bracket, epoch, len(arrived), stopped, further))
    return found


def rung_reached(history: History, trial: TrialHistory) -> int:
    """How many rungs of its bracket a trial went beyond."""
    rungs = history.brackets[trial.bracket] if history.brackets else ()
    return sum(trial.epochs > epoch for epoch in rungs)


def planned_epochs(run: Run) -> int | None:
    """Epochs of a trial that nothing stops; None where no trial has completed or they differ."""
    lengths = {t.epochs for t in run.history.trials.values() if t.state == records.COMPLETED}
    return lengths.pop() if len(lengths) == 1 else None


# --- cost --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What the trials of one state cost: their number, epochs, seconds in the loop, on devices and
    in all, and the most memory that one of them held, in bytes (0: not known)."""

    state: str
    trials: int
    epochs: int
    loop_seconds: float
    device_seconds: float
    seconds: float
    peak_memory: float


def costs(history: History) -> list[Cost]:
    """By end state, the most expensive first."""
    groups: dict[str, list[TrialHistory]] = {}
    for trial in history.trials.values():
        groups.setdefault(trial_state(history, trial), []).append(trial)
    found = [
        Cost(
            state,
            len(trials),
            sum(len(trial.reports) for trial in trials),
            sum(trial.loop_seconds for trial in trials),
            sum(trial.costs.get("cost/device_seconds", trial.loop_seconds) for trial in trials),
            sum(trial.seconds for trial in trials),
            max(trial.costs.get("cost/peak_memory", 0.0) for trial in trials),
        )
        for state, trials in groups.items()
    ]
    return sorted(found, key=lambda cost: -cost.seconds)


def epoch_seconds(trial: TrialHistory) -> float | None:
    """The median time of a trial's epochs; the first, which also warms up, only if it is alone."""
    times = [report.seconds for report in trial.reports if report.seconds > 0]
    return median(times[1:] or times) if times else None


@dataclass(frozen=True)
class Axis:
    """What a better value is paid with.

    Attributes:
        label: of the plot's axis.
        mode: "min" or "max", which way it is better.
        of: a trial's place on it; None when it has none.
    """

    label: str
    mode: str
    of: Callable[[TrialHistory], float | None]


def price(run: Run) -> Axis:
    """The second objective; with one alone, the time that an epoch takes."""
    history = run.history
    if not history.goal.several:
        return Axis("seconds an epoch, median", "min", epoch_seconds)
    name, mode = list(history.goal.objectives.items())[1]
    return Axis(
        name,
        mode,
        lambda trial: history.measures(history.configurations[trial.configuration]).get(name),
    )


def front(run: Run) -> list[TrialHistory]:
    """The trials within the limits that none beats in both value and price, the best value last."""
    axis = price(run)
    goal = Goal({run.history.metric: run.history.mode, axis.label: axis.mode})
    points = {
        trial.id: (value, cost)
        for trial in run.valued
        if not run.history.broken_limits(trial)
        and (value := run.value(trial)) is not None
        and (cost := axis.of(trial)) is not None
    }
    return [run.history.trials[name] for name in reversed(goal.front(points))]


@dataclass(frozen=True)
class Failure:
    """Trials that failed alike: numbers in the reason aside, in the same kind and with the same."""

    kind: str
    reason: str
    trials: tuple[TrialHistory, ...]


def failures(history: History) -> list[Failure]:
    """The most frequent first."""
    groups: dict[tuple[str, str], list[TrialHistory]] = {}
    for trial in history.trials.values():
        if trial.state == records.FAILED:
            alike = trial.kind or "", _NUMBER.sub("#", trial.reason or "")
            groups.setdefault(alike, []).append(trial)
    found = [
        Failure(kind or "no kind recorded", group[0].reason or "no reason recorded", tuple(group))
        for (kind, _), group in groups.items()
    ]
    return sorted(found, key=lambda failure: -len(failure.trials))


# --- settings ----------------------------------------------------------------------------------


def varying(run: Run) -> list[str]:
    """Settings that differ between trials, in the order in which they were drawn."""
    values: dict[str, set[str]] = {}
    holders: Counter[str] = Counter()
    for trial in run.history.trials.values():
        for key, value in trial.params.items():
            values.setdefault(key, set()).add(text(value))
            holders[key] += 1
    trials = len(run.history.trials)
    return [key for key, found in values.items() if len(found) > 1 or holders[key] < trials]


def is_log(run: Run, key: str) -> bool:
    """Whether the space draws a setting in the logarithm."""
    return run.space.get(key, "").replace(" ", "").startswith("tag(log")


def is_categorical(drawn: Sequence[Any]) -> bool:
    """Whether a setting with these values is compared value by value, not along a line."""
    return len({text(value) for value in drawn}) <= _CATEGORIES or not all(map(is_number, drawn))


@dataclass(frozen=True)
class Importance:
    """How much a setting decides whether a trial is among the best quarter.

    Attributes:
        share: of all settings' importance, 0 to 1.
        chance: what no setting's share would exceed in 19 of 20 searches if nothing decided.
    """

    setting: str
    share: float
    chance: float


def importances(run: Run) -> list[Importance]:
    """The varying settings, the most important first; none with fewer than `FEWEST_TRIALS`.

    PED-ANOVA (Watanabe, Bansal, Hutter 2023), as Optuna computes it, of every trial's best value,
    beside what it says of shuffled values.
    """
    settings, trials = varying(run), run.drawn
    if len(trials) < FEWEST_TRIALS or not settings:
        return []
    trials = spread(trials, MOST_TRIALS)
    values = [run.worth(trial) for trial in trials]
    if len(set(values)) < 2:
        return []
    study = _study(run, settings, trials)
    sign = 1.0 if run.history.mode == "min" else -1.0
    shares = _ped_anova(study, sign * np.array(values))
    draw = np.random.default_rng(0)
    by_chance = [
        _ped_anova(study, sign * draw.permutation(np.array(values))) for _ in range(_SHUFFLES)
    ]
    total = sum(shares.values()) or 1.0
    level = 1 - 0.05 / len(settings)
    found = [
        Importance(
            key,
            shares.get(key, 0.0) / total,
            min(1.0, float(np.quantile([one.get(key, 0.0) for one in by_chance], level)) / total),
        )
        for key in settings
    ]
    return sorted(found, key=lambda importance: -importance.share)


def _study(run: Run, settings: Sequence[str], trials: Sequence[TrialHistory]) -> optuna.Study:
    """The trials as Optuna knows them, without their values."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, Any] = {}
    for key in settings:
        found = [trial.params[key] for trial in trials if key in trial.params]
        if not found:
            continue
        if is_categorical(found):
            names = sorted({text(value) for value in found})
            distributions[key] = optuna.distributions.CategoricalDistribution(names)
        else:
            log = is_log(run, key) and min(found) > 0
            bounds = float(min(found)), float(max(found))
            distributions[key] = optuna.distributions.FloatDistribution(*bounds, log=log)
    categorical = optuna.distributions.CategoricalDistribution
    study = optuna.create_study()
    for trial in trials:
        here = {key: distributions[key] for key in distributions if key in trial.params}
        params = {
            key: text(trial.params[key]) if isinstance(kind, categorical) else trial.params[key]
            for key, kind in here.items()
        }
        study.add_trial(optuna.trial.create_trial(params=params, distributions=here, value=0.0))
    return study


def _ped_anova(study: optuna.Study, losses: np.ndarray) -> dict[str, float]:
    """PED-ANOVA of the study's trials with these values, of which the least are the best."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, float] = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=_GOOD),
            target=lambda trial: float(losses[trial.number]),
            normalize=False,
        )
    return found


def spread(ranked: Sequence[TrialHistory], most: int) -> list[TrialHistory]:
    """At most `most` of ranked trials, evenly over the ranking, the best always among them."""
    if len(ranked) <= most:
        return list(ranked)
    places = np.linspace(0, len(ranked) - 1, most).round().astype(int)
    return [ranked[place] for place in dict.fromkeys(places.tolist())]


@dataclass(frozen=True)
class Difference:
    """A setting of a trial that is not the default.

    Attributes:
        origin: searched, given (on the command line), or from the data.
    """

    setting: str
    default: str
    value: str
    origin: str


def differences(run: Run, trial: TrialHistory) -> list[Difference]:
    """How a trial's experiment differs from the default one with the same components."""
    from raudio.config import compose, validate

    experiment = run.experiment(trial)
    if not experiment:
        return []
    variants = {
        group: values["name"]
        for group, values in experiment.items()
        if isinstance(values, Mapping) and "name" in values
    }
    usual = _flat(validate.to_mapping(compose.experiment_for((), {})))
    try:
        same = _flat(validate.to_mapping(compose.experiment_for((), variants)))
    except ValueError:  # a component of a plugin, which a report does not run
        same = usual
    overrides = {given.partition("=")[0] for given in run.overrides}
    found = []
    for setting, value in _flat(experiment).items():
        component = setting.endswith(".name")
        setting = setting.removesuffix(".name")
        default = (usual if component else same).get(f"{setting}.name" if component else setting)
        if default == text(value):
            continue
        origin = (
            "searched"
            if any(setting == key or setting.startswith(f"{key}.") for key in trial.params)
            else "given"
            if any(setting == key or setting.startswith(f"{key}.") for key in overrides)
            else "from the data"
        )
        found.append(Difference(setting, default or "–", text(value), origin))
    return found


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = text(value)
    return found
