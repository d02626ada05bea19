"""What is written in the pages for people: README.md and docs/."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
import typer
import yaml

from raudio.cli.main import app
from raudio.config import chain, schema, validate
from raudio.config.setting import Setting

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DATA = ROOT / "docs" / "data.md"
SEARCH = ROOT / "docs" / "search.md"
RESULTS = ROOT / "docs" / "results.md"
CLUSTER = ROOT / "docs" / "cluster.md"


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced blocks of a page in one language; without one: commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [content for of, content in found if of == language]


def commands(page: Path) -> list[str]:
    """The lines of the blocks without a language."""
    return [line for block in blocks(page) for line in block.splitlines() if line]


def table(page: Path, first: str) -> list[list[str]]:
    """The cells of the tables whose first column has this title, without marks of code."""
    lines = [line.strip() for line in page.read_text().splitlines()]
    begins = [n for n, line in enumerate(lines) if line.startswith(f"| {first} |")]
    rows = []
    for begin in begins:
        for line in itertools.takewhile(lambda line: line.startswith("|"), lines[begin + 2 :]):
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


def known_settings() -> dict[str, list[Setting]]:
    """Every setting by its key, of each variant of its group."""
    found: dict[str, list[Setting]] = {}
    variants = [(group, name) for group, names in schema.VARIANTS.items() for name in names]
    for chosen in [{}, *({group: name} for group, name in variants)]:
        for key, setting in validate.settings(chosen).items():
            found.setdefault(key, []).append(setting)
    return found


def check_settings(page: Path, at_least: int) -> None:
    """Every setting that a page names is one, and may have the value that stands behind it."""
    known = known_settings()
    groups = {key.partition(".")[0] for key in known if "." in key}
    setting = rf"\b((?:{'|'.join(groups)})(?:\.\w+)+)(=[\w.]+(?![\w.(]))?"
    named = re.findall(setting, page.read_text())
    checked = 0
    for key, value in named:
        if key.endswith((".json", ".yaml", ".md")) or chain.is_key(key):
            continue
        assert key in known, key
        if value:
            known[key][0].checked(yaml.safe_load(value[1:]))
        checked += 1
    assert checked >= at_least


def parse(arguments: Sequence[str]) -> None:
    """Raises what click does for a command or an option that there is not; runs nothing."""
    command: Any = typer.main.get_command(app)
    context = click.Context(command, info_name="raudio")
    rest = list(arguments)
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None, name
    command.make_context(command.name, rest, parent=context)


def is_out_of_reach(arguments: Sequence[str]) -> bool:
    """Whether a command needs a store, the web or a cluster."""
    downloads = arguments[:2] == ["data", "fetch"] and "--list" not in arguments
    return downloads or "--address" in arguments or any("://" in each for each in arguments)
