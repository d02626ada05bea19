"""TensorBoard: a folder of event files for each trial; scalars by epoch, and the hparams plugin."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soundfile
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from raudio.records import FAILED, History, ReportRecord, TrialHistory
from raudio.tracking.tracker import Outcome, RunInfo, Tracker, about, summary

_EPOCH = "epoch"
_SUCCESS, _FAILURE = api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE


class TensorBoard(Tracker):
    """Writes event files.

    Args:
        dir: folder, in which the run gets one; None: `tracking/tensorboard` in the run.
    """

    def __init__(self, *, dir: str | None = None) -> None:
        self._dir = dir
        self._folder = Path()
        self._writers: dict[str, EventFileWriter] = {}
        self._with_settings: set[str] = set()

    def start_search(self, run: RunInfo, history: History) -> bool:
        if self._dir is None:
            self._folder = run.own / "tensorboard"
        else:
            self._folder = Path(self._dir) / f"{run.name}-{run.key}"
        known = any(self._folder.glob("events*"))
        self._open("")
        self.note = f"has its files in {self._folder}: tensorboard --logdir {self._folder}"
        return known

    def start_trial(self, trial: TrialHistory, settings: Mapping[str, Any], time: float) -> int:
        known = 0
        if trial.id not in self._writers:
            known = self._known(trial.id)
            self._open(trial.id)
        if settings and trial.id not in self._with_settings:  # a trial has them once
            self._with_settings.add(trial.id)
            values = {name: _plain(value) for name, value in settings.items()}
            self._write(trial.id, summary_v2.hparams_pb(values, trial.id, time), time)
        return known

    def report(self, trial: TrialHistory, report: ReportRecord, time: float) -> None:
        values = {**report.metrics, "seconds": report.seconds, _EPOCH: report.epoch}
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(trial.id, Summary(value=scalars), time, report.epoch)

    def end_trial(self, trial: TrialHistory, state: str, time: float) -> None:
        self._write(trial.id, _text("trial", {"state": state, **about(trial)}), time, trial.epochs)
        self._write(trial.id, _ended(state, time), time)
        self._writers.pop(trial.id).close()

    def end_search(self, history: History, outcome: Outcome) -> None:
        time = history.time
        self._write("", _text("search", summary(history)), time)
        if outcome.confusion:
            table = _matrix(outcome.labels, outcome.confusion)
            self._write("", text_pb("confusion", table), time)
        for number, clip in enumerate(outcome.clips):
            heading = f"{clip.id}: {clip.true} taken for {clip.predicted} ({clip.score:.2f})"
            self._write("", _audio(f"wrong/{number}", heading, clip.audio), time)
        self.flush()

    def flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()

    # --- inside ----------------------------------------------------------------------------------

    def _open(self, name: str) -> None:
        self._writers[name] = EventFileWriter(str(self._folder / name))

    def _write(self, name: str, content: Summary, time: float, step: int = 0) -> None:
        self._writers[name].add_event(Event(wall_time=time, step=step, summary=content))

    def _known(self, trial: str) -> int:
        """The last epoch in a trial's files, of which it notes whether they have its settings."""
        last = 0
        for file in sorted((self._folder / trial).glob("events*")):
            for event in LegacyEventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.tag == _EPOCH:
                        last = max(last, event.step)
                    elif value.tag == metadata.SESSION_START_INFO_TAG:
                        self._with_settings.add(trial)
        return last


def _ended(state: str, time: float) -> Summary:
    info = plugin_data_pb2.SessionEndInfo(
        status=_FAILURE if state == FAILED else _SUCCESS, end_time_secs=time
    )
    content = plugin_data_pb2.HParamsPluginData(
        session_end_info=info, version=metadata.PLUGIN_DATA_VERSION
    )
    return _plugin_summary(metadata.SESSION_END_INFO_TAG, content)


def _plugin_summary(tag: str, content: plugin_data_pb2.HParamsPluginData) -> Summary:
    value = Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR
    )
    return Summary(value=[value])


def _plain(value: Any) -> Any:
    """A value as the hparams plugin takes it."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _text(tag: str, values: Mapping[str, Any]) -> Summary:
    rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    return text_pb(tag, f"| | |\n| --- | --- |\n{rows}")


def _audio(tag: str, heading: str, flac: bytes) -> Summary:
    wave, rate = soundfile.read(io.BytesIO(flac), dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="PCM_16")
    audio = Summary.Audio(
        sample_rate=rate,
        num_channels=1,
        length_frames=len(wave),
        encoded_audio_string=file.getvalue(),
        content_type="audio/wav",
    )
    about_it = SummaryMetadata(display_name=heading)
    return Summary(value=[Summary.Value(tag=tag, audio=audio, metadata=about_it)])


def _matrix(labels: tuple[str, ...], counts: tuple[tuple[int, ...], ...]) -> str:
    """A confusion matrix in Markdown."""
    rows = [["true \\ predicted", *labels], ["---"] * (len(labels) + 1)]
    rows += [[label, *map(str, row)] for label, row in zip(labels, counts, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
