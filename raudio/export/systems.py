"""What a bundle scores with beside `raudio.system.System`: several members, and exported graphs.

Each has what predicting asks of a system: `scores`, `score`, `task`, `to` and `front_end`,
which is None here: waves go in whole.

Shapes: B windows of a batch, T samples, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raudio.core.extras import require
from raudio.system import System, score_windows

if TYPE_CHECKING:
    from typing import Self

    from raudio.data.feeds import Feed


class WaveSystem:
    """From waves to scores; the base of the others.

    Args:
        task: what the scores mean.
    """

    #: No half of it can be done before.
    front_end: None = None

    def __init__(self, task: Any) -> None:
        self.task = task

    def to(self, device: torch.device | str) -> Self:
        """This system, computing on `device` from now on."""
        raise NotImplementedError

    @torch.no_grad()
    def scores(self, inputs: Tensor, lengths: Tensor, transformed: bool = False) -> Tensor:
        """Scores (B, C) of (B, T) float32 waves with (B,) int64 lengths in samples."""
        assert not transformed, "waves go in whole"
        return self._scores(inputs, lengths)

    def score(
        self, feed: Feed, batch_size: int, device: torch.device | str
    ) -> tuple[Tensor, Tensor]:
        """As `System.score`."""
        return score_windows(self.scores, self.task.n_outputs, feed, batch_size, device)

    def _scores(self, waves: Tensor, lengths: Tensor) -> Tensor:
        raise NotImplementedError


class Ensemble(WaveSystem):
    """Several systems of one task, whose scores are averaged.

    Args:
        members: in evaluation mode; they hear the same windows.
    """

    def __init__(self, members: Sequence[System]) -> None:
        super().__init__(members[0].task)
        self.members = list(members)

    def to(self, device: torch.device | str) -> Self:
        """See `WaveSystem`."""
        for member in self.members:
            member.to(device)
        return self

    def _scores(self, waves: Tensor, lengths: Tensor) -> Tensor:
        return torch.stack([member.scores(waves, lengths) for member in self.members]).mean(0)


class OnnxSystem(WaveSystem):
    """A graph that onnxruntime computes, on the CPU, or on a GPU where its GPU build is installed.

    Args:
        content: the graph's file, checked.
        task: what its scores mean.

    Raises:
        ConfigError: onnxruntime is not installed.
    """

    def __init__(self, content: bytes, task: Any) -> None:
        super().__init__(task)
        self._runtime: Any = require("onnxruntime", "onnx")
        self._content = content
        self._session = self._open("cpu")

    def to(self, device: torch.device | str) -> Self:
        """See `WaveSystem`."""
        self._session = self._open(torch.device(device).type)
        return self

    def _open(self, kind: str) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        wanted = ["CUDAExecutionProvider"] if kind == "cuda" else []
        there = self._runtime.get_available_providers()
        providers = [name for name in [*wanted, "CPUExecutionProvider"] if name in there]
        return self._runtime.InferenceSession(self._content, options, providers=providers)

    def _scores(self, waves: Tensor, lengths: Tensor) -> Tensor:
        given = {"waves": waves.cpu().numpy(), "lengths": lengths.cpu().numpy()}
        return torch.from_numpy(self._session.run(None, given)[0])


class ExportedSystem(WaveSystem):
    """A graph of torch.export.

    Args:
        program: what `torch.export.load` gave.
        task: what its scores mean.
    """

    def __init__(self, program: torch.export.ExportedProgram, task: Any) -> None:
        super().__init__(task)
        self._program = program
        self._module = program.module()

    def to(self, device: torch.device | str) -> Self:
        """See `WaveSystem`."""
        from torch.export.passes import move_to_device_pass

        self._program = move_to_device_pass(self._program, str(device))
        self._module = self._program.module()
        return self

    def _scores(self, waves: Tensor, lengths: Tensor) -> Tensor:
        scores: Tensor = self._module(waves, lengths)
        return scores
