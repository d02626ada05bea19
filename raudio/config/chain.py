"""`augment.chain`: augmentations in an order and a nesting of one's own, each step under a name.

    augment:
      chain:
        level: {kind: gain, p: 0.5, max_db: 12}
        dirt:
          kind: choice
          p: 0.8
          of:
            hiss: {kind: noise, weight: 2, min_snr: 5}
            room: {kind: sequence, of: {reverb: {kind: reverb}, low: {kind: low_pass, p: 0.5}}}

A step's `kind` is a registered augmentation, a class of an adapter's catalogue
(`audiomentations.Gain`), or one of two that hold further steps in `of`: a `sequence` applies all of
them in their order, a `choice` one of them, by `weight`, drawn for each clip. `p` is the
probability that a step is applied at all, 1 unless given (a flat `augment.gain.p` is 0 unless
given). All else are the kind's own settings.

A chain is a plain mapping, as the YAML shows it: its keys are the user's own. The command line
writes a step's setting as `augment.chain.dirt.of.hiss.min_snr=5`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from raudio.config import adapters, schema
from raudio.config.augment import MIXING
from raudio.config.axes import text
from raudio.config.meta import Meta
from raudio.config.setting import Setting, check_ranges, settings_in
from raudio.core.errors import ConfigError, unknown

#: Name -> step, in the order of application.
Chain: TypeAlias = Mapping[str, Any]

KEY = "augment.chain"
#: Settings of steps that name a folder or a file.
PATHS = ("source", "sounds_path", "ir_path")
#: Kinds of steps that hold others.
NESTING = ("choice", "sequence")

_ADAPTERS = ", ".join(f"{package}.NAME" for package in adapters.EXTRAS)
_MIXES = (
    "it mixes the clips of a batch with each other, and a {inside} is drawn for each clip; make it "
    f"a step of {KEY} itself"
)


def is_key(key: str) -> bool:
    """Whether `key` is the chain, one of its steps, or a step's setting."""
    return key == KEY or key.startswith(f"{KEY}.")


def is_kind(key: str) -> bool:
    """Whether `key` says what a step is."""
    return key.startswith(f"{KEY}.") and key.endswith(".kind") and len(key.split(".")) % 2 == 0


def checked(chain: Any, problems: list[str], *, installed: bool = True) -> Chain:
    """The chain with every setting of every step, in its type.

    Args:
        chain: as it was given; settings left out get their defaults.
        problems: one is added for each step, setting or value that cannot be.
        installed: whether the adapters have to be installed, and their steps to fit them. Not for
            an experiment that is only read, as a bundle's is: predicting needs no augmentation.
    """
    return _Check(problems, installed).steps(chain, KEY)


def settings(chain: Chain, where: str = KEY) -> dict[str, Setting]:
    """Every setting of the steps of a checked chain, by dotted key; faulty steps have none."""
    found: dict[str, Setting] = {}
    for name, step in chain.items():
        found |= _settings(step["kind"], f"{where}.{name}.", "weight" in step)
        found |= settings(step.get("of", {}), f"{where}.{name}.of")
    return found


def steps(chain: Chain, where: str = KEY) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every step of a checked chain, also those inside others: dotted name and what it holds."""
    for name, step in chain.items():
        yield f"{where}.{name}", step
        yield from steps(step.get("of", {}), f"{where}.{name}.of")


def placeholders() -> dict[str, Setting]:
    """The settings that every step has, as `raudio list settings` shows them."""
    return _common(f"{KEY}.NAME.", member=False) | {
        key: setting
        for key, setting in _common(f"{KEY}.NAME.of.MEMBER.", member=True).items()
        if key.endswith(".weight")
    }


def unknown_setting(key: str, value: Any, chain: Chain) -> str:
    """One sentence for a key that names no setting of the chain's steps."""
    shown = f"{key}={text(value)}"
    where, _, last = key.rpartition(".")
    split = [other.rpartition(".") for other in settings(chain)]
    own = [name for step, _, name in split if step == where]
    if own:
        return f"{shown}: {unknown('setting', last, own)}"
    return f"{shown}: there is no step {where!r}; give it a kind: {where}.kind=gain"


