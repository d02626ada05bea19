"""Plots of what the settings do: parallel coordinates, importances, slices, contour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from raudio.config.axes import text
from raudio.records import TrialHistory
from raudio.report import analysis, svg
from raudio.report.markup import tag
from raudio.report.plot import SHADES, Plot, named, state_marks, value_scale
from raudio.report.run import Run
from raudio.report.svg import Frame, Mark, Scale

#: What is drawn at most; of more trials, evenly many over the ranking.
MOST_LINES = 300
MOST_POINTS = 1000
MOST_AXES = 10
MOST_SLICES = 6

_GRID = (24, 16)
#: Reach of a trial in the contour, as a share of each axis, and the weight below which a cell stays
#: empty: about one trial at that distance.
_REACH = 0.08
_SUPPORT = 0.6


def setting_scale(run: Run, key: str, trials: Iterable[TrialHistory]) -> Scale:
    """The scale of a setting's values."""
    values = [trial.params[key] for trial in trials if key in trial.params]
    return Scale.of(values, log=analysis.is_log(run, key), few=True)


def parallel(run: Run, settings: Sequence[str]) -> Plot | None:
    """Every trial as a line over its settings to its value; the best quarter stands out."""
    keys = list(settings)[: MOST_AXES - 1]
    trials = run.valued
    if not keys or len(trials) < 2:
        return None
    y, _ = value_scale(run, (run.value(trial) or 0.0 for trial in trials))
    scales = [setting_scale(run, key, trials) for key in keys]
    width, top, low = 1040, 34, 300
    gap = (width - 130) / len(keys)
    xs = [60 + gap * place for place in range(len(keys) + 1)]

    def up(share: float) -> float:
        return low - share * (low - top)

    names = [key.rpartition(".")[2] for key in keys]
    names = [n if names.count(n) == 1 else key for n, key in zip(names, keys, strict=True)]
    good = trials[: max(1, len(trials) // 4)]
    shown = analysis.spread(trials, MOST_LINES)
    best, lines = trials[0], []
    for trial in reversed(shown):
        kind = "best" if trial is best else "good" if trial in good else "rest"
        points = [
            (x, up(scale.place(trial.params[key])) if key in trial.params else low + 22)
            for x, scale, key in zip(xs, scales, keys, strict=False)
        ]
        points.append((xs[-1], up(y.place(run.value(trial)))))
        lines.append(svg.line(points, f"thread {kind}", named(run, trial)))
    parts = []
    absent = [any(key not in trial.params for trial in shown) for key in keys]
    for x, scale, name, whole in zip(
        xs, [*scales, y], [*names, run.history.metric], [*keys, run.history.metric], strict=True
    ):
        parts.append(svg.line([(x, top), (x, low)], "axis"))
        label = svg.words(x, 16, name, anchor="middle", kind="name", most=int(gap / 7))
        parts.append(tag("g", tag("title", whole), label))
        for place, tick in scale.ticks(5):
            at = up(place)
            parts.append(svg.line([(x - 3, at), (x + 3, at)], "axis"))
            parts.append(
                svg.words(x + 6, at + 4, tick, kind="tick halo", most=max(4, int(gap / 9)))
            )
    parts += [
        svg.words(x + 6, low + 26, "not set", kind="tick halo")
        for x, lacking in zip(xs, absent, strict=False)
        if lacking
    ]
    left_out = f" {len(shown)} of {len(trials)} are drawn." if len(shown) < len(trials) else ""
    hidden = len(settings) - len(keys)
    left_out += f" Left out: {', '.join(settings[len(keys) :])}." if hidden > 0 else ""
    return Plot(
        "Parallel coordinates",
        svg.drawing(
            "parallel",
            "Parallel coordinates",
            f"{len(shown)} trials as lines over {len(keys)} settings to {run.history.metric}.",
            width,
            low + (42 if any(absent) else 14),
            *lines,
            *parts,
        ),
        f"One line a trial, from its settings to its value.{left_out}",
        (
            ("line", "best", "best trial"),
            ("line", "good", "best quarter"),
            ("line", "rest", "others"),
        ),
        wide=True,
    )


def importances(found: Sequence[analysis.Importance]) -> Plot | None:
    """How much each setting decides whether a trial is among the best quarter."""
    if not found:
        return None
    shown = found[:12]
    left, room, step = 150, 460 - 150 - 52, 26
    most = max(max(one.share, one.chance) for one in shown) or 1.0
    parts = []
    for place, one in enumerate(shown):
        y = 6 + step * place
        width, chance = room * one.share / most, left + room * one.chance / most
        kind = "fill strong" if one.share > one.chance else "fill weak"
        words = f"{one.setting}: {one.share:.0%}, by chance up to {one.chance:.0%}"
        parts += [
            svg.words(left - 8, y + 13, one.setting, anchor="end", most=20),
            svg.bar(left, y, width, 16, kind, words),
            svg.line([(chance, y - 2), (chance, y + 18)], "chance", words),
            svg.words(max(left + width, chance) + 6, y + 13, f"{one.share:.0%}", kind="value"),
        ]
    clear = sum(one.share > one.chance for one in found)
    return Plot(
        "Importance of the settings",
        svg.drawing(
            "importances",
            "Importance of the settings",
            "; ".join(f"{one.setting} {one.share:.0%}" for one in shown),
            460,
            step * len(shown) + 14,
            *parts,
        ),
        "How much a setting decides whether a trial is among the best quarter (PED-ANOVA over all "
        f"trials with a value). {clear} of {len(found)} exceed what chance gives.",
        (
            ("block", "strong", "more than chance"),
            ("block", "weak", "may be chance"),
            ("line", "chance", "chance, 95 %"),
        ),
    )


def slices(run: Run, settings: Sequence[str]) -> list[Plot]:
    """Value against each of the first settings."""
    plots = []
    trials = analysis.spread(run.valued, MOST_POINTS)
    for place, key in enumerate(settings[:MOST_SLICES] if len(trials) > 1 else ()):
        having = [trial for trial in trials if key in trial.params]
        if not having:
            continue
        y, note = value_scale(run, (run.value(trial) or 0.0 for trial in having))
        frame = Frame(setting_scale(run, key, having), y, width=340, height=230)
        points = [(trial, trial.params[key], run.value(trial) or 0.0) for trial in having]
        plots.append(
            Plot(
                key,
                svg.plot(
                    f"slice-{place}",
                    f"{run.history.metric} against {key}",
                    f"{len(having)} trials by their {key}.",
                    frame,
                    state_marks(run, frame, points),
                    x_label=key,
                    y_label=run.history.metric,
                ),
                f"{len(having)} trials.{note}",
            )
        )
    return plots


def contour(run: Run, settings: Sequence[str]) -> Plot | None:
    """The mean value around each pair of two settings' values, where there are trials."""
    if len(settings) < 2 or len(run.drawn) < analysis.FEWEST_TRIALS:
        return None
    across, up = settings[:2]
    trials = [
        trial
        for trial in analysis.spread(run.drawn, MOST_POINTS)
        if across in trial.params and up in trial.params
    ]
    if len(trials) < analysis.FEWEST_TRIALS:
        return None
    frame = Frame(
        _cells(setting_scale(run, across, trials)),
        _cells(setting_scale(run, up, trials)),
        height=330,
        left=76,
    )
    values, note = value_scale(run, (run.worth(trial) or 0.0 for trial in trials))
    columns = len(frame.x.names) or _GRID[0]
    rows = len(frame.y.names) or _GRID[1]
    mean = _smoothed(
        np.array([frame.x.place(t.params[across]) for t in trials]),
        np.array([frame.y.place(t.params[up]) for t in trials]),
        np.array([values.place(run.worth(t)) for t in trials]),
        (columns, rows),
        (bool(frame.x.names), bool(frame.y.names)),
    )
    goodness = 1 - mean if run.history.mode == "min" else mean
    parts = []
    low, high = np.nanmin(goodness), np.nanmax(goodness)
    shades = np.floor((goodness - low) / max(high - low, 1e-12) * (SHADES - 1e-6))
    for column, row in np.argwhere(np.isfinite(goodness)).tolist():
        x0, x1 = frame.across(column / columns), frame.across((column + 1) / columns)
        y0, y1 = frame.up((row + 1) / rows), frame.up(row / rows)
        parts.append(
            svg.bar(x0, y0, x1 - x0 + 0.4, y1 - y0 + 0.4, f"shade{int(shades[column, row])}")
        )
    points = [
        Mark(*frame.at(t.params[across], t.params[up]), "over", "circle", named(run, t))
        for t in trials
    ]
    return Plot(
        f"{across} and {up}",
        svg.plot(
            "contour",
            f"{run.history.metric} over {across} and {up}",
            f"Mean {run.history.metric} around {len(trials)} trials.",
            frame,
            *parts,
            svg.marks(points),
            x_label=across,
            y_label=up,
        ),
        f"The mean {run.history.metric} of the trials around each place; empty where there are "
        f"none.{note}",
        (("block", "shade0", "worst"), ("block", "shade3", "between"), ("block", "shade6", "best")),
    )


def _cells(scale: Scale) -> Scale:
    """A scale of few numbers as one of names: each of them is a column or a row."""
    return Scale(names=tuple(map(text, scale.exact))) if scale.exact else scale


def _smoothed(
    x: np.ndarray, y: np.ndarray, value: np.ndarray, grid: tuple[int, int], exact: tuple[bool, bool]
) -> np.ndarray:
    """Kernel means (Nadaraya 1964) of values at the cells' middles; NaN where no trial is near.

    Args:
        x, y, value: (N,) places of the trials and their values.
        grid: cells across and up.
        exact: whether a cell is one value of a setting, which reaches no other.
    """
    weight = np.ones((*grid, len(value)))
    for axis, (place, cells) in enumerate(zip((x, y), grid, strict=True)):
        middle = (np.arange(cells) + 0.5) / cells
        distance = middle[:, None] - place[None, :]
        near = (
            (np.abs(distance) < 0.5 / cells).astype(float)
            if exact[axis]
            else np.exp(-0.5 * (distance / _REACH) ** 2)
        )
        weight *= near[:, None, :] if axis == 0 else near[None, :, :]
    support = weight.sum(-1)
    mean: np.ndarray = np.where(
        support >= _SUPPORT, (weight @ value) / np.maximum(support, 1e-12), np.nan
    )
    return mean
