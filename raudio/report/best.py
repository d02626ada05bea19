"""The section on the best trial: its metrics, its configuration, and where it errs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raudio.core.errors import UserError
from raudio.core.units import format_seconds
from raudio.records import TrialHistory
from raudio.report import analysis, clips, outcome, parts
from raudio.report.markup import Content, Markup, tag, void
from raudio.report.parts import Cell
from raudio.report.run import Run
from raudio.report.sections import measured
from raudio.tasks import bootstrap
from raudio.tasks.counts import Counts

#: Rows of the tables of confusions and of classes.
MOST_CONFUSED = 12
MOST_CLASSES = 200


def best_trial(run: Run, count: int) -> Markup | None:
    """What the best trial is, and where it errs.

    Args:
        count: clips that can be heard.
    """
    best = run.best
    if best is None:
        return None
    metrics = sorted(best.best_metrics(run.history.metric, run.history.mode).items())
    table = parts.table(
        f"Metrics of trial {best.id} at its best epoch",
        ["metric", "value"],
        [[name, measured(name, value)] for name, value in metrics],
        numbers=[1],
    )
    return parts.section(
        "best",
        f"Best trial: {best.id}",
        tag("div", tag("div", table), tag("div", _difference(run, best)), class_="columns"),
        _errors(run, best, count),
    )


def _difference(run: Run, best: TrialHistory) -> Markup:
    try:
        found = analysis.differences(run, best)
    except UserError as error:
        return parts.note(f"Its configuration cannot be compared with the default: {error}")
    if not found:
        return parts.note("Its configuration is the default one, or was not kept.")
    return parts.table(
        "What differs from the default configuration",
        ["setting", "default", "here", "because"],
        [[one.setting, one.default, one.value, one.origin] for one in found],
    )


def _errors(run: Run, best: TrialHistory, count: int) -> list[Markup]:
    """Confusion matrix, classes and most wrong clips, as the bundle has kept them."""
    counts, labels = run.confusion, run.labels
    matrix = outcome.confusion(counts, labels)
    if matrix is None:
        return [
            parts.note(
                "The run has no bundle with a confusion matrix: a search exports one at its end "
                "(run.export), and `raudio evaluate` measures any bundle."
            )
        ]
    found = []
    if (trial := run.bundle.get("trial")) != best.id:
        found.append(parts.note(f"From the run's bundle, which is of trial {trial}."))
    array = np.array(counts)
    found.append(
        tag(
            "div",
            parts.figure(matrix),
            tag("div", _classes(array, labels), _confused(array, labels)),
            class_="columns",
        )
    )
    return [*found, *_wrong(run, count)]


def _classes(counts: np.ndarray, labels: Sequence[str]) -> Markup:
    found = Counts.of(counts)
    drawn = bootstrap.counts_of_draws(counts).f1 if counts.sum() else None
    rows: list[list[Content | Cell]] = []
    for place, label in list(enumerate(labels))[:MOST_CLASSES]:
        shares = [float(of[place]) for of in (found.precision, found.recall, found.f1)]
        cells = [Cell("–", None) if math.isnan(one) else Cell(f"{one:.1%}", one) for one in shares]
        inside = None if drawn is None else bootstrap.interval(drawn[:, place])
        reach = "–" if inside is None else f"{inside[0]:.0%} to {inside[1]:.0%}"
        true = int(found.true[place])
        rows.append([label, Cell(str(true), true), *cells, reach])
    return parts.table(
        "Classes on the valid split",
        ["class", "clips", "precision", "recall", "F1", f"F1, {bootstrap.CONFIDENCE:.0%}"],
        rows,
        numbers=range(1, 6),
        sortable=True,
    )


def _confused(counts: np.ndarray, labels: Sequence[str]) -> Markup | None:
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [divmod(int(place), len(labels)) for place in order]
    rows = [
        [labels[true], labels[predicted], str(int(off[true, predicted]))]
        for true, predicted in pairs
        if off[true, predicted]
    ]
    if not rows:
        return None
    return parts.table(
        "Most frequent confusions", ["true", "predicted", "clips"], rows, numbers=[2]
    )


def _wrong(run: Run, count: int) -> list[Markup]:
    wrong, labels = run.wrong, run.labels
    if not wrong:
        return []
    found = [tag("h3", "Most wrong clips", class_="apart")]
    found_clips: list[clips.Excerpt] = []
    if count:
        try:
            found_clips = clips.excerpts(run, wrong[:count])
        except (UserError, OSError) as error:
            found.append(parts.note(f"The clips cannot be heard here: {error}"))
    else:
        found.append(parts.note("`raudio report --clips N` adds players and spectrograms."))
    if found_clips:
        players = [
            heard(labels[one["true"]], labels[one["predicted"]], one["score"], excerpt)
            for one, excerpt in zip(wrong, found_clips, strict=False)
        ]
        return [*found, tag("div", players, class_="clips")]
    rows = [
        [
            str(one["clip"]),
            labels[one["true"]],
            f"{one['true_score']:.3f}",
            labels[one["predicted"]],
            f"{one['score']:.3f}",
        ]
        for one in wrong[:MOST_CONFUSED]
    ]
    heads = ["position", "true", "its score", "predicted", "its score"]
    caption = "Clips of the valid split, by their position in it"
    return [*found, parts.table(caption, heads, rows, numbers=[2, 4])]


def heard(true: str, predicted: str, score: float, excerpt: clips.Excerpt) -> Markup:
    """A clip to hear and to see, with its class and the one that it was given with a score."""
    picture = clips.as_uri("image/png", excerpt.picture)
    audio = clips.as_uri("audio/flac", excerpt.audio)
    about = [excerpt.clip, excerpt.group, format_seconds(excerpt.seconds)]
    return tag(
        "figure",
        tag(
            "p",
            tag("strong", true),
            " taken for ",
            tag("strong", predicted),
            f" with score {score:.2f}",
        ),
        void("img", src=picture, alt=f"Spectrogram of {excerpt.clip}"),
        tag("audio", controls=True, preload="none", src=audio, aria_label=f"Clip {excerpt.clip}"),
        tag("figcaption", " · ".join(part for part in about if part)),
    )
