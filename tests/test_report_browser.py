"""The report's page as a real browser shows it: at two widths, in light and in dark."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from made_run import add_bundle, make_run
from test_evaluate import prepared, recordings
from test_export import make_run as trained_run

from raudio.export.evaluate import evaluate
from raudio.export.make import export
from raudio.report import evaluation_page
from raudio.report.page import page
from raudio.report.run import read_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]

SCREENS = [(390, False), (390, True), (1280, False), (1280, True)]

PLOTS = {
    "history-epochs",
    "history-seconds",
    "curves",
    "rungs",
    "importances",
    "contour",
    "parallel",
    "pareto",
    "confusion",
    "compare-epochs",
    "compare-seconds",
    *(f"slice-{place}" for place in range(6)),
}

#: Of every plot its name, its size, and the smallest mark, line or bar in it.
BOXES = """[...document.querySelectorAll("svg[role=img]")].map(svg => {
  const box = svg.getBoundingClientRect();
  const inside = [...svg.querySelectorAll(".marks path, .line:not(.grid):not(.axis), rect")];
  return {name: svg.id, width: box.width, height: box.height, drawn: inside.filter(one => {
    const size = one.getBoundingClientRect(); return size.width + size.height > 0;
  }).length};
})"""

#: Every text with its own colour, what lies behind it, and its place.
TEXTS = """(() => {
  const found = new Map();
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || ["SCRIPT", "STYLE", "title", "desc"].includes(one.tagName)) continue;
    const style = getComputedStyle(one), svg = one instanceof SVGElement;
    let at = one, back = "rgba(0, 0, 0, 0)";
    const shade = svg && [...one.classList].find(name => /^on\\d$/.test(name));
    if (shade) {
      const cell = one.closest("svg").querySelector(".shade" + shade.slice(2));
      back = getComputedStyle(cell).fill;
    }
    while (at && back === "rgba(0, 0, 0, 0)") {
      back = getComputedStyle(at).backgroundColor; at = at.parentElement;
    }
    const colour = svg ? style.fill : style.color;
    found.set(colour + back, {colour, back, words: one.textContent.slice(0, 40)});
  }
  return [...found.values()];
})()"""

#: Every colour that a mark, a line of data or a bar has; the shades of an area are a scale.
MARKS = """(() => {
  const found = new Map();
  const query = ".marks:not(.over) path, .line:not(.grid), rect.fill:not([class*=shade])";
  for (const one of document.querySelectorAll(query)) {
    const style = getComputedStyle(one);
    const filled = style.fill !== "none" && !one.matches(".line");
    const colour = filled ? style.fill : style.stroke;
    found.set(colour, {colour, words: one.outerHTML.slice(0, 80)});
  }
  return [...found.values()];
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "made", 80)
    best = read_run(folder).best
    assert best is not None
    labels = ("down", "left", "right", "up", "a rather long name of a class", "x" * 90)
    add_bundle(folder, best.id, labels)
    problem = {"severity": "warning", "title": "3 clips are silent", "effect": "e", "cure": "c"}
    (folder / "preflight.json").write_text(json.dumps({"problems": [problem]}))
    other = make_run(folder.parent / "other", 30, seed=1)
    out = folder / "report.html"
    out.write_text(page(read_run(folder), [read_run(other)]))
    return out


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_every_plot_is_drawn_and_nothing_complains(
    browser: Browser, report: Path, width: int, dark: bool
) -> None:
    browser.open(report, width=width, dark=dark)
    boxes = {box["name"]: box for box in browser.evaluate(BOXES)}
    assert set(boxes) == PLOTS
    for box in boxes.values():
        assert box["width"] > 100, box
        assert box["height"] > 60, box
        assert box["drawn"] > 0, box
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    complaints = [
        event
        for event in browser.events
        if event[0] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    ]
    assert complaints == []
    asked = [
        params["request"]["url"]
        for method, params in browser.events
        if method == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("data:", report.as_uri()))] == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_marks_can_be_told_from_what_is_behind_them(
    browser: Browser, report: Path, dark: bool
) -> None:
    """WCAG 2.2: 4.5 to 1 for text (1.4.3), 3 to 1 for what a drawing is made of (1.4.11)."""
    browser.open(report, width=1280, dark=dark)
    back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(back) < 0.1) == dark
    texts = browser.evaluate(TEXTS)
    assert len(texts) > 5
    low = [one for one in texts if contrast(one["colour"], one["back"]) < 4.5]
    assert low == []
    marks = browser.evaluate(MARKS)
    assert len(marks) > 5
    assert [one for one in marks if contrast(one["colour"], back) < 3] == []


def test_a_heading_sorts_its_table_by_keyboard_and_back(browser: Browser, report: Path) -> None:
    browser.open(report, width=1280, dark=False)
    column = """[...document.querySelectorAll("#leaderboard tbody tr")].map(
        row => Number(row.cells[4].dataset.sort))"""
    before = browser.evaluate(column)
    browser.evaluate("document.querySelectorAll('#leaderboard thead button')[4].focus()")
    key: dict[str, Any] = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    for order in (False, True):
        browser.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        browser.call("Input.dispatchKeyEvent", type="keyUp", **key)
        assert browser.evaluate(column) == sorted(before, reverse=order) != before


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an evaluation with every section."""
    tmp = tmp_path_factory.mktemp("evaluated")
    bundle = export(trained_run(tmp / "run", {"0000": 0.5}), tmp / "bundle")
    data = prepared(recordings(tmp / "recordings", clips=12), tmp / "data")
    result = evaluate(bundle, data, "test", robustness=True, draws=20)
    out = tmp / "evaluation.html"
    out.write_text(evaluation_page.page(result, clips=2))
    return out


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_an_evaluation_is_drawn_and_can_be_read(
    browser: Browser, evaluated: Path, width: int, dark: bool
) -> None:
    browser.open(evaluated, width=width, dark=dark)
    boxes = {box["name"]: box for box in browser.evaluate(BOXES)}
    assert set(boxes) == {"robustness-plot", "confusion", "reliability"}
    for box in boxes.values():
        assert box["width"] > 100, box
        assert box["drawn"] > 0, box
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    complaints = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event[0] in complaints] == []
    loaded = "[...document.querySelectorAll('img')].map(one => one.naturalWidth > 0)"
    assert browser.evaluate(loaded) == [True, True]
    back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    texts = browser.evaluate(TEXTS)
    assert [one for one in texts if contrast(one["colour"], one["back"]) < 4.5] == []
    marks = browser.evaluate(MARKS)
    assert [one for one in marks if contrast(one["colour"], back) < 3] == []


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2.2 defines it."""
    numbers = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [n / 12.92 if n <= 0.04045 else ((n + 0.055) / 1.055) ** 2.4 for n in numbers]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2.2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
