"""A training sample as an image that objects can be inserted into, and back.

The forms of a sample: see `insertion.transform.InsertInstances`. Nothing of it is written to; what changes is
made anew, in the form it came in.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from augment.placement.scene import EditedImage
from data.camera import published_camera
from data.geometry import is_thing
from data.instances import bounding_box
from data.labels import (
    FIRST_SINGLE_ID,
    LABEL_OF_VALUE,
    LAST_ID,
    MAX_DISAGREEMENT,
    conversion_needed,
    unknown_labels,
    without_void,
)
from support.errors import InputError

_FORMS = (
    "the target must be [instance map, label map], PIL images, arrays or tensors of whole numbers, or a"
    ' dictionary with "masks" and "labels", tensors (see InsertInstances)'
)


@dataclass
class EditedSample:
    """An image, its target, and the scene that they show, which is then edited."""

    image: object
    target: object
    scene: EditedImage
    values: np.ndarray | None  # (N,) of each mask in the instance map; None where the target has such a map
    before: tuple[np.ndarray, np.ndarray]  # (H,W) uint8 label map, (H,W) uint16 instance map

    @classmethod
    def of(cls, image, target, name: str, camera: str, void: tuple[int, ...] = ()) -> "EditedSample":
        """Raises InputError for a sample that lacks what is needed.

        camera: one of CAMERA_CHOICES; void: label ids that mean nothing in the target.
        """
        rgb = pixels_of(image)
        shape = rgb.shape[:2]
        instances, semantic = parts_of(target)
        needs_map = not isinstance(instances, dict) or semantic is not None
        label_ids = label_map(semantic, shape) if needs_map else None
        own_camera, values = None, None
        if isinstance(instances, dict):
            own_camera = instances.get("camera")
            label_ids, instance_ids, values = maps_of_masks(instances, label_ids, shape)
        else:
            instance_ids = array_of(instances, shape, "instance map").astype(np.uint16)
        label_ids, instance_ids = checked_maps(label_ids, instance_ids, void)
        if own_camera is None and camera == "cityscapes":
            own_camera = published_camera(name, shape[1], shape[0])
        scene = EditedImage(name, label_ids, instance_ids, rgb, own_camera)
        return cls(image, target, scene, values, (label_ids, instance_ids))

    def after(self) -> tuple:
        """Image and target as the scene is now."""
        scene, target = self.scene, self.target
        image = image_like(scene.rgb, self.image)
        instances, semantic = parts_of(target)
        if semantic is not None:
            semantic = map_like(scene.label_ids, self.before[0], semantic)
        if self.values is None:
            instances = map_like(scene.instance_ids, self.before[1], instances)
        else:
            instances = masks_with_new(instances, self.values, self.before[1], scene)
        if isinstance(target, dict):
            return image, instances if semantic is None else instances | {"semantic": semantic}
        return image, type(target)([instances, semantic])


# ---- the image and maps -----------------------------------------------------------------------


def pixels_of(image) -> np.ndarray:
    """The image (H,W,3) uint8 of a PIL image or a tensor (3,H,W)."""
    if isinstance(image, Image.Image) and image.mode == "RGB":
        return np.asarray(image)
    if is_tensor(image) and image.dtype == torch.uint8 and image.dim() == 3 and len(image) == 3:
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    raise InputError(
        "InsertInstances: the image must be a PIL image in RGB or a uint8 tensor (3,H,W) on the CPU; place"
        " the transform before those that scale or batch"
    )


def image_like(rgb: np.ndarray, image):
    """An image (H,W,3) uint8 in the form of `image`."""
    if isinstance(image, Image.Image):
        return Image.fromarray(rgb)
    return tv_tensors.wrap(torch.from_numpy(rgb).permute(2, 0, 1).contiguous(), like=image)


def parts_of(target) -> tuple:
    """The instances of a target, and its label map or None."""
    if isinstance(target, dict):
        return target, target.get("semantic")
    if type(target) in (list, tuple) and len(target) == 2:
        return target
    length = f" of {len(target)}" if isinstance(target, list | tuple) else ""
    raise InputError(f"InsertInstances: {_FORMS}; this is {type(target).__name__}{length}")


def is_tensor(given) -> bool:
    """Whether it is a tensor on the CPU, outside autograd."""
    return isinstance(given, Tensor) and given.device.type == "cpu" and not given.requires_grad


def array_of(given, shape: tuple[int, int], name: str) -> np.ndarray:
    """A map (H,W) of whole numbers 0..65535, from a PIL image, an array or a tensor (H,W) or (1,H,W)."""
    if not isinstance(given, Image.Image | np.ndarray) and not is_tensor(given):
        raise InputError(f"InsertInstances: {_FORMS}; its {name} is {type(given).__name__}")
    array = given.numpy() if isinstance(given, Tensor) else np.asarray(given)
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    if array.shape != shape or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 65535:
        raise InputError(
            f"InsertInstances: the {name} must have the image's size {shape} and hold whole numbers from 0"
            f" to 65535; this is {array.dtype} {array.shape}; {_FORMS}"
        )
    return array


def label_map(given, shape: tuple[int, int]) -> np.ndarray:
    """A label map (H,W) uint8. InputError for numbers beyond."""
    array = array_of(given, shape, "label map")
    if array.max() > 255:
        raise InputError(f"InsertInstances: the label map holds {array.max()}, no label id; {_FORMS}")
    return array.astype(np.uint8)


def checked_maps(
    label_ids: np.ndarray, instance_ids: np.ndarray, void: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Label map (H,W) uint8 and instance map (H,W) uint16 without what is void.

    InputError for what holds other than Cityscapes' label ids, and for maps that don't fit each other:
    instances repeat the labels, which tells maps in the wrong order and renumbered labels.
    """
    if void:
        label_ids, instance_ids = without_void(label_ids, instance_ids, void)
    if unknown := unknown_labels(label_ids, instance_ids):
        wanted = f"name them in InsertInstances(..., void={tuple(unknown)})"
        raise InputError(f"InsertInstances: the label map {conversion_needed(unknown, wanted)}; {_FORMS}")
    differs = is_thing(label_ids) & (LABEL_OF_VALUE[instance_ids] != label_ids)
    if differs.mean() > MAX_DISAGREEMENT:
        raise InputError(
            f"InsertInstances: instances and label map disagree on {100 * differs.mean():.0f} % of the"
            f" image; both must go by Cityscapes' label ids (24 person, 26 car, ...); {_FORMS}"
        )
    return label_ids, instance_ids


