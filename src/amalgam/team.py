"""Several processes that train one network as a single process would.

Each runs the network on its share of every batch. What relates the images of a batch to each other is still computed over all of it: the
loss, from everyone's logits; batch norm's statistics; the gradient, summed by DistributedDataParallel. Random masks (dropout, stochastic
depth) are drawn for the whole batch by every process, each applying its part. So the result is that of one process up to the order in
which numbers are added.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from amalgam.errors import UserError
from amalgam.provenance import execution_record

PATIENCE = timedelta(days=7)  # with each other: who dies is noticed by the launcher, and one may wait for another training
T = TypeVar("T")

DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


@dataclass(frozen=True)
class Team:
    """This process among those that work together."""

    rank: int = 0  # 0 … size − 1; the first alone writes and logs
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of ``count`` rows; parts differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def turn(self, number: int) -> bool:
        """Whether piece ``number`` of work in pieces is this process's."""
        return number % self.size == self.rank

    def gather(self, part: Tensor, count: int) -> Tensor:
        """All ``count`` rows (count, …) of everyone's ``part``, in order.

        What every process computes from them alike may be differentiated: the gradient of the part is multiplied by the team's size,
        which DistributedDataParallel's mean over processes takes back.
        """
        return part if self.size == 1 else cast(Tensor, _Gather.apply(part, self, count))

    def first(self, value: T) -> T:
        """What the first process has for ``value``, in all of them; it is pickled."""
        if self.size == 1:
            return value
        box = [value if self.is_first else None]
        distributed.broadcast_object_list(box)
        return cast(T, box[0])

    def everyones(self, value: T) -> list[T]:
        """What each process has for ``value``, by rank, in all of them; it is pickled."""
        found: list[Any] = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network as it is to be called in training: its gradients become the mean over processes."""
        return network if self.size == 1 else DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)

    def whole_batch(self, count: int) -> AbstractContextManager[object]:
        """In the block, batch norm and random masks see all ``count`` images of which this process holds its share."""
        return nullcontext() if self.size == 1 else _WholeBatch(self, count)


SOLO = Team()


@contextmanager
def joined() -> Iterator[Team]:
    """This process's team: itself, or those that a launcher of PyTorch's (torchrun) started with it.

    It exits when another one is gone. Raises UserError if they do not all compute alike.
    """
    size = int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1
    if size == 1:
        yield SOLO
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # What is no tensor goes by gloo on GPUs too: it notices who is gone, and a signal ends its waits.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    well = False
    try:
        team = Team(distributed.get_rank(), size)
        check_alike(team.everyones(execution_record(size)))
        yield team
        well = True
    except RuntimeError as error:
        if not (isinstance(error, (distributed.DistBackendError, distributed.DistNetworkError)) or "gloo" in str(error)):
            raise
        sys.exit(f"process {distributed.get_rank()} of {size} has lost the others: {str(error).splitlines()[0]}; repeat the command")
    finally:
        if well or not on_gpu:  # after an error NCCL would wait for the others, who wait for this process
            distributed.destroy_process_group()


def check_alike(records: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError unless all processes have one execution record: what they work out together would have none."""
    for rank, record in enumerate(records):
        for name, value in record.items():
            if value != records[0][name]:
                raise UserError(
                    f"the processes do not compute alike: {name} is {value} for process {rank}, {records[0][name]} for process 0; start "
                    "them on machines of one kind, with the same packages and the same environment"
                )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, team: Team, count: int) -> Tensor:
        ctx.team, ctx.count = team, count
        whole = part.new_zeros(count, *part.shape[1:])
        whole[team.share(count)] = part
        distributed.all_reduce(whole)  # of zeros elsewhere: exact
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.team.size * gradients[0][ctx.team.share(ctx.count)], None, None


class _WholeBatch(TorchFunctionMode):
    """Replaces the functions by which networks, whoever wrote them, relate images to each other or draw random numbers."""

    def __init__(self, team: Team, count: int) -> None:
        super().__init__()
        self.part, self.count = team.share(count), count

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.batch_norm:
            return _batch_norm(*args, **kwargs)
        if function in DROPOUTS:
            return self._dropout(function, *args, **kwargs)
        if function is Tensor.bernoulli_:
            return args[0].copy_(self._drawn(args[0], lambda whole: whole.bernoulli_(*args[1:], **kwargs)))
        return function(*args, **kwargs)

    def _dropout(self, function: Any, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training:
            return values
        mask = self._drawn(values, lambda whole: function(whole.fill_(1), p=p))
        return values.mul_(mask) if inplace else values * mask

    def _drawn(self, values: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """This process's part of what ``draw`` makes of a tensor for the whole batch; ``values`` has one row, or several, an image."""
        rows = len(values) // (self.part.stop - self.part.start)
        whole = values.detach().new_empty(self.count * rows, *values.shape[1:])
        if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        return draw(whole)[self.part.start * rows : self.part.stop * rows]


def _batch_norm(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch.nn.functional.batch_norm, of a tensor (B, C, …) of which each process has some rows. (SyncBatchNorm refuses CPU tensors.)"""
    if not training:
        return functional.batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)
    count, mean, variance = _moments(values.detach())
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / (count - 1)), momentum)
    scale = mean.new_ones(len(mean)) if weight is None else weight
    shift = mean.new_zeros(len(mean)) if bias is None else bias
    return cast(Tensor, _Normalize.apply(values, scale, shift, mean, (variance + eps).rsqrt(), count))


def _moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values a channel, mean (C,) and variance (C,), over all processes: each one's own, combined (Chan et al., 1979)."""
    dimensions = [0, *range(2, values.ndim)]
    variance, mean = torch.var_mean(_precise(values), dimensions, correction=0)
    own = torch.cat([mean.new_full((1,), values.numel() // len(mean)), mean, variance])
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    table, channels = torch.stack(every), len(mean)
    counts, means, variances = table[:, :1], table[:, 1 : channels + 1], table[:, channels + 1 :]
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    return counts.sum(), mean, (share * (variances + (means - mean).square())).sum(0)


class _Normalize(torch.autograd.Function):
    """(values − mean) · inverse · scale + shift, whose mean and inverse deviation follow from everyone's values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, inverse: Tensor, count: Tensor) -> Tensor:
        ctx.save_for_backward(values, scale, mean, inverse, count)
        factor = scale * inverse
        return torch.addcmul(_channels(shift - mean * factor, values), values, _channels(factor, values)).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        values, scale, mean, inverse, count = ctx.saved_tensors
        gradient = _precise(gradients[0])
        normal = (values - _channels(mean, values)) * _channels(inverse, values)
        dimensions = [0, *range(2, values.ndim)]
        sums = torch.stack([(gradient * normal).sum(dimensions), gradient.sum(dimensions)])  # (2, C)
        every = sums.clone()
        distributed.all_reduce(every)
        for_scale, for_shift = (_channels(value / count, values) for value in every)
        inner = gradient - for_shift - normal * for_scale
        return (inner * _channels(scale * inverse, values)).to(values.dtype), sums[0], sums[1], None, None, None


def _precise(values: Tensor) -> Tensor:
    """At least float32: sums of bfloat16 are not to be had in bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _channels(values: Tensor, like: Tensor) -> Tensor:
    """(C,) as (1, C, 1, …), to go with (B, C, …)."""
    return values.view(1, -1, *[1] * (like.ndim - 2))
