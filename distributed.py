"""Several processes, one model: what torchrun starts, gradients and losses averaged over them.

Without torchrun everything here is for one process and does nothing. Gradients travel over nccl between
GPUs and over gloo between CPUs; small things (losses, the wish to stop) over gloo always, so that they
never make the host wait for a GPU.
"""

import datetime
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

# Imported before there is a process group: defaults of its functions take hold of the group that exists by
# then. An optimiser's first step imports it, and a group that is held keeps its threads after its end. If one
# of them lets go of a tensor while the interpreter shuts down, it is stopped inside a destructor: an abort.
import torch.distributed.nn

from support.errors import InputError

TIMEOUT = datetime.timedelta(minutes=10)  # a rank that is silent for longer ends the job
NO_LIMIT = datetime.timedelta(days=365)  # a rank that dies is noticed all the same, its connections break
BUCKET_BYTES = 32 * 2**20  # gradients travel in messages of about so much: few, and no large second copy


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `count`; `local` counts on this machine."""

    rank: int = 0
    count: int = 1
    local: int = 0


@contextmanager
def joined() -> Iterator[Ranks]:
    """Among the processes that torchrun started (it sets RANK, WORLD_SIZE, LOCAL_RANK); alone without it.

    A block that ends well waits for all ranks, so that none closes its connections while another still
    works; one that fails leaves at once, and the others learn that it is gone. No thread stays behind.
    """
    if "RANK" not in os.environ:
        yield Ranks()
        return
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield ranks
        wait_for_all()
    finally:
        dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """The torch device of an option value; InputError if there is no such device here.

    Of several processes that torchrun started on a machine each takes the GPU of its own number.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    elif name == "auto":
        name = "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device '{name}' is unknown: choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device '{name}' is not supported: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device '{name}': {torch.cuda.device_count()} CUDA devices here; choose auto or cpu"
        )
    return device


def wait_for_all(limit: datetime.timedelta | None = None) -> None:
    """Return when every rank has come here; InputError if one is gone, or later than `limit` (TIMEOUT)."""
    if dist.is_initialized():
        options = dist.AllreduceOptions()
        options.timeout = limit or TIMEOUT
        _explain(lambda: dist.group.WORLD.allreduce([torch.zeros(1)], options).wait())


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over all ranks, in place."""
    if not dist.is_initialized():
        return
    for bucket in _buckets([parameter.grad for parameter in parameters]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        _explain(lambda flat=flat: dist.all_reduce(flat))
        parts = flat.div_(dist.get_world_size()).split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [part.view(g.shape) for part, g in zip(parts, bucket, strict=True)])


def _buckets(gradients: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """The gradients in their order, in runs of one dtype and of at most BUCKET_BYTES, or one larger."""
    buckets, size = [], 0
    for gradient in gradients:
        size += gradient.nbytes
        if not buckets or size > BUCKET_BYTES or gradient.dtype != buckets[-1][0].dtype:
            buckets.append([])
            size = gradient.nbytes
        buckets[-1].append(gradient)
    return buckets


def average(values: dict[str, float]) -> dict[str, float]:
    """Means over all ranks."""
    if not dist.is_initialized():
        return values
    numbers = torch.tensor(list(values.values()), dtype=torch.float64)
    _explain(lambda: dist.all_reduce(numbers))
    return dict(zip(values, (numbers / dist.get_world_size()).tolist(), strict=True))


def any_rank(flag: bool) -> bool:
    """Whether `flag` is set on any rank; the same answer on all."""
    if not dist.is_initialized():
        return flag
    number = torch.tensor([float(flag)])
    _explain(lambda: dist.all_reduce(number))
    return number.item() > 0


def _explain(call) -> None:
    try:
        call()
    except RuntimeError as error:  # gloo and nccl report a lost peer this way
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"another process of this job is gone ({reason}); see its own message above"
        ) from None
