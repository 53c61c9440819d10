"""Several processes, one model: what torchrun starts, gradients and losses averaged over them.

Without torchrun everything here is for one process and does nothing. Gradients travel over nccl between
GPUs and over gloo between CPUs; small things (losses, the wish to stop) over gloo always, so that they
never make the host wait for a GPU.
"""

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from support.errors import InputError

TIMEOUT = datetime.timedelta(minutes=10)  # a rank that is silent for longer ends the job


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `count`; `local` counts on this machine."""

    rank: int = 0
    count: int = 1
    local: int = 0


def join() -> Ranks:
    """Join the processes that torchrun started (it sets RANK, WORLD_SIZE, LOCAL_RANK); alone without it."""
    if "RANK" not in os.environ:
        return Ranks()
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    return ranks


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The torch device of an option value; InputError if there is no such device here.

    Of several processes on a machine each takes the GPU of its own number.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{local_rank}"
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


def leave() -> None:
    """End what `join` began, all ranks together: none closes its connections while another still works."""
    wait_for_all()
    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if dist.is_initialized():
        _explain(lambda: dist.all_reduce(torch.zeros(1)))


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over all ranks, in place."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters]

    def exchange():
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            work.wait()

    _explain(exchange)
    torch._foreach_div_(gradients, dist.get_world_size())


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
