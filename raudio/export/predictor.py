"""From a recording to a prediction: any format, rate, channel count and length.

What is computed for a recording is what `raudio.training.evaluate` computes for the same clip of a
dataset: mono, resampled, rounded to the dataset's precision, cut into windows, each scored, the
windows' scores averaged.

Shapes: B windows of a batch, T samples, C outputs, D numbers of an embedding.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raudio.audio import windows
from raudio.audio.decode import from_precision, to_precision
from raudio.core.errors import ConfigError, DataError
from raudio.core.units import Seconds
from raudio.export.bundle import CARD, FORMATS, METRICS, Bundle, read_bundle
from raudio.export.recordings import Recording, Resampler, ahead, is_one, mono, name_of, pieces

#: Of the windows that are computed at once, unless it is said how many, on a CPU and on a GPU: what
#: a CNN10 makes of 64 windows of 10 s takes 2.5 GB, and a CPU is no faster with them than with one.
_BATCH: dict[str, Seconds] = {"cpu": 16.0, "cuda": 256.0}


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


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked of a recording.

    Attributes:
        window: a result for each part of so many seconds, as if it were a recording of its own;
            None: one result for the whole. A shorter recording is one part; the last part ends
            where the recording ends.
        stride: seconds from one part's start to the next, at most `window`; None: `window`. Where
            it alone is given, `window` is the bundle's `clip_seconds`.
        top: scores that are kept, the highest; None: all, in the order of the labels.
        threshold: below it, the label is None; None: there is always one.
        embeddings: whether to give the vectors before the model's head, too.

    Raises:
        ConfigError: a value can't be.
    """

    window: Seconds | None = None
    stride: Seconds | None = None
    top: int | None = None
    threshold: float | None = None
    embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{name}={value}: give seconds, more than 0")
        if self.top is not None and self.top < 1:
            raise ConfigError(f"top={self.top}: give the number of scores to keep, at least 1")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ConfigError(f"threshold={self.threshold}: give a score, such as 0.5")

    @property
    def windowed(self) -> bool:
        """Whether there is a result for each part, not one for the whole."""
        return self.window is not None or self.stride is not None


@dataclass(frozen=True)
class Result:
    """What was found of a recording, or of one part of it.

    Attributes:
        position: of the recording, among those given.
        name: its path as given; None for samples.
        seconds: of the recording that have been heard so far.
        part: (start, end) in seconds, where there are several.
        prediction: label, score and scores; empty where there is an error.
        embedding: (D,) float32, the mean over the windows; where it was asked for.
        error: why the recording can't be used; its last result.
    """

    position: int
    name: str | None
    seconds: Seconds = 0.0
    part: tuple[Seconds, Seconds] | None = None
    prediction: Mapping[str, Any] | None = None
    embedding: NDArray[np.float32] | None = None
    error: str | None = None

    def mapping(self) -> dict[str, Any]:
        """`{"file", "label", "score", "scores"}` or `{"file", "error"}`; `start` and `end` of a
        part, no `file` for samples."""
        found: dict[str, Any] = {} if self.name is None else {"file": self.name}
        if self.error is not None:
            return found | {"error": self.error}
        if self.part is not None:
            found |= {"start": self.part[0], "end": self.part[1]}
        return found | dict(self.prediction or {})


