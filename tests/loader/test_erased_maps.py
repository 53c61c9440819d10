"""Small maps without some of their instances, and the places that are learnt from them."""

from dataclasses import replace

import numpy as np
import pytest

from data.erasures import erase_exactly
from data.frame import list_frames
from data.instances import resize_nearest
from data.labels import CHANNEL_OF_ID
from loader import erased_maps
from loader import pairs as training_pairs
from loader.cache import prepare
from loader.erased_maps import ErasedPatch, erase_some, find_erasable, zoom_in
from loader.pairs import PLACES, TrainingPairs, concatenate
from options import PRESETS, Options
from streets.scenes import write_streets
from tests.miniature import frame_paths, write_png

PERSON, CAR = 20, 22


@pytest.fixture(scope="module", params=[True, False], ids=["exact", "filled"])
def options(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("streets")
    write_streets(root / "tree", train=8, val=1, size=(256, 128), seed=3, erased=request.param)
    values = PRESETS["tiny"] | {"db_root": str(root / "tree"), "cache_dir": str(root / "cache")}
    return Options(**values, where="distribution", target_class="car")


def test_patches_are_what_the_map_shows_without_the_instance(options):
    maps = prepare(options, "train", progress=False)
    exact = 0
    for index, frame in enumerate(list_frames(options.db_root, "train")):
        label_ids, instance_ids = frame.read_maps()
        erasures, entry = frame.read_erasures(), maps.load(index)
        for patch in entry.erasable.patches():
            changed = entry.labels_small.flatten()
            changed[patch.pixels] = patch.labels
            if patch.owner in erasures:
                without, _ = erase_exactly(label_ids, instance_ids, erasures[patch.owner])
                wanted = resize_nearest(CHANNEL_OF_ID[without], *maps.sizes.small)
                np.testing.assert_array_equal(changed.reshape(wanted.shape), wanted)
                exact += 1
            elif patch.owner:  # filled: the instance is gone, nothing else has changed
                own = entry.ids_small.ravel() == patch.owner
                assert set(patch.pixels) <= set(np.flatnonzero(own))
                assert (patch.ids != patch.owner).all()
        boxes = entry.erasable.boxes
        for one, box in zip(entry.compact_ids, boxes, strict=True):
            rows, columns = np.nonzero(instance_ids == one)
            low, high = (
                (columns.min() / 256, rows.min() / 128),
                ((columns.max() + 1) / 256, (rows.max() + 1) / 128),
            )
            np.testing.assert_allclose(box, [*low, *high], atol=1e-6)
    with_decoys = any((maps.load(index).erasable.owners == 0).any() for index in range(len(maps)))
    assert (exact > 10) != with_decoys  # decoys are for maps that are filled


def test_a_rider_and_the_two_wheeler_are_filled_together(tmp_path):
    labels, ids = np.full((64, 128), 7, np.uint8), np.full((64, 128), 7, np.uint16)
    labels[20:40, 50:58], ids[20:40, 50:58] = 25, 25000
    labels[36:48, 46:62], ids[36:48, 46:62] = 33, 33000
    label_path, instance_path = frame_paths(tmp_path, 0, "train")
    write_png(label_path, labels)
    write_png(instance_path, ids)
    (frame,) = list_frames(tmp_path, "train")
    for units, gone in (([(25000, 33000)], {25000, 33000}), ([], set())):
        patches = find_erasable(frame, labels, ids, [25000, 33000], (128, 64), units).patches()
        for patch in patches:
            if patch.owner:
                removed = set(ids.ravel()[patch.pixels].tolist())
                assert removed == (gone or {patch.owner})
                assert (patch.labels == CHANNEL_OF_ID[7]).all() or not gone


def small_map():
    """A road with a car of 4x2 pixels, behind it another that its patch shows, and a person."""
    labels = np.full((8, 16), 4, np.uint8)
    ids = np.full((8, 16), 7, np.uint16)
    labels[4:6, 2:6], ids[4:6, 2:6] = CAR, 26000
    labels[4, 6:8], ids[4, 6:8] = CAR, 26001
    labels[4:7, 12], ids[4:7, 12] = PERSON, 24000
    flat = np.arange(128, dtype=np.int32).reshape(8, 16)
    first = np.where(flat[4:6, 2:6] // 16 == 4, CAR, 4).astype(np.uint8).ravel()
    shown = np.where(first == CAR, 26001, 7).astype(np.uint16)
    patches = [
        ErasedPatch(26000, flat[4:6, 2:6].ravel(), first, shown),
        ErasedPatch(26001, flat[4, 6:8].ravel(), np.full(2, 4, np.uint8), np.full(2, 7, np.uint16)),
        ErasedPatch(24000, flat[4:7, 12].ravel(), np.full(3, 4, np.uint8), np.full(3, 7, np.uint16)),
        ErasedPatch(0, flat[0, :3].ravel(), np.full(3, 9, np.uint8), np.full(3, 12, np.uint16)),
    ]
    return labels, ids, patches


@pytest.fixture
def constants(monkeypatch):
    """Sets constants of loader/erased_maps.py.

    Without anything said every instance goes, and no decoy comes.
    """

    def use(erase=1.0, occluding=1.0, decoys=0.0):
        monkeypatch.setattr(erased_maps, "ERASE_PROBABILITY", erase)
        monkeypatch.setattr(erased_maps, "MAX_OCCLUDING", occluding)
        monkeypatch.setattr(erased_maps, "DECOYS_DRAWN", decoys)

    use()
    return use


def draw(seed, owners=(26000, 26001, 24000)):
    labels, ids, patches = small_map()
    erased, taken = erase_some(labels, ids, owners, patches, np.random.default_rng(seed))
    return labels, erased, set(taken)


def test_two_instances_of_which_one_shows_the_other_never_go_together(constants):
    found = [draw(seed)[2] for seed in range(30)]
    assert all(24000 in taken and len(taken) == 2 for taken in found)
    assert {frozenset(taken - {24000}) for taken in found} == {frozenset([26000]), frozenset([26001])}


def test_erased_pixels_show_what_is_behind_and_others_stay(constants):
    labels, erased, taken = draw(0, owners=(24000,))
    assert taken == {24000}
    assert (erased[4:7, 12] == 4).all()
    assert (np.delete(erased, 12, 1) == np.delete(labels, 12, 1)).all()


def test_an_instance_that_occludes_things_is_no_place_to_learn_from(constants):
    constants(occluding=0.3)
    assert all(26000 not in draw(seed)[2] for seed in range(20))
    constants(occluding=0.6)
    assert any(26000 in draw(seed)[2] for seed in range(20))


def test_each_instance_has_its_chance_and_one_goes_at_least(constants):
    constants(erase=0.3)
    counts = [len(draw(seed, owners=(24000, 26001))[2]) for seed in range(400)]
    assert min(counts) == 1
    assert np.mean(counts) == pytest.approx(0.49 * 1 + 0.42 * 1 + 0.09 * 2, abs=0.06)


def test_decoys_are_as_many_as_the_constant_says(constants):
    def decoyed(decoys):
        constants(decoys=decoys)
        return np.mean([(draw(seed, owners=(24000,))[1][0, :3] == 9).all() for seed in range(2000)])

    assert decoyed(0.0) == 0
    assert decoyed(1.0) == pytest.approx(1 - np.exp(-1), abs=0.04)  # there is a single one


def test_zooming_in_keeps_boxes_on_their_pixels():
    rng = np.random.default_rng(0)
    labels = np.full((64, 128), 4, np.uint8)
    labels[30:50, 60:70] = PERSON
    boxes = np.array([[60 / 128, 30 / 64, 70 / 128, 50 / 64], [0, 0, 0.01, 0.01]], np.float32)
    kept = 0
    for _ in range(40):
        part, moved, inside = zoom_in(labels, boxes, rng)
        assert part.shape == labels.shape
        for x0, y0, x1, y1 in moved[inside] * [128, 64, 128, 64]:
            if x1 - x0 < 5:
                continue  # the tiny box in the corner, where nothing stands
            rows, columns = np.nonzero(part == PERSON)
            np.testing.assert_allclose(
                [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [x0, y0, x1, y1], atol=1.01
            )
            kept += 1
    assert kept > 10


def test_training_pairs_bring_places(options):
    pairs = TrainingPairs(prepare(options, "train", progress=False), options, with_places=True)
    batch = concatenate([pairs[position] for position in range(12)])
    places = batch.places
    assert places.labels.shape == (12, 2, 32, 64) and places.boxes.shape == (12, 2, PLACES, 4)
    assert places.known.any() and (places.boxes[~places.known] == 0).all()
    known = places.boxes[places.known]
    assert (known >= 0).all() and (known <= 1).all() and (known[:, 2:] > known[:, :2]).all()
    again = concatenate([pairs[position] for position in range(12)]).places
    assert all((a == b).all() for a, b in zip(vars(places).values(), vars(again).values(), strict=True))
    assert TrainingPairs(pairs.maps, options)[0].places is None


def test_places_alone_tell_the_class_of_each(options):
    """With what = none a batch holds nothing else: places of all classes, each with the number of its own."""
    several = replace(options, what="none", target_class="car,person")
    pairs = TrainingPairs(prepare(several, "train", progress=False), several, with_places=True)
    assert set(pairs.instance_counts) == {"car", "person"} and min(pairs.instance_counts.values()) > 0
    batch = concatenate([pairs[position] for position in range(40)])
    assert batch.real is batch.cond is batch.compact is batch.theta is None
    aspects = {0: [], 1: []}
    for index in range(len(pairs.maps)):
        content = pairs.maps.load(index)
        for number, name in enumerate(("car", "person")):
            boxes = [content.box_of(one.instance_id) for one in pairs.maps.instances(index, name)]
            aspects[number] += [(x1 - x0) / (y1 - y0) for x0, y0, x1, y1 in boxes]
    places, seen = batch.places, set()
    for box, number in zip(places.boxes[places.known], places.classes[places.known].tolist(), strict=True):
        width, height = (box[2:] - box[:2]).tolist()
        assert min(abs(width / height / aspect - 1) for aspect in aspects[number]) < 1e-4  # zoomed or not
        seen.add(number)
    assert seen == {0, 1} and (places.classes[~places.known] == 0).all()


def test_maps_and_boxes_are_flipped_together(options, monkeypatch):
    """Each box is an instance's or its mirror image, and the map is then that frame's or its mirror image."""
    monkeypatch.setattr(erased_maps, "DECOYS_DRAWN", 0)
    monkeypatch.setattr(training_pairs, "ZOOM_PROBABILITY", 0)
    pairs = TrainingPairs(prepare(options, "train", progress=False), options, with_places=True)
    frames = [pairs.maps.load(index) for index in range(len(pairs.maps))]
    mirrored = []
    for position in range(60):
        places = pairs[position].places
        if not places.known[0, 0, 0]:  # all its instances hide things
            continue
        labels, box = places.labels[0, 0].numpy(), places.boxes[0, 0, 0].numpy()
        mirror = box[[2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
        for frame in frames:
            for flip, one in ((False, box), (True, mirror)):
                if len(frame.erasable.boxes) and np.abs(frame.erasable.boxes - one).max(1).min() < 1e-5:
                    original = frame.labels_small[:, ::-1] if flip else frame.labels_small
                    assert (labels == original).mean() > 0.8
                    mirrored.append(flip)
    assert len(mirrored) >= 20 and 0.2 < np.mean(mirrored) < 0.8
