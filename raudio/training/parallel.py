"""Several processes that train one model as one process would: to rounding, the same losses.

A batch is the same for any number of ranks, and each has every world-th row of it. What looks at a
single clip needs nothing more. What looks at the batch is made to see all of it: batch
normalisation takes its mean and variance over all ranks (torch's own SyncBatchNorm runs on GPUs
alone), dropout draws for all rows and keeps this rank's, and clips are mixed across ranks.

Left as they are, and so only alike: what a model draws by itself (`nn.GRU`'s dropout between its
layers, functional dropout), and normalisations that are not exactly PyTorch's `BatchNorm1d` to
`BatchNorm3d`.

Two strategies. DDP: each rank has the whole model. FSDP (PyTorch's `fully_shard`): each has a part
of the weights, gradients and optimizer state, and a block of the model is put together while it
computes. A block is a member of an `nn.ModuleList`, and has to be called as a module.

Shapes: B rows of a batch, b of them this rank's, C channels, w ranks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from raudio.audio.augment import Examples
from raudio.core import seeding

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Rows:
    """The rows of a batch, or of a part of it, and which are this rank's.

    Attributes:
        total: B, over all ranks.
        first: where its first row is in the whole batch.
        rank, world: row i of the whole batch is of rank i modulo world.
    """

    total: int
    first: int = 0
    rank: int = 0
    world: int = 1

    @property
    def own(self) -> slice:
        """Which of the B rows are this rank's."""
        return slice((self.rank - self.first) % self.world, self.total, self.world)

    @property
    def count(self) -> int:
        """b, which may be 0: the rank computes with a row that counts for nothing then."""
        return len(range(self.total)[self.own])

    @property
    def held(self) -> slice:
        """Which of the rows that this rank has of the whole batch are to be computed with."""
        before = len(range(self.rank, self.first, self.world)) if self.count else 0
        return slice(before, before + max(1, self.count))

    def whole(self, function: Callable[[Examples], Examples], examples: Examples) -> Examples:
        """This rank's part of what `function` makes of all ranks' examples."""
        if self.world == 1:
            return function(examples)
        data, lengths, targets = examples.data, examples.lengths, examples.targets
        result = function(Examples(*map(self.gathered, (data, lengths, targets))))
        if not self.count:
            return examples
        return Examples(result.data[self.own], result.lengths[self.own], result.targets[self.own])

    def gathered(self, rows: Tensor) -> Tensor:
        """(B, ...) rows of all ranks, of this rank's (b, ...)."""
        if self.world == 1:
            return rows
        most = -(-self.total // self.world)
        padded = rows.new_zeros((most, *rows.shape[1:]))
        padded[: self.count] = rows[: self.count]
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        distributed.all_gather(parts, padded)
        # In the order of their first rows, those that are padded come last.
        ordered = [parts[(place + self.first) % self.world] for place in range(self.world)]
        return torch.stack(ordered, dim=1).flatten(0, 1)[: self.total]


class Ranks:
    """The ranks of a trial, as the layers of its model see them.

    Args:
        rank, world: this process, and how many there are.
        device: where it computes.
        seed: of the trial.

    Attributes:
        rows: that the model is given at present.
    """

    def __init__(self, rank: int, world: int, device: torch.device, seed: int) -> None:
        self.rank, self.world, self.device = rank, world, device
        self.rows = Rows(0)
        self._seed = seed
        self._drawn: int | Tensor = 0
        self._orders: dict[tuple[nn.Module, int], tuple[int, ...]] = {}

    def part(self, start: int, end: int) -> Rows:
        """Takes rows `start` to `end` of a batch for those that the model is given from now on."""
        self.rows = Rows(end - start, start, self.rank, self.world)
        return self.rows

    def seed(self, step: int) -> None:
        """Makes dropout and the like a function of the step, so a resumed trial draws the same."""
        self._manual_seed(seeding.key(self._seed, "step", step, self.rank))
        self._drawn = seeding.key(self._seed, "step", step, 0)

    def order_of(self, module: nn.Module, inputs: Tensor) -> tuple[int, ...]:
        """In which order the dimensions of (b * k, ...) inputs are in memory, by which is drawn.

        A single row may be in another than several are: it has the order of those before it.
        """
        key = module, inputs.ndim
        if self.rows.count > 1 or key not in self._orders:
            inner = sorted(range(1, inputs.ndim), key=inputs.stride, reverse=True)
            self._orders[key] = (0, *inner)
        return self._orders[key]

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Draws in it are the same on all ranks, and those that one rank alone would make."""
        own = self._get_state()
        if isinstance(self._drawn, int):
            self._manual_seed(self._drawn)
        else:
            self._set_state(self._drawn)
        yield
        self._drawn = self._get_state()
        self._set_state(own)

    def _manual_seed(self, seed: int) -> None:
        # Not torch.manual_seed: where CUDA is built in but not up, it formats a stack trace.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def _get_state(self) -> Tensor:
        if self.device.type == "cpu":
            return torch.default_generator.get_state()
        state: Tensor = torch.get_device_module(self.device).get_rng_state(self.device)
        return state

    def _set_state(self, state: Tensor) -> None:
        if self.device.type == "cpu":
            torch.default_generator.set_state(state)
        else:
            torch.get_device_module(self.device).set_rng_state(state, self.device)


# --- layers that look at the batch -------------------------------------------------------------


def see_whole_batches(model: nn.Module, ranks: Ranks) -> None:
    """Makes the layers of `model` that look at a batch look at that of all ranks in training."""
    for module in model.modules():
        if type(module) in _NORMS:
            module.forward = partial(_batch_norm, module, ranks)
        elif type(module) in _DROPOUTS:
            module.forward = partial(_dropout, module, ranks)


def _dropout(module: nn.Module, ranks: Ranks, inputs: Tensor) -> Tensor:
    """(b * k, ...) inputs, k of each row one after the other, dropped as among all (B * k, ...)."""
    forward: Callable[[Tensor], Tensor] = partial(type(module).forward, module)
    rows = ranks.rows
    each, rest = divmod(len(inputs), max(1, rows.count))
    if not module.training or rest:  # not row by row: each rank draws for itself
        return forward(inputs)
    order = ranks.order_of(module, inputs)
    size = (rows.total * each, *inputs.shape[1:])
    ones = torch.empty_permuted(size, order, dtype=inputs.dtype, device=inputs.device).fill_(1)
    with ranks.alike(), torch.no_grad():
        kept = forward(ones)
    if not rows.count:
        return inputs
    own: Tensor = kept.reshape(rows.total, each, *inputs.shape[1:])[rows.own].flatten(0, 1)
    return inputs * own


def _batch_norm(module: Any, ranks: Ranks, inputs: Tensor) -> Tensor:
    """(b, C, ...) inputs normalised by the mean and variance over all ranks."""
    if not module.training:
        outputs: Tensor = type(module).forward(module, inputs)
        return outputs
    if ranks.rows.total * (inputs[:, 0].numel() // max(1, ranks.rows.count)) == 1:
        raise ValueError("batch normalisation of a single value a channel")
    outputs, mean, variance, count = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        inputs, module.weight, module.bias, module.eps, ranks
    )
    if module.track_running_stats:
        with torch.no_grad():
            module.num_batches_tracked += 1
            share = module.momentum
            if share is None:
                share = 1 / float(module.num_batches_tracked)
            module.running_mean.lerp_(mean, share)
            module.running_var.lerp_(variance * (count / (count - 1)), share)
    return outputs


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation over all ranks: one collective forward, one backward.

    Mean and variance of each rank are put together in float64 (Chan et al. 1979); a rank whose row
    stands in counts for none. Forward and backward are PyTorch's for fixed statistics; what the
    inputs change of the statistics is added to the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        ranks: Ranks,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        counts = ranks.rows.count > 0
        half = inputs.dtype in (torch.float16, torch.bfloat16)
        kind = torch.float32 if half else inputs.dtype  # of the statistics it gives
        none = inputs.new_zeros(inputs.shape[1], dtype=kind)
        mean, variance = torch.batch_norm_update_stats(inputs, none, none, 0.0)
        count = inputs[:, 0].numel() if counts else 0
        own = torch.cat((mean, variance, mean.new_zeros(1))).double()
        own[-1] = count
        parts = [torch.empty_like(own) for _ in range(ranks.world)]
        distributed.all_gather(parts, own)
        rows, channels = torch.stack(parts), len(mean)
        means, variances, numbers = rows.tensor_split((channels, 2 * channels), dim=1)
        total = numbers.sum()
        share = numbers / total
        whole = (share * means).sum(0)
        mean = whole.to(mean.dtype)
        variance = (share * (variances + (means - whole).square())).sum(0).to(variance.dtype)
        ctx.save_for_backward(inputs, weight, mean, variance, total)
        ctx.eps, ctx.counts = eps, counts
        ctx.mark_non_differentiable(mean, variance, total)
        outputs = nn.functional.batch_norm(inputs, mean, variance, weight, bias, eps=eps)
        return outputs, mean, variance, total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inputs, weight, mean, variance, total = ctx.saved_tensors
        fixed = mean, variance, mean.new_empty(0), mean.new_empty(0), False, ctx.eps
        through, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, inputs, weight, *fixed, [True] * 3
        )
        if ctx.needs_input_grad[0]:
            sums = torch.stack((to_weight, to_bias))
            distributed.all_reduce(sums)
            if ctx.counts:
                scale = (variance + ctx.eps).rsqrt()
                scale = scale if weight is None else scale * weight
                slope, offset = (sums / total).to(scale.dtype) * scale
                through = through - nn.functional.batch_norm(
                    inputs, mean, variance, slope, offset, eps=ctx.eps
                )
        # DDP and FSDP bring the gradients of all ranks together.
        needed = ctx.needs_input_grad
        return through, to_weight if needed[1] else None, to_bias if needed[2] else None, None, None


def is_left_alone(error: RuntimeError) -> bool:
    """Whether a collective has failed, as it does when another rank is gone."""
    # NCCL and the store have classes of their own; gloo says where in its source.
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


# --- strategies --------------------------------------------------------------------------------


class Alone:
    """How one process trains a model, and what it takes that several do otherwise.

    Attributes:
        model: holds the weights as a checkpoint does and evaluation needs them: `collect` brings
            them there, and `spread` takes them from there.
        module: what is trained; here and with DDP its weights are the model's.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.module: Any = model

    def accumulating(self, more: bool) -> AbstractContextManager[Any]:
        """In it, gradients stay on this rank as long as there are `more` parts of the batch."""
        return nullcontext()

    def collect(self) -> None:
        """Gives `model` the weights of now."""

    def release(self) -> None:
        """`model` is not computed with before the next `collect`: the weights change."""

    def spread(self) -> None:
        """Takes over the weights that `model` has been given."""

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state on the first rank; called on every one."""
        return optimizer.state_dict()

    def load_optimizer(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Gives every rank its part of a whole state; how a step is computed stays as it is."""
        fused = [group.get("fused") for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for group, own in zip(optimizer.param_groups, fused, strict=True):
            if own is not None:
                group["fused"] = own


class DataParallel(Alone):
    """DDP: the whole model on each rank, and the mean of their gradients."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__(model)
        see_whole_batches(model, ranks)
        # Training reads no buffer that differs from rank to rank; the loop gives all ranks the
        # first one's before an evaluation, which saves a broadcast a step.
        self.module = DistributedDataParallel(model, broadcast_buffers=False)

    def accumulating(self, more: bool) -> AbstractContextManager[Any]:
        return self.module.no_sync() if more else nullcontext()


class FullySharded(Alone):
    """FSDP: of weights, gradients and optimizer state a part on each rank.

    `model` stays whole, on the CPU but for evaluations: ranks evaluate different numbers of
    batches, and so cannot put a sharded model together block by block.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(model)
        self._first = ranks.rank == 0
        self._collected = False
        self.model.to("cpu")
        self.module = copy.deepcopy(model).train()  # goes to the device block by block
        see_whole_batches(self.module, ranks)
        mesh = init_device_mesh(ranks.device.type, (ranks.world,))
        for parent in reversed(list(self.module.modules())):  # the inner ones first
            for block in parent if isinstance(parent, nn.ModuleList) else ():
                if not isinstance(block, (nn.ModuleList, nn.ModuleDict)):
                    fully_shard(block, mesh=mesh)
        fully_shard(self.module, mesh=mesh)

    def accumulating(self, more: bool) -> AbstractContextManager[Any]:
        self.module.set_requires_gradient_sync(not more)
        return nullcontext()

    @torch.no_grad()
    def collect(self) -> None:
        if not self._collected:
            for entire, part in self._pairs():
                entire.copy_(whole(part))
        self._collected = True

    def release(self) -> None:
        if self._collected:
            self._collected = False
            self.model.to("cpu")

    @torch.no_grad()
    def spread(self) -> None:
        for entire, part in self._pairs():
            part.copy_(_part(entire, part))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        state = optimizer.state_dict()
        gathered: dict[int, dict[str, Any]] = {}
        for number, values in state["state"].items():
            gathered[number] = {}
            for name, value in values.items():
                found = whole(value)  # of one at a time
                gathered[number][name] = found.cpu() if self._first else None
        return {**state, "state": gathered}

    def load_optimizer(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        parts = {
            number: {
                name: _part(value, parameters[number])
                if value.shape == parameters[number].shape
                else value
                for name, value in values.items()
            }
            for number, values in state["state"].items()
        }
        super().load_optimizer(optimizer, {**state, "state": parts})

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights and buffers: of the whole model, and what this rank has of them."""
        yield from zip(self.model.parameters(), self.module.parameters(), strict=True)
        yield from zip(self.model.buffers(), self.module.buffers(), strict=True)


def parallel(model: nn.Module, strategy: str, ranks: Ranks) -> Alone:
    """How the ranks train `model`, by the `strategy` "ddp" or "fsdp"."""
    if ranks.world == 1:
        return Alone(model)
    return (DataParallel if strategy == "ddp" else FullySharded)(model, ranks)


def whole(part: Any) -> Any:
    """What all ranks have of a sharded tensor; others as they are."""
    return part.full_tensor() if hasattr(part, "full_tensor") else part


def _part(entire: Tensor, like: Any) -> Tensor:
    """This rank's part of what each has whole, where `like` is sharded."""
    from torch.distributed.tensor import distribute_tensor

    entire = entire.to(like.device)
    if not hasattr(like, "full_tensor"):
        return entire
    # Each rank has it: nothing is sent.
    return distribute_tensor(entire, like.device_mesh, like.placements, src_data_rank=None)
