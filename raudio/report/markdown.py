"""A run in a few lines of Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raudio.config.axes import text
from raudio.core.units import format_seconds, format_value
from raudio.progress import trial_state
from raudio.records import TrialHistory
from raudio.report import analysis, summary
from raudio.report.confirmation import HEADS, as_rows, confirmation
from raudio.report.markup import clean
from raudio.report.page import check_comparable
from raudio.report.run import Run
from raudio.report.sections import measured

_TOP = 5


def summarise(run: Run, others: Sequence[Run] = ()) -> str:
    """The summary, the best trials, the best one's settings, the failures, the command.

    Raises:
        RunError: a run of `others` has another metric.
    """
    check_comparable(run, others)
    history, best = run.history, run.best
    further = list(history.goal.objectives)[1:]
    blocks = [f"### raudio: {_words(run.folder.resolve().name)}"]
    lines = summary.sentences(run, analysis.importances(run))
    blocks.append("\n".join(f"- {_words(line)}" for line in lines))
    if others:
        blocks.append(
            _table(
                ("run", f"best {history.metric}", "trials", "epochs", "time"),
                (
                    (
                        _code(one.name),
                        format_value(one.value(one.best) if one.best else None),
                        str(len(one.history.trials)),
                        str(len(one.points)),
                        format_seconds(one.history.seconds),
                    )
                    for one in (run, *others)
                ),
            )
        )
    if run.ranked:
        blocks.append(
            _table(
                ("trial", history.metric or "value", *further, "state", "epochs", "time"),
                (
                    (
                        trial.id,
                        format_value(run.value(trial)),
                        *(measured(name, _measures(run, trial).get(name)) for name in further),
                        trial_state(history, trial),
                        str(trial.epochs),
                        format_seconds(trial.seconds),
                    )
                    for trial in run.ranked[:_TOP]
                ),
            )
        )
    found = confirmation(history)
    if found is not None and found.configurations:
        blocks.append(_table(HEADS, as_rows(found)))
    if best is not None and best.params:
        drawn = ((_code(key), _code(text(value))) for key, value in best.params.items())
        blocks.append(_table((f"setting of trial {best.id}", "value"), drawn))
    for failure in analysis.failures(history)[:_TOP]:
        count = len(failure.trials)
        blocks.append(f"- {count} failed: {_code(f'{failure.kind}: {failure.reason}')}")
    blocks.append(_fence(summary.search_command(run)))
    return "\n\n".join(blocks) + "\n"


def _measures(run: Run, trial: TrialHistory) -> dict[str, float]:
    return run.history.measures(run.history.configurations[trial.configuration])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [[_words(head) for head in heads], ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def _words(value: str) -> str:
    """A text on one line, whose signs mean nothing but themselves; code between backticks stays."""
    parts = " ".join(clean(value).split()).split("`")
    if len(parts) % 2 == 0:
        return _code(value)
    for place in range(0, len(parts), 2):
        for sign in "\\*_[]<>#@":
            parts[place] = parts[place].replace(sign, f"\\{sign}" if sign != "@" else "@\u200b")
    return "`".join(parts)


def _code(value: str) -> str:
    """A text as code, whatever it holds."""
    return f"`{' '.join(clean(value).split()).replace('`', chr(39))}`"


def _fence(value: str) -> str:
    fence = "```"
    while fence in value:
        fence += "`"
    return f"{fence}\n{clean(value)}\n{fence}"
