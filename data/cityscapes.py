"""Reading Cityscapes fine annotation: listing, decoding, and everything that is computed from one image.

Pure functions on files and arrays; nothing here keeps state. `loader/cache.py` calls them
once for each image, `loader/pairs.py` makes the training batches.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from data.images import find_image, read_image, read_instance_map, read_label_map
from data.labels import (
    FIRST_SINGLE_ID,
    LABEL_OF_VALUE,
    LAST_ID,
    LICENSE_PLATE_ID,
    TRAIN_ID_OF_ID,
    TargetClass,
    conversion_needed,
    unknown_labels,
    without_void,
)
from support.errors import InputError, warn
from support.files import listed

TRUTH_KINDS = ("gtFine", "gtCoarse")  # folders of annotation, and what its files are called
LABEL_ENDING, INSTANCE_ENDING = "_labelIds.png", "_instanceIds.png"  # behind NAME_gtFine
VOID_FILE = "void.txt"  # in the folder of a data set: label ids that mean nothing
LABEL_SUFFIX, INSTANCE_SUFFIX = (f"_gtFine{ending}" for ending in (LABEL_ENDING, INSTANCE_ENDING))

LISTED_FILES = 20  # broken files named in one message
MAX_DISAGREEMENT = 0.01  # share of pixels where label and instance map may differ; in the real data it is 0


def name_some(items: list[str]) -> str:
    """The first few items, and how many more there are, on one line."""
    more = f"; and {len(items) - LISTED_FILES} more" if len(items) > LISTED_FILES else ""
    return "; ".join(items[:LISTED_FILES]) + more


# ---- files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """One annotated image of a split."""

    name: str  # e.g. aachen_000000_000019
    label_path: Path
    instance_path: Path

    @property
    def kind(self) -> str:
        """One of TRUTH_KINDS, by the name of its label map; gtFine for one that is named otherwise."""
        return TRUTH_KINDS[self.label_path.name.endswith(f"_{TRUTH_KINDS[1]}{LABEL_ENDING}")]

    @property
    def root(self) -> Path | None:
        """The folder of its data set; None for a map outside any."""
        folder = self.label_path.absolute().parent  # root/gtFine/split/city
        in_tree = len(folder.parents) > 2 and folder.parents[1].name in TRUTH_KINDS
        return folder.parents[2] if in_tree else None


def truth_kind(db_root: str | Path, split: str) -> str:
    """Where the annotation of a split lies, one of TRUTH_KINDS: gtCoarse if there is nothing else of it."""
    fine, coarse = (Path(db_root) / kind / split for kind in TRUTH_KINDS)
    return TRUTH_KINDS[coarse.is_dir() and not fine.is_dir()]


def list_frames(db_root: str | Path, split: str, *, skip_incomplete: bool = False) -> list[Frame]:
    """All frames of `db_root`/gtFine/`split` (or gtCoarse, see `truth_kind`), sorted by name.

    Raises InputError if a folder is missing or empty, if two cities share a file name, or if a frame has a
    label map without an instance map or the reverse (`skip_incomplete`: such frames are left out, with a
    warning).
    """
    folder, label_paths, instance_paths = _maps_of(db_root, split)
    incomplete = [
        *(f"{label_paths[name]} has no instance map" for name in sorted(label_paths.keys() - instance_paths)),
        *(f"{instance_paths[name]} has no label map" for name in sorted(instance_paths.keys() - label_paths)),
    ]
    if incomplete:
        found = f"{len(incomplete)} frames of {folder} are incomplete: {name_some(incomplete)}"
        if not skip_incomplete:
            raise InputError(f"{found}; add the missing files, or go on without them with --skip_bad_files")
        warn(f"{found}; left out")
    return [
        Frame(name, label_paths[name], instance_paths[name])
        for name in sorted(label_paths.keys() & instance_paths.keys())
    ]


def all_frames(db_root: str | Path, split: str) -> list[Frame]:
    """As `list_frames`, with those that lack one of the two maps, which their paths name all the same."""
    _, label_paths, instance_paths = _maps_of(db_root, split)
    suffixes = [f"_{truth_kind(db_root, split)}{ending}" for ending in (LABEL_ENDING, INSTANCE_ENDING)]
    frames = []
    for name in sorted(label_paths.keys() | instance_paths.keys()):
        folder = (label_paths.get(name) or instance_paths[name]).parent
        frames.append(Frame(name, *(folder / f"{name}{suffix}" for suffix in suffixes)))
    return frames


def _maps_of(db_root: str | Path, split: str) -> tuple[Path, dict[str, Path], dict[str, Path]]:
    """The folder of a split, its label maps and its instance maps by the names of their frames."""
    root, kind = Path(db_root), truth_kind(db_root, split)
    if not root.is_dir():
        raise InputError(f"db_root {root}: no such folder; set --db_root to the folder that holds gtFine/")
    if not (root / kind).is_dir():
        raise InputError(
            f"db_root {root}: has no folder gtFine/; unpack gtFine_trainvaltest.zip there, or set"
            " --db_root to the folder that holds gtFine/"
        )
    folder = root / kind / split
    if not folder.is_dir():
        present = ", ".join(path.name for path in listed(folder.parent, "*") if path.is_dir()) or "none"
        raise InputError(f"{folder}: no such split, only {present}; unpack gtFine_trainvaltest.zip again")
    label_paths, instance_paths = (_by_name(folder, f"_{kind}{e}") for e in (LABEL_ENDING, INSTANCE_ENDING))
    if not label_paths and not instance_paths:
        raise InputError(
            f"{folder}: holds no CITY/*_{kind}{LABEL_ENDING}; unpack gtFine_trainvaltest.zip there, or set"
            " another --db_root"
        )
    return folder, label_paths, instance_paths


def _by_name(folder: Path, suffix: str) -> dict[str, Path]:
    paths = {}
    for path in listed(folder, f"*/*{suffix}"):
        if any("\ud800" <= letter <= "\udfff" for letter in path.name):  # bytes that mean no letter
            raise InputError(
                f"{path}: its name is no text in the system's encoding; rename the frame's files"
            )
        other = paths.setdefault(path.name.removesuffix(suffix), path)
        if other is not path:
            raise InputError(f"{path}: the same name as {other}; rename one, names must be unique in a split")
    return paths


def path_in_tree(frame: Frame, kind: str, ending: str) -> Path | None:
    """Where a frame's file of the folder `kind` belongs, such as "camera", "_camera.json".

    None for a map that is in no tree.
    """
    city = frame.label_path.absolute().parent
    return frame.root and frame.root / kind / city.parent.name / city.name / (frame.name + ending)


def picture_path(frame: Frame) -> Path | None:
    """The RGB picture of a frame, a PNG or, if there is none, another kind; None: it has none."""
    path = path_in_tree(frame, "leftImg8bit", "_leftImg8bit.png")
    return path and find_image(path)


def read_picture(frame: Frame, shape: tuple[int, int]) -> np.ndarray:
    """A frame's RGB picture (H,W,3) uint8, of shape (H,W), that of its maps.

    Raises InputError, naming the file, if there is none, if it is bad, or of another size.
    """
    path = picture_path(frame)
    if path is None:
        raise InputError(f"{frame.label_path}: has no RGB picture in leftImg8bit/; put it there")
    return fitting(path, read_image(path), shape)


def fitting(path: Path, picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The picture (H,W,3). Raises InputError, naming `path` and both sizes, if its maps have another."""
    if picture.shape[:2] != shape:
        height, width = picture.shape[:2]
        raise InputError(
            f"{path}: has {width}x{height} pixels, but its maps {shape[1]}x{shape[0]}; take all from the same"
            " archive"
        )
    return picture


