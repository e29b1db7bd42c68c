"""A batch of which each process holds a part, to a network as if it held the whole: gradients, batch norm's statistics, random masks.

SyncBatchNorm would refuse a CPU's tensors, and changes the network; here the functions that any network calls are replaced for a while.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from amalgam.team import Team

DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


def data_parallel(network: nn.Module, team: Team) -> nn.Module:
    """The network as it is to be called in training: its gradients become the mean over processes."""
    return network if team.world_size == 1 else DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)


def as_whole_batch(count: int, team: Team) -> AbstractContextManager[object]:
    """In the block, batch norm and random masks see all ``count`` images of which this process holds its share."""
    return nullcontext() if team.world_size == 1 else WholeBatch(team.share(count), count)


class WholeBatch(TorchFunctionMode):
    """Replaces the functions by which networks, whoever wrote them, relate images to each other or draw random numbers.

    Of the ``count`` images of a batch this process holds ``part``.
    """

    def __init__(self, part: slice, count: int) -> None:
        super().__init__()
        self.part, self.count = part, count

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
        # In place or not are two kernels of a GPU's, which draw other masks.
        mask = self._drawn(values, lambda whole: function(whole.fill_(1), p=p, inplace=inplace))
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
    """torch.nn.functional.batch_norm, of a tensor (B, C, …) of which each process has some rows."""
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
