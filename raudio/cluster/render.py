"""Cluster files: those of `clusters/`, filled in and checked.

Lines that begin with `#:` at a file's head are YAML: `about`, one line, and `keys`, what a person
may set: `help`, and `default` (none: it must be given). A key is a whole number (`min`: the least)
if its default is one; else a word; or as `type` says: `name` (of a cluster: letters, digits and
dashes), `list` (words with commas between them), `command` (for a shell). `{{key}}` stands for the
value, and `{{ray}}`, `{{python}}`, `{{raudio}}`, `{{pins}}` and `{{user}}` for what runs here.
"""

from __future__ import annotations

import functools
import getpass
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from raudio.cluster.packages import versions
from raudio.core.errors import ConfigError, closest, unknown
from raudio.core.shipped import folder

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")

#: What a value may look like: nothing that ends a quotation of YAML or of a shell.
_FORMS = {
    "word": (r"[\w./~:@%+=\[\]-]+", "letters, digits and ./~:@%+=[]_-"),
    "name": (r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", "small letters, digits and dashes, at most 40"),
    "list": (r"([\w.:-]+(,[\w.:-]+)*)?", "words with commas between them"),
}


@dataclass(frozen=True)
class Key:
    """What a person may set in a cluster file.

    Attributes:
        kind: int, word, name, list or command.
        default: as text; None: it must be given.
        least: the smallest whole number.
    """

    name: str
    kind: str
    help: str
    default: str | None
    least: int


@dataclass(frozen=True)
class Template:
    """A file of `clusters/`: what it is for, what a person may set, and the text to fill in."""

    about: str
    keys: Mapping[str, Key]
    body: str


def names() -> dict[str, Path]:
    """The cluster files that come with raudio: name -> file."""
    found = [*folder("clusters").glob("*.yaml"), *folder("clusters").glob("*.sbatch")]
    return {path.stem: path for path in sorted(found)}


def read(path: Path) -> Template:
    """A cluster file, and what it says of itself."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    head = [line for line in lines if line.startswith("#:")]
    facts = yaml.safe_load("".join(line[3:] for line in head))
    keys = {key: _key(key, **about) for key, about in facts["keys"].items()}
    return Template(facts["about"], keys, "".join(line for line in lines if line not in head))


def render(name: str, settings: Iterable[str]) -> str:
    """A cluster file, filled in.

    Args:
        name: of the file, without its ending.
        settings: KEY=VALUE.

    Raises:
        ConfigError: an unknown name or key, a value that cannot be, a key that is missing, or what
            Ray has against the whole.
    """
    known = names()
    if name not in known:
        raise ConfigError(unknown("cluster file", name, known))
    template = read(known[name])
    values = _values(name, template.keys, settings)
    text = _filled(template.body, values)
    check(name, text)
    return text


def check(name: str, text: str) -> None:
    """Holds a filled in file against what reads it: Ray's own schema, or a shell.

    Raises:
        ConfigError: what is wrong with it.
    """
    if name == "slurm":
        _check_shell(name, text)
        return
    import jsonschema
    from ray._private.label_utils import validate_node_label_syntax
    from ray.autoscaler._private.kuberay import autoscaling_config
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = yaml.safe_load(text)
    try:
        if "provider" in content:
            prepared = prepare_config(content)
        else:  # what KubeRay's autoscaler makes of it
            spec = content["spec"].get("rayClusterSpec", content["spec"])
            prepared = autoscaling_config._derive_autoscaling_config_from_ray_cr(
                {"metadata": content["metadata"], "spec": spec}
            )
        validate_config(prepared)
        for group in prepared["available_node_types"].values():
            validate_node_label_syntax(group.get("labels", {}))
    except jsonschema.ValidationError as error:
        raise ConfigError(f"{name}: {error.json_path}: {error.message}") from error
    except (ValueError, ArithmeticError, RuntimeError) as error:
        said = str(error).strip() or type(error).__name__
        raise ConfigError(f"{name}: {said.splitlines()[0]}") from error


def _check_shell(name: str, text: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        return
    done = subprocess.run([bash, "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{name}: {done.stderr.strip().splitlines()[-1]}")


def _key(name: str, help: str, default: Any = None, type: str = "", min: int = 0) -> Key:
    kind = type or ("int" if isinstance(default, int) else "word")
    here = _here()
    shown = None if default is None else _filled(str(default), here)
    return Key(name, kind, _filled(help, here), shown, min)


def _values(name: str, keys: Mapping[str, Key], settings: Iterable[str]) -> dict[str, str]:
    """The text for every placeholder.

    Raises:
        ConfigError: as `render`.
    """
    given: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            near = "" if key in keys else closest(key, keys)
            raise ConfigError(f"{setting!r} must be KEY=VALUE{near}")
        if key not in keys:
            raise ConfigError(f"{name}: {unknown('key', key, keys)}")
        if key in given:
            raise ConfigError(f"{name}: {key} is given twice")
        given[key] = value
    missing = [key for key in keys.values() if key.default is None and key.name not in given]
    if missing:
        raise ConfigError(
            f"{name} needs " + "; and ".join(f"{key.name}=... ({key.help})" for key in missing)
        )
    found = {
        key.name: _checked(name, key, given.get(key.name, key.default or ""))
        for key in keys.values()
    }
    return {**_here(), **found}


def _checked(name: str, key: Key, value: str) -> str:
    where = f"{name}: {key.name}={value!r}"
    if key.kind == "int":
        if not re.fullmatch("[0-9]{1,9}", value) or int(value) < key.least:
            raise ConfigError(f"{where} must be a whole number of at least {key.least}")
        return str(int(value))
    if key.kind == "command":
        return _command(where, value)
    form, said = _FORMS[key.kind]
    if not re.fullmatch(form, value, re.ASCII):
        raise ConfigError(f"{where} must be of {said}")
    return json.dumps([word for word in value.split(",") if word]) if key.kind == "list" else value


def _command(where: str, value: str) -> str:
    """A command line of raudio, quoted anew: it can end no quotation around it."""
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ConfigError(f"{where} is not a command: {error}") from error
    words = words[1:] if words[:1] == ["raudio"] else words
    if not words or not value.isprintable():
        raise ConfigError(f"{where} must be one line: what follows `raudio`")
    return shlex.join(words)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


@functools.cache
def _here() -> dict[str, str]:
    """What nodes must have as this machine has it: a job's versions are compared with these."""
    try:
        version = metadata.version("raudio")
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            "raudio runs from a clone that is not installed, so its nodes' version is not known: "
            "pip install -e CLONE"
        ) from error
    found = versions()
    pins = [
        f"{'ray[default]' if name == 'ray' else name}=={each}"
        for name, each in found.items()
        if name != "Python" and each != "none"
    ]
    return {
        "ray": found["ray"],
        "raudio": version,
        "python": f"py{found['Python'].replace('.', '')}",
        "pins": " ".join(f'"{pin}"' for pin in pins),
        "user": getpass.getuser(),
    }
