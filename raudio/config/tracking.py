"""Settings of the trackers, in which a run can be watched beside its own records."""

from __future__ import annotations

from dataclasses import dataclass

from raudio.config.meta import group, setting


@dataclass(frozen=True, kw_only=True)
class WandB:
    """Weights & Biases."""

    project: str | None = setting(
        None, "project; none: that of WANDB_PROJECT, else the dataset's name"
    )
    entity: str | None = setting(None, "user or team; none: that of WANDB_ENTITY, else your own")
    mode: str | None = setting(
        None,
        "online sends while the run goes on, offline keeps it for `wandb sync`; none: that of "
        "WANDB_MODE, else online where you are logged in",
        choices=("online", "offline"),
    )


@dataclass(frozen=True, kw_only=True)
class MLflow:
    """MLflow."""

    uri: str | None = setting(
        None,
        "server or store: https://HOST, sqlite:///FILE or a folder; none: that of "
        "MLFLOW_TRACKING_URI, else sqlite:///mlflow.db, as MLflow itself",
    )
    experiment: str | None = setting(
        None, "experiment; none: that of MLFLOW_EXPERIMENT_NAME, else the dataset's name"
    )


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """TensorBoard."""

    dir: str | None = setting(
        None, "folder, in which each run has one; none: tracking/tensorboard in the run"
    )


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where a run can be watched, beside its own records."""

    trackers: tuple[str, ...] | None = setting(
        None, "written tracking=[wandb,mlflow]: trackers of `raudio list trackers`; none: no one"
    )
    clips: int = setting(
        0, "audio of so many of the best trial's most wrong clips is sent", min=0, max=50
    )
    wandb: WandB = group(WandB, "tracking=wandb")
    mlflow: MLflow = group(MLflow, "tracking=mlflow")
    tensorboard: TensorBoard = group(TensorBoard, "tracking=tensorboard")
