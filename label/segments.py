"""Segments of a picture of what a segmenter says of it: masks with a class each, or a class for each pixel.

Masks are merged as the authors of Mask2Former do it: at the size of the picture each pixel goes to the mask
that is surest of it, and a mask that loses more than a fifth of its pixels to others is left out.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch

from convert.source import Segments

Enlarge = Callable[[torch.Tensor], torch.Tensor]  # a map (h,w) of the network at the picture's size (H,W)

MIN_SCORE = 0.8  # of the class of a mask
MIN_LEFT = 0.8  # of the pixels of a mask must be left to it
MIN_PIECE = 1 / 20000  # of the picture; smaller pieces of a class are no instances but a group


def of_masks(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, enlarge: Enlarge, left_out: frozenset[int]
) -> Segments:
    """Segments of masks, each of which is an instance where its class has instances.

    class_logits (Q,C+1), the last for no object; mask_logits (Q,h,w). Classes `left_out` don't take part:
    their pixels go to the next mask, if there is one. Pixels of no mask are void, 0.
    """
    scores, classes = class_logits.softmax(-1).max(-1)
    nothing = class_logits.shape[-1] - 1
    kept = [
        query
        for query, (score, number) in enumerate(zip(scores.tolist(), classes.tolist(), strict=True))
        if number != nothing and number not in left_out and score > MIN_SCORE
    ]
    best, owner, inside = None, None, []
    for place, query in enumerate(kept, 1):
        probability = enlarge(mask_logits[query]).sigmoid()
        inside.append(probability >= 0.5)
        weighted = scores[query] * probability
        if best is None:
            best, owner = weighted, torch.ones_like(weighted, dtype=torch.int32)
        else:
            owner = torch.where(weighted > best, place, owner)
            best = torch.maximum(weighted, best)
    if owner is None:
        return Segments(np.zeros(enlarge(mask_logits[0]).shape, np.int32), {})
    keys, of_key = torch.zeros_like(owner), {}
    for place, (query, within) in enumerate(zip(kept, inside, strict=True), 1):
        seen = within & (owner == place)
        if 0 < int(seen.sum()) >= MIN_LEFT * int(within.sum()):
            keys[seen] = place
            of_key[place] = (int(classes[query]), True)
    return Segments(keys.cpu().numpy(), of_key)


def class_scores(class_logits: torch.Tensor, mask_logits: torch.Tensor) -> torch.Tensor:
    """Scores (C,h,w) of classes of masks, taken as a semantic output: see `of_masks`."""
    return torch.einsum("qc,qhw->chw", class_logits.softmax(-1)[:, :-1], mask_logits.sigmoid())


def likeliest(scores: torch.Tensor, enlarge: Enlarge, left_out: frozenset[int]) -> np.ndarray:
    """The class (H,W) int32 of each pixel, by scores (C,h,w); classes `left_out` don't take part."""
    best, owner = None, None
    for number, score in enumerate(scores):
        if number in left_out:
            continue
        here = enlarge(score)
        if best is None:
            best, owner = here, torch.full_like(here, number, dtype=torch.int32)
        else:
            owner = torch.where(here > best, number, owner)
            best = torch.maximum(here, best)
    return owner.cpu().numpy()


def of_classes(classes: np.ndarray, things: frozenset[int]) -> Segments:
    """Segments of a map of classes (H,W) int32; of `things` each connected piece is an instance.

    Pieces touch at edges or corners. Small ones are a group, which is told apart no further.
    """
    keys = classes + 1
    of_key = {int(key): (int(key) - 1, False) for key in np.unique(keys)}
    free = max(of_key) + 1
    for number in sorted(things & {number for number, _ in of_key.values()}):
        mask = (classes == number).view(np.uint8)
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        single = stats[:, cv2.CC_STAT_AREA] >= MIN_PIECE * classes.size
        single[0] = False
        values = np.where(single, free + np.cumsum(single) - 1, 0)[pieces]
        keys = np.where(values > 0, values, keys)
        new = range(free, free + int(single.sum()))
        of_key |= dict.fromkeys(new, (number, True))
        free = new.stop
    return Segments(keys.astype(np.int32), of_key)
