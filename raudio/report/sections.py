"""The sections of a report, each from a run's files to HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from raudio import records
from raudio.config.axes import text
from raudio.core.units import format_bytes, format_seconds, format_value
from raudio.progress import configuration_state, short_names, trial_state
from raudio.records import TrialHistory
from raudio.report import analysis, course, outcome, parts, settings, summary, svg
from raudio.report.confirmation import HEADS, as_rows, confirmation
from raudio.report.markup import Content, Markup, join, tag
from raudio.report.parts import Cell
from raudio.report.plot import STATE_SHAPES
from raudio.report.run import Run
from raudio.report.tables import times

#: Rows of the leaderboard and of the other tables, and failed trials named at each failure.
MOST_ROWS = 200
MOST_FAILURES = 20
_NAMED = 20


def state(name: str) -> Markup:
    """An end state: its shape and its name."""
    return tag("span", svg.key(STATE_SHAPES.get(name, "plus"), name), name, class_="state")


def setting(value: Any) -> str:
    """A setting's value as a table shows it."""
    return format_value(value) if isinstance(value, float) else text(value)


def measured(name: str, value: float | None) -> str:
    """A metric or a cost as a table shows it, in its unit."""
    if value is None:
        return "–"
    if name in ("cost/peak_memory", "cost/gpu_memory"):
        return format_bytes(value)
    if name == "cost/device_seconds":
        return format_seconds(value)
    if name == "cost/latency":
        return f"{1000 * value:.3g} ms"
    return f"{value:,.0f}" if name == "cost/params" else format_value(value)


def leaderboard(run: Run) -> Markup:
    """The trials, best first."""
    if not run.ranked:
        return parts.section("leaderboard", "Leaderboard", parts.note("No trial has started yet."))
    keys = analysis.varying(run)
    names = short_names(set(keys))
    history, shown = run.history, run.ranked[:MOST_ROWS]
    further = list(history.goal.objectives)[1:]
    rows: list[list[Content | Cell]] = []
    for place, trial in enumerate(shown, start=1):
        value = run.value(trial)
        given: list[Content | Cell] = [
            Cell(
                setting(trial.params[key]) if key in trial.params else "–",
                trial.params[key] if svg.is_number(trial.params.get(key)) else None,
            )
            for key in keys
        ]
        measures = history.measures(history.configurations[trial.configuration])
        rows.append(
            [
                trial.id,
                Cell(str(place), place),
                *((trial.configuration,) if history.replicated else ()),
                Cell(format_value(value), value),
                *(Cell(measured(name, measures.get(name)), measures.get(name)) for name in further),
                _ending(run, trial),
                Cell(str(trial.epochs), trial.epochs),
                Cell(format_seconds(trial.seconds), trial.seconds),
                *given,
            ]
        )
    heads = ["trial", "place", *(("configuration",) if history.replicated else ())]
    heads += [history.metric or "value", *further, "state", "epochs", "time"]
    texts = ("trial", "configuration", "state")
    numbers = [place for place, head in enumerate(heads) if head not in texts]
    numbers += [
        len(heads) + place
        for place, key in enumerate(keys)
        if all(svg.is_number(trial.params.get(key, 0)) for trial in shown)
    ]
    order = "by the mean of their configuration" if history.replicated else "best first"
    caption = f"Best {len(shown)} of {len(run.ranked)} trials"
    if len(shown) == len(run.ranked):
        caption = f"All {len(shown)} trials, {order}" if len(shown) > 1 else "The one trial"
    heads += [names[key] for key in keys]
    made = parts.table(caption, heads, rows, numbers=numbers, sortable=True)
    more = None
    if len(shown) < len(run.ranked):
        more = parts.note(f"All of them: raudio status {run.name} --json")
    return parts.section("leaderboard", "Leaderboard", made, more)


def _ending(run: Run, trial: TrialHistory) -> Content:
    """How a trial ended, and whether it is out of the running for a limit."""
    ended = state(trial_state(run.history, trial))
    return [ended, " (over a limit)"] if run.history.broken_limits(trial) else ended


