"""swap: another instance of the class, cut from the training images and fitted into the mask.

Three steps for a sample: choose among the best-fitting instances of the bank; bring the chosen one's
silhouette onto the mask, boxes first and then by a smooth displacement; give it the light of its new place.
The mask is what the annotation says, so every pixel of it is covered: where the fitted instance ends short
of it, its own texture is continued.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from augment.paint.backends import CannotFillError, Request
from augment.paint.bank import Bank, Limits, build_bank, open_bank
from augment.paint.blend import light_around, relit, resize
from augment.paint.collection import PARTS, grid_of
from augment.paint.registration import continue_texture, displacement
from support.settings import setting

VERSION = "3"

# What makes an instance unfit, in units of the intersection over union of the two shapes.
_ASPECT = 0.6  # for each factor e between the aspects of the boxes
_COVERED = 2.0  # for an outline wholly taken by things in front
_HOLLOW = 0.3  # for a solidity of 0
_CUT = 0.25  # for each side where the frame cuts the instance off but not the object
_PART = 0.22  # for showing a part of an instance, unless the frame cuts the object off there
_ENLARGED = 0.4  # for each factor 2 of enlargement
_LIGHT = 0.4  # for a difference of 50 in L around the two
_TWIN = 0.3  # for standing in the same frame, where both would be seen
_NOT_DEALT = 2.0  # for being another object's: see `Request.deal`
_FAR_TOO_SMALL = 10.0  # beyond `max_enlargement`: only if there is nothing else
_HANDS = 6  # parts in which an image deals the instances of a class out, another part to each object
_TEMPERATURE = 0.06  # of the draw: a fit worse by this much is drawn e times less often

_RIM_FRACTION = 0.004  # outline of an annotated instance that is half background, in parts of h + w
_JOIN_SIZE = 160  # longer side of a mask at which its parts are joined, pixels


@dataclass(frozen=True)
class SwapSettings:
    """The settings of `swap`."""

    bank: str = setting("", "file of the bank; none: cache/swap-SPLIT-HASH.npz")
    choices: int = setting(8, "instances among which the seed chooses", min=1)
    max_enlargement: float = setting(1.5, "of an instance, while there is any that needs less", above=0)
    per_class: int = setting(Limits.per_class, "instances that the bank keeps of a class", min=1)
    longest: int = setting(Limits.longest, "longer side of a kept image, pixels", min=1)


@dataclass(frozen=True)
class ShownPart:
    """An instance of the bank as a sample shows it."""

    row: int
    part: tuple[float, float, float, float]  # one of PARTS
    mirrored: bool

    def cut(self, rgb: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of the instance's image (h,w,3) and mask (h,w), mirrored if it is to be."""
        h, w = mask.shape
        x0, y0, x1, y1 = np.rint(np.array(self.part) * (w, h, w, h)).astype(int)
        step = -1 if self.mirrored else 1
        return rgb[y0:y1, x0:x1][:, ::step], mask[y0:y1, x0:x1][:, ::step]


