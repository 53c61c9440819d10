"""`InsertInstances`: targets come back in the form that they came in, true to the new objects."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from augment.placement.filters import Filters
from insertion import InsertInstances
from tests.insertion.sampled import LOOSE, arrays, data_set, things
from tests.town import PERSON_PLACE, write_checkpoint


def test_boxes_and_areas_are_cut_and_vanished_instances_leave(source, bank, tmp_path):
    near = write_checkpoint(tmp_path, place=(*PERSON_PLACE[:5], -0.6))  # in front of the cars
    cut = left = 0
    covering = Filters(rules=(), min_visible=600, may_hide=True)
    for index, (sample, filters) in enumerate(itertools.product(data_set(source), (LOOSE, covering))):
        transform = InsertInstances(near, (3, 3), 1.0, bank=bank, filters=filters)
        image, target = things(sample)
        before = {key: value.clone() for key, value in target.items() if isinstance(value, torch.Tensor)}
        torch.manual_seed(index)
        _, after = transform(image, target)
        assert all(torch.equal(target[key], value) for key, value in before.items())
        masks = after["masks"]
        boxes = masks_to_boxes(masks)
        boxes[:, 2:] += 1
        corners = v2.functional.convert_bounding_box_format(after["boxes"], new_format="XYXY")
        assert torch.equal(corners, boxes) and after["boxes"].format == target["boxes"].format
        assert torch.equal(after["area"], masks.sum((1, 2)).float()) and masks.any((1, 2)).all()
        assert len(masks) == len(after["labels"]) == len(boxes) and after["image_id"] == 7
        for mask, label in zip(masks, after["labels"].tolist(), strict=True):
            assert (after["semantic"][mask] == label).all()
        common = (masks[:, None] & before["masks"]).sum((2, 3))
        part_of = common == after["area"][:, None]  # a mask after it of one before it
        left += (~part_of.any(0)).sum()
        cut += (part_of & (after["area"][:, None] < before["area"])).sum()
    assert cut and left


def test_tensors_come_back_as_tensors(source, transform):
    image, (ids, labels) = data_set(source)[1]
    torch.manual_seed(1)
    expected = arrays(transform(image, [ids, labels]))
    tensors = [torch.from_numpy(np.asarray(one).astype(np.int32))[None] for one in (ids, labels)]
    torch.manual_seed(1)
    rgb, maps = transform(tv_tensors.Image(image), tensors)
    assert isinstance(rgb, tv_tensors.Image) and np.array_equal(rgb.permute(1, 2, 0), expected[0])
    for made, given, wanted in zip(maps, tensors, expected[1:], strict=True):
        assert made.dtype == given.dtype and np.array_equal(made[0], wanted)


@pytest.mark.parametrize("form", ["XYXY", "XYWH", "CXCYWH"])
def test_whatever_nothing_touched_stays_as_it_is_in_the_form_it_came_in(source, checkpoint, bank, form):
    image, target = things(data_set(source)[1])
    boxes = v2.functional.convert_bounding_box_format(target["boxes"], new_format=form)
    size = tuple(target["masks"].shape[1:])
    target["boxes"] = tv_tensors.BoundingBoxes(
        boxes.long(), format=form, canvas_size=size, clamping_mode="hard"
    )
    target["masks"] = tv_tensors.Mask(target["masks"].to(torch.uint8) * 255)
    target["area"] = target["area"].numpy()
    target["iscrowd"] = np.zeros(len(target["area"]), np.int64)
    torch.manual_seed(1)
    _, after = InsertInstances(checkpoint, (2, 3), 1.0, bank=bank, filters=LOOSE)(image, target)
    old, new = target["masks"], after["masks"]
    rows = [
        (one, other)
        for one in range(len(old))
        for other in range(len(new))
        if torch.equal(old[one], new[other])
    ]
    assert rows and len(new) > len(rows) and new.unique().tolist() == [0, 255]
    for one, other in rows:
        assert torch.equal(target["boxes"][one], after["boxes"][other])
    assert (after["boxes"].format, after["boxes"].clamping_mode) == (target["boxes"].format, "hard")
    for name in ("area", "iscrowd"):
        assert isinstance(after[name], np.ndarray) and after[name].dtype == target[name].dtype


def test_a_label_map_with_a_palette_keeps_it(source, transform):
    image, (ids, labels) = data_set(source)[1]
    torch.manual_seed(1)
    expected = arrays(transform(image, [ids, labels]))
    labels = Image.fromarray(np.array(labels))
    labels.putpalette([*range(256)] * 3)
    torch.manual_seed(1)
    _, (_, made) = transform(image, [ids, labels])
    assert made.mode == "P" and made.getpalette() == labels.getpalette()
    assert np.array_equal(np.asarray(made), expected[2])