# --- steps ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Check:
    """The check of a chain, from the outside in; `inside` is the kind of the step around."""

    problems: list[str]
    installed: bool

    def steps(self, given: Any, where: str, inside: str = "") -> dict[str, Any]:
        """The steps that can be told."""
        found: dict[str, Any] = {}
        if given is None:
            return found
        if not isinstance(given, Mapping):
            self._problem(where, given, "steps are wanted here, such as {level: {kind: gain}}")
            return found
        for name, step in given.items():
            here = f"{where}.{name}"
            if not isinstance(name, str) or not name.isidentifier():
                self.problems.append(
                    f"{here}: a step's name is made of letters, digits and underscores"
                )
            elif not isinstance(step, Mapping) or not isinstance(step.get("kind"), str):
                self._problem(here, step, f"a step needs a kind: {here}.kind=gain")
            else:
                checked = self._step(step, here, inside)
                found |= {name: checked} if checked else {}
        return found

    def _step(self, given: Mapping[str, Any], where: str, inside: str) -> dict[str, Any]:
        """One step with its settings in their order; empty when its kind is unknown."""
        kind, prefix, member = given["kind"], f"{where}.", inside == "choice"
        unseen = adapters.is_adapter(kind) and not self.installed
        try:
            known = _common(prefix, member) if unseen else _settings(kind, prefix, member)
        except ConfigError as error:
            self._problem(f"{where}.kind", kind, str(error))
            return {}
        if inside and kind in MIXING:
            self._problem(f"{where}.kind", kind, _MIXES.format(inside=inside))
        step = {}
        for key, setting in known.items():
            name = key.removeprefix(prefix)
            value = given.get(name, setting.default)
            if value is dataclasses.MISSING:
                self.problems.append(f"{key} has to be given: it is {setting.allowed}")
            else:
                step[name] = self._value(setting, value)
            if name in PATHS and self.installed and isinstance(step.get(name), str):
                step[name] = _absolute(step[name])
        check_ranges(where, step, self.problems)
        if kind in NESTING:
            step["of"] = self.steps(given.get("of"), f"{where}.of", kind)
            self._members(step, where, given.get("of"))
        for name in given:
            if name == "weight" and not member:
                self._problem(f"{where}.weight", given[name], "only a choice's members have one")
            elif unseen and name not in step and name != "of":
                step[name] = self._plain(f"{where}.{name}", given[name])
            elif name not in step:
                said = unknown("setting", str(name), step)
                self._problem(f"{where}.{name}", given[name], said)
        return step

    def _value(self, setting: Setting, value: Any) -> Any:
        try:
            return setting.checked(value)
        except ConfigError as error:
            self.problems.append(str(error))
            return value

    def _members(self, step: Mapping[str, Any], where: str, given: Any) -> None:
        if not given:
            self.problems.append(
                f"{where}.of: a {step['kind']} holds steps; give one: {where}.of.NAME.kind=gain"
            )
        weights = [member.get("weight") for member in step["of"].values()]
        if step["kind"] == "choice" and weights and set(weights) == {0.0}:
            self.problems.append(f"{where}.of: every weight is 0, so there is nothing to choose")

    def _plain(self, key: str, value: Any) -> Any:
        if value is not None and not isinstance(value, (bool, int, float, str)):
            self._problem(key, value, "must be a text, a number, true, false or none")
        return value

    def _problem(self, key: str, value: Any, said: str) -> None:
        shown = text(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        self.problems.append(f"{key}={shown}: {said}")


def _absolute(path: str) -> str:
    """Trials run in other folders than the command line; a URI stays."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


# --- kinds ---------------------------------------------------------------------------------------


def _settings(kind: str, prefix: str, member: bool) -> dict[str, Setting]:
    """The settings of a step, by dotted key: what every step has, then the kind's own.

    Raises:
        ConfigError: no such kind, or its adapter is not installed.
    """
    own: dict[str, Setting] = {}
    if adapters.is_adapter(kind):
        own = adapters.settings(kind, prefix)
    elif kind in (registered := schema.augmentations()):
        own = settings_in(registered[kind], prefix)
    elif kind not in NESTING:
        kinds = unknown("augmentation", kind, [*registered, *NESTING])
        raise ConfigError(f"{kinds}, {_ADAPTERS}")
    # The step's own p, whose default is another, stands for the kind's.
    return _common(prefix, member) | {
        key: setting for key, setting in own.items() if key != f"{prefix}p"
    }


def _common(prefix: str, member: bool) -> dict[str, Setting]:
    kind = Meta(f"a registered augmentation, choice, sequence, {_ADAPTERS}")
    p = Meta("probability that the step is applied; 0 is off", min=0, max=1)
    found = [
        Setting(f"{prefix}kind", str, False, dataclasses.MISSING, kind),
        Setting(f"{prefix}p", float, False, 1.0, p),
    ]
    if member:
        about = "how often a choice takes it, relative to its other members"
        found.append(Setting(f"{prefix}weight", float, False, 1.0, Meta(about, min=0)))
    return {setting.key: setting for setting in found}
