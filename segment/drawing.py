"""What a segmenter sees, drawn on the images: masks in the colours of their classes, boxes, scores."""

import numpy as np
import torch
from cityscapesscripts.helpers.labels import name2label
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from segment.samples import CLASSES

MIN_SCORE = 0.5  # of what is drawn


def sheet(images: list[Tensor], seen: list[dict[str, Tensor]]) -> np.ndarray:
    """Images (3,h,w) uint8 with what `detect` saw on them, two in a row: (H,W,3) uint8."""
    drawn = []
    for image, one in zip(images, seen, strict=True):
        sure = one["scores"] >= MIN_SCORE
        names = [CLASSES[number] for number in one["labels"][sure].tolist()]
        colours = [name2label[name].color for name in names]
        rgb = image.cpu()
        if names:
            rgb = draw_segmentation_masks(rgb, one["masks"][sure].cpu(), alpha=0.5, colors=colours)
            captions = [
                f"{name} {score:.2f}" for name, score in zip(names, one["scores"][sure].tolist(), strict=True)
            ]
            rgb = draw_bounding_boxes(rgb, one["boxes"][sure].cpu(), captions, colours)
        drawn.append(rgb)
    return make_grid(torch.stack(drawn), nrow=2, padding=2).permute(1, 2, 0).numpy()
