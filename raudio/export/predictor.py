"""From a recording to a prediction: any format, rate, channel count and length.

What is computed for a recording is what `raudio.training.evaluate` computes for the same clip of a
dataset: mono, resampled, rounded to the dataset's precision, cut into windows, scored by
`System.score`, the windows' scores averaged.

Shapes: B windows of a batch, T samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from raudio.audio import windows
from raudio.audio.decode import blocks, decode, from_precision, info, to_precision
from raudio.config.schema import Experiment
from raudio.core.errors import ConfigError, DataError
from raudio.data.feeds import Batch
from raudio.export.bundle import Bundle, read_bundle

#: A recording: the path of a file, or its samples (T,) or (T, channels), as soundfile reads them.
Recording: TypeAlias = str | os.PathLike[str] | NDArray[Any]

#: Files of up to so many samples, over all channels, are decoded in one go: 64 MB as float32, three
#: minutes of stereo at 44.1 kHz. Longer ones are read in pieces, so that memory stays bounded.
WHOLE_SAMPLES = 1 << 24
#: Windows scored before results are given out; a longer recording is scored as a whole.
_GROUP_WINDOWS = 1024
_PIECE_SECONDS = 30.0


def load(path: str | os.PathLike[str], device: str = "cpu", format: str | None = None) -> Predictor:
    """Opens a bundle, to predict with it. Runs no code from it.

    A component that is not raudio's own must be registered before (`raudio.register`).

    Args:
        path: the bundle's folder.
        device: where to compute: "cpu", "cuda", "cuda:1", or "auto" (a GPU where there is one).
        format: what computes it, of those that the bundle holds: "safetensors" (PyTorch; what None
            means), "onnx" or "torch-export".

    Raises:
        RunError: no bundle, or one that is damaged, foreign or of another format.
        ConfigError: there is no such device, or no such format in the bundle.
    """
    where = device_of(device)
    return Predictor(read_bundle(path), where, format)


def device_of(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one.

    Raises:
        ConfigError: it is unknown, or this machine has none such.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device {name!r} cannot be used ({reason}); give cpu, cuda or auto"
        ) from error
    return device


class Predictor:
    """A bundle at work.

    Attributes:
        bundle: what it was made from: `bundle.experiment`, `bundle.metrics`.
        labels: in the order of the scores.
        sample_rate: in Hz, that recordings are resampled to.
        clip_seconds: length of a window.
    """

    def __init__(
        self, bundle: Bundle, device: torch.device | str = "cpu", format: str | None = None
    ) -> None:
        self.bundle = bundle
        self.labels = bundle.labels
        data = bundle.experiment.dataset
        assert data.sample_rate is not None  # read_bundle refuses others
        assert data.clip_seconds is not None
        self.sample_rate = data.sample_rate
        self.clip_seconds = data.clip_seconds
        self.device = torch.device(device)
        self.system = bundle.system(format).to(self.device)

    def predict(
        self,
        recording: Recording | Sequence[Recording],
        sample_rate: int | None = None,
        *,
        batch_size: int = 64,
    ) -> Any:
        """The prediction for a recording, or for each of several.

        Args:
            recording: path of a file, samples (T,) or (T, channels), or a list of these.
            sample_rate: of samples, in Hz; files know their own.
            batch_size: windows computed at once.

        Returns:
            For one recording `{"file", "label", "score", "scores": {label: score}}`, without `file`
            for samples; for a list, a list of these, in order, with `{"file", "error"}` in the
            place of a file that can't be used.

        Raises:
            DataError: the one recording that was given can't be used.
            ConfigError: samples without `sample_rate`, or not audio at all.
        """
        if isinstance(recording, (str, os.PathLike, np.ndarray, torch.Tensor)):
            result = next(self.stream([recording], sample_rate, batch_size=batch_size))
            if "error" in result:
                raise DataError(result["error"])
            return result
        return list(self.stream(recording, sample_rate, batch_size=batch_size))

    def stream(
        self,
        recordings: Iterable[Recording],
        sample_rate: int | None = None,
        *,
        batch_size: int = 64,
    ) -> Iterator[dict[str, Any]]:
        """The results of `predict` for a list, in order, given out as they are there.

        Memory is bounded: neither the number of recordings nor their length matters.
        """
        rest = iter(recordings)
        while True:
            feed = RecordingFeed(rest, self.bundle.experiment, sample_rate)
            scores, clips = self.system.score(feed, batch_size, self.device)  # type: ignore[arg-type]
            rows = dict(zip(clips.tolist(), scores, strict=True))
            for position, name in enumerate(feed.names):
                result: dict[str, Any] = {} if name is None else {"file": name}
                if position in feed.errors:
                    result["error"] = feed.errors[position]
                elif not rows[position].isfinite().all():
                    result["error"] = f"{name or 'recording'}: its scores are not finite"
                else:
                    result |= self.system.task.decode(rows[position])
                yield result
            if feed.exhausted:
                return


class RecordingFeed:
    """Windows of recordings, as `System.score` takes them: each recording is a clip.

    It takes recordings from `recordings` until it has given out enough windows, and no more: one
    feed after the other goes through an endless supply.

    Attributes:
        names: of the recordings taken, the path as given; None for samples.
        errors: position to message, of those that can't be used.
        exhausted: whether there were no more recordings.
    """

    def __init__(
        self, recordings: Iterator[Recording], experiment: Experiment, sample_rate: int | None
    ) -> None:
        data = experiment.dataset
        assert data.sample_rate is not None  # read_bundle refuses others
        assert data.clip_seconds is not None
        self.names: list[str | None] = []
        self.errors: dict[int, str] = {}
        self.exhausted = False
        self._recordings = recordings
        self._given_rate = sample_rate
        self._rate = data.sample_rate
        self._frames = max(1, round(data.clip_seconds * data.sample_rate))
        self._precision: Any = data.precision
        self._pad: Any = data.pad

    def windows(self, batch_size: int) -> Iterator[Batch]:
        """Batches of windows, of as many recordings as fit."""
        held: list[tuple[int, NDArray[np.float32]]] = []
        for window in self._all_windows():
            held.append(window)
            if len(held) == batch_size:
                yield self._batch(held)
                held = []
        if held:
            yield self._batch(held)

    def _all_windows(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        count = 0
        while count < _GROUP_WINDOWS:
            try:
                recording = next(self._recordings)
            except StopIteration:
                self.exhausted = True
                return
            position = len(self.names)
            is_file = isinstance(recording, (str, os.PathLike))
            self.names.append(os.fspath(recording) if is_file else None)  # type: ignore[arg-type]
            try:
                for wave in cut(self._pieces(recording), self._frames):
                    yield position, from_precision(to_precision(wave, self._precision))
                    count += 1
            except DataError as error:
                self.errors[position] = str(error)

    def _pieces(self, recording: Recording) -> Iterator[NDArray[np.float32]]:
        """The recording's samples: mono, resampled; in one piece where that is small."""
        if not isinstance(recording, (str, os.PathLike)):
            yield _from_samples(recording, self._given_rate, self._rate)
            return
        path = Path(recording)
        about = info(path)
        if 0 < about.frames * about.channels <= WHOLE_SAMPLES:
            yield decode(path, self._rate)[0]
        else:
            yield from blocks(path, self._rate, max(_PIECE_SECONDS, self._frames / self._rate))

    def _batch(self, held: Sequence[tuple[int, NDArray[np.float32]]]) -> Batch:
        # As the feeds do it: every row is as long as a window, whatever is in the batch.
        waves = np.stack([windows.fit(wave, self._frames, self._pad) for _, wave in held])  # (B, T)
        lengths = [self._frames if self._pad == "repeat" else len(wave) for _, wave in held]
        return Batch(
            inputs=torch.from_numpy(waves),
            lengths=torch.tensor(lengths, dtype=torch.int64),
            targets=torch.zeros(len(held), dtype=torch.int64),
            keys=np.zeros(len(held), np.uint64),
            clips=np.array([position for position, _ in held], np.int64),
        )


