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
from collections.abc import Mapping
from typing import Any, TypeAlias

from raudio.config import adapters, schema
from raudio.config.axes import text
from raudio.config.meta import Meta
from raudio.config.setting import Setting, settings_in
from raudio.core.errors import ConfigError, unknown

#: Name -> step, in the order of application.
Chain: TypeAlias = Mapping[str, Any]

KEY = "augment.chain"
#: Kinds of steps that hold others.
NESTING = ("choice", "sequence")


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
    return _steps(chain, KEY, problems, installed, member=False)


def settings(chain: Chain, where: str = KEY) -> dict[str, Setting]:
    """Every setting of the steps of a checked chain, by dotted key; faulty steps have none."""
    found: dict[str, Setting] = {}
    for name, step in chain.items():
        found |= _settings(step["kind"], f"{where}.{name}.", "weight" in step)
        found |= settings(step.get("of", {}), f"{where}.{name}.of")
    return found


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
    inside = [
        other.rpartition(".")[2] for other in settings(chain) if other.startswith(f"{where}.")
    ]
    own = [name for name in dict.fromkeys(inside) if f"{where}.{name}" in settings(chain)]
    if own:
        return f"{shown}: {unknown('setting', last, own)}"
    return f"{shown}: there is no step {where!r}; give it a kind: {where}.kind=gain"


def kinds() -> list[str]:
    """The kinds that need no adapter."""
    return [*schema.augmentations(), *NESTING]


# --- steps ---------------------------------------------------------------------------------------


def _steps(
    given: Any, where: str, problems: list[str], installed: bool, member: bool
) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.append(
            f"{where}={text(given)}: steps are wanted here, such as level: {{kind: gain}}"
        )
        return {}
    found: dict[str, Any] = {}
    for name, step in given.items():
        here = f"{where}.{name}"
        if not isinstance(name, str) or not name.isidentifier():
            problems.append(f"{here}: a step's name is made of letters, digits and underscores")
        elif not isinstance(step, Mapping) or step.get("kind") is None:
            problems.append(f"{here}={_short(step)}: a step needs a kind: {here}.kind=gain")
        else:
            one = _step(step, here, problems, installed, member)
            if one is not None:
                found[name] = one
    return found


def _step(
    given: Mapping[str, Any], where: str, problems: list[str], installed: bool, member: bool
) -> dict[str, Any] | None:
    """One step with its settings in their order; None, with a problem, when its kind is unknown."""
    kind = given["kind"]
    unchecked = isinstance(kind, str) and adapters.is_adapter(kind) and not installed
    try:
        known = _common(f"{where}.", member) if unchecked else _settings(kind, f"{where}.", member)
    except ConfigError as error:
        problems.append(f"{where}.kind={text(kind)}: {error}")
        return None
    step: dict[str, Any] = {}
    for key, setting in known.items():
        name = key.rpartition(".")[2]
        if name not in given and setting.default is dataclasses.MISSING:
            problems.append(f"{key} has to be given: it is {setting.allowed}")
            continue
        try:
            step[name] = setting.checked(given.get(name, setting.default))
        except ConfigError as error:
            problems.append(str(error))
    if kind in NESTING:
        step["of"] = _steps(given.get("of"), f"{where}.of", problems, installed, kind == "choice")
        _check_members(step, where, given.get("of"), problems)
    _check_ranges(step, where, problems)
    for name in given:
        if name in step or f"{where}.{name}" in known or (name == "of" and kind in NESTING):
            continue
        if unchecked and name not in ("of", "weight"):
            _check_plain(f"{where}.{name}", given[name], problems)
            step[name] = given[name]
        elif name == "weight":
            problems.append(f"{where}.weight={text(given[name])}: only a choice's members have one")
        else:
            options = [key.rpartition(".")[2] for key in known]
            said = unknown("setting", str(name), [*options, *(["of"] if kind in NESTING else [])])
            problems.append(f"{where}.{name}={_short(given[name])}: {said}")
    return step


def _check_ranges(step: Mapping[str, Any], where: str, problems: list[str]) -> None:
    for name, low in step.items():
        high = step.get(f"max_{name[4:]}") if name.startswith("min_") else None
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low > high:
            problems.append(
                f"{where}.{name}={text(low)} must not be above {where}.max_{name[4:]}={text(high)}"
            )


def _check_members(step: dict[str, Any], where: str, given: Any, problems: list[str]) -> None:
    weights = [member.get("weight", 1.0) for member in step["of"].values()]
    if not given:
        kind = step["kind"]
        problems.append(f"{where}.of: a {kind} holds steps; give one: {where}.of.NAME.kind=gain")
    elif step["kind"] == "choice" and weights and not any(weights):
        problems.append(f"{where}.of: every weight is 0, so there is nothing to choose")


def _check_plain(key: str, value: Any, problems: list[str]) -> None:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        problems.append(f"{key}={_short(value)}: a text, a number, true, false or none is wanted")


def _short(value: Any) -> str:
    shown = text(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


# --- kinds ---------------------------------------------------------------------------------------


def _settings(kind: Any, prefix: str, member: bool) -> dict[str, Setting]:
    """The settings of a step, by dotted key: what every step has, then the kind's own.

    Raises:
        ConfigError: no such kind, or its adapter is not installed.
    """
    own: dict[str, Setting] = {}
    if isinstance(kind, str) and adapters.is_adapter(kind):
        own = adapters.settings(kind, prefix)
    elif kind in (registered := schema.augmentations()):
        own = settings_in(registered[kind], prefix)
    elif kind not in NESTING:
        packages = ", ".join(f"{package}.NAME" for package in adapters.EXTRAS)
        raise ConfigError(f"{unknown('augmentation', text(kind), kinds())}; or {packages}")
    # The step's own p, whose default is another, stands for the kind's.
    return _common(prefix, member) | {
        key: setting for key, setting in own.items() if key != f"{prefix}p"
    }


def _common(prefix: str, member: bool) -> dict[str, Setting]:
    found = [
        Setting(f"{prefix}kind", str, False, dataclasses.MISSING, Meta("what the step is")),
        Setting(
            f"{prefix}p",
            float,
            False,
            1.0,
            Meta("probability that the step is applied; 0 is off", min=0, max=1),
        ),
    ]
    if member:
        about = "how often a choice takes it, relative to its other members"
        found.append(Setting(f"{prefix}weight", float, False, 1.0, Meta(about, min=0)))
    return {setting.key: setting for setting in found}
