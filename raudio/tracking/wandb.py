"""Weights & Biases: a run for the search, and one for each trial, in one group."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raudio.core.errors import RunError
from raudio.core.secrets import redact
from raudio.records import FAILED, History, ReportRecord, TrialHistory
from raudio.tracking.tracker import Outcome, RunInfo, Tracker, about, summary

#: A line for each epoch that is kept offline.
_SENT = "sent"
#: Labels up to which a confusion matrix has its zeros, too.
_WHOLE = 100
_SITE = "https://api.wandb.ai"
#: What a project's name cannot have.
_FORBIDDEN = str.maketrans(dict.fromkeys("/\\#?%:", "-"))


class WandB(Tracker):
    """Sends to a server, or keeps in `tracking/wandb` of the run what `wandb sync` sends.

    The runs' ids follow from the raudio run, so that they are the same when it goes on.

    Args:
        project, entity, mode: as in `raudio.config.tracking.WandB`.
    """

    def __init__(
        self, *, project: str | None = None, entity: str | None = None, mode: str | None = None
    ) -> None:
        self._project = project
        self._entity = entity
        self._mode = mode or os.environ.get("WANDB_MODE") or _mode()
        self.buffers = self._mode == "online"
        self._runs: dict[str, Any] = {}
        self._sent: dict[str, int] = {}  # offline, before this session: trial to last epoch
        self._info: RunInfo
        self._metric = ("", "max")

    def start_search(self, run: RunInfo, history: History) -> bool:
        self._info = run
        self._metric = (history.metric, history.mode)
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # it would be silent about another one
            raise RunError(f"{str(folder)!r} cannot be written")
        # What is staged for a later `wandb sync` belongs to the run, not into the home folder.
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
            os.environ.setdefault(name, str(folder))
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        wandb.teardown()  # of an attempt that has failed
        opened = self._open("", run.name, "search", run.settings)
        if self._mode == "online":
            self.note = f"has it at {opened.url}"
            return bool(opened.resumed)
        kept = f"{folder / 'wandb'}/offline-run-*"
        self.note = f"is kept in the run; to send it: wandb sync {kept}"
        sent = folder / _SENT
        known = sent.exists()
        if known:
            lines = (line.split() for line in sent.read_text().splitlines())
            self._sent = {trial: int(epoch) for trial, epoch in lines}
        sent.touch()
        return known

    def start_trial(self, trial: TrialHistory, settings: Mapping[str, Any], time: float) -> int:
        config = {
            **settings,
            "trial": trial.id,
            "configuration": trial.configuration,  # to group by, where it is trained several times
            "repeat": trial.repeat,
        }
        if trial.id in self._runs:
            self._runs[trial.id].config.update(config, allow_val_change=True)
            return 0
        run = self._open(trial.id, f"{self._info.name} {trial.id}", "trial", config)
        return max(int(run.starting_step) - 1, self._sent.get(trial.id, 0))

    def report(self, trial: TrialHistory, report: ReportRecord, time: float) -> None:
        values = {**report.metrics, "epoch": report.epoch, "seconds": report.seconds}
        run = self._runs[trial.id]
        run.log({**values, "_timestamp": time}, step=report.epoch, commit=True)
        if self._mode == "offline":  # nobody can be asked
            with (self._folder / _SENT).open("a") as sent:
                sent.write(f"{trial.id} {report.epoch}\n")

    def end_trial(self, trial: TrialHistory, state: str, time: float) -> None:
        best = trial.best_metrics(*self._metric)
        found = {"state": state, **about(trial), **{f"best/{k}": v for k, v in best.items()}}
        self._close(trial.id, state, found)

    def end_search(self, history: History, outcome: Outcome) -> None:
        import wandb

        run = self._runs[""]
        if outcome.confusion:
            cells = [
                [true, predicted, count]
                for true, row in zip(outcome.labels, outcome.confusion, strict=True)
                for predicted, count in zip(outcome.labels, row, strict=True)
                if count or len(outcome.labels) <= _WHOLE
            ]
            columns = ["Actual", "Predicted", "nPredictions"]
            chart = wandb.plot.plot_table(
                vega_spec_name="wandb/confusion_matrix/v1",
                data_table=wandb.Table(columns=columns, data=cells),
                fields={name: name for name in columns},
                string_fields={"title": "confusion on the valid split"},
            )
            run.log({"confusion": chart})
        if outcome.clips:
            rows = []
            for number, clip in enumerate(outcome.clips):
                path = self._folder / f"wrong-{number}.flac"
                path.write_bytes(clip.audio)
                audio = wandb.Audio(str(path))
                rows.append([clip.id, clip.true, clip.predicted, clip.score, audio])
            columns = ["clip", "true", "predicted", "score", "audio"]
            run.log({"wrong": wandb.Table(columns=columns, data=rows)})
        if outcome.bundle is not None:
            bundle = wandb.Artifact(f"bundle-{self._info.key}", type="model")
            bundle.add_dir(str(outcome.bundle), skip_cache=True)
            run.log_artifact(bundle)
        self._close("", history.state, summary(history))

    # --- inside ----------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return self._info.own / "wandb"

    def _id(self, trial: str) -> str:
        return f"{self._info.key}-{trial}".rstrip("-")

    def _open(self, trial: str, name: str, kind: str, config: Mapping[str, Any]) -> Any:
        """The run of a trial, or with an empty name of the search, made or joined."""
        import wandb

        info = self._info
        self._runs[trial] = run = wandb.init(
            project=self._project
            or os.environ.get("WANDB_PROJECT")
            or info.dataset.translate(_FORBIDDEN)[:128],
            entity=self._entity,
            id=self._id(trial),
            name=name,
            group=f"{info.name}-{info.key}"[:128],
            job_type=kind,
            config=dict(config),
            dir=str(self._folder),
            mode=self._mode,  # type: ignore[arg-type]
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=15,
                # This process has nothing to say of the trials': its machine, its code, its git.
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        return run

    def _close(self, trial: str, state: str, found: Mapping[str, Any]) -> None:
        run = self._runs.pop(trial)
        told = {name: redact(v) if isinstance(v, str) else v for name, v in found.items()}
        run.summary.update(told)
        run.tags = (state,)
        run.finish(exit_code=1 if state == FAILED else 0)


def _mode() -> str:
    """Online where a key is known, as wandb itself finds it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or _SITE).hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        known = None
    return "online" if known else "offline"
