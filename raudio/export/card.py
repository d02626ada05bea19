"""The model card of a bundle: what it does, on what it was trained, how good it is, how to use it.

The layout, with its YAML head, is the one that model hubs read (Mitchell et al. 2019, "Model cards
for model reporting").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from raudio.config.axes import text
from raudio.config.schema import Experiment
from raudio.config.validate import to_mapping
from raudio.core.units import format_bytes, format_seconds
from raudio.export.reproduce import command
from raudio.tasks import bootstrap
from raudio.tasks.counts import Counts

_TAG = "audio-classification"
_TASKS = {
    "classification": ("Audio classification: one label a clip", "audio-classification"),
}

#: The licences that the Hub knows by these names, of those that data come with.
_LICENCES = frozenset(
    [
        *("apache-2.0", "mit", "openrail", "gpl-3.0", "bsd-3-clause", "odbl", "pddl", "unlicense"),
        *("cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"),
        *("cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0"),
        *("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0"),
        *("cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0"),
    ]
)
_GRAPH_FILES = {"onnx": "model.onnx", "torch-export": "model.pt2"}
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
    members: Sequence[Experiment] = (),
) -> str:
    """The card's Markdown.

    Args:
        experiment: resolved; of several members the first.
        labels: in the order of the scores.
        metrics: what `metrics.json` holds.
        manifest: the dataset's manifest, where the run kept it.
        parameters: numbers in the weights.
        members: the experiments of an ensemble, the first one too.
    """
    task = experiment.task.name
    about, _ = _TASKS.get(task, (f"Task: {task}", _TAG))
    data = experiment.dataset
    formats = sorted(metrics.get("formats", {}))
    sections = [
        ["---", _head(experiment, metrics, manifest), "---", "", f"# {about}"],
        [
            f"{_systems(experiment, members)} ({parameters:,} numbers), found by raudio "
            + f"{metrics.get('raudio', '')}".rstrip()
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
            *_graphs(experiment, metrics, formats),
            *_plugins(metrics),
        ],
        [f"## Labels ({len(labels)})", "", ", ".join(_code(label) for label in labels)],
        ["## Training data", "", *_data(experiment, metrics, manifest)],
        ["## Metrics", "", *_metrics(metrics, labels), *_precision(metrics)],
        ["## Training", "", *_training(metrics, members or [experiment])],
        ["## Limits", "", *_limits(experiment, labels)],
        ["## Settings", "", *_settings(experiment)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _head(
    experiment: Experiment, metrics: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> str:
    """What the Hugging Face Hub reads: its model cards' metadata."""
    task = experiment.task.name
    _, tag = _TASKS.get(task, (task, _TAG))
    dataset = text(experiment.dataset.path)
    licence = " ".join(str((manifest or {}).get("licence") or "").split())
    head: dict[str, Any] = {"library_name": "raudio", "pipeline_tag": tag}
    if licence.lower() in _LICENCES:
        head["license"] = licence.lower()
    elif licence:
        head |= {"license": "other", "license_name": licence}
    else:
        head["license"] = "unknown"
    head["tags"] = ["audio", "raudio", experiment.model.name, experiment.features.name]
    head["datasets"] = [dataset]
    valid = {
        name.removeprefix("valid/"): value
        for name, value in sorted(metrics["metrics"].items())
        if name.startswith("valid/")
    }
    head["metrics"] = sorted(valid)
    if valid:
        head["model-index"] = [
            {
                "name": f"{experiment.model.name} on {dataset}",
                "results": [
                    {
                        "task": {"type": tag},
                        "dataset": {"name": dataset, "type": dataset, "split": "valid"},
                        "metrics": [
                            {"type": name, "value": value} for name, value in valid.items()
                        ],
                    }
                ],
            }
        ]
    found: str = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)
    return found.rstrip()


def _systems(experiment: Experiment, members: Sequence[Experiment]) -> str:
    names = [f"{each.model.name} on {each.features.name} features" for each in members]
    if len(names) > 1:
        return f"An ensemble of {len(names)}, whose scores are averaged: {', '.join(names)}"
    return f"A {experiment.model.name} on {experiment.features.name} features"


