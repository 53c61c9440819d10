"""A folder of cut-outs as a collection: PNGs with an alpha channel, which is the outline.

DIR/person/*.png    folders called as a class, or as objects.yaml says
DIR/objects.yaml    optional: for a folder whose places, label or height (metres) are its own

    cone:
      places: person          # class whose places it takes; default: that of the folder's name
      label: dynamic          # official label in the maps; default: that of the folder's name
      height: [0.3, 0.75]     # metres, min and max; default: as high as the class

`scripts.cutouts` writes the instances of a data set as such a folder. What it knows of an instance (`Origin`)
and what of the outline of a rider is the two-wheeler's is kept in the PNG itself; any other file will do too.
Other files right below DIR are not looked at.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from augment.compose import one_piece
from augment.paint.collection import Kind, Shelf, Table, grid_of, shelf_of_rows
from augment.paint.cutout import Cutout, ridden_part
from augment.paint.registration import continue_texture
from data.geometry import hull_of, is_thing
from data.images import note_of, pixels_of, png_of
from data.instances import TWO_WHEELERS
from data.labels import FIRST_SINGLE_ID, TARGET_CLASSES
from data.writer import encode_png
from support.errors import InputError
from support.files import digest, listed, read_bytes
from support.settings import read_yaml

OBJECTS = "objects.yaml"
SHEETS = "contact_sheets"  # folder of no kind
LONGEST = 1024  # longer side of a cut-out, pixels; larger ones are reduced when they are shown
MIN_AREA = 100  # pixels inside the outline; smaller ones are not worth showing
MAX_METRES = 20.0
LABELS = tuple(
    name for name, label in name2label.items() if label.id >= 0 and is_thing(np.array(label.id))
) + ("static", "dynamic")
_NOTE = "cutout"  # name of the text in a PNG that holds its origin
_RIDDEN = "ridden"  # of a rider's that says which pixels are the two-wheeler's
# The light of a cut-out of which nothing is known: mid-grey, which cameras expose for.
_USUAL_LIGHT = np.float32([50, 0, 0])
_OPAQUE = 250  # alpha from which a pixel shows nothing of what was behind the object
_WANTED = "a cut-out is a PNG with an alpha channel (8-bit RGBA)"


@dataclass(frozen=True)
class Origin:
    """Where a cut-out stood; nothing of it for files that people add."""

    frame: str = ""
    instance_id: int = 0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)  # x0, y0, x1, y1 (half-open) in its frame, pixels
    frame_size: tuple[int, int] = (0, 0)  # width and height of its frame, pixels
    camera: tuple[float, ...] | None = None  # fx, u0, fy and row of the horizon, pixels
    light: tuple[float, ...] | None = None  # `light_around` it, Lab


class CutoutFolder:
    """The cut-outs of a folder, a `Collection`. Can be pickled; files are read when they are shown."""

    def __init__(
        self, root: Path, files: tuple[str, ...], kinds: tuple[Kind, ...], table: Table, digest: str
    ):
        """files: one for each row of the table, below the root; digest: of all that is in the folder."""
        self.root, self.files, self.kinds, self.table, self.digest = root, files, kinds, table, digest
        self.shelf = cache(self._shelf)  # by the name of a kind
        self.cutout = lru_cache(16)(self._cutout)  # by row

    def __reduce__(self) -> tuple:
        return CutoutFolder, (self.root, self.files, self.kinds, self.table, self.digest)

    def _shelf(self, name: str) -> Shelf:
        rows = [row for row, file in enumerate(self.files) if file.startswith(f"{name}/")]
        return shelf_of_rows(self.table, np.array(rows, int), [self.files[row] for row in rows])

    def _cutout(self, row: int) -> Cutout:
        path = self.root / self.files[row]
        light = self.table.known_light(row)
        return opened(path, read_bytes(path)).cutout(_USUAL_LIGHT if light is None else light)


def read_folder(root: Path, map_function: Callable = map) -> CutoutFolder:
    """The cut-outs of a folder, each looked at once.

    map_function may show progress. Raises InputError, naming the file, for the first thing that is wrong.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"--cutouts {root}: no such folder")
    folders = [path.name for path in listed(root, "*") if path.is_dir() and path.name != SHEETS]
    kinds = read_kinds(root, folders)
    paths = [path for kind in kinds for path in listed(root / kind.name, "*")]
    if not paths:
        raise InputError(
            f"--cutouts {root}: holds no cut-outs; put PNGs into folders called by their class, such as"
            f" {root}/person"
        )
    found = list(map_function(measure, paths))
    files = tuple(str(path.relative_to(root)) for path in paths)
    about = [[kind.name, kind.places, kind.label, kind.height] for kind in kinds]
    contents = [[file, sha] for file, (_, sha) in zip(files, found, strict=True)]
    state = digest(json.dumps([about, contents]).encode())
    return CutoutFolder(root, files, kinds, table_of([row for row, _ in found]), state)