def configurations(run: Run) -> Markup | None:
    """The means of configurations that have several trials, and what a confirmation found."""
    history = run.history
    if not history.replicated:
        return None
    told: list[Content] = []
    found = confirmation(history)
    if found is not None:
        told.append(tag("p", parts.prose(found.verdict)))
        if found.configurations:
            told.append(parts.table("Confirmed with fresh seeds", HEADS, as_rows(found)))
    ranked = dict.fromkeys(trial.configuration for trial in run.ranked)
    means: list[list[Content | Cell]] = []
    for name in list(ranked)[:MOST_ROWS]:
        values = history.configurations[name].values(history.metric, history.mode)
        mean = fmean(values) if values else None
        deviation = stdev(values) if len(values) > 1 else None
        means.append(
            [
                name,
                Cell(format_value(mean), mean),
                Cell(format_value(deviation), deviation),
                Cell(str(len(values)), len(values)),
                state(configuration_state(history, history.configurations[name])),
            ]
        )
    caption = f"Best {len(means)} of {len(ranked)} configurations, in the search"
    heads = ["configuration", f"mean {history.metric}", "deviation", "trials", "state"]
    told.append(parts.table(caption, heads, means, numbers=[1, 2, 3], sortable=True))
    return parts.section("configurations", "Configurations", told)


def progress(run: Run) -> Markup:
    """How the search went."""
    plots = [
        course.history(run, "epochs"),
        course.history(run, "seconds"),
        course.curves(run),
        course.rungs(run),
    ]
    missing = []
    if not any(plots):
        missing.append(parts.note("No trial has reported a value yet."))
    elif plots[-1] is None:
        kind = run.configured("search").get("scheduler")
        if kind == "none" or len(run.history.trials) == 1:
            why = "The scheduler stops no trial early, so there are no rungs."
        elif kind in ("median", "pbt"):
            why = f"There are no rungs with search.scheduler={kind}."
        else:
            why = "The run has recorded no rungs."
        missing.append(parts.note(why))
    return parts.section("course", "Course", parts.figures(plots), missing)


def searched(run: Run, importances: Sequence[analysis.Importance]) -> Markup:
    """What the settings do."""
    keys = analysis.varying(run)
    if not keys:
        return parts.section("settings", "Settings", parts.note("Nothing was searched."))
    ranked = [one.setting for one in importances] or keys
    few = None
    if not importances:
        few = parts.note(
            f"Importances and the contour need {analysis.FEWEST_TRIALS} trials with different "
            f"values; there are {len(run.drawn)}. From fewer, chance would look like an effect. "
            "The settings below are in the order of the space."
        )
    plots = [settings.importances(importances), settings.contour(run, ranked)]
    slices = settings.slices(run, ranked)
    return parts.section(
        "settings",
        "Settings",
        few,
        parts.figures(plots),
        parts.figures([settings.parallel(run, ranked)]),
        tag("h3", f"{run.history.metric} by setting", class_="apart") if slices else None,
        tag("div", parts.figures(slices), class_="small"),
    )


def cost(run: Run) -> Markup:
    """What the search cost, and what a better value costs."""
    found = analysis.costs(run.history)
    whole = sum(one.seconds for one in found) or 1.0
    # Of trials with one process each the time on devices is that in the loop.
    several = any(one.device_seconds > 1.01 * one.loop_seconds for one in found)
    rows: list[list[Content | Cell]] = [
        [
            state(one.state),
            Cell(str(one.trials), one.trials),
            Cell(str(one.epochs), one.epochs),
            Cell(format_seconds(one.loop_seconds), one.loop_seconds),
            *((Cell(format_seconds(one.device_seconds), one.device_seconds),) if several else ()),
            Cell(_memory(one.peak_memory), one.peak_memory),
            Cell(format_seconds(one.seconds), one.seconds),
            Cell(f"{one.seconds / whole:.0%}", one.seconds),
        ]
        for one in found
    ]
    rows.append(
        [
            "all",
            str(sum(one.trials for one in found)),
            str(sum(one.epochs for one in found)),
            format_seconds(sum(one.loop_seconds for one in found)),
            *((format_seconds(sum(one.device_seconds for one in found)),) if several else ()),
            _memory(max((one.peak_memory for one in found), default=0.0)),
            format_seconds(sum(one.seconds for one in found)),
            "100%",
        ]
    )
    heads = ["end state", "trials", "epochs", "in the loop"]
    heads += [*(("on devices",) if several else ()), "memory", "in all", "share"]
    lost = sum(trial.lost for trial in run.history.trials.values())
    preempted = sum(trial.preemptions for trial in run.history.trials.values())
    made = parts.table("Trials' time by end state", heads, rows, numbers=range(1, len(heads)))
    sessions = run.history.sessions
    told = tag(
        "p",
        f"Wall time of the search: {format_seconds(run.history.seconds)} in {sessions} "
        f"session{'' if sessions == 1 else 's'}; trials that run at once add up. "
        + (f"Processes or machines were lost {times(lost)}. " if lost else "")
        + (f"Machines were taken away with notice {times(preempted)}." if preempted else ""),
        class_="note",
    )
    plot = outcome.pareto(run)
    columns = [parts.figure(plot) if plot else None, tag("div", made, told)]
    return parts.section("cost", "Cost", tag("div", columns, class_="columns"))


