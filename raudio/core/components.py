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
_AUGMENT = "raudio.audio.augment"
AUGMENTATIONS = Registry(
    "augmentation",
    {
        "speed": (f"{_AUGMENT}.rate:Speed", "faster or slower, with the pitch"),
        "stretch": (f"{_AUGMENT}.rate:Stretch", "faster or slower at the same pitch"),
        "pitch": (f"{_AUGMENT}.rate:Pitch", "higher or lower at the same tempo"),
        "shift": (f"{_AUGMENT}.time:Shift", "earlier or later in the clip, zeros in the gap"),
        "roll": (f"{_AUGMENT}.time:Roll", "turned round in time"),
        "polarity": (f"{_AUGMENT}.level:Polarity", "the sign turned"),
        "reverb": (f"{_AUGMENT}.reverb:Reverb", "a room's impulse response, given or generated"),
        "background": (
            f"{_AUGMENT}.noise:Background",
            "recordings of noise at a random signal-to-noise ratio",
        ),
        "noise": (f"{_AUGMENT}.noise:Noise", "white, pink or brown noise at a random ratio"),
        "low_pass": (f"{_AUGMENT}.filters:LowPass", "frequencies above a random cutoff fade"),
        "high_pass": (f"{_AUGMENT}.filters:HighPass", "frequencies below a random cutoff fade"),
        "band_pass": (f"{_AUGMENT}.filters:BandPass", "frequencies outside a random band fade"),
        "gain": (f"{_AUGMENT}.level:Gain", "level up or down by a random number of decibels"),
        "clipping": (f"{_AUGMENT}.level:Clipping", "samples cut off below the peak"),
        "bandwidth": (f"{_AUGMENT}.filters:Bandwidth", "the bandwidth of a lower sample rate"),
        "mu_law": (f"{_AUGMENT}.codecs:MuLaw", "few levels, spaced by telephony's mu-law"),
        "codec": (f"{_AUGMENT}.codecs:Codec", "MP3 or Vorbis and back"),
        "mute": (f"{_AUGMENT}.time:Mute", "a span set to zero"),
        "concat": (f"{_AUGMENT}.mixing:Concat", "a part of one clip, then of another"),
        "cutmix": (f"{_AUGMENT}.mixing:CutMix", "a span replaced by another clip's"),
        "mixup": (f"{_AUGMENT}.mixing:Mixup", "convex mixture of two clips and their labels"),
        "between_class": (f"{_AUGMENT}.mixing:BetweenClass", "two clips mixed by their levels"),
        "hard_mix": (f"{_AUGMENT}.mixing:HardMix", "two clips at once, each with all its labels"),
        "time_warp": (f"{_AUGMENT}.spectrogram:TimeWarp", "SpecAugment: a point of time moved"),
        "freq_crop": (
            f"{_AUGMENT}.spectrogram:FreqCrop",
            "a range of the bands stretched over all",
        ),
        "filter_augment": (
            f"{_AUGMENT}.spectrogram:FilterAugment",
            "random weights of random bands",
        ),
        "time_mask": (f"{_AUGMENT}.masks:TimeMask", "SpecAugment: frames set to the mean"),
        "freq_mask": (f"{_AUGMENT}.masks:FreqMask", "SpecAugment: bands set to the mean"),
        "freq_mixstyle": (
            f"{_AUGMENT}.mixing:FreqMixStyle",
            "each band's statistics mixed with another clip's",
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
TRACKERS = Registry(
    "tracker",
    {
        "wandb": ("raudio.tracking.wandb:WandB", "Weights & Biases, online or offline"),
        "mlflow": ("raudio.tracking.mlflow:MLflow", "MLflow, a server or a local store"),
        "tensorboard": ("raudio.tracking.tensorboard:TensorBoard", "TensorBoard's event files"),
    },
)
