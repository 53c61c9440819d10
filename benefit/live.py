"""New objects in every epoch: the transform `InsertInstances` on frames, each time they are drawn."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors

from data.camera import Camera
from data.labels import FIRST_SINGLE_ID
from insertion import InsertInstances, make_bank, thing_masks
from segment.samples import TrainingFrame, frames_of, sample_of


class LiveFrames(Sequence):
    """The frames of a split with new persons; which, follows from torch's generator."""

    def __init__(
        self,
        tree: Path,
        split: str,
        model: str | Path,
        render: str,
        bank: Path,
        per_image: tuple[int, int],
        seed: int,
        size: tuple[int, int],
    ):
        """model: checkpoint of the model of places and shapes; render: how new persons are painted.

        bank: file of the instances that they show; size: width and height of the samples.
        """
        self.frames, self.size = frames_of(str(tree), split, "--data"), size
        bank.parent.mkdir(parents=True, exist_ok=True)
        bank = make_bank(tree, split, bank)
        self.insert = InsertInstances(model, per_image, 1.0, render, bank, seed=seed)
        self.read = cache(self._read)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> TrainingFrame:
        rgb, instance_ids, label_ids, camera = self.read(index)
        masks, labels = thing_masks(instance_ids)
        target = {"masks": masks, "labels": labels, "semantic": label_ids, "camera": camera}
        image, target = self.insert(tv_tensors.Image(torch.from_numpy(rgb).permute(2, 0, 1)), target)
        ids = instance_map(target["masks"], target["labels"])
        return sample_of(np.ascontiguousarray(image.permute(1, 2, 0)), ids, self.size)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Camera | None]:
        frame = self.frames[index]
        label_ids, instance_ids = frame.read_maps()
        camera = frame.camera(label_ids.shape[1], label_ids.shape[0], "auto")
        return frame.read_image(label_ids.shape), instance_ids, label_ids, camera


def instance_map(masks: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """The instance map (H,W) uint16 of masks (N,H,W) that do not overlap, with label ids (N,)."""
    ids = np.zeros(masks.shape[1:], np.uint16)
    for number, (mask, label) in enumerate(zip(masks.numpy(), labels.tolist(), strict=True)):
        ids[mask] = label * FIRST_SINGLE_ID + number
    return ids