def folder_of_one(
    path: Path, classes: Iterable[str], label: str = "", height: tuple[float, float] | None = None
) -> CutoutFolder:
    """One cut-out, the only one in its folder, that takes the places of any of these classes.

    label: its official label, by default that of the class whose place it takes; height: metres, min and max.
    Raises InputError, naming the file, for what is no cut-out.
    """
    row, state = measure(path)
    name = path.parent.name
    kinds = tuple(Kind(name, places, label or places, height) for places in classes)
    return CutoutFolder(path.parent.parent, (f"{name}/{path.name}",), kinds, table_of([row]), state)


def table_of(rows: list[tuple]) -> Table:
    """Rows, in the order of the columns, as a table."""
    return Table(*(np.array(column) for column in zip(*rows, strict=True)))


# ---- objects.yaml -------------------------------------------------------------------------------


def read_kinds(root: Path, folders: list[str]) -> tuple[Kind, ...]:
    """What the folders hold, by their names. Raises InputError for unknown ones and bad settings."""
    path = root / OBJECTS
    said = {}
    if path.exists():
        what = "a folder's name on each line, and below it places, label or height"
        said = read_yaml(path, what, flag="", may_be_empty=True)
    if others := [name for name in said if not isinstance(name, str)]:
        raise InputError(f"{path}: {others[0]} is read as no text; write a folder's name in quotes")
    if absent := sorted(name for name in said if name not in folders):
        raise InputError(
            f"{path}: {absent[0]}: there is no folder {root / absent[0]}; make it, or remove that entry"
        )
    return tuple(_kind(path, name, said.get(name)) for name in folders)


def _kind(path: Path, name: str, about) -> Kind:
    about = {} if about is None else about
    if not isinstance(about, dict) or (unknown := about.keys() - {"places", "label", "height"}):
        wrong = f"unknown {sorted(map(str, unknown))[0]}" if isinstance(about, dict) else "is no mapping"
        raise InputError(f"{path}: {name}: {wrong}; a folder has places, label and height")
    places, label = about.get("places", name), about.get("label", name)
    if not isinstance(places, str) or places not in TARGET_CLASSES:
        if "places" in about:
            raise InputError(f"{path}: {name}: places {places!r}: choose {', '.join(TARGET_CLASSES)}")
        raise InputError(
            f"{path.parent / name}: {name} is no class ({', '.join(TARGET_CLASSES)}); rename the folder, or"
            f" say in {path} whose places it takes and which label it has"
        )
    if not isinstance(label, str) or label not in LABELS:
        raise InputError(f"{path}: {name}: label {label!r}: choose {', '.join(LABELS)}")
    height = about.get("height")
    if height is not None:
        numbers = height if isinstance(height, list) else []
        good = len(numbers) == 2 and all(type(one) in (int, float) for one in numbers)
        if not good or not 0 < numbers[0] <= numbers[1] <= MAX_METRES:
            raise InputError(
                f"{path}: {name}: height {height!r}: must be [MIN, MAX] in metres, 0 < MIN <= MAX <="
                f" {MAX_METRES:g}"
            )
        height = float(numbers[0]), float(numbers[1])
    return Kind(name, places, label, height)


