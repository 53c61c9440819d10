"""The training step on a GPU, recorded once as a CUDA graph and then replayed.

A step is thousands of short kernels. At small batches a GPU is done with them sooner than the host has named
them one by one; a replay is one call.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from loader.noise import Noise
from loader.pairs import Batch
from model import Optimisers, WhereWhat, check_finite, train_step
from options import Options

WARM_UP = 3  # steps taken kernel by kernel first: cuDNN chooses its ways, Adam makes its moments


def can_record(options: Options, device: torch.device, ranks: int) -> bool:
    """Whether the step is recorded: on a GPU, by one process, without float16's scale, which is looked at."""
    return (
        options.cuda_graph == "auto"
        and device.type == "cuda"
        and ranks == 1
        and options.precision != "fp16"
        and not options.compile
    )


class RecordedStep:
    """`model.train_step` for batches of one size; with `Optimisers(model, recorded=True)`.

    The first steps are taken as usual, all later ones by replaying the graph: same kernels, same numbers.
    """

    def __init__(self, model: WhereWhat, optimisers: Optimisers):
        self.model, self.optimisers = model, optimisers
        self.steps = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Batch, noise: Noise, check: bool = False) -> dict[str, Tensor]:
        """Like train_step, except that `check` looks when the weights have been updated."""
        self.steps += 1
        if self.steps <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                losses = train_step(self.model, self.optimisers, batch, noise, check)
            torch.cuda.current_stream().wait_stream(self.stream)
            return losses
        if self.graph is None:
            self._record(batch, noise)
        else:
            torch._foreach_copy_(self.inputs, list(_tensors((batch, noise))))
        self.graph.replay()
        losses = dict(zip(self.names, self.outputs.clone().unbind(), strict=True))
        if check:
            check_finite(losses, nothing_updated=False)
        return losses

    def _record(self, batch: Batch, noise: Noise) -> None:
        self.inputs = list(_tensors((batch, noise)))  # each later batch is copied into this one
        self.optimisers.clear(*self.optimisers.parameters)  # gradients belong to the graph's own memory
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread may take page-locked memory meanwhile
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            losses = train_step(self.model, self.optimisers, batch, noise)
            self.names = tuple(losses)
            self.outputs = torch.stack(list(losses.values()))


def _tensors(value) -> Iterator[Tensor]:
    """All tensors of nested dataclasses and tuples, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _tensors(one)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _tensors(getattr(value, item.name))
