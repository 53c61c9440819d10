"""benefit/pasting.py: persons as they are, anywhere or where they stood, on other images."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest

from augment.placement.scene import EditedImage
from benefit.pasting import paste_tree
from data.frame import Frame, list_frames
from data.geometry import MaskPatch
from data.instances import bounding_box
from streets.scenes import write_streets


@dataclass
class Pasted:
    """A tree, what was made of it, and the objects that were put on its images, in order."""

    before: list[Frame]
    after: list[Frame]
    objects: dict[str, list[MaskPatch]]  # by name of the frame
    count: int


@pytest.fixture
def paste(tmp_path, monkeypatch):
    def paste(method: str) -> Pasted:
        write_streets(tmp_path / "tree", 5, 0, (512, 256), seed=1)
        objects, put = defaultdict(list), EditedImage.put

        def noted(image, name, patch, *given):
            result = put(image, name, patch, *given)
            if result[0] is None:
                objects[image.name].append(patch)
            return result

        monkeypatch.setattr(EditedImage, "put", noted)
        bank = tmp_path / "bank.npz"
        count = paste_tree(method, tmp_path / "tree", "train", tmp_path / "out", bank, (2, 3), seed=0)
        trees = (list_frames(tmp_path / name, "train") for name in ("tree", "out"))
        return Pasted(*trees, objects, count)

    return paste


def test_copies_are_pasted_in_front_of_everything_and_change_nothing_else(paste):
    pasted = paste("copy_paste")
    assert pasted.count == sum(map(len, pasted.objects.values())) >= 8
    sizes = set()
    for raw, new in zip(pasted.before, pasted.after, strict=True):
        (_, ids), (labels, new_ids) = raw.read_maps(), new.read_maps()
        on_top = np.zeros(ids.shape, int)
        for number, patch in enumerate(pasted.objects[new.name], 1):
            on_top[patch.window][patch.mask] = number
            sizes.add(patch.mask.shape)
        for number in range(1, on_top.max() + 1):
            (value,) = np.unique(new_ids[on_top == number])
            assert value // 1000 == 24 and value not in ids and (labels[on_top == number] == 24).all()
        assert np.array_equal(new_ids[on_top == 0], ids[on_top == 0])
        changed = (raw.read_image(ids.shape) != new.read_image(ids.shape)).any(2)
        assert changed.any() and not changed[on_top == 0].any()
        assert (np.bincount(new_ids[new_ids >= 24000]) > 0).sum() >= 2
    assert len(sizes) > 4


def test_prior_puts_persons_where_they_stood_in_another_image(paste):
    pasted = paste("prior")
    boxes = {}
    for frame in pasted.before:
        ids = frame.read_maps()[1]
        persons = np.unique(ids[ids // 1000 == 24])
        boxes[frame.name] = [bounding_box(ids == value) for value in persons]
    assert pasted.count == sum(map(len, pasted.objects.values())) >= 4
    for name, objects in pasted.objects.items():
        others = [box for other, own in boxes.items() if other != name for box in own]
        found = []
        for patch in objects:
            x0, y0, x1, y1 = patch.box
            away = np.abs(np.array(others) - (x0, y0, x1 - 1, y1 - 1)).max(1)
            assert away.min() <= 1
            found.append(int(away.argmin()))
        assert len(set(found)) == len(found)