class Swap:
    """See the module. Samples of a request are different instances as long as there are enough."""

    def __init__(self, name: str, settings: SwapSettings, db_root: Path | None, split: str):
        self.name, self.version, self.settings = name, VERSION, settings
        self.details = {"params": dataclasses.asdict(settings) | {"bank": None}}  # it decides no pixel
        if db_root is None:
            self.bank = open_bank(Path(settings.bank))
        else:
            self.bank = self.prepare(settings, db_root, split, map)

    @staticmethod
    def defaults(name: str) -> SwapSettings:
        return SwapSettings()

    @staticmethod
    def prepare(settings: SwapSettings, db_root: Path, split: str, map_function: Callable) -> Bank:
        """The bank, made first if it is missing or the data have changed."""
        key = hashlib.blake2b(os.fsencode(db_root.resolve()), digest_size=4).hexdigest()
        path = Path(settings.bank or f"cache/swap-{split}-{key}.npz")
        return build_bank(db_root, split, path, map_function, Limits(settings.per_class, settings.longest))

    def fill(self, request: Request) -> list[np.ndarray]:
        """See `Backend`. CannotFillError if the bank has no other instance of the class."""
        x, y, w, h = cv2.boundingRect(request.mask.view(np.uint8))
        window = np.s_[y : y + h, x : x + w]
        mask = np.ascontiguousarray(request.mask[window])
        whole = _joined(mask)
        light = light_around(request.rgb, request.mask)
        choices = self.choose(request, whole, (x, y), light)
        images = []
        for sample in range(request.count):
            choice = choices[sample % len(choices)]
            rgb, source_mask = choice.cut(*self.bank.image(choice.row))
            fitted = fit_into(rgb, source_mask, whole)
            fitted = relit(fitted, self.bank.table.known_light(choice.row), light)
            image = request.rgb.copy()
            np.copyto(image[window], fitted, where=mask[..., None])
            images.append(image)
        return images

    def choose(
        self, request: Request, whole: np.ndarray, corner: tuple[int, int], light: np.ndarray | None
    ) -> list[ShownPart]:
        """What the samples show, in their order; at least one."""
        table, shelf = self.bank.table, self.bank.shelf(request.class_name)
        other = np.flatnonzero(shelf.keys != request.source)
        rows = shelf.rows[other]
        if not len(rows):
            raise CannotFillError(f"swap: the data set shows no other {request.class_name}")
        h, w = whole.shape
        wanted = grid_of(whole)
        overlaps = [shelf.overlaps(mask)[:, other] for mask in (wanted, wanted[:, ::-1])]
        x, y = corner
        height, width = request.mask.shape
        cut = np.array([x == 0, y == 0, x + w == width, y + h == height])
        cost = _COVERED * table.covered[rows] + _HOLLOW * (1 - table.solidity[rows])
        cost += _TWIN * (table.frame[rows] == request.source.split("/")[0])
        if request.deal is not None:
            seed, new_object = request.deal
            hands = min(_HANDS, len(shelf.rows))
            dealt = np.random.default_rng(seed).permutation(len(shelf.rows)) % hands
            cost += _NOT_DEALT * (dealt[other] != new_object % hands)
        if light is not None:
            cost += _LIGHT * np.nan_to_num(np.abs(table.light[rows, 0] - light[0])) / 50
        costs = np.empty((2, len(PARTS), len(rows)), np.float32)
        for number, part in enumerate(PARTS):
            columns, lines = part[2] - part[0], part[3] - part[1]
            size = table.size[rows] * (columns, lines)
            enlarged = np.maximum(w / size[:, 0], h / size[:, 1])
            of_part = cost + _ASPECT * np.abs(np.log(table.aspect[rows] * columns / lines * h / w))
            of_part += _ENLARGED * np.log2(np.maximum(enlarged, 1))
            of_part += np.where(enlarged > self.settings.max_enlargement, _FAR_TOO_SMALL, 0)
            lacking = np.array([part[0] > 0, part[1] > 0, part[2] < 1, part[3] < 1])
            for mirrored in (0, 1):
                sides = cut[[2, 1, 0, 3]] if mirrored else cut
                beyond = _CUT * (table.cut[rows] & ~sides).sum(1) + _PART * (lacking & ~sides).sum()
                costs[mirrored, number] = of_part + beyond - overlaps[mirrored][number]
        costs = costs.reshape(-1, len(rows))
        variant = costs.argmin(0)
        best = costs.min(0)
        order = np.argsort(best, kind="stable")[: self.settings.choices]
        noise = request.generator(-1).gumbel(size=len(order))
        order = order[np.argsort(best[order] / _TEMPERATURE - noise, kind="stable")]
        return [
            ShownPart(int(rows[one]), PARTS[variant[one] % len(PARTS)], bool(variant[one] >= len(PARTS)))
            for one in order
        ]


def _joined(mask: np.ndarray) -> np.ndarray:
    """A mask (h,w) bool with its parts joined and gaps closed: what would be seen without a pole before it.

    Geometry is done on it; only pixels of the mask itself are taken from the result.
    """
    h, w = mask.shape
    scale = min(1.0, _JOIN_SIZE / max(h, w))
    size = max(1, round(w * scale)), max(1, round(h * scale))
    small = np.uint8(cv2.resize(mask.view(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) >= 128)
    reach = max(1, round(0.06 * min(size)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    padded = cv2.copyMakeBorder(small, *(reach,) * 4, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[reach:-reach, reach:-reach]
    return mask | (cv2.resize(closed * 255, (w, h), interpolation=cv2.INTER_LINEAR) >= 128)


def fit_into(rgb: np.ndarray, mask: np.ndarray, target: np.ndarray) -> np.ndarray:
    """An instance brought onto another silhouette: (h,w,3) uint8, all pixels of it the instance's own.

    rgb (a,b,3) uint8 and mask (a,b) bool: the instance, cut to its box; target (h,w) bool, cut to its box.
    Pixels of `rgb` outside `mask` leave no trace.
    """
    h, w = target.shape
    silhouette = cv2.resize(np.uint8(mask) * 255, (w, h), interpolation=cv2.INTER_AREA)
    if h * w < mask.size:  # averages over the instance's own pixels only
        own = cv2.resize(rgb * mask[..., None], (w, h), interpolation=cv2.INTER_AREA)
        fraction = np.maximum(silhouette, 1)[..., None] / np.float32(255)
        image = continued(np.uint8(np.minimum(own / fraction + 0.5, 255)), silhouette >= 128)
    else:
        image = resize(continued(rgb, mask), w, h)
    moved = displacement(silhouette >= 128, target)
    if moved is None:
        return image
    columns, rows = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    columns += moved[..., 0]
    rows += moved[..., 1]
    return cv2.remap(image, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def continued(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image (h,w,3) uint8 with the texture of its instance, mask (h,w) bool, continued all over it."""
    h, w = mask.shape
    reach = min(2, round(_RIM_FRACTION * (h + w)))
    known = mask
    if reach:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
        eroded = cv2.erode(np.uint8(mask), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        if eroded.sum() > 0.5 * mask.sum():
            known = eroded
    return continue_texture(rgb, known)