def _graphs(
    experiment: Experiment, metrics: Mapping[str, Any], formats: Sequence[str]
) -> list[str]:
    """What is said of the graphs in the bundle."""
    lines = []
    for name in formats:
        graph = metrics["formats"][name]
        lines += [
            "",
            f"`{_GRAPH_FILES[name]}` is the same from waveform to scores, without raudio: it takes "
            f"`waves` (any number, {graph['samples']} float32 samples at "
            f"{experiment.dataset.sample_rate} Hz each, zeros behind) and `lengths` (int64, the "
            "samples that are the recording's). Its scores differ from PyTorch's by at most "
            f"{graph['random']['difference']:.1g} on noise and {graph['real']['difference']:.1g} "
            f"on {graph['real_from']} (allowed: {graph['tolerance']:g}).",
        ]
        if "integers" in graph:
            lines[-1] += (
                " That is before its products became integers; after, by "
                f"{graph['integers']['real']['difference']:.1g} on {graph['real_from']}, of which "
                f"{graph['integers']['real']['other_label']:.1%} get another label."
            )
    return lines


def _plugins(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics.get("plugins"):
        return []
    files = ", ".join(map(_code, metrics["plugins"]))
    return [
        "",
        f"It needs components of {files}, which are not in the bundle: get the file from whoever "
        f"trained it, and add `--plugin {metrics['plugins'][0]}`.",
    ]


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
        f"{_weights(metrics)}, chosen by {_code(metrics['metric'])} ({metrics['mode']}): on the "
        "split that chose it a model looks better than it is. `raudio evaluate BUNDLE DATASET "
        "--split test` measures it on clips that no trial has seen.",
        "",
    ]
    if not values:
        return [*about, f"{str(metrics['measured']).capitalize()}."]
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


def _weights(metrics: Mapping[str, Any]) -> str:
    """Whose weights they are."""
    members = metrics.get("members")
    if not members:
        which = {"last": "The last weights, of"}.get(metrics.get("weights", "best"), "Of")
        return f"{which} epoch {metrics['epoch']} of trial {metrics['trial']}"
    each = ", ".join(
        f"{one['trial']} (epoch {one['epoch']}"
        + (f", {one['value']:.4g})" if one["value"] is not None else ")")
        for one in members
    )
    what = "The mean weights" if metrics["weights"] == "averaged" else "The mean scores"
    return f"{what} of {len(members)} trials, {each}"


def _precision(metrics: Mapping[str, Any]) -> list[str]:
    """What a smaller precision saves and costs."""
    found = metrics.get("precision", {})
    if "costs" not in found:
        return []
    name = metrics["metric"]
    rows = [
        (
            f"{row['format']}, {row['precision']}",
            f"{row['bytes']:,}",
            f"{1000 * row['seconds']:.2g} ms",
            f"{row['metrics'][name]:.4g}" if name in row["metrics"] else "not measured",
        )
        for row in found["costs"]
    ]
    return [
        "",
        f"The weights are stored in {found['stored']}. Before, and after:",
        "",
        *_table(("", "bytes", "a window on one machine's CPU", _code(name)), rows),
    ]


def _training(metrics: Mapping[str, Any], members: Sequence[Experiment]) -> list[str]:
    """What it cost, with which versions, and how it is done again."""
    cost = metrics.get("cost", {})
    rows = []
    if cost:
        rows.append(("epochs", f"{cost['epochs']:g}"))
        rows.append(("time in the training loop", format_seconds(cost["seconds"])))
    if "device_seconds" in cost:
        rows.append(("device time", format_seconds(cost["device_seconds"])))
    if "params" in cost:
        rows.append(("parameters", f"{cost['params']:,.0f}"))
    if "peak_memory" in cost:
        rows.append(("peak memory of a process", format_bytes(cost["peak_memory"])))
    versions = metrics.get("versions", {})
    rows += [(name, _text(version)) for name, version in versions.items()]
    commands = [command(each, metrics.get("plugins", [])) for each in members]
    lines = ["Trained again, on the dataset named here, by:", "", "```"]
    known = [line for line in dict.fromkeys(commands) if line is not None]
    if not known or None in commands:
        return [
            *_table(("", ""), rows),
            "",
            "Its settings are those below, and in experiment.json.",
        ]
    return [*_table(("", ""), rows), "", *lines, *known, "```"]


def _limits(experiment: Experiment, labels: Sequence[str]) -> list[str]:
    """What nobody has shown it to be good for."""
    data = experiment.dataset
    return [
        f"- It knows {len(labels)} labels and no other: of a sound that is none of them it gives "
        "the likeliest of them.",
        "- It was measured on recordings of the same source as its training data: of other "
        "microphones, rooms, speakers, levels and noise nothing is known. `raudio evaluate` "
        "measures it on yours.",
        f"- It hears {data.clip_seconds:g} s at once, and nothing above "
        f"{data.sample_rate // 2 if data.sample_rate else 0} Hz.",
        "- Its scores are not calibrated: 0.9 does not mean right nine times in ten.",
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
