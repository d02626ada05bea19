"""docs/scaling.md names settings, files and faults that there are, and its sums are right."""

from __future__ import annotations

import sys
from pathlib import Path

import pages
import pytest

SCALING = pages.ROOT / "docs" / "scaling.md"


def test_what_the_page_names_is_there() -> None:
    pages.check_settings(SCALING, at_least=8)
    links = pages.dead_links(SCALING)
    assert [link for link in links if "://" not in link] == []


def test_the_sums_of_the_page() -> None:
    text = " ".join(SCALING.read_text().split())
    reports, trials = 1000 / 60, 1000 / (60 * 20)
    assert f"{reports:.0f} reports and {trials:.1f} new trials a second" in text
    driver = reports * 0.0026 + trials * 0.024 + 1000 * 0.0002 / 5
    assert driver == pytest.approx(0.1, abs=0.02)
    # A report of N trials at once costs N times the slope, and there are N / 60 a second.
    slope = (0.0026 - 0.0006) / (25 - 10)
    assert (60 / slope) ** 0.5 == pytest.approx(650, rel=0.05)
    assert reports * 6 == pytest.approx(100, rel=0.05)
    assert reports * 11 == pytest.approx(190, rel=0.05)
    writing, reading = 1000 * 6 / 3500, 1000 * 11 / 5500  # seconds an epoch
    assert (writing, reading) == pytest.approx((1.7, 2.0), abs=0.05)
    lost = 1000 / 24
    assert f"{lost:.0f} are lost an hour" in text
    assert lost * (28 + 0.31 * 60) / 60 == pytest.approx(32, abs=1)


def test_the_faults_of_the_page_are_the_campaign_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(pages.ROOT, "benchmarks")), *sys.path])
    from campaign import plan

    rows = {row[0]: int(row[1]) for row in pages.table(SCALING, "fault")}
    store = rows.pop("store: 503, cut off, reset, slow")
    assert store == sum(plan.COUNTS[kind] for kind in plan.STORE)
    assert rows == {k: v for k, v in plan.COUNTS.items() if k not in plan.STORE}
