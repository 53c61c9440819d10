"""A frame of a data set in the layout of Cityscapes: where its files lie, reading them, writing them.

ROOT/KIND/SPLIT/CITY/NAME_KIND...: KIND is one of GT_KINDS for annotation, leftImg8bit for images, and so on.
What is read is judged alike by all programs: a file that is damaged, of another kind, or of another size than
those it belongs to is an InputError that names it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.camera import Camera, published_camera
from data.erasures import Erasure, decode_erasures, erasures_file
from data.images import (
    decode_image,
    decode_instance_map,
    find_image,
    fitting,
    read_instance_map,
    read_label_map,
)
from data.labels import (
    FIRST_PLATE,
    LABEL_OF_VALUE,
    LAST_ID,
    LICENSE_PLATE_ID,
    conversion_needed,
    disagreement,
    foreign_labels,
    unknown_labels,
    without_void,
)
from data.writer import (
    LabelledPolygon,
    colour_map,
    encode_png,
    instance_values,
    polygons_from_json,
    polygons_to_json,
)
from support.errors import InputError, name_some, warn
from support.files import listed, parse_json, read_bytes, read_json

GT_KINDS = ("gtFine", "gtCoarse")  # folders of annotation, and what its files are called
IMAGE_KIND, CAMERA_KIND, ERASED_KIND = "leftImg8bit", "camera", "erased"  # likewise
LABELS, INSTANCES, COLOR, POLYGONS = "_labelIds.png", "_instanceIds.png", "_color.png", "_polygons.json"
ANNOTATION = (LABELS, INSTANCES, COLOR, POLYGONS)  # how the names of these files end
TRAIN_IDS = "_labelTrainIds.png"  # the official tools make it on demand
VOID_FILE = "void.txt"  # in the folder of a data set: label ids that mean nothing

_OFFICIAL_NAME = re.compile(r"[^_/]+_\d{6}_\d{6}")


def official_name(file_name: str) -> str:
    """The frame's name at the start of a file's name. Raises ValueError if it is not city_SSSSSS_FFFFFF."""
    if match := _OFFICIAL_NAME.match(Path(file_name).name):
        return match[0]
    raise ValueError(f"{file_name!r} does not start with city_SSSSSS_FFFFFF")


@dataclass(frozen=True)
class Frame:
    """One annotated image. It knows where its files belong, not which of them are there.

    A map that lies outside any tree is a frame too (`of_maps`): what else annotates it lies beside it.
    """

    root: Path | None  # the folder of its data set; None outside any
    split: str
    city: str
    name: str  # aachen_000000_000019; a data set may have names of its own
    kind: str = GT_KINDS[0]  # of its annotation
    maps: tuple[Path, Path] | None = None  # label and instance map, where the name does not tell

    @classmethod
    def official(
        cls, root: Path | None, split: str, city: str, sequence: int, number: int, kind: str = GT_KINDS[0]
    ) -> "Frame":
        """A frame with an official name; the city has no underscore, the numbers are 0..999999."""
        return cls(root, split, city, f"{city}_{sequence:06d}_{number:06d}", kind)

    @classmethod
    def of_maps(cls, label_path: Path, instance_path: Path | None = None, name: str = "") -> "Frame":
        """The frame of a label map, whatever it is called; its instance map beside it unless given."""
        path = Path(label_path).absolute()
        kind = GT_KINDS[path.name.endswith(f"_{GT_KINDS[1]}{LABELS}")]
        name = name or path.name.removesuffix(f"_{kind}{LABELS}").removesuffix(".png")
        instances = Path(instance_path or path.with_name(f"{name}_{kind}{INSTANCES}")).absolute()
        root, folder = root_above(path), path.parent
        city = folder.name if root else name.split("_")[0]
        return cls(root, folder.parent.name if root else "", city, name, kind, (path, instances))

    @property
    def key(self) -> str:
        """ "city/SSSSSS/FFFFFF", how manifests call a frame with an official name."""
        return self.name.replace("_", "/")

    # ---- places ---------------------------------------------------------------------------------

    def place(self, kind: str, ending: str) -> str:
        """The place of a file below the root, such as "camera", ".json"."""
        return f"{kind}/{self.split}/{self.city}/{self.name}_{kind}{ending}"

    def annotation_path(self, ending: str) -> Path:
        """An annotation file by the end of its name, such as one of ANNOTATION."""
        if self.maps:
            return self.maps[0].with_name(f"{self.name}_{self.kind}{ending}")
        return self.root / self.place(self.kind, ending)

    @property
    def label_path(self) -> Path:
        return self.maps[0] if self.maps else self.annotation_path(LABELS)

    @property
    def instance_path(self) -> Path:
        return self.maps[1] if self.maps else self.annotation_path(INSTANCES)

    @property
    def image_path(self) -> Path | None:
        """The RGB image: a PNG or, if there is none, another kind; None: there is none."""
        return self.root and find_image(self.root / self.place(IMAGE_KIND, ".png"))

    @property
    def camera_path(self) -> Path | None:
        """The camera file; None: there is none."""
        path = self.root and self.root / self.place(CAMERA_KIND, ".json")
        return path if path and path.exists() else None

    @property
    def erasures_path(self) -> Path | None:
        """Where its erasures lie, if its data set has any; None outside any."""
        return self.root and self.root / self.place(ERASED_KIND, ".npz")

    @property
    def void_path(self) -> Path:
        """Where its data set says which labels are void; outside any, beside the maps."""
        return (self.root or self.label_path.parent) / VOID_FILE

    @property
    def panorama_place(self) -> str:
        """The place of the whole image that a focus crop with this name was cut from."""
        return f"panorama/{self.split}/{self.city}/{self.name}_{IMAGE_KIND}.png"

    # ---- reading --------------------------------------------------------------------------------

    def read_maps(self) -> tuple[np.ndarray, np.ndarray]:
        """The label map (H,W) uint8, ids 0..33 or 255, and the instance map (H,W) uint16.

        What the data set calls void (`void_labels`) is 0 in both; 255 is a licence plate. Raises InputError
        if one is bad, or if the two don't belong together.
        """
        labels, instances = read_label_map(self.label_path), read_instance_map(self.instance_path)
        if labels.shape != instances.shape:
            label_size, instance_size = (f"{a.shape[1]}x{a.shape[0]}" for a in (labels, instances))
            raise InputError(
                f"{self.label_path}: has {label_size} pixels, but its instance map {instance_size};"
                " take both from the same archive"
            )
        if void := self.void_labels():
            labels, instances = without_void(labels, instances, void)
        unknown = unknown_labels(labels, instances)
        wrong = ""
        if unknown in ([], [LICENSE_PLATE_ID]):  # train ids, which it tells by name, hold 255 too
            wrong = disagreement(labels, instances, self.instance_path.name)
        if wrong or unknown:
            wrong = wrong or conversion_needed(unknown, f"list them in {self.void_path}")
            raise InputError(f"{self.label_path}: {wrong}")
        return labels, instances

    def read_instance_ids(self, read: Callable[[Path], bytes] = read_bytes) -> np.ndarray:
        """The instance map (H,W) uint16 for who needs no other; void and licence plates are 0.

        read: what reads the file. Raises InputError if it is bad.
        """
        path = self.instance_path
        ids = decode_instance_map(path, read(path))
        if void := self.void_labels():
            _, ids = without_void(LABEL_OF_VALUE[ids], ids, void)
        if labels := foreign_labels(ids):
            raise InputError(f"{path}: {conversion_needed(labels, f'list them in {self.void_path}')}")
        return np.where(ids < FIRST_PLATE, ids, np.uint16(0))

    def read_image(
        self, shape: tuple[int, int] | None = None, read: Callable[[Path], bytes] = read_bytes
    ) -> np.ndarray:
        """The RGB image (H,W,3) uint8; shape: that of its maps, (H,W), where they are known.

        read: what reads the file. Raises InputError if there is none, if it is bad, or of another size.
        """
        path = self.image_path
        if path is None:
            raise InputError(f"{self.label_path}: has no RGB image in {IMAGE_KIND}/; put it there")
        image = decode_image(path, read(path))
        return image if shape is None else fitting(path, image, shape)

    def read_polygons(
        self, shape: tuple[int, int], read: Callable[[Path], bytes] = read_bytes
    ) -> list[LabelledPolygon] | None:
        """The polygons, made for maps of shape (H,W); None if there is no file of them.

        read: what reads the file. Raises InputError if it is bad.
        """
        path = self.annotation_path(POLYGONS)
        if not path.exists():
            return None
        content = parse_json(path, read(path), "a file of polygons")
        try:
            objects, width, height = polygons_from_json(content)
            if any(len(thing.polygon) < 2 for thing in objects):
                raise ValueError("a polygon of fewer than two points")
            instance_values(objects)  # ValueError for an unknown label, or for more than a class can number
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not a file of polygons ({reason}); copy it from the archive") from None
        if (height, width) != shape:
            raise InputError(f"{path}: made for {width}x{height} pixels, unlike the maps beside it")
        return objects

    def read_camera(self) -> Camera | None:
        """The camera of its file, None if there is none. Raises InputError if the file can't be used."""
        path = self.camera_path
        if path is None:
            return None
        content = read_json(path, "a camera file")
        try:
            return Camera.from_json(content)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a camera file ({error}); copy it from the archive again") from None

    def camera(self, width: int, height: int, choice: str = "auto") -> Camera | None:
        """The camera of an image of width x height pixels: its file's, else what `choice` gives.

        choice: one of CAMERA_CHOICES. Raises InputError if the file can't be used.
        """
        camera = self.read_camera()
        if camera is None and choice == "cityscapes":
            return published_camera(self.name, width, height)
        return camera

    def read_erasures(self) -> dict[int, Erasure]:
        """Instance id -> erasure, for every single instance; instances that go together share theirs.

        Empty where the data set has no such file. Raises InputError if the file is damaged.
        """
        path = self.erasures_path
        return decode_erasures(path, read_bytes(path)) if path and path.exists() else {}

    def void_labels(self) -> tuple[int, ...]:
        """The labels, 34..255, that mean nothing in its data set. Raises InputError for another content."""
        try:
            numbers = tuple(map(int, self.void_path.read_text(encoding="utf-8-sig").split()))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError):
            numbers = (-1,)
        if not all(LAST_ID < number < 256 for number in numbers):
            raise InputError(
                f"{self.void_path}: must hold numbers from {LAST_ID + 1} to 255, separated by blanks"
            )
        return numbers

    # ---- writing --------------------------------------------------------------------------------

    def annotation(
        self, label_ids: np.ndarray, instance_ids: np.ndarray, objects: list[LabelledPolygon] | None
    ) -> dict[str, bytes]:
        """Contents of the annotation files by their places; without polygons for None.

        label_ids (H,W) uint8, instance_ids (H,W) uint16.
        """
        height, width = label_ids.shape
        files = {
            LABELS: encode_png(label_ids),
            INSTANCES: encode_png(instance_ids),
            COLOR: encode_png(colour_map(label_ids)),
        }
        if objects is not None:
            files[POLYGONS] = json.dumps(polygons_to_json(objects, width, height)).encode()
        return {self.place(self.kind, ending): content for ending, content in files.items()}

    def files(
        self,
        rgb: np.ndarray,
        objects: list[LabelledPolygon],
        label_ids: np.ndarray,
        instance_ids: np.ndarray,
        camera: Camera | None = None,
        erasures: list[Erasure] | None = None,
    ) -> dict[str, bytes]:
        """Contents of image and annotation, and of what else is given, by their places.

        rgb (H,W,3) uint8, label_ids (H,W) uint8, instance_ids (H,W) uint16; the maps must be those that
        `rasterise` makes of `objects`. Raises ValueError if shapes or dtypes do not fit.
        """
        if rgb.shape != (*label_ids.shape, 3) or label_ids.shape != instance_ids.shape:
            raise ValueError(f"shapes differ: {rgb.shape}, {label_ids.shape}, {instance_ids.shape}")
        if label_ids.dtype != np.uint8 or instance_ids.dtype != np.uint16:
            raise ValueError(f"ids must be uint8 and uint16, not {label_ids.dtype} and {instance_ids.dtype}")
        files = {self.place(IMAGE_KIND, ".png"): encode_png(rgb)}
        files |= self.annotation(label_ids, instance_ids, objects)
        if camera is not None:
            files[self.place(CAMERA_KIND, ".json")] = json.dumps(camera.to_json(), indent=1).encode()
        if erasures is not None:
            files[self.place(ERASED_KIND, ".npz")] = erasures_file(erasures)
        return files


