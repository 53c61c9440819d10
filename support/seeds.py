"""Random numbers that follow from names: the same for any order of work and any number of processes.

Two ways from a name to a seed, both kept because a seed is to give the trees that it gave before: `generator`
for places and shapes (insertion, evaluation, the page), `seed_of` for pixels (repainting, painting) and the
segmenter. What has a number and no name, training pairs and built-in scenes, draws from numpy's generator
of [seed, stream, number].
"""

import hashlib
from collections.abc import Iterable

import numpy as np


def generator(seed: int, name: str, number: int, purpose: str) -> np.random.Generator:
    """The random generator of sample `number` on the scene `name`, one for each purpose."""
    key = hashlib.sha256(f"{purpose}/{name}".encode()).digest()[:8]
    return np.random.default_rng([seed, number, int.from_bytes(key, "big")])


def normal(seed: int, name: str, numbers: Iterable[int], purpose: str, size: int) -> np.ndarray:
    """Normal noise (len(numbers), size) float32, a row for each number, by its own `generator`."""
    return np.array(
        [generator(seed, name, number, purpose).standard_normal(size, np.float32) for number in numbers]
    )


def seed_of(seed: int, stage: str, key: str, sample: int = 0) -> int:
    """The seed (0..2^64-1) of whatever is random about a sample of an item in a stage.

    See docs/synthesis.md#seeds.
    """
    text = f"{seed}/{stage}/{key}/{sample}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
