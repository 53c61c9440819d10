"""Training pairs: what flows from disk into the model.

The data set is indexed by the global sample position p = 0, 1, 2, ... without end. Everything random about
sample p follows from (random_seed, p) alone, so that the samples are the same for any number of loader
processes and ranks, and after a resume. Integers travel; one-hot planes are made on the device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from data.instances import theta_of_box
from data.labels import FIRST_SINGLE_ID
from loader.ahead import made_ahead
from loader.cache import FrameMaps, WorkingMaps
from loader.erased_maps import ZOOM_PROBABILITY, erase_some, zoom_in
from options import Options
from support.errors import InputError

# Streams of random numbers; each draws from default_rng([random_seed, stream, number]).
REAL_ORDER, COND_ORDER, DRAWS, STEP_NOISE, GRID_NOISE, PLACE_ORDER, ERASING = 1, 2, 3, 4, 5, 6, 7

PLACES = 8  # at most so many places are learnt from in one map


class Tensors:
    """What scenes, batches and noise share: one function applied to all their tensors."""

    def apply(self, function: Callable[[Tensor], Tensor]):

        def applied(value):
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, tuple):
                return tuple(map(applied, value))
            return None if value is None else value.apply(function)

        return type(self)(*(applied(getattr(self, item.name)) for item in fields(self)))

    def to(self, device: torch.device | str, *, non_blocking: bool = False):
        """A copy on `device`."""
        return self.apply(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self):
        """A copy in page-locked memory."""
        return self.apply(lambda tensor: tensor.pin_memory())

    def __reduce__(self):
        """Pickled as arrays: a tensor of its own would take ten times as long, or shared memory."""
        values = (getattr(self, item.name) for item in fields(self))
        arrays = [value.numpy() if isinstance(value, Tensor) else value for value in values]
        return _of_arrays, (type(self), arrays)


def _of_arrays(kind: type[Tensors], values: list) -> Tensors:
    return kind(*(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values))


@dataclass(frozen=True)
class SceneMaps(Tensors):
    """A batch of maps, at small size h x w and big size H x W (docs/model.md#maps-and-channels)."""

    labels_small: Tensor  # (B,h,w) uint8, channel 0..29
    ids_small: Tensor  # (B,h,w) int32, only equality of neighbours matters
    labels_big: Tensor  # (B,H,W) uint8
    ids_big: Tensor  # (B,H,W) int32


@dataclass(frozen=True)
class PlaceTargets(Tensors):
    """Small maps without some of their instances, one for each update of a step, and where those stood."""

    labels: Tensor  # (B,2,h,w) uint8, channel 0..29
    boxes: Tensor  # (B,2,8,4) float32: x0, y0, x1, y1, fractions of the image
    known: Tensor  # (B,2,8) bool: which of the boxes there are
    classes: Tensor  # (B,2,8) int64, the class of each: its position in Options.targets


@dataclass(frozen=True)
class Batch(Tensors):
    """x+ and x, and the drawn instance of x+; what a density of places learns from."""

    real: SceneMaps | None = None  # x+; this and the next three unless places alone are learnt
    cond: SceneMaps | None = None  # x
    compact: Tensor | None = None  # (B,1,cy,cx) float32 in [0,1]
    theta: Tensor | None = None  # (B,6) float32
    places: PlaceTargets | None = None  # for a density of places


class TrainingPairs:
    """Pairs (x+, x) by global sample position; each item is a Batch of one.

    x+ walks the n images that hold a usable instance of a target class, in a new order each n samples; x
    walks all N images in an order of its own, new each N samples. Each image is flipped with p = 0.5, drawn
    separately for x+ and x, and one usable instance of x+ is drawn uniformly.

    with_places: batches hold the places that a density learns from, too; with option what = none these alone.
    Raises InputError if no image holds a usable instance of a class.
    """

    def __init__(self, maps: WorkingMaps, options: Options, *, with_places: bool = False):
        self.maps = maps
        self.seed = options.random_seed
        self.targets = options.targets
        self.theta_jitter = options.theta_jitter
        self.with_pairs, self.with_places = options.what != "none", with_places
        counts = np.array(
            [
                [len(maps.instances(index, target.name)) for target in self.targets]
                for index in range(len(maps))
            ]
        )
        self.usable = tuple(np.flatnonzero(counts.sum(1)).tolist())
        self.instance_counts = dict(zip((t.name for t in self.targets), counts.sum(0).tolist(), strict=True))
        lacking = [target for target in self.targets if not self.instance_counts[target.name]]
        if lacking:
            target, present = lacking[0], ",".join(name for name, n in self.instance_counts.items() if n)
            raise InputError(
                f"{options.db_root}: none of {len(maps)} images holds a usable {target.name}"
                f" ({maps.rule_of(target)}); choose another --target_class"
                f"{f', for example {present}' if present else ''}, or another --db_root"
            )

    @property
    def usable_count(self) -> int:
        """Images that hold a usable instance: the samples of one epoch."""
        return len(self.usable)

    def __getitem__(self, position: int) -> Batch:
        """Sample `position` (0, 1, 2, ... without end)."""
        real_index = self.usable[_walk(self.seed, REAL_ORDER, self.usable_count, position)]
        places = self._places(position, real_index) if self.with_places else None
        if not self.with_pairs:
            return Batch(places=places)
        cond_index = _walk(self.seed, COND_ORDER, len(self.maps), position)
        rng = np.random.default_rng([self.seed, DRAWS, position])
        flip_real, flip_cond = (rng.random(2) < 0.5).tolist()
        candidates = self.maps.instances(real_index, self.targets[0].name)
        chosen = candidates[rng.integers(len(candidates))]

        real = self.maps.load(real_index)
        compact, theta = real.compact_of(chosen.instance_id), chosen.theta
        if self.theta_jitter:
            x0, y0, x1, y1 = np.array(chosen.box) + rng.uniform(-self.theta_jitter, self.theta_jitter, 4)
            theta = theta_of_box((x0, y0, x1, y1), *self.maps.sizes.big)
        if flip_real:  # the box changes sides: t13 = -(xr+xl)/(xr-xl) changes its sign
            compact, theta = compact[:, ::-1], theta * np.array([1, 1, -1, 1, 1, 1], np.float32)
        return Batch(
            real=scene_of(real, flip=flip_real),
            cond=scene_of(self.maps.load(cond_index), flip=flip_cond),
            compact=torch.from_numpy(compact.astype(np.float32))[None, None] / 255,
            theta=torch.from_numpy(theta)[None].clone(),
            places=places,
        )

    def _places(self, position: int, real_index: int) -> PlaceTargets:
        """Of x+ for update 0, of another such image, in an order of its own, for update 1."""
        other_index = self.usable[_walk(self.seed, PLACE_ORDER, self.usable_count, position)]
        rng = np.random.default_rng([self.seed, ERASING, position])
        drawn = []
        for index in (real_index, other_index):
            maps = self.maps.load(index)
            number_of = {
                one.instance_id: number
                for number, target in enumerate(self.targets)
                for one in self.maps.instances(index, target.name)
                if one.instance_id >= FIRST_SINGLE_ID
            }
            labels, taken = erase_some(
                maps.labels_small, maps.ids_small, number_of, maps.erasable.patches(), rng
            )
            boxes = np.reshape([maps.box_of(one) for one in taken], (-1, 4)).astype(np.float32)
            numbers = np.array([number_of[one] for one in taken], np.int64)
            if rng.random() < ZOOM_PROBABILITY:
                labels, boxes, inside = zoom_in(labels, boxes, rng)
                boxes, numbers = boxes[inside], numbers[inside]
            if rng.random() < 0.5:
                labels, boxes = labels[:, ::-1], boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
            count = min(len(boxes), PLACES)
            places, classes = np.zeros((PLACES, 4), np.float32), np.zeros(PLACES, np.int64)
            places[:count], classes[:count] = boxes[:count], numbers[:count]
            drawn.append((np.ascontiguousarray(labels), places, np.arange(PLACES) < count, classes))
        stacked = (np.stack(arrays)[None] for arrays in zip(*drawn, strict=True))
        return PlaceTargets(*map(torch.from_numpy, stacked))


def _walk(seed: int, stream: int, count: int, position: int) -> int:
    """Item `position` of an endless walk over `count` things, in a new random order each time round."""
    return int(_order(seed, stream, count, position // count)[position % count])


@lru_cache(maxsize=6)  # prefetching reads two orders of each stream around the end of an epoch
def _order(seed: int, stream: int, count: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def scene_of(maps: FrameMaps, *, flip: bool = False) -> SceneMaps:
    """SceneMaps of one frame, a batch of one, mirrored left to right if asked."""

    def tensor(array: np.ndarray, dtype: type) -> Tensor:
        array = array[:, ::-1] if flip else array
        return torch.from_numpy(np.array(array, dtype, order="C"))[None]

    return SceneMaps(
        labels_small=tensor(maps.labels_small, np.uint8),
        ids_small=tensor(maps.ids_small, np.int32),
        labels_big=tensor(maps.labels_big, np.uint8),
        ids_big=tensor(maps.ids_big, np.int32),
    )


def concatenate(items: list):
    """Scenes or Batches joined along the batch axis."""

    def joined(column):
        if isinstance(column[0], Tensor):
            return torch.cat(column)
        return None if column[0] is None else concatenate(column)

    names = [item.name for item in fields(items[0])]
    return type(items[0])(*(joined([getattr(item, name) for item in items]) for name in names))


def first_scenes(maps: WorkingMaps, count: int) -> SceneMaps:
    """The first `count` frames of a split by name, unflipped; a smaller split starts over."""
    return concatenate([scene_of(maps.load(index % len(maps))) for index in range(count)])


# ---- loading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batches:
    """Batch `number` of those of one rank."""

    pairs: TrainingPairs
    first: int  # sample position
    batch_size: int
    rank: int
    world: int

    def __call__(self, number: int) -> Batch:
        start = self.first + (number * self.world + self.rank) * self.batch_size
        return concatenate([self.pairs[position] for position in range(start, start + self.batch_size)])


def training_loader(
    pairs: TrainingPairs,
    batch_size: int,
    first_position: int = 0,
    num_workers: int = 0,
    *,
    pin_memory: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Endless Batches of `batch_size` pairs, from sample `first_position` (samples seen so far).

    Of each global batch of world * batch_size positions, rank r takes the r-th run of `batch_size`. Leaves
    torch's global random state alone. A loader process uses one thread. Raises InputError for a bad file, and
    when a loader process is gone. pin_memory: in page-locked memory, for the GPU that is in use now.
    """
    prepare = partial(_pinned, torch.cuda.current_device()) if pin_memory else None
    return made_ahead(_Batches(pairs, first_position, batch_size, rank, world), num_workers, prepare)


def _pinned(device: int, batch: Batch) -> Batch:
    torch.cuda.set_device(device)  # each thread has its own; another would get a context on the first GPU
    return batch.pin_memory()
