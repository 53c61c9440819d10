"""data/writer.py, Frame.files: rasterising exactly as the official tools do, and reading that back."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from PIL import Image

from data.camera import Camera
from data.frame import Frame
from data.images import note_of
from data.writer import LabelledPolygon, colour_map, encode_png, rasterise, topmost, visible_only
from engine.records import write_outputs
from support.files import write_atomic
from tests.official import official_maps

WIDTH, HEIGHT = 48, 24


def square(label: str, x: int, y: int, size: int) -> LabelledPolygon:
    corners = [[x, y], [x + size, y], [x + size, y + size], [x, y + size]]
    return LabelledPolygon(label, np.array(corners, np.int32))


OBJECTS = [
    square("road", 0, 0, 60),
    square("car", 2, 2, 8),
    square("person", 20, 5, 3),
    square("license plate", 3, 6, 3),
    square("persongroup", 30, 5, 5),
    square("car", 8, 4, 9),
    square("polegroup", 40, 0, 2),
    square("person", 25, 5, 3),
]


def test_numbers_count_per_class_in_file_order_and_groups_have_none():
    labels, instances = rasterise(OBJECTS, WIDTH, HEIGHT)
    assert labels.dtype == np.uint8
    assert instances.dtype == np.uint16
    assert instances[3, 3] == 26000
    assert instances[7, 9] == 26001  # the later car covers the earlier one
    assert instances[6, 4] == 26000  # a licence plate is never drawn
    assert [instances[6, 21], instances[6, 26], instances[7, 32], instances[1, 41]] == [24000, 24001, 24, 18]
    assert np.array_equal(labels, np.where(instances < 1000, instances, instances // 1000))


def test_occluded_objects_go_and_the_rest_is_renumbered():
    objects = [square("person", 5, 5, 4), square("car", 2, 2, 10), square("person", 20, 5, 4)]
    indices, top = visible_only(topmost(objects, WIDTH, HEIGHT))
    kept = [objects[i] for i in indices]
    assert [thing.label for thing in kept] == ["car", "person"]
    assert np.array_equal(top, topmost(kept, WIDTH, HEIGHT))
    assert 24001 not in rasterise(kept, WIDTH, HEIGHT)[1]


def test_unknown_labels_are_refused():
    with pytest.raises(ValueError, match="spaceship"):
        rasterise([square("spaceship", 0, 0, 4)], WIDTH, HEIGHT)


def test_more_instances_than_a_class_has_numbers_are_refused():
    persons = [square("person", 0, 0, 4)] * 1000
    assert rasterise(persons, WIDTH, HEIGHT)[1][2, 2] == 24999
    with pytest.raises(ValueError, match="1001 objects of person, but"):
        rasterise([*persons, persons[0]], WIDTH, HEIGHT)


def test_a_written_frame_reads_back_and_rerasters_with_the_official_code(tmp_path):
    labels, instances = rasterise(OBJECTS, WIDTH, HEIGHT)
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    frame = Frame.official(tmp_path, "train", "town", 3, 19)
    camera = Camera(283.0, 283.0, 24.0, 12.0, 1.25, 0.04)
    write_outputs(tmp_path, frame.files(rgb, OBJECTS, labels, instances, camera))

    def path(ending):
        return tmp_path / f"gtFine/train/town/town_000003_000019_gtFine{ending}"

    image = tmp_path / "leftImg8bit/train/town/town_000003_000019_leftImg8bit.png"
    read_rgb = cv2.imread(str(image))[..., ::-1]
    read_colour = cv2.imread(str(path("_color.png")), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read_rgb, rgb)
    assert np.array_equal(cv2.cvtColor(read_colour, cv2.COLOR_BGRA2RGBA), colour_map(labels))
    read_labels = cv2.imread(str(path("_labelIds.png")), cv2.IMREAD_UNCHANGED)
    read_instances = cv2.imread(str(path("_instanceIds.png")), cv2.IMREAD_UNCHANGED)
    assert read_instances.dtype == np.uint16
    assert np.array_equal(read_labels, labels)
    assert np.array_equal(read_instances, instances)

    polygons = path("_polygons.json")
    assert "deleted" not in polygons.read_text()
    assert all(map(np.array_equal, official_maps(polygons.read_text()), (labels, instances)))
    annotation = Annotation()
    annotation.fromJsonFile(str(polygons))
    assert np.array_equal(np.asarray(createLabelImage(annotation, "color")), colour_map(labels))
    assert np.array_equal(rasterise(frame.read_polygons(labels.shape), WIDTH, HEIGHT)[1], instances)
    assert all(map(np.array_equal, frame.read_maps(), (labels, instances)))
    assert np.array_equal(frame.read_image(labels.shape), rgb) and frame.read_camera() == camera
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("shape", [(1, 1), (24, 49), (1, 1, 3), (24, 49, 3), (24, 49, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_reader_finds_the_pixels_in_a_png(shape, dtype):
    if dtype == np.uint16 and len(shape) == 3:
        with pytest.raises(ValueError, match="no PNG"):
            encode_png(np.zeros(shape, dtype))
        return
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    content = encode_png(image)
    Image.open(io.BytesIO(content)).verify()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), image)
    by_opencv = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[-1]) if image.ndim == 3 else None
    assert np.array_equal(by_opencv, image if order is None else image[..., order])


def test_the_topmost_of_many_objects():
    columns = [LabelledPolygon("car", np.array([[x, 0], [x, 1], [x, 0]], np.int32)) for x in range(300)]
    assert np.array_equal(topmost(columns, 300, 2), np.tile(np.arange(300), (2, 1)))
    assert np.array_equal(topmost(columns[:255], 255, 2), np.tile(np.arange(255), (2, 1)))
    assert topmost(columns[:2], 3, 1).tolist() == [[0, 1, -1]]


def test_misfit_arrays_are_refused(tmp_path):
    labels, instances = rasterise(OBJECTS, WIDTH, HEIGHT)
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame = Frame.official(tmp_path, "train", "town", 0, 19)
    with pytest.raises(ValueError, match="shapes differ"):
        frame.files(rgb[1:], OBJECTS, labels, instances)
    with pytest.raises(ValueError, match="uint16"):
        frame.files(rgb, OBJECTS, labels, instances.astype(np.int32))
    with pytest.raises(ValueError, match="no PNG"):
        encode_png(np.zeros((4, 4), np.float32))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    target = tmp_path / "file"
    write_atomic(target, b"old")
    with pytest.raises(TypeError):
        write_atomic(target, "text is not bytes")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_png_keeps_notes_before_its_pixels():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    content = encode_png(image, {"one": "1", "two": '{"b": [2]}'})
    with Image.open(io.BytesIO(content)) as read:
        assert read.info == {"one": "1", "two": '{"b": [2]}'} and np.array_equal(np.asarray(read), image)
    notes = [note_of(Path("image.png"), one, "two") for one in (content, encode_png(image))]
    assert notes == ['{"b": [2]}', None]