def cut(pieces: Iterable[NDArray[np.float32]], frames: int) -> Iterator[NDArray[np.float32]]:
    """The windows that `raudio.audio.windows.plan` gives for samples that come in pieces.

    The last window ends where the samples end, so up to a window of them is kept.

    Args:
        pieces: (T,) samples, one piece after the other.
        frames: of a window.
    """
    held = np.empty(0, np.float32)
    done = 0  # samples at the start of `held` that a window has covered already
    for piece in pieces:
        held = np.concatenate([held, piece])
        while len(held) - done > frames:
            yield held[done : done + frames]
            done += frames
        # What is covered is still needed where the last window reaches back.
        drop = max(0, min(done, len(held) - frames))
        held, done = held[drop:], done - drop
    if len(held) > done:
        yield held[-frames:]


def _from_samples(samples: Any, rate: int | None, target: int) -> NDArray[np.float32]:
    """(T,) mono float32 samples at `target` Hz, from an array or tensor."""
    import soxr

    if rate is None or rate <= 0:
        raise ConfigError(
            f"sample_rate={rate!r}: give the rate of the samples in Hz, predict(samples, 16000)"
        )
    array = np.asarray(samples)
    if array.dtype.kind == "i":
        array = array.astype(np.float32) / (np.iinfo(array.dtype).max + 1.0)
    elif array.dtype.kind != "f":
        raise ConfigError(f"samples of type {array.dtype} are no audio; give floats or integers")
    if array.ndim == 2:
        if array.shape[1] > array.shape[0]:
            raise ConfigError(
                f"samples of shape {array.shape}: give (samples, channels), that is samples.T"
            )
        array = array.mean(axis=1)
    if array.ndim != 1:
        raise ConfigError(f"samples of shape {array.shape}: give (samples,) or (samples, channels)")
    if not array.size:
        raise DataError("the recording is empty (0 samples)")
    wave = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise DataError("the recording holds samples that are NaN or infinite")
    if rate == target:
        return wave
    resampled: NDArray[np.float32] = soxr.resample(wave, rate, target, quality="HQ")
    if not resampled.size:
        raise DataError(f"nothing is left of the recording at {target} Hz")
    return resampled
