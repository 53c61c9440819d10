"""Copy-paste without a model: persons of the data set, as they are, on other images of it.

Two ways: `copy_paste` is Simple Copy-Paste (Ghiasi et al. 2021): any persons, as far as they are seen,
randomly flipped and scaled, anywhere, in front of everything, with smooth edges and nothing else done to the
pixels. `prior` paints as `--render cutout` does, where the person stands in its own image, whatever is there
in the other. No filter asks whether that is plausible; an object only has to be seen.
"""

from functools import partial
from pathlib import Path

import numpy as np

from augment.paint.choosing import Choice
from augment.paint.cutout import Placed, place
from augment.paint.painter import NewObject, Painter, Rendering, Shown
from augment.placement.filters import Filters
from augment.placement.plan import plan
from augment.placement.scene import EditedImage, contents, new_frame, read_image
from data.frame import list_frames
from engine.records import write_outputs
from support.errors import InputError
from support.seeds import generator

METHODS = ("prior", "copy_paste")
CLASS = "person"
ATTEMPTS = 20  # persons tried for each object
SCALES = (0.8, 1.25)  # of the size of a pasted person: the standard jitter of Simple Copy-Paste
FILTERS = Filters(rules=("visible",), may_hide=True, min_visible=1)  # only what is hidden altogether vanishes


def paste_tree(
    method: str, db_root: Path, split: str, out: Path, bank: Path, per_image: tuple[int, int], seed: int
) -> int:
    """Write a tree with pasted persons below `out`; how many there are. bank: file of the instances.

    Deterministic in (method, seed, name of the frame). Raises InputError for a bad tree and for one with
    persons on fewer than two frames.
    """
    frames = list_frames(db_root, split)
    rendering = Rendering("cutout", db_root=str(db_root), split=split, bank=str(bank))
    rendering.prepare(map)
    painter = Painter(rendering, seed)
    painter.load()
    (bank,) = painter.collections
    if len(set(bank.table.frame[bank.table.rows_of(CLASS)])) < 2:
        raise InputError(f"{db_root}: persons on fewer than two frames, nothing to paste; take more scenes")
    pasted, planned = 0, plan([frame.name for frame in frames], {CLASS: 1}, seed, per_image)
    for frame, classes in zip(frames, planned, strict=True):
        image = read_image(frame, rgb=True)
        for number in range(1, len(classes) + 1):
            pasted += paste_one(image, method, generator(seed, frame.name, number, method), painter)
        write_outputs(out, contents(image, frame, new_frame(frame, out, split, beside=False)))
    return pasted


def paste_one(image: EditedImage, method: str, rng: np.random.Generator, painter: Painter) -> bool:
    """Put one person on an image, if one of ATTEMPTS can be seen there; whether it was.

    Drawn among those of other images that this one does not show yet; for `prior` among those that a cut-out
    may show, which nothing cuts or covers.
    """
    (bank,) = painter.collections
    table, shelf, (height, width) = bank.table, bank.shelf(CLASS), image.feet.shape
    kind = next(kind for kind in bank.kinds if kind.name == CLASS)
    fit = (table.frame[shelf.rows] != image.name) & ~np.isin(shelf.keys, list(image.shown))
    fit &= table.whole[shelf.rows] | (method == "copy_paste")
    for _ in range(ATTEMPTS if fit.any() and image.new_id(CLASS) is not None else 0):
        one = rng.choice(np.flatnonzero(fit))
        row, key, mirrored = int(shelf.rows[one]), str(shelf.keys[one]), False
        box = table.box[row] * np.tile((width, height) / table.frame_size[row], 2)
        if method == "copy_paste":
            mirrored = bool(rng.random() < 0.5)
            size = (box[2:] - box[:2]) * np.exp(rng.uniform(*np.log(SCALES)))
            size = np.minimum(size, (width, height))
            corner = rng.uniform((0, 0), (width, height) - size)
            box = np.concatenate([corner, corner + size])
            image.feet[:] = 0  # nothing stands in front of what is pasted
        x0, y0, x1, y1 = box
        placed = place(bank.cutout(row), ((x0 + x1) / 2, y1), y1 - y0, mirrored, (width, height))
        shown = Shown(Choice(row, key, mirrored), kind, placed)
        paint = partial(painter.paste, shown) if method == "prior" else partial(paste_plainly, shown.placed)
        if image.put(CLASS, shown.placed.patch, FILTERS, paint)[0] is None:
            image.shown[key] = shown
            return True
    return False


def paste_plainly(placed: Placed, rgb: np.ndarray, new: NewObject) -> tuple[np.ndarray, dict]:
    """A copy of an image (H,W,3) uint8 with a cut-out on it, as it is; no facts for a manifest."""
    alpha, window, painted = placed.alpha[..., None], placed.patch.window, rgb.copy()
    painted[window] = np.uint8(alpha * placed.rgb + (1 - alpha) * rgb[window] + 0.5)
    return painted, {}
