"""What each fault cost: seconds, and epochs that had to be trained again."""

from __future__ import annotations

from dataclasses import dataclass

from campaign.conduct import Course


@dataclass
class Cost:
    """Of all faults of a kind.

    Attributes:
        kind: theirs.
        seconds, epochs: of each.
    """

    kind: str
    seconds: list[float]
    epochs: list[float]


def costs(course: Course, undisturbed: Course, epoch_steps: int) -> list[Cost]:
    """What the faults cost, by their kind.

    A fault is charged with all that happens until the next one: the time, less what the undisturbed
    search takes for the steps that were first made in it, and the steps that were made again. So
    the costs add up to what the whole search took longer, and a fault may seem to cost less than
    nothing where the machine was faster, or the next one came before it could cost anything.

    Args:
        course, undisturbed: of the two searches.
        epoch_steps: of an epoch.
    """
    # From the first step on: Ray's and the feed's start are before it.
    made = undisturbed.steps
    pace = (undisturbed.ended - made[0].time) / len(made)
    found: dict[str, Cost] = {}
    bounds = [*(struck.time for struck in course.struck), course.ended]
    for struck, end in zip(course.struck, bounds[1:], strict=True):
        own = [step for step in course.steps if struck.time <= step.time < end]
        again = sum(step.again for step in own)
        cost = found.setdefault(struck.kind, Cost(struck.kind, [], []))
        cost.seconds.append(end - struck.time - pace * (len(own) - again))
        cost.epochs.append(again / epoch_steps)
    return list(found.values())