# ---- the frames of a split ----------------------------------------------------------------------


def root_above(map_path: Path) -> Path | None:
    """The folder of the data set that a map belongs to by its place; None for one outside any."""
    folders = Path(map_path).absolute().parents  # root/gtFine/split/city
    return folders[3] if len(folders) > 3 and folders[2].name in GT_KINDS else None


def gt_kind(db_root: str | Path, split: str) -> str:
    """Where the annotation of a split lies, one of GT_KINDS: gtCoarse if that is all there is."""
    fine, coarse = (Path(db_root) / kind / split for kind in GT_KINDS)
    return GT_KINDS[coarse.is_dir() and not fine.is_dir()]


def list_frames(db_root: str | Path, split: str, *, skip_incomplete: bool = False) -> list[Frame]:
    """All frames of `db_root`/gtFine/`split` (or gtCoarse, see `gt_kind`), sorted by name.

    Raises InputError if a folder is missing or empty, if two cities share a file name, or if a frame has a
    label map without an instance map or the reverse (`skip_incomplete`: such frames are left out, with a
    warning).
    """
    frames, labelled, with_instances = _frames_of(db_root, split)
    incomplete = [
        *(f"{one.label_path} has no instance map" for one in frames if one.name not in with_instances),
        *(f"{one.instance_path} has no label map" for one in frames if one.name not in labelled),
    ]
    if incomplete:
        folder = Path(db_root) / frames[0].kind / split
        found = f"{len(incomplete)} frames of {folder} are incomplete: {name_some(incomplete)}"
        if not skip_incomplete:
            raise InputError(f"{found}; add the missing files, or go on without them with --skip_bad_files")
        warn(f"{found}; left out")
    return [one for one in frames if one.name in labelled and one.name in with_instances]


