"""Several processes that train one network as a single process would.

Each runs the network on its share of every batch. What relates the images of a batch to each other is still computed over all of it: the
loss, from everyone's logits; batch norm's statistics; the gradient, summed by DistributedDataParallel. Random masks (dropout, stochastic
depth) are drawn for the whole batch by every process, each applying its part. So the result is that of one process up to the order in
which numbers are added.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from amalgam.errors import UserError
from amalgam.hardware import gpus, on_gpu, take_gpu
from amalgam.provenance import execution_record

PATIENCE = timedelta(days=7)  # with each other: who dies is noticed by the launcher, and one may wait for another training
OTHERS_GONE = ("remote process exited", "Connection closed", "Connection reset", "socketProgress")  # in what NCCL says then
T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """This process among those that work together."""

    rank: int = 0  # 0 … world_size − 1; the first alone writes and logs
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of ``count`` rows; parts differ by one at most."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def turn(self, number: int) -> bool:
        """Whether piece ``number`` of work in pieces is this process's."""
        return number % self.world_size == self.rank

    def all_gather(self, part: Tensor, count: int) -> Tensor:
        """All ``count`` rows (count, …) of everyone's ``part``, in order.

        What every process computes from them alike may be differentiated: the gradient of the part is multiplied by the team's size,
        which DistributedDataParallel's mean over processes takes back.
        """
        return part if self.world_size == 1 else cast(Tensor, _Gather.apply(part, self, count))

    def broadcast(self, value: T) -> T:
        """What the first process has for ``value``, in all of them; it is pickled."""
        if self.world_size == 1:
            return value
        box = [value if self.is_first else None]
        distributed.broadcast_object_list(box)
        return cast(T, box[0])

    def all_gather_objects(self, value: T) -> list[T]:
        """What each process has for ``value``, by rank, in all of them; it is pickled."""
        found: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            distributed.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            distributed.barrier()


SOLO = Team()


def _own_gpu(rank: int) -> None:
    """Raises UserError where a launcher started more processes on this machine than it has GPUs."""
    if rank >= gpus():
        raise UserError(f"process {rank + 1} of this machine has no GPU of its own: there are {gpus()}; start as many (--nproc-per-node)")
    take_gpu(rank)


@contextmanager
def joined() -> Iterator[Team]:
    """This process's team: itself, or those that a launcher of PyTorch's (torchrun) started with it.

    It exits when another one is gone. Raises UserError if they do not all compute alike.
    """
    size = int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1
    if size == 1:
        yield SOLO
        return
    if gpus():
        _own_gpu(int(os.environ["LOCAL_RANK"]))
    # What is no tensor goes by gloo on GPUs too: it notices who is gone.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu() else "gloo", timeout=PATIENCE)
    well = False
    try:
        team = Team(distributed.get_rank(), size)
        check_alike(team.all_gather_objects(execution_record(size)))
        yield team
        well = True
    except RuntimeError as error:
        if not (isinstance(error, (distributed.DistBackendError, distributed.DistNetworkError)) or "gloo" in str(error)):
            raise
        if problem := nccls_own(str(error)):
            raise UserError(f"the GPUs cannot exchange numbers: {problem}; mend this, or start one process") from error
        sys.exit(f"process {distributed.get_rank()} of {size} has lost the others: {str(error).splitlines()[0]}; repeat the command")
    finally:
        if well or not on_gpu():  # after an error NCCL would wait for the others, who wait for this process
            distributed.destroy_process_group()


def nccls_own(text: str) -> str | None:
    """What NCCL says of its own failure, such as too small a /dev/shm; None where others are gone, or it is not NCCL's."""
    if "NCCL error" not in text or any(word in text for word in OTHERS_GONE):
        return None
    return " ".join((text.partition("Last error:")[2] or text.partition("NCCL error")[2]).split()).lstrip(": ")


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
        return ctx.team.world_size * gradients[0][ctx.team.share(ctx.count)], None, None
