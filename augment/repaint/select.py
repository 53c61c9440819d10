"""Which instances are repainted: listing the frames of a split, filters, and the three policies."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from scipy.ndimage import find_objects

from augment.options import SynthOptions
from data.frame import Frame, all_frames, official_name
from support.errors import InputError
from support.seeds import seed_of

FIRST_ID, LAST_ID = 24000, 33999  # of instances in an instance map; groups carry their bare label id
AREA_FRACTION = 1 / 4000  # of the frame: the default of min_area


@dataclass(frozen=True)
class Source:
    """A frame of the input and the name its synthetic frames get."""

    frame: Frame
    synthetic_city: str
    position: int  # among the frames whose synthetic frames share a city; their sequence number

    def synthetic_frame(self, number: int) -> Frame:
        """Synthetic frame 0, 1, ... of this frame, in any tree. Its name does not depend on other frames."""
        split, kind = self.frame.split, self.frame.kind
        return Frame.official(None, split, self.synthetic_city, self.position, number, kind)


def source_frames(db_root: Path, split: str) -> list[Source]:
    """All frames of a split that have a label or an instance map, sorted by name.

    Raises InputError if there are none, for a name that is not city_SSSSSS_FFFFFF in the folder of its city,
    and for a split that already holds the cities that synthetic frames would go to.
    """
    frames = all_frames(db_root, split)
    for frame in frames:
        path = frame.label_path if frame.label_path.exists() else frame.instance_path
        try:
            name = official_name(frame.name)
        except ValueError as error:
            raise InputError(f"{path}: {error}; rename it, or take it away") from None
        if name != frame.name or not name.startswith(f"{frame.city}_"):
            raise InputError(f"{path}: not named CITY/CITY_SSSSSS_FFFFFF...; rename it, or take it away")
    sources, count = [], {}
    cities = {frame.city for frame in frames}
    for frame in sorted(frames, key=lambda one: (one.city, one.name)):
        city = re.sub(r"[^A-Za-z0-9]", "", frame.city) + "syn"
        if city in cities:
            raise InputError(
                f"{db_root}: has a city {city} in {split}; synthetic frames of {frame.city} would have this"
                " name; take it away, or give the --db_root of the original data"
            )
        sources.append(Source(frame, city, count.get(city, 0)))
        count[city] = count.get(city, 0) + 1
    return sources


def in_scope(sources: list[Source], only: str | None, limit: int | None) -> list[Source]:
    """The frames of `only` (city, or city/seq/frame) and of these the first `limit`.

    Raises InputError if none is left.
    """
    if only:
        city, *numbers = only.strip("/").split("/")
        wanted = "/".join([city, *(f"{int(part):06d}" if part.isdigit() else part for part in numbers)])
        sources = [one for one in sources if f"{one.frame.key}/".startswith(f"{wanted}/")]
        if not sources:
            raise InputError(
                f"--only {only}: no such frames; give CITY, CITY/SEQUENCE or CITY/SEQUENCE/FRAME"
            )
    return sources[:limit]


# ---- one frame ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """An instance that passes the filters."""

    instance_id: int
    area: int  # visible pixels
    box: tuple[int, int, int, int]  # of the visible pixels: x0, y0, x1, y1, half-open

    @property
    def class_name(self) -> str:
        return id2label[self.instance_id // 1000].name


def candidates_of(instance_ids: np.ndarray, options: SynthOptions) -> list[Candidate]:
    """The instances of a map (H,W) uint16 that pass the filters, largest first, then by id."""
    height, width = instance_ids.shape
    areas = np.bincount(instance_ids.ravel(), minlength=2**16)
    min_area = max(options.min_area or round(AREA_FRACTION * width * height), 1)
    wanted = [
        value
        for value in (FIRST_ID + np.flatnonzero(areas[FIRST_ID : LAST_ID + 1] >= min_area)).tolist()
        if id2label[value // 1000].name in options.class_names
    ]
    number = np.zeros(2**16, np.int32)
    number[wanted] = np.arange(1, len(wanted) + 1)
    found = []
    for value, (rows, columns) in zip(wanted, find_objects(number[instance_ids]), strict=True):
        x0, y0, x1, y1 = box = columns.start, rows.start, columns.stop, rows.stop
        truncated = x0 == 0 or y0 == 0 or x1 == width or y1 == height
        if min(x1 - x0, y1 - y0) >= options.min_side and (options.truncated or not truncated):
            found.append(Candidate(value, int(areas[value]), box))
    return sorted(found, key=lambda one: (-one.area, one.instance_id))


def choose(candidates: list[Candidate], options: SynthOptions) -> list[Candidate]:
    """What the policies that look at one frame take of it, by id; `candidates`: the largest first."""
    if options.policy == "largest":
        chosen = candidates[: options.k]
    else:
        count: dict[str, int] = {}
        chosen = []
        for one in candidates:
            count[one.class_name] = count.get(one.class_name, 0) + 1
            if count[one.class_name] <= options.k:
                chosen.append(one)
    return sorted(chosen, key=lambda one: one.instance_id)


# ---- the whole split ----------------------------------------------------------------------------


def balanced(found: dict[str, list[int]], options: SynthOptions) -> dict[str, list[int]]:
    """Instance ids of each frame under `class_balanced`, given those of the candidates by frame key.

    k times the number of frames are taken in all. Each class gets the same share, a class with fewer
    candidates all of its own, and what it leaves goes to the others; within a class a draw by the seed.
    """
    members: dict[int, list[tuple[str, int]]] = {}
    for key in sorted(found):
        for value in sorted(found[key]):
            members.setdefault(value // 1000, []).append((key, value))
    left = options.k * len(found)
    chosen: dict[str, list[int]] = {key: [] for key in found}
    by_size = sorted(members, key=lambda label: (len(members[label]), label))
    for rank, label in enumerate(by_size):
        share = min(len(members[label]), -(-left // (len(by_size) - rank)))
        left -= share
        rng = np.random.default_rng(seed_of(options.seed, "select", id2label[label].name))
        for position in rng.permutation(len(members[label]))[:share].tolist():
            key, value = members[label][position]
            chosen[key].append(value)
    return {key: sorted(values) for key, values in chosen.items()}