# ---- one file -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """A cut-out as its file has it, cut to its box, reduced if it is large."""

    rgb: np.ndarray  # (h,w,3) uint8
    outline: np.ndarray  # (h,w) bool, one piece
    own: np.ndarray  # (h,w) bool, pixels that show nothing of what was behind it
    origin: Origin
    ridden_id: int = 0  # instance id of the two-wheeler that a rider is shown with, where it stood
    ridden: np.ndarray | None = None  # (h,w) bool, what of the outline is the two-wheeler's

    def cutout(self, light: np.ndarray) -> Cutout:
        """To be put somewhere, its colours continued beyond its outline."""
        colours = continue_texture(self.rgb, self.own)
        return Cutout(colours, np.uint8(self.outline) * 255, light, self.ridden)

    def row(self) -> tuple:
        """What is known of it, in the order of `Table`; of a rider with a two-wheeler that of the rider."""
        origin, outline = self.origin, self.outline
        if self.ridden is not None:
            outline = self.outline & ~self.ridden
            x, y, w, h = cv2.boundingRect(outline.view(np.uint8))
            outline = outline[y : y + h, x : x + w]
        h, w = outline.shape
        x0, y0, x1, y1 = origin.box
        return (
            origin.frame,
            np.int32(origin.instance_id),
            np.int32([w, h]),
            np.float32((x1 - x0) / (y1 - y0) if origin.frame else w / h),
            np.float32(np.count_nonzero(outline) / np.count_nonzero(hull_of(outline))),
            np.float32(0),
            np.zeros(4, bool),
            np.bool_(True),
            np.int32(origin.box),
            np.int32(origin.frame_size),
            np.float32([math.nan] * 4 if origin.camera is None else origin.camera),
            np.float32([math.nan] * 3 if origin.light is None else origin.light),
            np.packbits(grid_of(outline)),
            np.int32(self.ridden_id),
        )


def measure(path: Path) -> tuple[tuple, str]:
    """A row of `Table` and the digest of a file. Raises InputError, naming it, for what is no cut-out."""
    if not path.is_file():
        raise InputError(f"{path}: is no file; put the cut-outs right into {path.parent}")
    content = read_bytes(path)
    return opened(path, content).row(), digest(content)


def opened(path: Path, content: bytes) -> Opened:
    """The cut-out in a file's content. Raises InputError, naming `path`, for what is none."""
    png = png_of(path, content, _WANTED, "save it so, or remove it")
    if png.animated:
        raise InputError(f"{path}: an animated PNG; save one image of it")
    if png.kind != "8-bit RGBA":
        raise InputError(f"{path}: {png}, but {_WANTED}; save it so, or remove it")
    rgba = pixels_of(path, content, png)
    alpha = rgba[..., 3]
    outline = one_piece(alpha >= 128)
    area = np.count_nonzero(outline)
    if area < MIN_AREA:
        raise InputError(
            f"{path}: only {area} connected pixels have an alpha of 128 or more, {MIN_AREA} are needed;"
            " remove it"
        )
    if (alpha == 255).all():
        raise InputError(f"{path}: its alpha is opaque everywhere, so it has no outline; cut the object out")
    x, y, w, h = cv2.boundingRect(outline.view(np.uint8))
    window = np.s_[y : y + h, x : x + w]
    rgb, outline, solid = rgba[window][..., :3], outline[window], (alpha >= 128)[window] & outline[window]
    own = (alpha[window] >= _OPAQUE) & outline
    own = own if own.any() else solid
    ridden_id, ridden = _ridden(path, content, alpha.shape)
    ridden = None if ridden is None else ridden[window]
    if max(w, h) > LONGEST:
        rgb, outline, own, ridden = _reduced(rgb, outline, own, ridden, LONGEST / max(w, h))
    if ridden is not None:
        ridden = ridden_part(outline, ~ridden)
        if (ridden == outline).all():
            raise _damaged(path, _RIDDEN)
    return Opened(np.ascontiguousarray(rgb), outline, own, _origin(path, content), ridden_id, ridden)


