"""The search space: which settings a search chooses, from what, and under which conditions.

A space is a YAML file of `search_spaces/` (or any path) in the grammar of the command line:

    about: one line for `raudio list spaces`
    params:
      model: choice(cnn, crnn)
      optimizer.lr: tag(log, interval(1e-4, 1e-2))
    conditions:
      - when: {model: crnn}
        params:
          model.rnn_layers: choice(1, 2)
    constraints:
      - model=crnn requires training.batch_size <= 32

Axes on the command line (`features.n_mels=range(32, 129, step=32)`) are added, or replace the
file's; a plain override (`optimizer.lr=0.001`) takes its setting out of the search. A setting that
only some of the searched variants have is drawn for these alone. Constraints, the file's and those
of `search.constraints`, exclude what does not go together (`config.expressions` has their grammar).
A loaded space is a checked one: every key, value, bound and condition has been held against the
schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raudio.config import compose, validate
from raudio.config.axes import Axis
from raudio.config.schema import Configuration
from raudio.core.errors import ConfigError
from raudio.search.space import Space
from raudio.search.space_check import checked
from raudio.search.space_draft import Draft


def load(
    name: str,
    extra: Mapping[str, Axis] | None = None,
    overrides: Sequence[str] = (),
) -> Space:
    """Reads and checks a space.

    Args:
        name: a file of `search_spaces/`, or the path of another.
        extra: axes of the command line.
        overrides: plain overrides of the command line.

    Raises:
        ConfigError: no such space, or all that is wrong with it in one message.
    """
    draft = Draft.read(name, extra or {}, overrides)
    problems: list[str] = []
    space = checked(draft, overrides, problems)
    validate.raise_problems(problems)
    return space


def resolve(args: Sequence[str]) -> tuple[Configuration, Space, list[str]]:
    """What a search's command line means: the configuration, the space and the plain overrides.

    The configuration's experiment is what trials have in common, with the first choice of each
    searched group. `compose.experiment_for(overrides, drawn)` gives a trial's.

    Raises:
        ConfigError: all that is wrong with the overrides and the space, in one message.
    """
    overrides, axes = compose.split(args)
    name = compose.values_of(overrides).get("space") or "default"
    draft = Draft.read(str(name), axes, overrides)
    problems: list[str] = []
    space = checked(draft, overrides, problems)
    found: list[str | ConfigError] = [*problems]
    try:
        configuration = compose.compose(overrides, draft.groups())
    except ConfigError as error:
        found.insert(0, error)
    validate.raise_problems(found)
    return configuration, space, overrides
