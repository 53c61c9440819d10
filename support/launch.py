"""What a launcher says of this process in the environment: the one place that reads such variables.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; others set some of
them. An empty variable counts as one that is not set.
"""

import os
from dataclasses import dataclass

from support.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `count`; `local` counts on this machine."""

    rank: int = 0
    count: int = 1
    local: int = 0


def whole_number(name: str, default: int = 0) -> int:
    """An environment variable as a number of at least 0. Raises InputError for anything else."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"{name}={text} in the environment is no whole number; unset it, or set it right")
    return int(text)


def launched() -> Ranks:
    """This process by RANK, WORLD_SIZE and LOCAL_RANK; alone without them.

    Raises InputError for variables of which it is unclear what is meant.
    """
    rank, count = whole_number("RANK"), whole_number("WORLD_SIZE", 1)
    if rank >= count:
        raise InputError(
            f"RANK={rank} in the environment needs a larger WORLD_SIZE, not"
            f" {os.environ.get('WORLD_SIZE') or 'none'}; start with torchrun, or unset both"
        )
    if count > 1 and not os.environ.get("RANK", "").strip():
        raise InputError(
            f"WORLD_SIZE={count} in the environment, but no RANK: which of {count} processes is this? Start"
            " with torchrun, or unset it"
        )
    return Ranks(rank, count, whole_number("LOCAL_RANK"))
