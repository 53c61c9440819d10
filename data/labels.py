"""The class table: Cityscapes label ids, the model's channels, colours, and the insertable classes.

Ids, names and colours come from the official `cityscapesscripts` labels; this file adds only what the
where/what model needs on top: the channel of each label (docs/model.md#maps-and-channels), the thresholds of
a usable instance, and the surfaces a class may stand on.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels as OFFICIAL_LABELS
from cityscapesscripts.helpers.labels import name2label
from scipy import ndimage

from support.errors import InputError

NUM_CHANNELS = 30
LICENSE_PLATE_ID = 255  # label -1 in an 8-bit file
INVALID_CHANNEL = 255


def channel_of_id(label_id: int) -> int:
    """Channel (0..29) of a Cityscapes label id; the licence plate (-1 or 255) counts as car."""
    if label_id in (-1, LICENSE_PLATE_ID):
        return channel_of_id(name2label["car"].id)
    if label_id in (0, 2, 3, 4):
        return 0
    if label_id == 1:
        return 1
    if 5 <= label_id <= 17:
        return label_id - 3
    if label_id == 18:  # polegroup joins pole
        return 14
    if 19 <= label_id <= 33:
        return label_id - 4
    raise ValueError(f"{label_id} is not a Cityscapes label id (0..33, or 255 for the licence plate)")


# (256,) uint8: label id -> channel, INVALID_CHANNEL where no label exists
CHANNEL_OF_ID = np.full(256, INVALID_CHANNEL, np.uint8)
for _id in (*range(34), LICENSE_PLATE_ID):
    CHANNEL_OF_ID[_id] = channel_of_id(_id)

# Things have the last channels: 20..29.
FIRST_THING_CHANNEL = min(channel_of_id(label.id) for label in OFFICIAL_LABELS if label.hasInstances)

# One colour a channel. Channel 0 gathers unlabeled, rectification
# border, out of roi and static; it and channel 1 (ego vehicle) are black in the official colours too.
_FIRST_LABEL = {}
for _label in OFFICIAL_LABELS:
    if _label.id >= 0:
        _FIRST_LABEL.setdefault(channel_of_id(_label.id), _label)
CHANNEL_COLOURS = np.array([_FIRST_LABEL[channel].color for channel in range(NUM_CHANNELS)], np.uint8)


def ids_of(*names: str) -> tuple[int, ...]:
    """The label ids of some labels."""
    return tuple(name2label[name].id for name in names)


UNLABELED = name2label["unlabeled"].id  # 0; in a map that is filled: nothing is known
GROUND = ids_of("road", "sidewalk", "parking", "ground", "terrain", "rail track")
_ROADWAY = ("road", "parking", "ground")
_OPEN_GROUND = ("road", "sidewalk", "parking", "ground", "terrain")


@dataclass(frozen=True)
class TargetClass:
    """One insertable class: which labels it is, and which of its instances are worth learning from.

    The thresholds apply to an instance of area `a` and box `w x h` (pixels) on the big map `W x H`
    (docs/model.md#usable-instances).
    """

    name: str
    min_size_percent: float  # a > W*H*min_size_percent/100, per cent of the big map
    min_area_ratio: float  # a/(w*h) > this, fill of the box, 0..1
    max_aspect_ratio: float  # max(h/w, w/h) < this
    max_width_ratio: float  # W/w < this; also the bound of t11 in stn_theta_loss
    max_height_ratio: float  # H/h < this; also the bound of t22 in stn_theta_loss
    support: tuple[str, ...]  # label names the class may stand on (docs/evaluation.md#definitions)
    published: bool  # thresholds are those of the published program, not ours

    @property
    def label_id(self) -> int:
        return name2label[self.name].id

    @property
    def channel(self) -> int:
        return channel_of_id(self.label_id)


TARGET_CLASSES = {
    target.name: target
    for target in (
        TargetClass("person", 0.2, 0.4, 4, 50, 10, (*_OPEN_GROUND, "rail track"), published=True),
        TargetClass("rider", 0.2, 0.3, 4, 50, 10, _OPEN_GROUND, published=False),
        TargetClass("car", 0.5, 0.4, 3, 30, 10, _ROADWAY, published=True),
        TargetClass("truck", 0.5, 0.4, 4, 30, 10, _ROADWAY, published=False),
        TargetClass("bus", 0.5, 0.4, 5, 30, 10, _ROADWAY, published=False),
        TargetClass("train", 0.5, 0.4, 8, 30, 12, ("rail track", "road"), published=False),
        TargetClass("motorcycle", 0.2, 0.3, 4, 50, 12, _OPEN_GROUND, published=False),
        TargetClass("bicycle", 0.2, 0.25, 4, 50, 12, _OPEN_GROUND, published=False),
    )
}


def classes_named(text: str) -> tuple[TargetClass, ...]:
    """The classes of a list such as "person,rider", in its order; of "all" those of the table.

    Raises InputError for an unknown class and for one named twice.
    """
    names = list(TARGET_CLASSES) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in TARGET_CLASSES:
            raise InputError(f"target_class: {name!r} is unknown: choose {', '.join(TARGET_CLASSES)}, or all")
        if names.count(name) > 1:
            raise InputError(f"target_class: {name} is named twice")
    return tuple(TARGET_CLASSES[name] for name in names)


FIRST_SINGLE_ID = 1000  # instance ids from here on are label*1000+k; smaller ones are bare label ids (groups)
LABEL_OF_VALUE = np.arange(2**16, dtype=np.uint16)
LABEL_OF_VALUE[FIRST_SINGLE_ID:] //= 1000
LABEL_OF_VALUE[256:FIRST_SINGLE_ID] = 254  # there is no such label
LABEL_OF_VALUE = LABEL_OF_VALUE.astype(np.uint8)  # (65536,): value of an instance map -> label id

TRAIN_ID_OF_ID = np.full(256, 255, np.uint8)  # (256,): label id -> official train id, 255 where there is none
for _label in OFFICIAL_LABELS:
    if _label.id >= 0:
        TRAIN_ID_OF_ID[_label.id] = _label.trainId

LAST_ID = max(label.id for label in OFFICIAL_LABELS)
# fraction of pixels where label and instance map may differ; in the real data it is 0
MAX_DISAGREEMENT = 0.01
FIRST_PLATE = 64000  # values from here on are of label -1 in 16 bits, licence plates
_IS_VEHICLE = np.isin(np.arange(256), [label.id for label in OFFICIAL_LABELS if label.category == "vehicle"])


def foreign_labels(instance_ids: np.ndarray) -> list[int]:
    """The labels above 33 in an instance map (H,W) uint16, rising: of data sets with ids of their own."""
    beyond = (instance_ids >= (LAST_ID + 1) * 1000) & (instance_ids < FIRST_PLATE)
    beyond |= (instance_ids > LAST_ID) & (instance_ids < FIRST_SINGLE_ID)
    values = np.unique(instance_ids[beyond])
    return np.unique(np.where(values < FIRST_SINGLE_ID, values, values // 1000)).tolist()


def unknown_labels(label_ids: np.ndarray, instance_ids: np.ndarray) -> list[int]:
    """The labels above 33 in a label map (H,W) uint8, rising, but for 255 where that is a licence plate.

    instance_ids: (H,W) uint16, which has the vehicle where a plate is, or the plate itself on a vehicle.
    """
    present = np.flatnonzero(np.bincount(label_ids.ravel(), minlength=256))
    unknown = present[present > LAST_ID].tolist()
    if LICENSE_PLATE_ID in unknown and _are_plates(label_ids, instance_ids):
        unknown.remove(LICENSE_PLATE_ID)
    return unknown


def _are_plates(label_ids: np.ndarray, instance_ids: np.ndarray) -> bool:
    """Whether all 255 of a label map are licence plates, not a data set's void."""
    unsure = (label_ids == LICENSE_PLATE_ID) & ~_IS_VEHICLE[LABEL_OF_VALUE[instance_ids]]
    if not unsure.any():
        return True
    if instance_ids[unsure].min() < FIRST_PLATE:
        return False
    count, pieces = cv2.connectedComponents(unsure.view(np.uint8), connectivity=8)
    around = np.where(unsure, 0, ndimage.grey_dilation(pieces, (3, 3)))
    edge = np.bincount(around.ravel(), minlength=count)[1:]
    on_vehicle = np.bincount(around[_IS_VEHICLE[LABEL_OF_VALUE[instance_ids]]], minlength=count)[1:]
    return bool((2 * on_vehicle > edge).all())


def without_void(
    label_ids: np.ndarray, instance_ids: np.ndarray, void: Iterable[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Label map (H,W) uint8 and instance map (H,W) uint16 with 0 for labels that mean nothing, 0..255."""
    is_void = np.isin(np.arange(256), list(void))
    nothing = is_void[label_ids]
    return (
        np.where(nothing, np.uint8(0), label_ids),
        np.where(nothing | is_void[LABEL_OF_VALUE[instance_ids]], np.uint16(0), instance_ids),
    )


def disagreement(label_ids: np.ndarray, instance_ids: np.ndarray, name: str) -> str:
    """What is wrong with a label map (H,W) uint8 that its instance map (H,W) uint16 does not repeat, a line.

    Nothing if it does: that tells label ids from train ids and from mixed-up files. name: of the file of the
    instance map. Licence plates don't count.
    """
    expected = LABEL_OF_VALUE.take(instance_ids)
    differ = (label_ids != expected) & (label_ids != LICENSE_PLATE_ID)
    fraction = np.count_nonzero(differ) / differ.size
    if fraction <= MAX_DISAGREEMENT:
        return ""
    if (TRAIN_ID_OF_ID[expected] == label_ids).mean() > 0.9:
        return (
            "holds train ids (0..18 and 255), not label ids; take the file ending in labelIds.png of the"
            " official archive"
        )
    return f"disagrees with {name} on {100 * fraction:.0f} % of the pixels; take both from the same archive"


def conversion_needed(labels: list[int], if_void: str) -> str:
    """What is wrong with a map that holds these labels above 33, and what mends it, one line.

    if_void: what to do where they mean nothing.
    """
    plate = ", and no licence plate" if LICENSE_PLATE_ID in labels else ""
    return (
        f"holds {labels[:5]}, label ids above {LAST_ID}{plate}; {if_void} if they mean void; else take the"
        " official file of that name, or if this is another data set,"
        f" convert both maps first: labelIds to 0..{LAST_ID} by the names of the classes (0"
        " for one that Cityscapes has not), instanceIds to id * 1000 + k for each instance and to the bare id"
        " elsewhere; scripts.convert does so for some data sets"
    )
