"""What was found, as one HTML page with the worst clips to listen to.

The page needs nothing else: no script, no request. Names come from the data and are not trusted:
all text is escaped, and the page forbids itself to load or run anything.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import soundfile
from numpy.typing import NDArray

from raudio.core.errors import DataError
from raudio.core.units import Seconds, format_bytes, format_seconds
from raudio.data.inspect.gather import Inspection
from raudio.data.inspect.problem import Problem
from raudio.data.inspect.text import MEASURES, fitted, summary
from raudio.data.manifest import Manifest
from raudio.data.prepare import encode_samples
from raudio.data.rows import read_shard

#: What can be heard of a clip, from its beginning, and how many clips can.
EXCERPT: Seconds = 4.0
MOST_CLIPS = 24

_SHOWN_CLASSES = 200
_WIDTH, _HEIGHT = 360, 60
_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --line: #d0d7de;
  --mark: #0969da; --error: #b42318; --warning: #8a5a00; --dim: #57606a }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --line: #30363d;
  --mark: #58a6ff; --error: #ff7b72; --warning: #e3b341; --dim: #8b949e } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: right }
td:first-child, th:first-child { text-align: left }
section { border-top: 1px solid var(--line); margin-top: 1.5rem }
h3.error { color: var(--error) } h3.warning { color: var(--warning) }
figure { margin: .5rem 0 1rem } figcaption, .dim { color: var(--dim) }
svg { display: block; max-width: 100% } rect, path { fill: var(--mark) }
audio { width: 22.5rem; max-width: 100% }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:"


@dataclass(frozen=True)
class _Excerpt:
    """The beginning of a clip: (T,) samples, and what the clip is."""

    wave: NDArray[np.float32]
    sample_rate: int
    label: str
    split: str


def page(found: Inspection, manifest: Manifest) -> str:
    """The inspection as an HTML page, with the clips of its problems read from the dataset.

    A clip that cannot be read has no player.

    Args:
        found: of `manifest`.
        manifest: of the dataset.
    """
    wanted = dict.fromkeys(clip for problem in found.problems for clip in problem.clips)
    excerpts = _excerpts(manifest, list(wanted)[:MOST_CLIPS])
    problems = "".join(_problem(problem, excerpts) for problem in found.problems)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(found.dataset)}: what is in it</title><style>{_STYLE}</style></head><body>
<h1>{escape(found.dataset)}</h1>
<p>{found.clips} clips, {format_seconds(found.seconds)}, {len(found.labels)} classes,
{format_bytes(found.bytes)}; from {escape(found.source)}{_licence(found)}</p>
<section><h2>Problems: {escape(str(summary(found)))}</h2>{problems}</section>
<section><h2>Length</h2>{_lengths(found)}<p>{escape(fitted(found))}</p></section>
<section><h2>Sound</h2>{_measures(found)}
<p>{found.speech:.0%} of the clips seem to be speech (an estimate).</p></section>
<section><h2>Format</h2>{_formats(found)}</section>
<section><h2>Classes</h2>{_classes(found)}</section>
</body></html>
"""


def _problem(problem: Problem, excerpts: Mapping[str, _Excerpt]) -> str:
    examples = f"<p>Such as {escape(', '.join(problem.examples))}.</p>" if problem.examples else ""
    players = "".join(_player(clip, excerpts[clip]) for clip in problem.clips if clip in excerpts)
    return (
        f'<article><h3 class="{escape(problem.severity)}">{escape(problem.severity)}: '
        f"{escape(problem.title)}</h3>{examples}<p>What it does: {escape(problem.effect)}.<br>"
        f"Cure: {escape(problem.cure)}.</p>{players}</article>"
    )


def _player(clip: str, excerpt: _Excerpt) -> str:
    content = encode_samples(excerpt.wave[:, None], excerpt.sample_rate, "flac")
    name = escape(clip)
    seconds = len(excerpt.wave) / excerpt.sample_rate
    return (
        f"<figure>{_waveform(excerpt.wave, f'waveform of {clip}')}"
        f'<audio controls preload="metadata" aria-label="{name}" '
        f'src="data:audio/flac;base64,{base64.b64encode(content).decode()}"></audio>'
        f"<figcaption>{name} ({escape(excerpt.label)}, {escape(excerpt.split)}), "
        f"the first {seconds:.1f} s</figcaption></figure>"
    )


