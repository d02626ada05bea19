"""What is measured when a bundle is made: on the valid split of the dataset that the run was on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raudio.config.schema import Experiment
from raudio.core.errors import DataError, RunError, UserError
from raudio.data.build import window_frames
from raudio.data.clips import Clips, load_clips
from raudio.data.feeds import Batch, Encode, ResidentFeed
from raudio.data.folds import on_fold
from raudio.data.locate import locate
from raudio.export.systems import WaveSystem
from raudio.system import System


class ValidSplit:
    """The valid split that a trial was measured on, decoded.

    Args:
        experiment: of the trial, as the run has it, with the dataset's whole path.
        fingerprint: of the dataset, as the trial's checkpoint has it.
        echo: told what is done.

    Raises:
        DataError: the dataset is not where it was, or it is another one; without its path, which
            whoever gets the bundle has no business with.
    """

    def __init__(
        self, experiment: Experiment, fingerprint: str, echo: Callable[[str], None]
    ) -> None:
        data = experiment.dataset
        try:
            manifest = on_fold(locate(data, echo), data.fold)
        except (UserError, OSError) as error:
            echo(f"the dataset cannot be read here: {error}")
            raise DataError("its dataset was out of reach when it was exported") from error
        if manifest.fingerprint != fingerprint:
            echo(f"dataset {manifest.path!r} is not what it was when this was trained")
            raise DataError("its dataset had changed when it was exported")
        assert data.sample_rate is not None, "the experiment is not resolved"
        echo(f"measuring on the {manifest.splits['valid'].clips} clips of the valid split")
        self._experiment = experiment
        self.clips: Clips = load_clips(
            manifest,
            "valid",
            sample_rate=data.sample_rate,
            precision=data.precision,  # type: ignore[arg-type]
        )

    def feed(self, encode: Encode = lambda row: 0) -> ResidentFeed:
        """Its clips, with the targets that `encode` gives."""
        return ResidentFeed(
            self.clips,
            encode=encode,
            frames=window_frames(self._experiment),
            pad=self._experiment.dataset.pad,  # type: ignore[arg-type]
        )

    def windows(self, count: int) -> Batch:
        """The first windows of its clips, at most `count`."""
        return next(self.feed().windows(count))

    def measure(self, system: System | WaveSystem) -> tuple[dict[str, float], dict[str, Any]]:
        """The metrics, named as in a report ("valid/accuracy"), and the task's details.

        Raises:
            RunError: scores that are not finite.
        """
        feed = self.feed(system.task.encode)
        scores, _ = system.score(feed, 64, "cpu")
        if not scores.isfinite().all():
            raise RunError(
                "these weights give scores of the valid split that are not finite; export other "
                "trials, or in another --precision"
            )
        targets = feed.targets().cpu()
        metrics = system.task.metrics(scores, targets)
        tell = getattr(system.task, "details", None)
        details = tell(scores, targets) if tell else {}
        return {f"valid/{name}": value for name, value in metrics.items()}, details