def thing_masks(instance_map) -> tuple[Tensor, Tensor]:
    """Masks (N,H,W) bool and label ids (N,) int64 of the instances in an instance map, by rising id.

    instance_map: PIL image, array or tensor (H,W) or (1,H,W). Groups are no single instances: left out.
    """
    given = instance_map.numpy() if isinstance(instance_map, Tensor) else np.asarray(instance_map)
    ids = torch.from_numpy(given.astype(np.int64)).reshape(given.shape[-2:])
    values = ids.unique()
    values = values[values >= FIRST_SINGLE_ID]
    return ids == values[:, None, None], values // FIRST_SINGLE_ID


def map_like(values: np.ndarray, before: np.ndarray, given):
    """A map (H,W) in the form of `given`, with its own values where it is as before, void's among them."""
    own = given.numpy() if isinstance(given, Tensor) else np.asarray(given)
    made = np.where((values == before).reshape(own.shape), own, values.astype(own.dtype).reshape(own.shape))
    if isinstance(given, Image.Image):
        image = Image.fromarray(made)
        if given.mode == "P":
            image.putpalette(given.getpalette())
        return image
    return tv_tensors.wrap(torch.from_numpy(made), like=given) if isinstance(given, Tensor) else made


# ---- masks --------------------------------------------------------------------------------------


