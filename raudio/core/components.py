"""The registries: every kind of component that an experiment is built from, in one table.

A component takes flat keyword arguments whose names are the fields of its settings in
`raudio.config.schema`. The entries name modules of higher layers as text only; nothing is imported
until a component is built.
"""

from __future__ import annotations

from raudio.core.registry import Registry

FRONT_ENDS = Registry(
    "front end",
    {
        "logmel": ("raudio.audio.frontends:LogMel", "log-mel spectrogram"),
        "mfcc": ("raudio.audio.frontends:MFCC", "mel-frequency cepstral coefficients"),
    },
)
AUGMENTATIONS = Registry(
    "augmentation",
    {
        "gain": (
            "raudio.audio.augment.level:Gain",
            "level up or down by a random number of decibels",
        ),
        "noise": (
            "raudio.audio.augment.noise:Noise",
            "white noise at a random signal-to-noise ratio",
        ),
        "shift": (
            "raudio.audio.augment.time:Shift",
            "earlier or later in the clip, zeros in the gap",
        ),
        "time_mask": ("raudio.audio.augment.masks:TimeMask", "SpecAugment: frames set to the mean"),
        "freq_mask": ("raudio.audio.augment.masks:FreqMask", "SpecAugment: bands set to the mean"),
        "mixup": (
            "raudio.audio.augment.mixing:Mixup",
            "convex mixture of two clips and their labels",
        ),
    },
)
MODELS = Registry(
    "model",
    {
        "cnn": ("raudio.models.cnn:CNN", "small convolutional network, one convolution a block"),
        "cnn10": ("raudio.models.cnn:CNN10", "CNN10 of PANNs (Kong et al. 2020), width searchable"),
        "crnn": (
            "raudio.models.crnn:CRNN",
            "convolutions along frequency, then a recurrent network",
        ),
    },
)
TASKS = Registry(
    "task",
    {
        "classification": (
            "raudio.tasks.classification:Classification",
            "one label a clip: accuracy, macro F1, UAR, confusion matrix",
        ),
    },
)
OPTIMIZERS = Registry(
    "optimizer",
    {
        "adamw": ("raudio.training.optim:adamw", "Adam with decoupled weight decay"),
        "adam": ("raudio.training.optim:adam", "Adam with L2 weight decay"),
        "sgd": ("raudio.training.optim:sgd", "stochastic gradient descent with momentum"),
    },
)
SCHEDULES = Registry(
    "schedule",
    {
        "constant": ("raudio.training.schedules:constant", "one learning rate after the warm-up"),
        "cosine": ("raudio.training.schedules:cosine", "half a cosine from the peak down"),
        "onecycle": ("raudio.training.schedules:onecycle", "up, down and far down (Smith 2018)"),
        "step": ("raudio.training.schedules:step", "multiplied by gamma at equal steps"),
    },
)
