"""Baselines of placement that learn nothing: uniform, prior and nearest (docs/evaluation.md#definitions).

Everything random follows from (seed, name of the scene, number of the sample), so that a sample does not
depend on which others are drawn. Boxes are in fractions of the image size here: x0, y0, x1, y1 in 0..1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data.geometry import too_few
from data.instances import in_fractions
from loader.cache import WorkingMaps
from support.errors import InputError
from support.progress import progress_bar
from support.seeds import generator

BASELINES = ("uniform", "prior", "nearest")


@dataclass(frozen=True)
class Training:
    """The usable instances of a class in the training split, and the scenes that hold them."""

    boxes: np.ndarray  # (M,4) float64, fractions of the image size, measured on the big map
    masks: np.ndarray  # (M,cy,cx) bool compact masks
    scene: np.ndarray  # (M,) int, position in `names`
    names: tuple[str, ...]  # (S) names of the scenes
    labels_small: np.ndarray  # (S,h,w) uint8, channels of the small maps

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baselines that these instances are a foundation for: all, or none of `too_few`."""
        return () if too_few(len(self.boxes)) else BASELINES

    def nearest_scene(self, labels_small: np.ndarray, name: str) -> int | None:
        """Position of the scene most like a small map (h,w) uint8, the scene `name` itself left out.

        Likeness is the distance of the one-hot maps, which is the number of pixels that differ. None if
        there is no other scene.
        """
        differing = np.count_nonzero(self.labels_small != labels_small, axis=(1, 2))
        others = [position for position, other in enumerate(self.names) if other != name]
        return min(others, key=lambda position: differing[position], default=None)


def read_training(maps: WorkingMaps, target_class: str) -> Training:
    """Usable instances of a class in a split (with a progress bar on stderr).

    Raises InputError if there are none.
    """
    boxes, masks, scene, names, labels_small = [], [], [], [], []
    width, height = maps.measured
    for index in progress_bar(range(len(maps)), "training instances"):
        instances = maps.instances(index, target_class)
        if not instances:
            continue
        content = maps.load(index)
        for instance in instances:
            boxes.append(in_fractions(instance.box, width, height))
            masks.append(content.compact_of(instance.instance_id) >= 128)
            scene.append(len(names))
        names.append(maps.frames[index].name)
        labels_small.append(content.labels_small)
    if not boxes:
        raise InputError(
            f"{maps.frames[0].label_path.parents[1]}: none of {len(maps)} images holds a usable"
            f" {target_class}; choose another --train_split or --db_root"
        )
    return Training(np.array(boxes), np.array(masks), np.array(scene), tuple(names), np.array(labels_small))


def draw_boxes(
    method: str,
    training: Training,
    labels_small: np.ndarray,
    scene: str,
    seeds: Iterable[int],
    count: int,
    item: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (S,K,4) of a baseline on one scene, and the training instances (S,K) int whose masks fill them.

    S seeds, K = count samples each. labels_small (h,w) uint8: the small map of the scene named `scene`; item
    tells apart several draws on it. Where `nearest` finds no other scene it does as `prior`.
    """
    pool = np.arange(len(training.boxes))
    if method == "nearest" and (nearest := training.nearest_scene(labels_small, scene)) is not None:
        pool = np.flatnonzero(training.scene == nearest)
    boxes, chosen = [], []
    for seed in seeds:
        for number in range(count):
            rng = generator(seed, scene + item, number, method)
            instance = int(rng.choice(pool))
            box = training.boxes[instance]
            boxes.append(_uniform_box(rng, training.boxes, box) if method == "uniform" else box)
            chosen.append(instance)
    return np.reshape(boxes, (-1, count, 4)), np.reshape(chosen, (-1, count))


def _uniform_box(rng: np.random.Generator, boxes: np.ndarray, template: np.ndarray) -> np.ndarray:
    """A box somewhere in the image: height log-uniform over the range of `boxes`, shape of `template`."""
    heights = boxes[:, 3] - boxes[:, 1]
    height = np.exp(rng.uniform(np.log(heights.min()), np.log(heights.max())))
    width = min(1.0, height * (template[2] - template[0]) / (template[3] - template[1]))
    x0, y0 = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return np.array([x0, y0, x0 + width, y0 + height])