class Predictor:
    """A bundle at work.

    Attributes:
        bundle: what it was made from: `bundle.experiment`, `bundle.metrics`.
        format: what computes it.
        labels: in the order of the scores.
        sample_rate: in Hz, that recordings are resampled to.
        clip_seconds: length of a window that the model hears.
    """

    def __init__(
        self, bundle: Bundle, device: torch.device | str = "cpu", format: str | None = None
    ) -> None:
        self.bundle = bundle
        self.format = format or "safetensors"
        self.labels = bundle.labels
        data = bundle.experiment.dataset
        assert data.sample_rate is not None  # read_bundle refuses others
        assert data.clip_seconds is not None
        self.sample_rate = data.sample_rate
        self.clip_seconds = data.clip_seconds
        self.device = torch.device(device)
        self.system: Any = bundle.system(format).to(self.device)
        self._frames = max(1, round(data.clip_seconds * data.sample_rate))
        self._precision: Any = data.precision
        self._pad: Any = data.pad

    def told(self, options: Options) -> dict[str, Any]:
        """What results depend on, to be kept with them; `_` before a name says that it is no part.

        `bundle` is a hash of the files that the numbers depend on.
        """
        unused = {METRICS, CARD, *FORMATS.values()} - {FORMATS[self.format]}
        sums = {name: sum for name, sum in self.bundle.sums.items() if name not in unused}
        return {
            "bundle": hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest(),
            "format": self.format,
            "_path": self.bundle.path,
            "window": options.window,
            "stride": options.stride,
            "top": options.top,
            "threshold": options.threshold,
        }

    def predict(
        self,
        recording: Recording | Sequence[Recording],
        sample_rate: int | None = None,
        *,
        window: Seconds | None = None,
        stride: Seconds | None = None,
        top: int | None = None,
        threshold: float | None = None,
        batch_size: int | None = None,
        workers: int = 1,
    ) -> Any:
        """The prediction for a recording, or for each of several.

        Args:
            recording: path or URI of a file, its content as bytes, samples (T,) or (T, channels),
                or a list of these.
            sample_rate: of samples, in Hz; files know their own.
            window, stride, top, threshold: see `Options`.
            batch_size, workers: see `results`.

        Returns:
            For one recording `{"file", "label", "score", "scores": {label: score}}`, without `file`
            for samples; with `window` or `stride`, a list of these with `start` and `end`. For a
            list of recordings a list of that, in order, with `{"file", "error"}` in the place of
            one that can't be used.

        Raises:
            DataError: the one recording that was given can't be used.
            ConfigError: samples without `sample_rate`, or not audio at all; options that can't be.
        """
        options = Options(window=window, stride=stride, top=top, threshold=threshold)
        one = is_one(recording)
        several: Any = [recording] if one else recording
        results = self.results(
            several, sample_rate, options, batch_size=batch_size, workers=workers
        )
        found = []
        for _, of_one in itertools.groupby(results, lambda result: result.position):
            *parts, last = of_one
            if last.error is not None:
                if one:
                    raise DataError(last.error)
                found.append(last.mapping())
            elif options.windowed:
                found.append([part.mapping() for part in (*parts, last)])  # type: ignore[arg-type]
            else:
                found.append(last.mapping())
        return found[0] if one else found

    def embed(
        self,
        recording: Recording,
        sample_rate: int | None = None,
        *,
        window: Seconds | None = None,
        stride: Seconds | None = None,
        batch_size: int | None = None,
        workers: int = 1,
    ) -> NDArray[np.float32]:
        """The vector (D,) of a recording, what the model's head is given, the mean over its
        windows; with `window` or `stride`, one for each part (parts, D). Arguments as `predict`.

        Raises:
            DataError: it can't be used.
            ConfigError: as `predict`; or what computes gives no embeddings.
        """
        options = Options(window=window, stride=stride, embeddings=True)
        found = []
        for result in self.results(
            [recording], sample_rate, options, batch_size=batch_size, workers=workers
        ):
            if result.error is not None:
                raise DataError(result.error)
            found.append(result.embedding)
        vectors: NDArray[np.float32] = np.stack(found)  # type: ignore[arg-type]
        return vectors if options.windowed else vectors[0]

    def results(
        self,
        recordings: Iterable[Recording],
        sample_rate: int | None = None,
        options: Options | None = None,
        *,
        batch_size: int | None = None,
        workers: int = 1,
    ) -> Iterator[Result]:
        """The results for recordings, in order, given out as they are there.

        Memory is bounded: neither the number of recordings nor their length matters, and few are
        taken ahead of an endless supply.

        Args:
            recordings: as for `predict`.
            sample_rate: of samples, in Hz.
            options: what is asked of each.
            batch_size: windows computed at once; None: 64, fewer where they are long.
            workers: threads that decode ahead while the model computes; 0: none does.

        Raises:
            ConfigError: as `predict`.
        """
        asked = self.resolved(options or Options())
        sources = enumerate(recordings)

        def decoded(source: tuple[int, Recording]) -> Iterator[NDArray[np.float32]]:
            return map(self._rounded, pieces(source[1], sample_rate, self.sample_rate))

        return self._scored(self._cut(ahead(sources, decoded, workers), asked), asked, batch_size)

    def stream(
        self,
        sample_rate: int | None = None,
        *,
        window: Seconds | None = None,
        stride: Seconds | None = None,
        top: int | None = None,
        threshold: float | None = None,
        batch_size: int | None = None,
    ) -> Stream:
        """Takes samples in chunks, as from a microphone, and gives results as windows fill.

        They are those of `predict` for the whole, whatever the chunks. Arguments as for `predict`;
        without `window`, it is the bundle's `clip_seconds`, and without `sample_rate` the bundle's.
        """
        options = Options(window=window, stride=stride, top=top, threshold=threshold)
        if not options.windowed:
            options = replace(options, window=self.clip_seconds)
        rate = self.sample_rate if sample_rate is None else sample_rate
        return Stream(self, rate, self.resolved(options), batch_size)

    def resolved(self, options: Options) -> Options:
        """The options with `window` and `stride` both or neither.

        Raises:
            ConfigError: they can't be, or what computes gives no embeddings.
        """
        if options.embeddings and not hasattr(self.system, "embed"):
            raise ConfigError(
                f"bundle {self.bundle.path!r} gives no embeddings with format {self.format}: an "
                "ensemble has no single vector, and an exported graph ends in scores"
            )
        if not options.windowed:
            return options
        window = self.clip_seconds if options.window is None else options.window
        stride = window if options.stride is None else options.stride
        if stride > window:
            raise ConfigError(
                f"stride={stride:g} is longer than window={window:g}: what lies between two "
                "windows would not be heard; give at most the window"
            )
        if round(stride * self.sample_rate) < 1:
            raise ConfigError(
                f"stride={stride:g} is less than a sample at {self.sample_rate} Hz; give more"
            )
        return replace(options, window=window, stride=stride)

    def _rounded(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T,) samples with the dataset's precision, as the model was trained with."""
        return from_precision(to_precision(wave, self._precision))

    def _cutter(self, options: Options) -> windows.Cutter:
        if options.window is None or options.stride is None:
            return windows.Cutter(self._frames)
        rate = self.sample_rate
        return windows.Cutter(round(options.window * rate), round(options.stride * rate))

    def _cut(
        self,
        sources: Iterable[tuple[tuple[int, Recording], Iterator[NDArray[np.float32]]]],
        options: Options,
    ) -> Iterator[NDArray[np.float32] | Result]:
        """The windows that the model hears, and behind those of each recording or part its result,
        still without a prediction."""
        for (position, recording), waves in sources:
            result = Result(position, name_of(recording))
            cutter = self._cutter(options)
            try:
                for wave in waves:
                    yield from self._heard(result, cutter.push(wave), options)
                yield from self._heard(result, cutter.close(), options)
            except DataError as error:
                yield replace(result, error=str(error))
            else:
                if not options.windowed:
                    yield replace(result, seconds=cutter.samples / self.sample_rate)

    def _heard(
        self, result: Result, cut: Iterable[tuple[int, NDArray[np.float32]]], options: Options
    ) -> Iterator[NDArray[np.float32] | Result]:
        """As `_cut`, for some (start, samples) of a recording."""
        for start, wave in cut:
            if not options.windowed:
                yield wave
                continue
            for first, frames in windows.plan(len(wave), self._frames):
                yield wave[first : first + frames]
            end = (start + len(wave)) / self.sample_rate
            part = (round(start / self.sample_rate, 6), round(end, 6))
            yield replace(result, seconds=end, part=part)

    def _scored(
        self,
        items: Iterable[NDArray[np.float32] | Result],
        options: Options,
        batch_size: int | None,
    ) -> Iterator[Result]:
        """The results among `items`, each with the mean of the windows before it."""
        if batch_size is None:
            batch_size = max(
                1, min(64, int(_BATCH.get(self.device.type, 16.0) / self.clip_seconds))
            )
        mean = _Mean()
        held: list[NDArray[np.float32] | Result] = []
        waves: list[NDArray[np.float32]] = []

        def computed() -> Iterator[Result]:
            rows = self._computed(waves, options.embeddings)
            for item in held:
                if not isinstance(item, Result):
                    mean.add(next(rows))
                    continue
                scores, embedding = mean.take()
                yield item if item.error else self._found(item, scores, embedding, options)
            held.clear()
            waves.clear()

        for item in items:
            held.append(item)
            if not isinstance(item, Result):
                waves.append(item)
            # Results that no window is held up by, such as errors, need not wait for more.
            if len(waves) == batch_size or not waves or len(held) > 4 * batch_size:
                yield from computed()
        yield from computed()

    def _computed(
        self, waves: Sequence[NDArray[np.float32]], embeddings: bool
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
        """Scores (C,) and embedding (D,) of each window."""
        if not waves:
            return
        # As the feeds do it: every row is as long as a window, whatever is in the batch.
        rows, lengths = windows.filled(waves, self._frames, self._pad)  # (B, T), (B,)
        inputs = torch.from_numpy(rows).to(self.device)
        n = torch.from_numpy(lengths).to(self.device)
        if embeddings:
            vectors, scores = self.system.embed(inputs, n)
            yield from zip(scores.cpu().numpy(), vectors.float().cpu().numpy(), strict=True)
        else:
            for row in self.system.scores(inputs, n).cpu().numpy():
                yield row, None

    def _found(
        self,
        result: Result,
        scores: NDArray[np.float32],
        embedding: NDArray[np.float32] | None,
        options: Options,
    ) -> Result:
        finite = np.isfinite(scores).all() and (embedding is None or np.isfinite(embedding).all())
        if not finite:
            return replace(result, error=f"{result.name or 'recording'}: its scores are not finite")
        prediction: dict[str, Any] = self.system.task.decode(torch.from_numpy(scores))
        if options.top is not None:
            best = sorted(prediction["scores"].items(), key=lambda item: -item[1])
            prediction["scores"] = dict(best[: options.top])
        if options.threshold is not None and prediction["score"] < options.threshold:
            prediction["label"] = None
        return replace(result, prediction=prediction, embedding=embedding)


class Stream:
    """Samples in chunks to results; made by `Predictor.stream`. Memory is bounded by a window.

    Args:
        predictor: what computes.
        sample_rate: of the samples, in Hz.
        options: with `window` and `stride`.
        batch_size: windows computed at once; None: as for `Predictor.results`.
    """

    def __init__(
        self, predictor: Predictor, sample_rate: int, options: Options, batch_size: int | None
    ) -> None:
        self._predictor = predictor
        self._options = options
        self._batch_size = batch_size
        self._resampler = Resampler(sample_rate, predictor.sample_rate)
        self._cutter = predictor._cutter(options)
        self._closed = False

    def push(self, samples: Any) -> list[dict[str, Any]]:
        """The results of the windows that further samples fill.

        Args:
            samples: (T,) or (T, channels), any T, also 0.

        Returns:
            `{"start", "end", "label", "score", "scores"}` of each, in order; often none.

        Raises:
            DataError: samples that are not finite; they are not taken.
            ConfigError: samples that are no audio, or the stream is closed.
        """
        if self._closed:
            raise ConfigError("the stream is closed; predictor.stream(...) begins another")
        return self._results(self._resampler.push(mono(samples, chunk=True)), last=False)

    def close(self) -> list[dict[str, Any]]:
        """The results of what no window has held yet: a last one, which ends with the samples."""
        if self._closed:
            return []
        self._closed = True
        return self._results(self._resampler.close(), last=True)

    def _results(self, wave: NDArray[np.float32], last: bool) -> list[dict[str, Any]]:
        predictor, cutter = self._predictor, self._cutter
        filled = cutter.push(predictor._rounded(wave))
        if last:
            filled += cutter.close()
        parts = predictor._heard(Result(0, None), filled, self._options)
        found = list(predictor._scored(parts, self._options, self._batch_size))
        for result in found:
            if result.error is not None:
                raise DataError(result.error)
        return [result.mapping() for result in found]


class _Mean:
    """The mean scores (C,), and embedding (D,), of the windows since the last one, summed in
    float64."""

    def __init__(self) -> None:
        self._sums: list[Any] = [0.0, 0.0]
        self._count = 0

    def add(self, row: tuple[NDArray[np.float32], NDArray[np.float32] | None]) -> None:
        for place, values in enumerate(row):
            if values is not None:
                self._sums[place] = self._sums[place] + values.astype(np.float64)
        self._count += 1

    def take(self) -> tuple[Any, Any]:
        """What was found, None for what there was none of; the next window begins another."""
        sums, count = self._sums, self._count
        self._sums, self._count = [0.0, 0.0], 0
        return tuple(
            (each / count).astype(np.float32) if isinstance(each, np.ndarray) else None
            for each in sums
        )  # type: ignore[return-value]
