"""What is written in the pages for people: README.md and docs/."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DATA = ROOT / "docs" / "data.md"


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced blocks of a page in one language; without one: commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [content for of, content in found if of == language]


def commands(page: Path) -> list[str]:
    """The lines of the blocks without a language."""
    return [line for block in blocks(page) for line in block.splitlines() if line]


def table(page: Path, first: str) -> list[list[str]]:
    """The cells of the table whose first column has this title, without marks of code."""
    lines = [line.strip() for line in page.read_text().splitlines()]
    begin = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


def dead_links(page: Path) -> list[str]:
    """The links of a page to files that are not there; there has to be a link."""
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert targets
    return [target for target in targets if not (page.parent / target).exists()]


def tone(path: Path, hertz: float, seed: int, seconds: float = 0.5) -> None:
    """A tone in noise, at 8 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    time = np.arange(round(8000 * seconds)) / 8000
    wave = 0.3 * np.sin(2 * np.pi * hertz * (1 + 0.1 * noise.random()) * time)
    soundfile.write(path, wave + 0.05 * noise.standard_normal(len(time)), 8000)