def read_maps(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """The label map (H,W) uint8, ids 0..33 or 255, and the instance map (H,W) uint16 of a frame.

    What the data set calls void (`void_labels`) is 0 in both; 255 is a licence plate. Raises InputError,
    naming the file, if one is damaged or of another kind than its name says, or if the two don't belong
    together.
    """
    labels, instances = read_label_map(frame.label_path), read_instance_map(frame.instance_path)
    if labels.shape != instances.shape:
        label_size, instance_size = (f"{a.shape[1]}x{a.shape[0]}" for a in (labels, instances))
        raise InputError(
            f"{frame.label_path}: has {label_size} pixels, but its instance map {instance_size};"
            " take both from the same archive"
        )
    if void := void_labels(frame.label_path):
        labels, instances = without_void(labels, instances, void)
    unknown = unknown_labels(labels, instances)
    if unknown in ([], [LICENSE_PLATE_ID]):  # train ids, which it tells by name, hold 255 too
        _check_agreement(frame, labels, instances)
    if unknown:
        raise InputError(f"{frame.label_path}: {conversion_needed(unknown, how_to_void(frame.label_path))}")
    return labels, instances


def void_file(label_path: Path) -> Path:
    """Where the data set of a label map says which labels are void; beside a map that belongs to none."""
    return (Frame("", label_path, label_path).root or label_path.parent) / VOID_FILE


def void_labels(label_path: Path) -> tuple[int, ...]:
    """The labels, 34..255, that mean nothing in a data set's maps. Raises InputError for another content."""
    path = void_file(label_path)
    try:
        numbers = tuple(map(int, path.read_text(encoding="utf-8-sig").split()))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError):
        numbers = (-1,)
    if not all(LAST_ID < number < 256 for number in numbers):
        raise InputError(f"{path}: must hold numbers from {LAST_ID + 1} to 255, separated by blanks")
    return numbers


