"""What a segmenter learns from: the frames of Cityscapes trees, decoded once and kept at working size.

A sample holds its image in 8 bits and one map that says which instance each pixel shows; masks are made
of it when they are wanted, on the device that wants them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from data.coco import annotations_of
from data.frame import Frame, gt_kind, list_frames
from data.instances import resize_nearest
from data.labels import FIRST_SINGLE_ID, TARGET_CLASSES
from support.errors import InputError
from support.processes import Pool
from support.seeds import seed_of

CLASSES = ("background", *TARGET_CLASSES)  # by the number that the networks know them by
_NUMBER_OF_LABEL = {target.label_id: number for number, target in enumerate(TARGET_CLASSES.values(), 1)}
MIN_PIXELS = 8  # at working size; smaller pieces are not learnt from

Target = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingFrame:
    """A frame at working size h x w."""

    image: Tensor  # (3,h,w) uint8 RGB
    instance: Tensor  # (h,w) int16: 0 for none, else 1..N
    labels: Tensor  # (N,) int64, positions in CLASSES
    boxes: Tensor  # (N,4) float32: x0, y0, x1, y1, half-open, pixels

    def on(self, device: torch.device) -> tuple[tv_tensors.Image, Target]:
        """Image and target as torchvision's detection models take them: boxes, masks (N,h,w), labels."""
        image, instance = (part.to(device, non_blocking=True) for part in (self.image, self.instance))
        numbers = torch.arange(1, len(self.labels) + 1, device=device, dtype=instance.dtype)
        masks = instance[None] == numbers[:, None, None]
        boxes = tv_tensors.BoundingBoxes(
            self.boxes.to(device, non_blocking=True), format="XYXY", canvas_size=tuple(instance.shape)
        )
        labels = self.labels.to(device, non_blocking=True)
        target = {"boxes": boxes, "masks": tv_tensors.Mask(masks.byte()), "labels": labels}
        return tv_tensors.Image(image), target


@dataclass(frozen=True)
class GroundTruth:
    """A frame that predictions are measured on."""

    frame: Frame
    image: Tensor  # (3,h,w) uint8 RGB at working size
    size: tuple[int, int]  # of the annotation, H, W
    annotations: list[dict]  # `data.coco.annotations_of`, at that size


def frames_of(root: str, split: str, flag: str) -> list[Frame]:
    """The frames of a split that have an image. Raises InputError, naming the flag, for anything else."""
    if not (Path(root) / gt_kind(root, split) / split).is_dir():
        raise InputError(f"{flag} {root}: has no folder gtFine/{split}; give the folder of a Cityscapes tree")
    frames = list_frames(root, split)
    lacking = [frame.name for frame in frames if not frame.image_path]
    if lacking:
        raise InputError(
            f"{flag} {root}: {len(lacking)} of {len(frames)} frames have no image in leftImg8bit/{split},"
            f" the first is {lacking[0]}; unpack or render them"
        )
    return frames


