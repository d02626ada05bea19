"""autrainer's part in `predict.py`: its own inference, with the same architecture and weights.

Run with the Python of its own environment, `python autrainer_peer.py JOB.json`; see
autrainer_requirements.txt. Makes the model's folder as autrainer's training writes it, and runs
what `autrainer inference` runs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from autrainer.datasets.utils import AudioFileHandler, LabelEncoder
from autrainer.models import Cnn10
from autrainer.serving import Inference
from autrainer.transforms import PannMel, SmartCompose, StereoToMono
from autrainer_cnn import Cnn

#: raudio's names in a CNN10 block, and autrainer's.
PARTS = {"conv1": "conv1", "conv2": "conv2", "norm1": "bn1", "norm2": "bn2"}
#: raudio's parts of a block of `cnn`, by their place in autrainer_cnn.py.
PLACES = {"conv": 0, "norm": 1}


def weights_of(bundle: Path) -> dict[str, torch.Tensor]:
    """A bundle's weights by autrainer's names."""
    from safetensors.torch import load_file

    found = load_file(bundle / "weights.safetensors")
    made = {}
    for name, value in found.items():
        match name.split("."):
            case ["model", "encoder", "blocks", number, part, last] if part in PLACES:
                made[f"blocks.{3 * int(number) + PLACES[part]}.{last}"] = value
            case ["model", "encoder", "blocks", number, part, last]:
                made[f"conv_block{int(number) + 1}.{PARTS[part]}.{last}"] = value
            case ["model", "head", number, last]:
                hidden = number == "1" and "model.head.4.bias" in found
                made[f"{'fc1' if hidden else 'out'}.{last}"] = value
    return made


def make_model(folder: Path, job: dict) -> None:
    """Writes a model's folder."""
    (folder / "_best").mkdir(parents=True)
    rate = job["sample_rate"]
    model = {"cnn10": Cnn10, "cnn": Cnn}[job["architecture"]](output_dim=len(job["labels"]))
    own = {name: value for name, value in model.state_dict().items() if name.startswith("bn0")}
    model.load_state_dict(weights_of(Path(job["bundle"])) | own)
    handler = AudioFileHandler(target_sample_rate=rate)
    mel = PannMel(
        window_size=512, hop_size=round(0.01 * rate), sample_rate=rate, fmin=0, fmax=rate // 2,
        mel_bins=64, ref=1.0, amin=1e-10, top_db=None,
    )  # fmt: skip
    parts = {
        "model": model,
        "file_handler": handler,
        "preprocess_file_handler": handler,
        "target_transform": LabelEncoder(job["labels"]),
        "inference_transform": SmartCompose([]),
        "preprocess_pipeline": SmartCompose([StereoToMono(), mel]),
    }
    for name, part in parts.items():
        part.to_yaml(str(folder / f"{name}.yaml"))
    torch.save(model.state_dict(), folder / "_best" / "model.pt")


def main(args: Sequence[str]) -> None:
    """Loads the model, predicts once for one file and once for all; writes what came of it."""
    job = json.loads(Path(args[0]).read_text())
    torch.set_num_threads(job["threads"])
    out = Path(job["out"])
    folder = out.with_suffix(".model")
    make_model(folder, job)
    window = job["window_seconds"]
    inference = Inference(
        str(folder),
        window_length=window,
        stride_length=window,
        min_length=window,
        sample_rate=job["sample_rate"],
    )
    inference.predict_file(job["first"])
    extension = Path(job["files"][0]).suffix.removeprefix(".")
    began, before = time.perf_counter(), time.process_time()
    results = inference.predict_directory(
        str(Path(job["files"][0]).parent), extension, update_frequency=0
    )
    inference.save_prediction_yaml(results, str(out.with_suffix(".results")))
    inference.save_prediction_results(results, str(out.with_suffix(".results")))
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - before}
    files = len(set(results["filename"]))
    assert files == len(job["files"]), f"{files} files are answered"
    out.write_text(json.dumps(took))


if __name__ == "__main__":
    main(sys.argv[1:])