def _memory(size: float) -> str:
    """The most that a process of a trial held; runs of earlier versions don't tell."""
    return format_bytes(int(size)) if size else "–"


# --- what went wrong, and on what it ran -------------------------------------------------------


def failures(run: Run) -> Markup | None:
    """Failed trials, those that failed alike together."""
    found = analysis.failures(run.history)
    if not found:
        return None
    items = []
    for failure in found[:MOST_FAILURES]:
        ids = ", ".join(trial.id for trial in failure.trials[:_NAMED])
        more = len(failure.trials) - _NAMED
        left = run.traceback(failure.trials[0])
        count = f"{len(failure.trials)} trial{'' if len(failure.trials) == 1 else 's'}"
        items.append(
            tag(
                "article",
                tag("h3", svg.key("triangle", records.FAILED), f"{failure.kind}: {count}"),
                tag("p", failure.reason, class_="message"),
                tag("p", f"Trials {ids}", f" and {more} more" if more > 0 else None),
                _traceback(failure.trials[0].id, left) if left else None,
            )
        )
    if len(found) > MOST_FAILURES:
        items.append(parts.note(f"{len(found) - MOST_FAILURES} further kinds are left out."))
    return parts.section("failures", "Failures", items)


def _traceback(trial: str, left: str) -> Markup:
    return tag("details", tag("summary", f"Traceback of trial {trial}"), parts.command(left))


def data(run: Run) -> Markup | None:
    """The dataset, and what was odd about it before the search started."""
    found = run.dataset
    if not found and not run.preflight:
        return None
    splits = found.get("splits")
    sizes = [
        f"{name}: {split.get('clips')} clips, {format_seconds(float(split.get('seconds') or 0))}"
        for name, split in (splits.items() if isinstance(splits, Mapping) else ())
        if isinstance(split, Mapping)
    ]
    facts: list[tuple[str, Content]] = [
        ("path", text(run.configured("experiment", "dataset").get("path"))),
        ("source", text(found.get("source") or "not said")),
        ("licence", text(found.get("licence") or "not said")),
        ("splits", "; ".join(sizes)),
        ("classes", _count(found.get("labels"))),
    ]
    if run.bundle.get("dataset"):
        facts.append(("fingerprint", tag("code", text(run.bundle["dataset"]))))
    listed = run.problems
    told: Content = None
    if listed:
        told = [
            tag("h3", "What was odd before the search started", class_="apart"),
            tag("ul", [_problem(one) for one in listed], class_="problems"),
        ]
    elif run.preflight:
        told = parts.note("Nothing odd was found in it before the search started.")
    return parts.section("data", "Data", parts.definitions(facts), told)


