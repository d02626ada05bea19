"""A report as one HTML page that needs nothing else: no request, no library.

All text from the data is escaped where it enters (`markup`), and the page forbids itself to load
anything or to run any script but its own, which only sorts tables: without it nothing is missing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files

from raudio.core.errors import RunError
from raudio.report import analysis, sections, summary
from raudio.report.best import best_trial
from raudio.report.markup import Markup, join, tag, void
from raudio.report.run import Run


def page(run: Run, others: Sequence[Run] = (), *, clips: int = 0) -> str:
    """The report of a run.

    Args:
        run: of a search or a training.
        others: runs to compare it with.
        clips: how many of the most wrong clips can be heard; needs the run's dataset.

    Raises:
        RunError: a run of `others` has another metric.
    """
    check_comparable(run, others)
    importances = analysis.importances(run)
    parts = [
        sections.comparison([run, *others]) if others else None,
        sections.leaderboard(run),
        sections.configurations(run),
        sections.progress(run),
        sections.searched(run, importances),
        sections.cost(run),
        best_trial(run, clips),
        sections.failures(run),
        sections.data(run),
        sections.reproduction(run),
    ]
    name = run.folder.resolve().name
    lines = summary.sentences(run, importances)
    header = tag(
        "header",
        tag("p", "raudio report", class_="kicker"),
        tag("h1", name),
        tag("div", sections.words(lines), class_="lead"),
        sections.headline(run),
    )
    shown = [part for part in parts if part is not None]
    about = f"by raudio {run.history.version} from {run.name}."
    return document(f"{name} · raudio report", header, shown, about, first="leaderboard")


def check_comparable(run: Run, others: Sequence[Run]) -> None:
    """Refuses runs whose values mean different things.

    Raises:
        RunError: the metric or its direction is another.
    """
    for other in others:
        mine, theirs = ((r.history.metric, r.history.mode) for r in (run, other))
        if mine != theirs:
            raise RunError(
                f"run {other.name!r} optimises {theirs[0]} ({theirs[1]}) and run {run.name!r} "
                f"{mine[0]} ({mine[1]}): their values cannot be compared"
            )


def document(title: str, header: Markup, shown: Sequence[Markup], about: str, *, first: str) -> str:
    """A whole page.

    Args:
        title: of the window.
        header: what stands above the contents.
        shown: its sections, as `parts.section` makes them.
        about: who wrote it, and of what, to go behind the time.
        first: id of the section that a reader by keyboard can jump to.
    """
    style, script = (_resource(file) for file in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=policy),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    body = tag(
        "body",
        tag("a", f"Skip to the {first}", href=f"#{first}", class_="skip"),
        header,
        tag("nav", tag("ul", [_link(part) for part in shown]), aria_label="Contents"),
        tag("main", shown),
        tag("footer", f"Written {written} {about}"),
        tag("script", Markup(script)),
    )
    return join([Markup("<!doctype html>\n"), tag("html", head, body, lang="en"), "\n"])


def _link(part: Markup) -> Markup:
    """A link to a section, by the id and the heading that it has."""
    name = part.partition(' id="')[2].partition('"')[0]
    title = part.partition("<h2")[2].partition(">")[2].partition("</h2>")[0]
    return tag("li", tag("a", Markup(title), href=f"#{name}"))


def _resource(name: str) -> str:
    return files("raudio.report").joinpath(name).read_text(encoding="utf-8").strip()