def all_frames(db_root: str | Path, split: str) -> list[Frame]:
    """As `list_frames`, with those that lack one of the two maps."""
    return _frames_of(db_root, split)[0]


def _frames_of(db_root: str | Path, split: str) -> tuple[list[Frame], set[str], set[str]]:
    """The frames of a split by name; the names of those with a label map, and with an instance map."""
    root, kind = Path(db_root), gt_kind(db_root, split)
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
    city_of: dict[str, str] = {}
    endings = (f"_{kind}{ending}" for ending in (LABELS, INSTANCES))
    labelled, with_instances = (_names_in(folder, ending, city_of) for ending in endings)
    if not city_of:
        raise InputError(
            f"{folder}: holds no CITY/*_{kind}{LABELS}; unpack gtFine_trainvaltest.zip there, or set"
            " another --db_root"
        )
    frames = [Frame(root, split, city_of[name], name, kind) for name in sorted(city_of)]
    return frames, labelled, with_instances


def _names_in(folder: Path, suffix: str, city_of: dict[str, str]) -> set[str]:
    """The names of the frames that have a map with this end in a split's folder; their cities are noted."""
    names = set()
    for path in listed(folder, f"*/*{suffix}"):
        if any("\ud800" <= letter <= "\udfff" for letter in path.name):  # bytes that mean no letter
            raise InputError(
                f"{path}: its name is no text in the system's encoding; rename the frame's files"
            )
        name, city = path.name.removesuffix(suffix), path.parent.name
        if city_of.setdefault(name, city) != city:
            other = folder / city_of[name] / path.name
            raise InputError(f"{path}: the same name as {other}; rename one, names must be unique in a split")
        names.add(name)
    return names
