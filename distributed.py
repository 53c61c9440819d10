"""Several processes, one model: what torchrun starts, gradients and losses averaged over them.

Without a launcher everything here is for one process and does nothing. Gradients travel over nccl between
GPUs and over gloo between CPUs; small things (losses, the wish to stop) over gloo always, so that they
never make the host wait for a GPU.
"""

import datetime
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

# Imported before there is a process group: defaults of its functions take hold of the group that exists by
# then. An optimiser's first step imports it, and a group that is held keeps its threads after its end. If one
# of them lets go of a tensor while the interpreter shuts down, it is stopped inside a destructor: an abort.
import torch.distributed.nn

from support.errors import InputError
from support.launch import Ranks, launched, whole_number

MEETING = datetime.timedelta(minutes=2)  # in which all ranks have to come together
RESOLVING = 20.0  # seconds in which the name of rank 0's machine has to become known
TIMEOUT = datetime.timedelta(minutes=10)  # a rank that is silent for longer ends the job
NO_LIMIT = datetime.timedelta(days=365)  # a rank that dies is noticed all the same, its connections break
BUCKET_BYTES = 32 * 2**20  # gradients travel in messages of about so much: few, and no large second copy


@contextmanager
def joined() -> Iterator[Ranks]:
    """Among the processes that a launcher started (see `support.launch`); alone without one.

    A block that ends well waits for all ranks, so that none closes its connections while another still
    works; one that fails leaves at once, and the others learn that it is gone. No thread stays behind.
    Raises InputError if the others can't be found.
    """
    ranks = launched()
    if ranks.count == 1:
        yield Ranks()
        return
    _meet(ranks)
    try:
        yield ranks
        wait_for_all()
    finally:
        dist.destroy_process_group()


def _meet(ranks: Ranks) -> None:
    """Start the process group. Raises InputError if not all ranks come together at MASTER_ADDR."""
    address, port = os.environ.get("MASTER_ADDR", "").strip(), whole_number("MASTER_PORT")
    job = f"RANK={ranks.rank} and WORLD_SIZE={ranks.count} in the environment"
    if not address or not 0 < port < 2**16:
        raise InputError(
            f"{job} need MASTER_ADDR and MASTER_PORT, where rank 0 is; start with torchrun, or unset them"
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        _reach(address, port, listens=ranks.rank == 0)
        store, _, _ = next(dist.rendezvous("env://", timeout=MEETING))
        store.set_timeout(TIMEOUT)
        dist.init_process_group(
            backend, store=store, rank=ranks.rank, world_size=ranks.count, timeout=TIMEOUT
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{job}, but not all processes came together at MASTER_ADDR={address}, MASTER_PORT={port} within"
            f" {MEETING.seconds} s ({reason})"
        ) from None


def _reach(address: str, port: int, *, listens: bool) -> None:
    """Wait for the name of rank 0's machine to be known, and unless it is ours, for somebody to listen there.

    torch would fill stderr meanwhile. Raises OSError when that has taken too long.
    """
    start = time.monotonic()
    while True:
        try:
            socket.getaddrinfo(address, port)
            if not listens:
                socket.create_connection((address, port), timeout=5).close()
            return
        except OSError as error:
            limit = RESOLVING if isinstance(error, socket.gaierror) else MEETING.total_seconds()
            if time.monotonic() - start > limit:
                raise
            time.sleep(0.5)


def choose_device(name: str) -> torch.device:
    """The torch device of an option value; InputError if there is no such device here.

    Of several processes that torchrun started on a machine each takes the GPU of its own number.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        ranks = launched()
        if ranks.count > 1 and torch.cuda.device_count() > 1 and not os.environ.get("LOCAL_RANK"):
            raise InputError(
                f"WORLD_SIZE={ranks.count} in the environment, but no LOCAL_RANK: which of"
                f" {torch.cuda.device_count()} GPUs is this process's? Start with torchrun, or give --device"
            )
        name = f"cuda:{ranks.local}"
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

        def meet() -> None:
            work = dist.group.WORLD.allreduce([torch.zeros(1)], options)
            while not work.is_completed():  # wait() alone would keep signals waiting too
                time.sleep(0.01)
            work.wait()

        _explain(meet)


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


def largest(number: int) -> int:
    """The largest of all ranks' numbers; the same answer on all."""
    if not dist.is_initialized():
        return number
    found = torch.tensor([number])
    _explain(lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
    return int(found)


def _explain(call) -> None:
    try:
        call()
    except RuntimeError as error:  # gloo and nccl report a lost peer this way
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"another process of this job is gone ({reason}); see its own message above"
        ) from None