def maps_of_masks(
    target: dict, label_ids: np.ndarray | None, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label map (H,W) uint8, instance map (H,W) uint16 and the value (N,) of each mask in it.

    label_ids: the target's own label map; without one the masks must cover the image.
    """
    if "masks" not in target or "labels" not in target:
        raise InputError(f'InsertInstances: the target lacks "masks" or "labels"; {_FORMS}')
    for name in ("masks", "labels", "boxes"):
        if name in target and not is_tensor(target[name]):
            kind = type(target[name]).__name__
            raise InputError(f'InsertInstances: "{name}" must be a tensor on the CPU, not {kind}; {_FORMS}')
    masks, labels = _planes(target["masks"]).astype(bool, copy=False), target["labels"].numpy()
    if labels.ndim != 1 or masks.shape != (len(labels), *shape):
        raise InputError(
            f"InsertInstances: masks {masks.shape} for labels {labels.shape} and an image of {shape}"
        )
    if "boxes" in target and target["boxes"].shape != (len(labels), 4):
        raise InputError(f"InsertInstances: boxes {tuple(target['boxes'].shape)} for {len(labels)} masks")
    for name in ("area", "iscrowd"):
        if name in target and np.shape(target[name]) != (len(labels),):
            raise InputError(f'InsertInstances: "{name}" must hold a number for each of {len(labels)} masks')
    if len(labels) and not (labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() <= 255):
        raise InputError(
            f"InsertInstances: labels {labels.min()} to {labels.max()} are no label ids; {_FORMS}"
        )
    crowd = np.asarray(target.get("iscrowd", np.zeros(len(labels))), bool)
    values, numbers = np.zeros(len(labels), np.uint16), Counter()
    of_masks = np.full(shape, FIRST_SINGLE_ID - 1, np.uint16)  # no mask
    for row, label in enumerate(labels.tolist()):
        values[row] = label
        if label <= LAST_ID and is_thing(np.array(label)) and not crowd[row]:
            values[row] = label * FIRST_SINGLE_ID + numbers[label]
            numbers[label] += 1
        np.copyto(of_masks, values[row], where=masks[row])
    if max(numbers.values(), default=0) > FIRST_SINGLE_ID:
        raise InputError(
            f"InsertInstances: more than {FIRST_SINGLE_ID} masks of a class in one sample, which has numbers"
            ' for so many; mark some as crowd ("iscrowd"), or leave small ones out'
        )
    bare = of_masks == FIRST_SINGLE_ID - 1
    if label_ids is None:
        if bare.any():
            raise InputError(
                "InsertInstances: no label map of the scene, which tells the model where objects may stand;"
                ' add it to the target as "semantic" (H,W) in Cityscapes label ids, or use masks that cover'
                f" the whole image (these leave {100 * bare.mean():.0f} % of it); {_FORMS}"
            )
        return LABEL_OF_VALUE[of_masks], of_masks, values
    return label_ids, np.where(bare, label_ids, of_masks), values


def masks_with_new(target: dict, values: np.ndarray, before: np.ndarray, scene: EditedImage) -> dict:
    """A target with its masks cut where a scene's new objects hide them, and those added.

    values (N,): of each mask in instance maps; before: (H,W) uint16, that of the target.
    """
    changed = (scene.instance_ids != before) | (scene.inserted > 0)
    x0, y0, x1, y1 = bounding_box(changed)
    window = np.s_[y0 : y1 + 1, x0 : x1 + 1]
    changed, ids, inserted = changed[window], scene.instance_ids[window], scene.inserted[window]
    new = [(number, one) for number in range(1, len(scene.new_ids) + 1) for one in scene.ids_of(number)]
    found = [(inserted == number) & (ids == one) for number, one in new]
    seen = [(one, mask) for (_, one), mask in zip(new, found, strict=True) if mask.any()]
    old, count = _planes(target["masks"]), len(values)
    inside = max(old.max(initial=0), 1)  # 255 in masks of 0 and 255
    masks = np.zeros((count + len(seen), *before.shape), old.dtype)
    masks[:count] = old
    boxes = _half_open(target["boxes"]) if "boxes" in target else None
    moved: list[int] = []
    lost, kept = np.zeros(count, np.int64), list(range(count))
    for row in np.flatnonzero(
        (masks[:count, window[0], window[1]].astype(bool) & changed).any((1, 2))
    ).tolist():
        mask = masks[row][window]
        mask[changed] = inside * ((ids[changed] == values[row]) & (inserted[changed] == 0))
        lost[row] = np.count_nonzero(old[row]) - np.count_nonzero(masks[row])
        if not masks[row].any():
            kept.remove(row)
        elif boxes is not None:
            boxes[row] += torch.tensor(bounding_box(masks[row])) - torch.tensor(bounding_box(old[row]))
            moved.append(row)
    for mask, (_, own) in zip(masks[count:], seen, strict=True):
        mask[window] = inside * own

    labels = [int(LABEL_OF_VALUE[one]) for one, _ in seen]
    areas = [int(own.sum()) for _, own in seen]
    if len(kept) < count:
        masks, count = np.concatenate([masks[kept], masks[count:]]), len(kept)
    after = dict(target)
    planes = torch.from_numpy(masks).reshape(-1, *target["masks"].shape[1:])
    after["masks"] = tv_tensors.wrap(planes, like=target["masks"])
    after["labels"] = _rows(target["labels"], kept, labels)
    if "area" in target:
        of_old = target["area"]
        left = [float(area) - less for area, less in zip(of_old, lost.tolist(), strict=True)]
        after["area"] = _rows(_like(left, of_old), kept, areas)
    if "iscrowd" in target:
        after["iscrowd"] = _rows(target["iscrowd"], kept, [0] * len(seen))
    if boxes is not None:
        new = [[x0, y0, x1 + 1, y1 + 1] for x0, y0, x1, y1 in map(bounding_box, masks[count:])]
        given = target["boxes"]
        boxes = torch.cat([boxes, torch.tensor(new, dtype=boxes.dtype).reshape(-1, 4)])
        boxes = _boxes_like(boxes, given)
        untouched = sorted({*range(len(given))}.difference(moved))
        boxes[untouched] = given.as_subclass(Tensor)[untouched]  # to the bit, which conversions need not be
        rows = [*kept, *range(len(given), len(boxes))]
        after["boxes"] = tv_tensors.wrap(boxes[rows], like=given)
    return after


def _planes(masks: Tensor) -> np.ndarray:
    """Masks (N,H,W) or (N,1,H,W) as (N,H,W)."""
    array = masks.numpy()
    return array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array


def _rows(values, kept: list[int], new: list):
    """Those of these numbers that are kept, and new ones."""
    if isinstance(values, Tensor):
        return torch.cat([values[kept], _like(new, values)])
    if isinstance(values, np.ndarray):
        return np.concatenate([values[kept], _like(new, values)])
    return [*(values[row] for row in kept), *new]


def _like(numbers: list, given):
    """Numbers as a tensor, an array or a list, as `given` is."""
    if isinstance(given, Tensor):
        return torch.tensor(numbers, dtype=given.dtype)
    return np.array(numbers, given.dtype) if isinstance(given, np.ndarray) else numbers


def _half_open(boxes: Tensor) -> Tensor:
    """Corners x0, y0, x1, y1 (N,4) of boxes in any format, a copy; plain tensors hold corners already."""
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = F.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    return boxes.as_subclass(Tensor).clone()


def _boxes_like(corners: Tensor, given: Tensor) -> Tensor:
    """Corners (N,4) in the format of `given`, a plain tensor."""
    if not isinstance(given, tv_tensors.BoundingBoxes):
        return corners
    corners = tv_tensors.BoundingBoxes(
        corners, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=given.canvas_size
    )
    return F.convert_bounding_box_format(corners, new_format=given.format).as_subclass(Tensor)
