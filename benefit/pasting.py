"""Copy-paste without a model: persons of the data set, put on other images of it by the same painter.

Two ways to choose the place: `prior`, the box where the person stands in its own image, whatever is there
in the other; `copy_paste`, anywhere, with a random flip and size (Simple Copy-Paste). No filter asks whether
that is plausible; an object only has to be seen.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from augment.compose import place_mask
from augment.paint.painter import Painter, Rendering
from augment.placement.filters import Filters
from augment.placement.plan import plan
from augment.placement.scene import EditedImage, contents, new_frame, read_image
from data.frame import Frame, list_frames
from data.instances import bounding_box
from data.labels import FIRST_SINGLE_ID, TARGET_CLASSES
from engine.records import write_outputs
from support.errors import InputError
from support.seeds import generator

METHODS = ("prior", "copy_paste")
CLASS = "person"
ATTEMPTS = 20  # persons tried for each object
SCALES = (0.8, 1.25)  # of the size of a pasted person
FILTERS = Filters(rules=("visible",), may_hide=True)


@dataclass(frozen=True)
class Donor:
    """A person of the data set, as far as it is seen."""

    frame: str  # name of its frame
    box: tuple[int, int, int, int]  # x0, y0, x1, y1, half-open, pixels
    mask: np.ndarray  # (h,w) bool


def paste_tree(
    method: str, db_root: Path, split: str, out: Path, per_image: tuple[int, int], seed: int
) -> int:
    """Write a tree with pasted persons below `out`; how many there are.

    Deterministic in (method, seed, name of the frame). Raises InputError for a bad tree and for one with
    persons on fewer than two frames.
    """
    frames = list_frames(db_root, split)
    donors = [donor for frame in frames for donor in donors_of(frame)]
    if len({donor.frame for donor in donors}) < 2:
        raise InputError(f"{db_root}: persons on fewer than two frames, nothing to paste; take more scenes")
    rendering = Rendering("swap", db_root=str(db_root), split=split, bank=str(out / "bank.npz"))
    rendering.prepare(map)
    painter = Painter(rendering, seed)
    painter.load()
    pasted = 0
    for frame, classes in zip(
        frames, plan([frame.name for frame in frames], (CLASS,), seed, per_image), strict=True
    ):
        image = read_image(frame, rgb=True)
        others = [donor for donor in donors if donor.frame != frame.name]
        for number in range(1, len(classes) + 1):
            pasted += paste_one(image, others, method, generator(seed, frame.name, number, method), painter)
        write_outputs(out, contents(image, frame, new_frame(frame, out, split, beside=False)))
    return pasted


def donors_of(frame: Frame) -> list[Donor]:
    """The persons of a frame that are large enough to be seen elsewhere."""
    _, instance_ids = frame.read_maps()
    areas = np.bincount(instance_ids.ravel())
    found = []
    for value in np.flatnonzero(areas >= FILTERS.area_limit(instance_ids.size)).tolist():
        if value >= FIRST_SINGLE_ID and value // 1000 == TARGET_CLASSES[CLASS].label_id:
            mask = instance_ids == value
            x0, y0, x1, y1 = bounding_box(mask)
            found.append(Donor(frame.name, (x0, y0, x1 + 1, y1 + 1), mask[y0 : y1 + 1, x0 : x1 + 1]))
    return found


def paste_one(
    image: EditedImage, donors: list[Donor], method: str, rng: np.random.Generator, painter: Painter
) -> bool:
    """Put one person on an image, if one of ATTEMPTS can be seen there; whether it was."""
    height, width = image.label_ids.shape
    for _ in range(ATTEMPTS):
        donor = donors[int(rng.integers(len(donors)))]
        box, mask = np.array(donor.box, float), donor.mask
        if method == "copy_paste":
            if rng.random() < 0.5:
                mask = mask[:, ::-1]
            size = (box[2:] - box[:2]) * np.exp(rng.uniform(*np.log(SCALES)))
            size = np.minimum(size, (width, height))
            corner = rng.uniform((0, 0), (width, height) - size)
            box = np.concatenate([corner, corner + size])
        patch = place_mask(mask.astype(np.float64), box, width, height)
        if image.new_id(CLASS) is not None and image.put(CLASS, patch, FILTERS, painter.paint)[0] is None:
            return True
    return False