def _count(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else "not said"


def _problem(problem: Mapping[str, Any]) -> Markup:
    examples = problem.get("examples")
    shown = ", ".join(map(text, examples[:5])) if isinstance(examples, list) else ""
    return tag(
        "li",
        tag("strong", text(problem.get("severity") or "problem")),
        ": ",
        text(problem.get("title") or ""),
        f", such as {shown}" if shown else None,
        ". ",
        tag("span", ". ".join(_sentence(problem.get(key)) for key in ("effect", "cure"))),
    )


def _sentence(value: Any) -> str:
    words = text(value) if value else ""
    return words[:1].upper() + words[1:]


def reproduction(run: Run) -> Markup:
    """The commands that do it again, and where it ran."""
    best = run.best
    content: list[Content] = [
        tag("p", "The run again:"),
        parts.command(summary.search_command(run)),
    ]
    if best is not None and best.params:
        content += [
            tag("p", f"Its best trial, {best.id}, alone:"),
            parts.command(summary.train_command(run, best)),
        ]
    found = run.environment
    facts: list[tuple[str, Content]] = []
    for name, value in found.items():
        if name == "command" or value in (None, "", [], {}):
            continue
        if name == "memory_bytes" and svg.is_number(value):
            facts.append(("memory", format_bytes(value)))
        elif isinstance(value, Mapping):
            facts.append((name, ", ".join(f"{key} {text(one)}" for key, one in value.items())))
        else:
            facts.append((name, text(value)))
    if facts:
        content += [tag("h3", "Environment", class_="apart"), parts.definitions(facts)]
    return parts.section("again", "Do it again", content)


# --- comparison --------------------------------------------------------------------------------


def comparison(runs: Sequence[Run]) -> Markup:
    """Several runs side by side."""
    rows: list[list[Content | Cell]] = []
    for place, run in enumerate(runs, start=1):
        best = run.best
        value = None if best is None else run.value(best)
        rows.append(
            [
                f"{place}: {run.name}",
                run.history.state,
                Cell(format_value(value), value),
                best.id if best else "–",
                Cell(str(len(run.history.trials)), len(run.history.trials)),
                Cell(str(len(run.points)), len(run.points)),
                Cell(format_seconds(run.history.seconds), run.history.seconds),
            ]
        )
    metric = runs[0].history.metric
    heads = ["run", "state", f"best {metric}", "trial", "trials", "epochs", "time"]
    return parts.section(
        "compare",
        "Comparison",
        parts.figures([course.compared(runs, "epochs"), course.compared(runs, "seconds")]),
        parts.table("Runs", heads, rows, numbers=[2, 4, 5, 6], sortable=True),
        _compared_settings(runs),
    )


def _compared_settings(runs: Sequence[Run]) -> Markup | None:
    bests = [run.best for run in runs]
    keys = dict.fromkeys(key for best in bests if best for key in best.params)
    if not keys:
        return None

    def values(key: str) -> Iterable[str]:
        for best in bests:
            yield setting(best.params[key]) if best and key in best.params else "–"

    return parts.table(
        "Settings of the best trials",
        ["setting", *(f"{n}: {run.name}" for n, run in enumerate(runs, start=1))],
        [[key, *values(key)] for key in keys],
    )


def headline(run: Run) -> Markup:
    """The figures that one looks for first."""
    best = run.best
    report = best and best.best_report(run.history.metric, run.history.mode)
    tiles = [
        (
            f"best {run.history.metric}".strip(),
            format_value(report.metrics[run.history.metric]) if report else "–",
            f"trial {best.id}, epoch {report.epoch}" if best and report else "none yet",
        ),
        _trials(run),
        ("epochs", str(len(run.points)), "over all trials"),
        ("wall time", format_seconds(run.history.seconds), _limit(run.history.budget.seconds)),
    ]
    return parts.tiles(tiles)


def _trials(run: Run) -> tuple[str, str, str]:
    """What the budget counts: trials, or configurations where these have several."""
    history = run.history
    trials, of = len(history.trials), _of(history.budget.trials)
    if not history.replicated:
        return "trials", str(trials), of
    return "configurations", str(len(history.configurations)), f"{of}, {trials} trials"


def _of(trials: int | None) -> str:
    return "no limit" if trials is None else f"of {trials}"


def _limit(seconds: float | None) -> str:
    return "no limit" if seconds is None else f"of {format_seconds(seconds)}"


def words(lines: Sequence[str]) -> Markup:
    """The summary: what happened as one paragraph, what to make of it as another."""
    last = lines[-1:] if len(lines) > 2 else []
    told = lines[: len(lines) - len(last)]
    return join(tag("p", parts.prose(" ".join(part))) for part in (told, last) if part)