def image_of(image: np.ndarray, size: tuple[int, int] | None) -> Tensor:
    """An image (H,W,3) uint8 as (3,h,w) of size (width, height); None: of its own size."""
    if size and size != image.shape[1::-1]:
        smaller = size[0] < image.shape[1]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def sample_of(rgb: np.ndarray, instance_ids: np.ndarray, size: tuple[int, int] | None) -> TrainingFrame:
    """What is learnt from an image (H,W,3) uint8 and instance map (H,W) uint16 at size (width, height).

    Groups are no instances: they stay background, as in torchvision's reference training.
    """
    image = image_of(rgb, size)
    ids = resize_nearest(instance_ids, image.shape[2], image.shape[1])
    areas = np.bincount(ids.ravel(), minlength=2**16)
    labels = {
        value: _NUMBER_OF_LABEL.get(value // 1000) for value in np.flatnonzero(areas >= MIN_PIXELS).tolist()
    }
    labels = {value: number for value, number in labels.items() if number and value >= FIRST_SINGLE_ID}
    return _numbered(image, ids, [*labels], torch.tensor([*labels.values()], dtype=torch.int64))


def _numbered(image: Tensor, ids: np.ndarray, values: Sequence[int], labels: Tensor) -> TrainingFrame:
    """The frame of an image and a map of ids (h,w), of which these values are its instances 1..N."""
    lookup = np.zeros(2**16, np.int16)
    lookup[values] = np.arange(1, len(values) + 1)
    instance = lookup[ids]
    boxes = [
        (columns.start, rows.start, columns.stop, rows.stop)
        for rows, columns in ndimage.find_objects(instance, len(values))
    ]
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return TrainingFrame(image, torch.from_numpy(instance), labels, boxes)


def read_sample(frame: Frame, size: tuple[int, int] | None) -> TrainingFrame:
    """A frame to learn from, at size (width, height). Raises InputError for a bad file."""
    _, instance_ids = frame.read_maps()
    return sample_of(frame.read_image(instance_ids.shape), instance_ids, size)


def read_ground_truth(frame: Frame, size: tuple[int, int] | None) -> GroundTruth:
    """A frame to be measured on; its image at size (width, height). Raises InputError for a bad file."""
    _, instance_ids = frame.read_maps()
    image = image_of(frame.read_image(instance_ids.shape), size)
    return GroundTruth(frame, image, instance_ids.shape, annotations_of(instance_ids))


def read_all(
    frames: list[Frame], size: tuple[int, int] | None, workers: int, read: Callable = read_sample
) -> list:
    """`read` for each frame, spread over processes. Raises InputError for a bad file."""
    with Pool(workers) as pool:
        return list(pool.map(partial(read, size=size), frames))


# ---- batches ------------------------------------------------------------------------------------


def window_of(sample: TrainingFrame, size: tuple[int, int], rng: np.random.Generator) -> TrainingFrame:
    """A window of size (width, height) of a sample that shows one of its instances, drawn by chance.

    Where in the window the centre of that instance lies is drawn too; without instances the window lies
    anywhere. A sample that is smaller stays as large as it is.
    """
    height, width = sample.instance.shape
    inner = np.array([min(size[0], width), min(size[1], height)])
    room = np.array([width, height]) - inner
    corner = rng.integers(room + 1)
    if len(sample.boxes):
        box = sample.boxes[int(rng.integers(len(sample.boxes)))].numpy()
        centre = (box[:2] + box[2:]) / 2
        corner = np.clip(centre - rng.random(2) * inner, 0, room).astype(int)
    return cut(sample, *corner.tolist(), *inner.tolist())


def cut(sample: TrainingFrame, x: int, y: int, width: int, height: int) -> TrainingFrame:
    """The part of a sample in a window, with the instances of which enough is left to learn from."""
    window = np.s_[..., y : y + height, x : x + width]
    instance = sample.instance[window].numpy()
    areas = np.bincount(instance.ravel(), minlength=len(sample.labels) + 1)
    left = 1 + np.flatnonzero(areas[1:] >= MIN_PIXELS)
    return _numbered(sample.image[window], instance, left, sample.labels[left - 1])


@dataclass(frozen=True)
class Mixture:
    """Several trees and the share of each in what is learnt from."""

    trees: list[Sequence[TrainingFrame]]
    shares: tuple[float, ...]  # they sum to 1
    window: tuple[int, int] | None = None  # width and height of what is learnt from; None: all of a sample

    def draw(self, seed: int, position: int) -> TrainingFrame:
        """The sample at a position of the endless sequence: without regard to what came before."""
        rng = np.random.default_rng([seed, position])
        tree = self.trees[int(rng.choice(len(self.trees), p=self.shares))]
        sample = tree[int(rng.integers(len(tree)))]
        return window_of(sample, self.window, rng) if self.window else sample


FLIP = v2.RandomHorizontalFlip(0.5)


def batch_of(
    mixture: Mixture, seed: int, positions: range, device: torch.device
) -> tuple[list[Tensor], list[Target]]:
    """Images (3,h,w) in 0..1 and targets of these positions, flipped at random.

    Everything random, also what the model draws afterwards, follows from seed and positions: torch's
    generators are seeded with them here.
    """
    torch.manual_seed(seed_of(seed, "batch", "", positions.start))
    images, targets = [], []
    for position in positions:
        image, target = FLIP(*mixture.draw(seed, position).on(device))
        images.append(v2.functional.to_dtype(image, torch.float32, scale=True).as_subclass(Tensor))
        targets.append({name: value.as_subclass(Tensor) for name, value in target.items()})
    return images, targets
