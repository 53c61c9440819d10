"""Which part of the items a process works on: the one place that knows of torchrun and Slurm here."""

import argparse
import os
import re
from dataclasses import dataclass
from typing import TypeVar

from support.errors import InputError

T = TypeVar("T")
HELP = (
    "the I-th of N parts of the work, such as 3/16, counting from 1 (default: all, or in a Slurm job array"
    " the part of the task); torchrun shares that out over its processes"
)


@dataclass(frozen=True)
class Shard:
    """Part `number` (1, 2, ...) of `count`."""

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """What "3/16" says; argparse's error for anything else."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise argparse.ArgumentTypeError(f"{text!r} is no part of the work such as 3/16")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: list[T]) -> list[T]:
        """Its items of all of them. They are dealt out, so that neighbours go to different shards."""
        return items[self.number - 1 :: self.count]


def shard_of_process(given: Shard | None = None) -> Shard:
    """The shard of this process; given: that of the command line.

    A task of a Slurm job array has that of its number unless one is given. torchrun's processes share it out
    among them. Raises InputError for an array whose numbers have gaps.
    """
    outer = given or _array_task()
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    return Shard((outer.number - 1) * ranks + rank + 1, outer.count * ranks)


def _array_task() -> Shard:
    task, count, first, step = (
        int(os.environ.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", 0), ("COUNT", 1), ("MIN", 0), ("STEP", 1))
    )
    number, rest = divmod(task - first, step)
    if rest or not 0 <= number < count:
        raise InputError(
            f"task {task} of a Slurm array of {count}: the numbers have gaps, so it is unclear which part of"
            " the work that is; give --array=1-N, or --shard"
        )
    return Shard(number + 1, count)
