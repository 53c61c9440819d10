"""The scenes of a measurement: of the project's generator, or of any Cityscapes tree.

Both give training scenes of a seed, of which a smaller number is the beginning of a larger one, and sets to
be measured on. All are written as trees of their own, at the size that is asked for.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from augment.paint.blend import resize
from augment.placement.scene import count_instances
from data.frame import ANNOTATION, CAMERA_KIND, IMAGE_KIND, Frame
from data.images import is_plain_png
from data.instances import resize_nearest
from data.writer import encode_png
from engine.records import write_outputs
from segment.samples import frames_of
from streets.scenes import check_arguments, write_streets
from support.errors import InputError, name_some
from support.files import read_bytes
from support.seeds import generator

SPLIT, HELD_OUT_SPLIT = "train", "val"
# Of the generator; the first plus that of the case.
SCENE_SEEDS, START_SEED, HELD_OUT_SEED, FINAL_SEED = 1000, 300, 500, 700
DRAWN_SCENES = 6  # of a val split that main.py wants to draw, and nothing learns from


@dataclass(frozen=True)
class BuiltInScenes:
    """Scenes of the generator, of `size` (width, height) pixels."""

    size: tuple[int, int]

    def check(self, n: int, held_out: int, *, final: bool) -> None:
        """Raises InputError for a size or a number that the generator can't make."""
        check_arguments(n, held_out, self.size, seed=0, workers=1)

    def training(self, folder: Path, n: int, seed: int) -> dict:
        report = write_streets(folder / "tree", n, DRAWN_SCENES, self.size, SCENE_SEEDS + seed)
        return {"scenes": n, "instances": report.instances}

    def held_out(self, folder: Path, count: int) -> dict:
        return self._measured(folder, count, HELD_OUT_SEED)

    def final(self, folder: Path, count: int) -> dict:
        return self._measured(folder, count, FINAL_SEED)

    def _measured(self, folder: Path, count: int, seed: int) -> dict:
        report = write_streets(folder / "tree", 0, count, self.size, seed)
        return {"scenes": count, "instances": report.instances}


@dataclass(frozen=True)
class TreeScenes:
    """Scenes of a Cityscapes tree: its train split to learn from, its val split to be measured on.

    The second set to be measured on is the val split of `final_root`, or `final_cities` of `db_root`, which
    then are in neither of the others. `camera`: one of CAMERA_CHOICES, for scenes without a camera file.
    """

    db_root: str
    final_root: str
    final_cities: tuple[str, ...]
    camera: str
    size: tuple[int, int]

    def check(self, n: int, held_out: int, *, final: bool) -> None:
        """Raises InputError if the tree is bad or has too few scenes for the largest n."""
        wanted = [("--n", self._of_split(SPLIT), n), ("--held_out", self._of_split(HELD_OUT_SPLIT), held_out)]
        if final:
            wanted.append(("--held_out", self._of_final(), held_out))
        elif self.final_root or self.final_cities:
            self._of_final()
        for option, frames, count in wanted:
            if count > len(frames):
                where = f"{frames[0].root}, {frames[0].split}" if frames else self.db_root
                remedy = "ask for fewer" if frames else "leave a city out of --final_cities"
                raise InputError(f"{option} {count}: there are {len(frames)} scenes in {where}; {remedy}")

    def training(self, folder: Path, n: int, seed: int) -> dict:
        frames = drawn(self._of_split(SPLIT), n, seed, "training scenes")
        self._write(frames[:DRAWN_SCENES], folder / "tree", HELD_OUT_SPLIT)
        return self._write(frames, folder / "tree", SPLIT)

    def held_out(self, folder: Path, count: int) -> dict:
        frames = drawn(self._of_split(HELD_OUT_SPLIT), count, HELD_OUT_SEED, "held-out scenes")
        return self._write(frames, folder / "tree", HELD_OUT_SPLIT)

    def final(self, folder: Path, count: int) -> dict:
        frames = drawn(self._of_final(), count, FINAL_SEED, "held-out scenes")
        return self._write(frames, folder / "tree", HELD_OUT_SPLIT)

    def _of_split(self, split: str) -> list[Frame]:
        frames = frames_of(self.db_root, split, "--db_root")
        return [frame for frame in frames if frame.city not in self.final_cities]

    def _of_final(self) -> list[Frame]:
        if self.final_root:
            return frames_of(self.final_root, HELD_OUT_SPLIT, "--final_root")
        splits = (SPLIT, HELD_OUT_SPLIT)
        frames = [frame for split in splits for frame in frames_of(self.db_root, split, "--db_root")]
        cities = {frame.city for frame in frames}
        if lacking := set(self.final_cities) - cities:
            raise InputError(
                f"--final_cities: {self.db_root} has no city {', '.join(sorted(lacking))}, only"
                f" {name_some(sorted(cities))}"
            )
        return [frame for frame in frames if frame.city in self.final_cities]

    def _write(self, frames: list[Frame], out: Path, split: str) -> dict:
        instances: dict[str, int] = {}
        for frame in frames:
            new = replace(frame, root=out, split=split, maps=None)
            files, found = scene_files(frame, new, self.size, self.camera)
            write_outputs(out, files)
            instances = {name: instances.get(name, 0) + count for name, count in found.items()}
        return {"scenes": len(frames), "instances": instances}


Scenes = BuiltInScenes | TreeScenes


def drawn(frames: list[Frame], count: int, seed: int, purpose: str) -> list[Frame]:
    """`count` of some frames; of the same seed, those of a smaller count come first."""
    order = generator(seed, "", 0, purpose).permutation(len(frames))
    return [frames[int(one)] for one in order[:count]]


def scene_files(
    frame: Frame, new: Frame, size: tuple[int, int], camera: str
) -> tuple[dict[str, bytes | Path], dict[str, int]]:
    """The files of a scene as `new`, of `size` (width, height) pixels, by their place; instances by class.

    A scene of that size is copied as it is; of another one the maps are sampled, the image is averaged, and
    there are no polygons. A camera that is assumed is written as if it were the scene's own. Raises
    InputError if a file is bad, or if the image has another size than its maps.
    """
    label_ids, instance_ids = frame.read_maps()
    height, width = label_ids.shape
    rgb = frame.read_image(label_ids.shape)
    known = frame.camera(width, height, camera)
    if (width, height) == size and not frame.void_labels():
        present = [ending for ending in ANNOTATION if frame.annotation_path(ending).exists()]
        files = {new.place(new.kind, ending): frame.annotation_path(ending) for ending in present}
        source = read_bytes(frame.image_path)
        files[new.place(IMAGE_KIND, ".png")] = source if is_plain_png(source) else encode_png(rgb)
    else:
        label_ids, instance_ids = (resize_nearest(ids, *size) for ids in (label_ids, instance_ids))
        files = new.annotation(label_ids, instance_ids, None)
        files[new.place(IMAGE_KIND, ".png")] = encode_png(resize(rgb, *size))
        known = known and known.scaled(size[0] / width, size[1] / height)
    if known:
        files[new.place(CAMERA_KIND, ".json")] = json.dumps(known.to_json(), indent=1).encode()
    return files, count_instances(instance_ids)