def _reduced(
    rgb: np.ndarray, outline: np.ndarray, own: np.ndarray, ridden: np.ndarray | None, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """The same at another size; a pixel is the mean of the object's own ones in it."""
    h, w = outline.shape
    size = max(1, round(w * scale)), max(1, round(h * scale))
    weight = cv2.resize(own.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(rgb * own[..., None].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    covered = cv2.resize(np.uint8(outline) * 255, size, interpolation=cv2.INTER_AREA)
    colours = np.uint8(total / np.maximum(weight, 1e-6)[..., None] + 0.5)
    if ridden is not None:
        ridden = cv2.resize(np.uint8(ridden) * 255, size, interpolation=cv2.INTER_AREA) >= 128
    return colours, one_piece(covered >= 128), weight >= 0.5, ridden


def _origin(path: Path, content: bytes) -> Origin:
    """Where it stood, as far as the file tells."""
    note = note_of(path, content, _NOTE)
    if note is None:
        return Origin()
    try:
        origin = Origin(**json.loads(note))
        lengths = [4, 2] + [4] * (origin.camera is not None) + [3] * (origin.light is not None)
        numbers = [origin.box, origin.frame_size, *(one for one in (origin.camera, origin.light) if one)]
        good = [len(one) for one in numbers] == lengths and isinstance(origin.frame, str)
        good = good and all(
            math.isfinite(number) for one in (*numbers, [origin.instance_id]) for number in one
        )
        x0, y0, x1, y1 = origin.box
        if good and x0 < x1 and y0 < y1 and min(origin.frame_size) > 0:
            return origin
    except (ValueError, TypeError):
        pass
    raise _damaged(path, _NOTE)


def _ridden(path: Path, content: bytes, shape: tuple[int, int]) -> tuple[int, np.ndarray | None]:
    """Instance id and pixels, of the file's shape (h,w) bool, of the two-wheeler that a rider is shown with.

    As the file tells; 0 and None: of none.
    """
    note = note_of(path, content, _RIDDEN)
    if note is None:
        return 0, None
    try:
        about = json.loads(note)
        instance_id, runs = about["instance_id"], about["runs"]
        numbers = [instance_id, *runs]
        good = all(type(one) is int and 0 <= one < 2**31 for one in numbers) and sum(runs) == math.prod(shape)
        if good and instance_id // FIRST_SINGLE_ID in TWO_WHEELERS:
            return instance_id, np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape)
    except (ValueError, TypeError, KeyError):
        pass
    raise _damaged(path, _RIDDEN)


def _damaged(path: Path, text: str) -> InputError:
    return InputError(f"{path}: its text '{text}' is damaged; save it without texts")


def png_of_cutout(cutout: Cutout, origin: Origin, ridden_id: int) -> bytes:
    """A cut-out and where it stood as the file that `opened` reads; ridden_id: of a rider's two-wheeler."""
    notes = {_NOTE: json.dumps(asdict(origin))}
    if cutout.ridden is not None:  # row by row: how many pixels are not the two-wheeler's, are, are not, ...
        changes = np.flatnonzero(np.diff(cutout.ridden.ravel(), prepend=False, append=False))
        runs = np.diff(changes, prepend=0, append=cutout.ridden.size)
        notes[_RIDDEN] = json.dumps({"instance_id": ridden_id, "runs": runs.tolist()})
    return encode_png(np.dstack([cutout.rgb, cutout.alpha]), notes)