def how_to_void(label_path: Path) -> str:
    """The first half of a sentence for `conversion_needed`."""
    return f"list them in {void_file(label_path)}"


def _check_agreement(frame: Frame, labels: np.ndarray, instances: np.ndarray) -> None:
    """The instance map repeats the label map, which tells label ids from train ids and mixed-up files."""
    expected = LABEL_OF_VALUE.take(instances)
    differ = (labels != expected) & (labels != LICENSE_PLATE_ID)
    disagreement = np.count_nonzero(differ) / differ.size
    if disagreement <= MAX_DISAGREEMENT:
        return
    train_ids = TRAIN_ID_OF_ID[expected]
    if (train_ids == labels).mean() > 0.9:
        raise InputError(
            f"{frame.label_path}: holds train ids (0..18 and 255), not label ids; take the file ending in"
            " labelIds.png of the official archive"
        )
    raise InputError(
        f"{frame.label_path}: disagrees with {frame.instance_path.name} on {100 * disagreement:.0f} % of the"
        " pixels; take both from the same archive"
    )


# ---- one image ----------------------------------------------------------------------------------


def resize_nearest(array: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H,W) of any dtype -> (height, width): output pixel i takes source pixel floor((i + 0.5) * in / out).

    That is Pillow's NEAREST to the last pixel: like Pillow it adds up the steps, which decides the ties.
    """
    rows, columns = _nearest(array.shape[0], height), _nearest(array.shape[1], width)
    return array[rows[:, None], columns[None, :]]


def _nearest(size_in: int, size_out: int) -> np.ndarray:
    step = size_in / size_out
    return np.add.accumulate(np.array([step / 2] + [step] * (size_out - 1))).astype(np.intp)


@dataclass(frozen=True)
class Instance:
    """One usable instance of a frame, measured on the big map (docs/model.md#usable-instances)."""

    instance_id: int
    area: int  # pixels
    box: tuple[int, int, int, int]  # x0, y0, x1, y1: first and last column and row, pixels
    theta: np.ndarray = field(compare=False)  # (6,) float32, follows from the box and the size of the map


def theta_of_box(box: tuple[int, int, int, int], width: int, height: int) -> np.ndarray:
    """theta (6,) float32 = (t11, 0, t13, 0, t22, t23) of a box on a map of `width` x `height` pixels.

    The box is where |t11*x + t13| <= 1 and |t22*y + t23| <= 1, in coordinates -1..1 over the map.
    """
    x0, y0, x1, y1 = box
    left, right = 2 * x0 / width - 1, 2 * (x1 + 1) / width - 1
    top, bottom = 2 * y0 / height - 1, 2 * (y1 + 1) / height - 1
    t11, t13 = 2 / (right - left), 1 - 2 * right / (right - left)
    t22, t23 = 2 / (bottom - top), 1 - 2 * bottom / (bottom - top)
    return np.array([t11, 0, t13, 0, t22, t23], np.float32)


def usable_instances(
    channels_small: np.ndarray,
    ids_small: np.ndarray,
    ids_big: np.ndarray,
    target: TargetClass,
    *,
    group_instances: bool = True,
) -> list[Instance]:
    """Instances of `target` worth learning from, by rising id (docs/model.md#usable-instances).

    Args:
      channels_small: (h,w) uint8 channels 0..29; ids_small: (h,w) uint16 instance ids.
      ids_big: (H,W) uint16 instance ids, on which area and box are measured.
      group_instances: a group region (id < 1000) may pass as an instance, as in the published program.
    """
    height, width = ids_big.shape
    areas = np.bincount(ids_big.ravel(), minlength=2**16)
    found = []
    for instance_id in np.unique(ids_small[channels_small == target.channel]).tolist():
        area = int(areas[instance_id])
        if area <= width * height * target.min_size_percent / 100:
            continue
        if instance_id < FIRST_SINGLE_ID and not group_instances:
            continue
        x0, y0, x1, y1 = box = bounding_box(ids_big == instance_id)
        w, h = x1 + 1 - x0, y1 + 1 - y0
        if (
            area / (w * h) > target.min_area_ratio
            and max(h / w, w / h) < target.max_aspect_ratio
            and width / w < target.max_width_ratio
            and height / h < target.max_height_ratio
        ):
            found.append(Instance(instance_id, area, box, theta_of_box(box, width, height)))
    return found


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 (first and last column and row) of the True pixels of a mask (H,W), at least one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def compact_mask(instance_ids: np.ndarray, instance_id: int, width: int, height: int) -> np.ndarray:
    """One instance of a full-resolution map, cut to its box and resized: (height, width) uint8, 0..255.

    Pillow's bilinear averages over all source pixels when it shrinks, hence the grey values.
    """
    mask = instance_ids == instance_id
    x0, y0, x1, y1 = bounding_box(mask)
    cut = mask[y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8) * 255
    return np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BILINEAR))
