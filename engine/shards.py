"""Which part of the items a process works on: by the variables of torchrun and Slurm."""

import argparse
import re
from dataclasses import dataclass
from typing import TypeVar

from support.errors import InputError
from support.launch import launched, whole_number

T = TypeVar("T")
ARRAY = "SLURM_ARRAY_TASK_"  # begins the names of Slurm's variables about a job array
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
    among them. Raises InputError for an array whose numbers have gaps, and for variables that make no sense.
    """
    outer, ranks = given or _array_task(), launched()
    return Shard((outer.number - 1) * ranks.count + ranks.rank + 1, outer.count * ranks.count)


def _array_task() -> Shard:
    task = whole_number(f"{ARRAY}ID", -1)
    count, first, step = (
        whole_number(f"{ARRAY}{name}", default) for name, default in (("COUNT", 1), ("MIN", 0), ("STEP", 1))
    )
    if task < 0 and count == 1:
        return Shard()
    number, rest = divmod(task - first, step or 1)
    if rest or not 0 <= number < count:
        raise InputError(
            f"task {task if task >= 0 else '(no number)'} of a Slurm array of {count}: the numbers have gaps,"
            " so it is unclear which part of the work that is; give --array=1-N, or --shard"
        )
    return Shard(number + 1, count)