def _waveform(wave: NDArray[np.float32], title: str) -> str:
    """The range of the samples at each point, from full scale down to full scale up."""
    columns = np.array_split(wave, min(_WIDTH, len(wave)))
    middle = _HEIGHT / 2
    top = [f"{x},{middle - middle * part.max():.1f}" for x, part in enumerate(columns)]
    bottom = [f"{x},{middle - middle * part.min() + 0.5:.1f}" for x, part in enumerate(columns)]
    return _svg(f'<path d="M{" L".join([*top, *reversed(bottom)])} Z"/>', title)


def _lengths(found: Inspection) -> str:
    edges, counts = found.histogram["edges"], found.histogram["counts"]
    if not counts:
        return ""
    step = _WIDTH / len(counts)
    bars = "".join(
        f'<rect x="{step * n:.1f}" y="{_HEIGHT * (1 - count / max(counts)):.1f}" '
        f'width="{step * 0.9:.1f}" height="{_HEIGHT * count / max(counts):.1f}"/>'
        for n, count in enumerate(counts)
    )
    rows = [
        (f"{low:.2f} to {high:.2f} s", f"{count:.0f}")
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    title = f"histogram of the clips' lengths, {edges[0]:.2f} to {edges[-1]:.2f} s"
    return _svg(bars, title) + _table(("length", "clips"), rows)


def _measures(found: Inspection) -> str:
    rows = [
        (title, *(format(value, form) for value in found.measures[name].values()), unit)
        for name, (title, unit, form) in MEASURES.items()
        if name in found.measures
    ]
    return _table(("of a clip", "5 %", "median", "95 %", ""), rows)


def _formats(found: Inspection) -> str:
    rates = [(f"{rate} Hz", str(count)) for rate, count in found.sample_rates.items()]
    channels = [(f"{count} channels", str(clips)) for count, clips in found.channels.items()]
    note = f"<p>At {found.sample_rate:g} Hz, {found.resampled} clips are resampled.</p>"
    return _table(("format", "clips"), [*rates, *channels]) + note


def _classes(found: Inspection) -> str:
    rows = [
        (
            name,
            *(str(split.class_counts.get(name, 0)) for split in found.splits.values()),
            f"{count.seconds:.0f}",
            str(count.events or ""),
        )
        for name, count in list(found.classes.items())[:_SHOWN_CLASSES]
    ]
    left = len(found.classes) - len(rows)
    rest = f"<p>And {left} smaller classes.</p>" if left else ""
    return _table(("class", *found.splits, "seconds", "events"), rows) + rest


def _licence(found: Inspection) -> str:
    return f", licence {escape(found.licence)}" if found.licence else ""


def _svg(content: str, title: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title)}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}"><title>{escape(title)}</title>{content}</svg>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _excerpts(manifest: Manifest, clips: Sequence[str]) -> dict[str, _Excerpt]:
    """The beginnings of those clips that can be read."""
    found: dict[str, _Excerpt] = {}
    missing = set(clips)
    for shard in manifest.shards:
        if not missing:
            break
        path = manifest.shard_path(shard)
        try:
            here = missing & set(read_shard(path, ["clip_id"])["clip_id"].to_pylist())
            if not here:
                continue
            table = read_shard(path, ["clip_id", "audio", "label", "split"])
        except DataError:  # the inspection has said so
            continue
        for index, clip in enumerate(table["clip_id"].to_pylist()):
            if clip not in here:
                continue
            try:
                wave, rate = _beginning(table["audio"][index].as_py())
            except soundfile.SoundFileError:
                continue
            label = table["label"][index].as_py() or ""
            found[clip] = _Excerpt(wave, rate, label, shard.split)
        missing -= here
    return found


def _beginning(content: bytes) -> tuple[NDArray[np.float32], int]:
    """(T,) mono samples of the first seconds, and their rate."""
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        samples = file.read(round(EXCERPT * file.samplerate), dtype="float32", always_2d=True)
        return samples.mean(axis=1), file.samplerate
