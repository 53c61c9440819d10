"""An image that objects are put on one after another; of labels without instances, too."""

import numpy as np
import pytest

from augment.paint.choosing import Choice
from augment.paint.collection import Kind
from augment.paint.cutout import Placed
from augment.paint.painter import Painter, Rendering, Shown
from augment.placement.filters import Filters
from augment.placement.scene import EditedImage
from data.geometry import MaskPatch
from data.writer import rasterise
from tests.town import HEIGHT, WIDTH, town_objects

DYNAMIC, PERSON = 5, 24
LOOSE = Filters(rules=(), min_visible=20, may_hide=True)
PAINTER = Painter(Rendering("cutout", shadow=1.0), 0)


@pytest.fixture
def image() -> EditedImage:
    labels, ids = rasterise(town_objects(0), WIDTH, HEIGHT)
    return EditedImage("town", labels, ids, np.full((HEIGHT, WIDTH, 3), 200, np.uint8))


def shown(label: str, x0: int, y0: int, x1: int, y1: int, colour: int = 50) -> Shown:
    """A box of one colour as a cut-out at its place."""
    mask = np.ones((y1 - y0, x1 - x0), bool)
    rgb = np.full((*mask.shape, 3), colour, np.uint8)
    placed = Placed(MaskPatch(mask, x0, y0), rgb, mask.astype(np.float32), (x0, y0, x1, y1), None, 1.0)
    return Shown(Choice(0, f"{label}/{x0}", False), Kind(label, "person", label), placed)


def test_objects_without_instances_share_the_bare_label_and_are_told_apart(image):
    for number, x0 in enumerate((180, 210), 1):
        reason, facts = image.put_cutout(shown("dynamic", x0, 80, x0 + 10, 100), LOOSE, PAINTER)
        assert reason is None and facts["label"] == "dynamic"
        assert (facts["instance_id"], facts["inserted_value"]) == (DYNAMIC, number)
    assert np.count_nonzero(image.instance_ids == DYNAMIC) == 400 == (image.label_ids == DYNAMIC).sum()
    assert [image.seen(number)["extent"] for number in (1, 2)] == [[180, 80, 190, 100], [210, 80, 220, 100]]
    assert image.new_id("dynamic") == DYNAMIC and image.new_id("person") == 24002


def test_a_new_object_must_not_make_one_without_instances_vanish(image):
    image.put_cutout(shown("dynamic", 180, 80, 190, 100), LOOSE, PAINTER)
    before = image.instance_ids.copy()
    for x0, reason in ((178, "covers_inserted"), (180, "covers_inserted"), (181, None)):
        found, _ = image.put_cutout(shown("person", x0, 70, x0 + 20, 110), LOOSE, PAINTER)
        assert found == reason, x0
        assert reason is None or np.array_equal(image.instance_ids, before)
    assert image.seen(1)["pixels"] == 20


def test_a_shadow_falls_on_no_object_without_instances(image):
    image.put_cutout(shown("dynamic", 180, 80, 190, 112, colour=150), LOOSE, PAINTER)
    before = image.rgb.copy()
    image.put_cutout(shown("person", 165, 70, 179, 110), LOOSE, PAINTER)
    changed = (image.rgb != before).any(2)
    assert not changed[:112, 180:190].any() and changed[110:114, 160:180].any()


def test_behind_what_stands_in_front_of_it_part_of_it_is_hidden(image):
    image.put_cutout(shown("dynamic", 180, 80, 190, 110), LOOSE, PAINTER)
    reason, _ = image.put_cutout(shown("person", 175, 60, 186, 100), LOOSE, PAINTER)
    assert reason is None and image.seen(2)["hidden_pixels"] == 6 * 20
    assert (image.label_ids[80:110, 180:190] == DYNAMIC).all()
