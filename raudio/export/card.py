"""The model card of a bundle: what it does, on what it was trained, how good it is, how to use it.

The layout, with its YAML head, is the one that model hubs read (Mitchell et al. 2019, "Model cards
for model reporting").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raudio.config.axes import text
from raudio.config.schema import Experiment
from raudio.config.validate import to_mapping
from raudio.core.units import format_seconds
from raudio.tasks import bootstrap
from raudio.tasks.counts import Counts

_TASKS = {
    "classification": ("Audio classification: one label a clip", "audio-classification"),
}

_CONFIDENCE = f"{bootstrap.CONFIDENCE:.0%} interval"
#: Classes that are listed with their metrics.
_MOST_CLASSES = 200


def model_card(
    experiment: Experiment,
    labels: Sequence[str],
    metrics: Mapping[str, Any],
    *,
    manifest: Mapping[str, Any] | None,
    parameters: int,
) -> str:
    """The card's Markdown.

    Args:
        experiment: resolved.
        labels: in the order of the scores.
        metrics: what `metrics.json` holds.
        manifest: the dataset's manifest, where the run kept it.
        parameters: numbers in the weights.
    """
    task = experiment.task.name
    about, tag = _TASKS.get(task, (f"Task: {task}", "audio-classification"))
    data = experiment.dataset
    head = ["library_name: raudio", f"pipeline_tag: {tag}", "tags:", "- audio", "- raudio"]
    sections = [
        ["---", *head, "---", "", f"# {about}"],
        [
            f"A {experiment.model.name} on {experiment.features.name} features "
            f"({parameters:,} numbers), found by raudio {metrics.get('raudio', '')}".rstrip()
            + f". It hears {data.clip_seconds:g} s at {data.sample_rate} Hz, mono; recordings of "
            "any rate, channels and length are resampled, mixed down and scored window by window, "
            "and the windows' scores are averaged.",
        ],
        [
            "## Use",
            "",
            "```",
            "raudio predict PATH-OF-THIS-FOLDER recording.wav",
            "```",
            "",
            "```python",
            "import raudio",
            "",
            'model = raudio.load("PATH-OF-THIS-FOLDER")',
            'print(model.predict("recording.wav")["label"])',
            "```",
        ],
        [f"## Labels ({len(labels)})", "", ", ".join(_code(label) for label in labels)],
        ["## Training data", "", *_data(experiment, metrics, manifest)],
        ["## Metrics", "", *_metrics(metrics, labels)],
        ["## Settings", "", *_settings(experiment)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _data(
    experiment: Experiment, metrics: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> list[str]:
    rows: list[tuple[str, str]] = [("dataset", _code(text(experiment.dataset.path)))]
    if manifest is None:
        rows += [("source", "not recorded"), ("licence", "not recorded")]
    else:
        rows.append(("source", _text(manifest.get("source") or "not said")))
        rows.append(("licence", _text(manifest.get("licence") or "not said")))
        for name, split in manifest.get("splits", {}).items():
            rows.append((name, f"{split['clips']} clips, {format_seconds(split['seconds'])}"))
    rows.append(("fingerprint", _code(str(metrics["dataset"]))))
    return _table(("", ""), rows)


def _metrics(metrics: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """The metrics of the exported epoch with their intervals, and the classes."""
    values = sorted(metrics["metrics"].items())
    about = [
        f"Of epoch {metrics['epoch']} of trial {metrics['trial']}, which was chosen by "
        f"{_code(metrics['metric'])} ({metrics['mode']}): on the split that chose it a model looks "
        "better than it is. `raudio evaluate BUNDLE DATASET --split test` measures it on clips "
        "that no trial has seen.",
        "",
    ]
    found = _valid(metrics, labels)
    if found is None:
        rows = [(_code(name), f"{value:.6g}") for name, value in values]
        return [*about, *_table(("metric", "value"), rows)]
    drawn = bootstrap.counts_of_draws(found)
    spread = {f"valid/{name}": _interval(one) for name, one in drawn.metrics().items()}
    measured = [(_code(name), f"{value:.6g}", spread.get(name, "")) for name, value in values]
    return [
        *about,
        *_table(("metric", "value", _CONFIDENCE), measured),
        "",
        f"The intervals are of the {int(found.sum())} clips of the valid split, drawn with "
        f"replacement {bootstrap.DRAWS:,} times (percentile bootstrap). They take clips as "
        "independent: where several come from one speaker or site, they are too narrow.",
        "",
        *_classes(found, drawn, labels),
    ]


def _valid(metrics: Mapping[str, Any], labels: Sequence[str]) -> NDArray[np.int64] | None:
    """(C, C) the valid split's confusion matrix; None where the task has none, or it is empty."""
    counts = np.array(metrics["details"].get("confusion", []))
    if counts.shape != (len(labels), len(labels)) or not counts.sum():
        return None
    return counts


def _classes(found: NDArray[np.int64], drawn: Counts, labels: Sequence[str]) -> list[str]:
    counts = Counts.of(found)
    heads = ("class", "clips", "precision", "recall", "F1", f"F1, {_CONFIDENCE}")
    rows = [
        (
            _code(label),
            str(int(counts.true[place])),
            *(_share(of[place]) for of in (counts.precision, counts.recall, counts.f1)),
            _interval(drawn.f1[:, place]),
        )
        for place, label in enumerate(labels)
    ]
    left_out = len(rows) - _MOST_CLASSES
    more = ["", f"{left_out} further classes are left out."] if left_out > 0 else []
    return [*_table(heads, rows[:_MOST_CLASSES]), *more]


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _interval(values: NDArray[np.float64]) -> str:
    """A metric's interval, of its values over the draws."""
    found = bootstrap.interval(values)
    return "–" if found is None else f"{found[0]:.3f} to {found[1]:.3f}"


def _settings(experiment: Experiment) -> list[str]:
    rows = []
    for section, values in to_mapping(experiment).items():
        if isinstance(values, Mapping):
            rows += [(_code(key), _code(str(value))) for key, value in _flat(section, values)]
        elif section != "plugins":
            rows.append((_code(section), _code(str(values))))
    return _table(("setting", "value"), rows)


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", value


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; a bar inside a cell is no border."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines]


def _text(value: str) -> str:
    """Free text of others: one line, no tags."""
    line = " ".join(str(value).split())
    return line.replace("&", "&amp;").replace("<", "&lt;")


def _code(value: str) -> str:
    """A value inside backticks, whatever it holds."""
    line = " ".join(value.split()).replace("`", "'")
    return f"`{line}`"
