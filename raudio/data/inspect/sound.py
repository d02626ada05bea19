"""Checks of the recordings: level, silence, clipping, offset, noise, rates and lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from raudio.data.inspect.problem import WARNING, Look, Problem, number, of_names

#: A clip with at least so many samples at full scale counts as clipped: one or two are peaks.
CLIPPED_SAMPLES = 4
#: A clip of which more than this share is silence hardly sounds.
MOSTLY_SILENT = 0.9
#: A clip below this (-50 dB of full scale) is quiet: 16 bits then leave fewer than 8.
QUIET_RMS = 10 ** (-50 / 20)
#: A mean value beyond this (-40 dB of full scale), and beyond this share of the level, is a fault
#: of the recorder; the mean of a short sound is not zero either.
LARGE_DC = 0.01
LARGE_DC_SHARE = 0.25
#: Speech with less distance to its pauses than this is noisy.
NOISY_SNR = 5.0
#: An estimate of speech from which on a clip is counted as speech.
SPEECH = 0.5
#: A clip that reaches no further than this share of half its rate was recorded at a lower one.
NARROW = 0.6
#: Shares of the clips, or of what a model gets, from which on they are worth a word.
MANY_NARROW = 0.05
MUCH_PADDING = 0.5
MUCH_CUT = 0.5


def silent(look: Look) -> Iterator[Problem | None]:
    """No sound at all, and hardly any."""
    yield look.problem(
        "silent",
        "silent",
        look.silent,
        "a label without a sound: noise in training, luck in what is measured",
        "remove them, unless silence is a class",
        badness=-look.values("peak"),
    )
    quiet_part = look.values("silence")
    yield look.problem(
        "mostly-silent",
        f"silence for more than {MOSTLY_SILENT:.0%}",
        (quiet_part > MOSTLY_SILENT) & ~look.silent,
        f"a crop of {look.clip_seconds:g} s may hold nothing of what the label says",
        "cut them to where they sound",
        badness=quiet_part,
    )


def level(look: Look) -> Iterator[Problem | None]:
    """Clipped, quiet, or off centre."""
    clipped = look.values("clipped")
    yield look.problem(
        "clipped",
        "clipped",
        clipped >= CLIPPED_SAMPLES,
        "harmonics that the sound doesn't have; if one class is louder, they give it away",
        "record again at a lower level, or leave the worst out",
        badness=clipped / look.seconds,
    )
    rms, silence = look.values("rms"), look.values("silence")
    yield look.problem(
        "quiet",
        "quieter than -50 dB of full scale",
        (rms < QUIET_RMS) & ~look.silent & ~(silence > MOSTLY_SILENT),
        "their rounding noise is learnt with them",
        "record again at a higher level; a front end that standardises evens out the level alone",
        badness=-rms,
    )
    offset = np.abs(look.values("dc"))
    yield look.problem(
        "dc-offset",
        f"a mean that is not zero (beyond {LARGE_DC:g})",
        (offset > LARGE_DC) & (offset > LARGE_DC_SHARE * rms),
        "it fills the lowest band and gives the recorder away",
        "filter it out (a high pass at 20 Hz) and prepare it again",
        badness=offset,
    )


def noise(look: Look) -> Iterator[Problem | None]:
    """Speech whose pauses are loud; other sounds need not have pauses to measure noise in."""
    snr = look.values("snr")
    yield look.problem(
        "noisy-speech",
        f"speech in noise (an estimate: under {NOISY_SNR:g} dB)",
        (look.values("speech") >= SPEECH) & (snr < NOISY_SNR),
        "what is measured on them says little of clean speech, and the other way round",
        "listen to them; train with noise (augment) when such is what will be predicted on",
        badness=-snr,
    )


def rates(look: Look) -> Iterator[Problem | None]:
    """Several sample rates, and rates higher than what was recorded."""
    counts = look.manifest.sample_rates
    if len(counts) > 1:
        rate = look.values("sample_rate")
        other = look.ids[rate != look.sample_rate]
        yield of_names(
            WARNING,
            "sample-rates",
            f"several sample rates, of which a search makes {look.sample_rate:g} Hz "
            f"({number(len(other), 'clip')} resampled)",
            [f"{rate} Hz ({number(count, 'clip')})" for rate, count in counts.items()],
            "what was recorded at a lower rate has no high frequencies: if the rates go with the "
            "class, a model can learn the rate instead of the sound",
            f"dataset.sample_rate={min(counts)} takes from all what some lack",
            count=len(other),
            clips=other.tolist(),
        )
    half = np.minimum(look.values("sample_rate"), look.sample_rate) / 2
    reached = look.values("bandwidth") / half
    narrow = reached < NARROW
    if narrow.sum() > MANY_NARROW * len(narrow):
        yield look.problem(
            "narrow-band",
            f"nothing above {NARROW:.0%} of the frequencies that their rate can hold",
            narrow,
            "they were resampled from a lower rate, went through a codec, or are synthetic; if "
            "that goes with the class, a model can learn it instead of the sound",
            "dataset.sample_rate= at twice what most reach costs less and treats all alike",
            badness=-reached,
        )


def lengths(look: Look) -> Iterator[Problem]:
    """How much is padding, and how much is not heard."""
    seconds, wanted = look.seconds, look.clip_seconds
    if not len(seconds):
        return
    padding = float(np.maximum(0, wanted - seconds).sum() / (wanted * len(seconds)))
    if padding > MUCH_PADDING:
        shorter = look.ids[np.argsort(seconds, kind="stable")].tolist()
        yield of_names(
            WARNING,
            "padding",
            f"{padding:.0%} of what a model is given is padding (clips of {wanted:g} s)",
            shorter,
            "time is spent on nothing, and the share of padding can give the class away",
            "a smaller dataset.clip_seconds",
            count=int((seconds < wanted).sum()),
            clips=shorter,
        )
    cut = float(np.maximum(0, seconds - wanted).sum() / seconds.sum())
    if cut > MUCH_CUT:
        longer = look.ids[np.argsort(-seconds, kind="stable")].tolist()
        yield of_names(
            WARNING,
            "cut",
            f"{cut:.0%} of the audio is outside of a crop of {wanted:g} s",
            longer,
            "a crop may not hold what the label says, and an epoch hears little of the data",
            "a larger dataset.clip_seconds, or cut the recordings into segments with labels",
            count=int((seconds > wanted).sum()),
            clips=longer,
        )


def left_out(look: Look) -> Iterator[Problem]:
    """Files that were skipped when the dataset was prepared."""
    skipped = look.manifest.skipped
    if skipped:
        yield of_names(
            WARNING,
            "skipped",
            f"{number(len(skipped), 'file')} left out when it was prepared",
            [each.file for each in skipped],
            "if they have something in common, it is missing from what is measured too",
            "mend the files and prepare it again",
            count=len(skipped),
        )


def unmeasured(look: Look) -> Iterator[Problem]:
    """A dataset of an earlier raudio, which measured less."""
    if look.table.num_rows and look.table["dc"].null_count == look.table.num_rows:
        yield of_names(
            WARNING,
            "not-measured",
            "offset, silence, noise, speech and bandwidth were not measured",
            (),
            "their checks say nothing",
            "prepare it again with this raudio",
            count=look.table.num_rows,
        )
